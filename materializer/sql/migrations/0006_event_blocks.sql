-- Two entries in trees less for each event. Rows come in the order of the log, so of a
-- span of time or of positions, and of types and playbooks within it, summaries of
-- block ranges find the few pages; nothing asks for one event by type or playbook.
DROP INDEX IF EXISTS noetl.event_catalog;
DROP INDEX IF EXISTS noetl.event_type_time;
DROP INDEX IF EXISTS noetl.event_position;
CREATE INDEX IF NOT EXISTS event_blocks
    ON noetl.event USING brin (event_id, created_at, event_type, catalog_id)
    WITH (autosummarize = on);

-- Executions of a playbook, and through them their events.
CREATE INDEX IF NOT EXISTS execution_catalog ON noetl.execution (catalog_id);
