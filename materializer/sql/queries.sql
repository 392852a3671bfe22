-- Every statement on our tables that is not a migration, by name. Ids are bound as
-- integers, documents as jsonb, and times as timestamptz.

-- name: schema_begin
CREATE SCHEMA IF NOT EXISTS noetl;

-- name: schema_lock
SELECT pg_advisory_xact_lock(hashtextextended('noetl.schema', 0));

-- name: schema_table
CREATE TABLE IF NOT EXISTS noetl.schema_version (
    version    INT PRIMARY KEY,
    name       TEXT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- name: schema_exists
SELECT to_regclass('noetl.schema_version') IS NOT NULL;

-- name: schema_current
SELECT coalesce(max(version), 0) FROM noetl.schema_version;

-- name: schema_applied
INSERT INTO noetl.schema_version (version, name) VALUES ($1, $2);

-- name: schema_columns
SELECT table_name || '.' || column_name
FROM information_schema.columns WHERE table_schema = $1;

-- name: ping
SELECT 1;

-- name: try_lead
SELECT pg_try_advisory_lock(hashtextextended($1, 0));

-- name: position_begin
INSERT INTO noetl.materializer_position (shard_group, generation, last_seq)
VALUES ($1, $2, 0) ON CONFLICT DO NOTHING;

-- name: position_read
SELECT generation, last_seq FROM noetl.materializer_position WHERE shard_group = $1;

-- name: position_advance
UPDATE noetl.materializer_position
SET generation = $4, last_seq = $5, updated_at = now()
WHERE shard_group = $1 AND generation = $2 AND last_seq = $3
RETURNING true;

-- name: positions_flush
-- Written by a transaction that waits for its commit record to be on disk: with it
-- everything before it is.
UPDATE noetl.materializer_position SET updated_at = now()
RETURNING shard_group, generation, last_seq;

-- name: positions_lowest
SELECT coalesce(min(last_seq), 0) FROM noetl.materializer_position
WHERE generation = (SELECT max(generation) FROM noetl.materializer_position);

-- name: heads
SELECT execution_id, catalog_id, path, parent_execution_id, parent_command_id, status,
       head_event_id, event_count, last_event_type, last_node_name, steps_known,
       steps_done
FROM noetl.execution WHERE execution_id = ANY ($1::BIGINT[]);

-- name: open_commands
SELECT execution_id, command_id, event_id, step_name, tool_kind, status, answer, parked,
       worker_id, claimed_at, started_at, error, latest_event_id, prev_event_id
FROM noetl.command
WHERE execution_id = ANY ($1::BIGINT[]) AND status IN ('PENDING', 'CLAIMED', 'RUNNING');

-- name: incoming_events
CREATE TEMPORARY TABLE incoming_event ON COMMIT DROP AS
SELECT execution_id, event_id, catalog_id, event_type, status, node_id, node_name,
       node_type, parent_event_id, causation_id, prev_event_id, parent_execution_id,
       command_id, stage_id, frame_id, context, result, meta, error, worker_id,
       duration, created_at, event_time, ingest_time
FROM noetl.event WITH NO DATA;

-- name: merge_events
INSERT INTO noetl.event (
    execution_id, event_id, catalog_id, event_type, status, node_id, node_name,
    node_type, parent_event_id, causation_id, prev_event_id, parent_execution_id,
    command_id, stage_id, frame_id, context, result, meta, error, worker_id, duration,
    created_at, event_time, ingest_time
)
SELECT * FROM incoming_event
ON CONFLICT (execution_id, event_id) DO NOTHING;

-- name: incoming_commands
CREATE TEMPORARY TABLE incoming_command ON COMMIT DROP AS
SELECT execution_id, command_id, event_id, catalog_id, parent_execution_id,
       parent_command_id, step_name, tool_kind, pool, status, answer, parked, worker_id,
       claimed_at, started_at, completed_at, attempt, max_attempts, iter_index, context,
       meta, error, latest_event_id, prev_event_id, created_at, updated_at
FROM noetl.command WITH NO DATA;

-- name: merge_commands
INSERT INTO noetl.command AS known (
    execution_id, command_id, event_id, catalog_id, parent_execution_id,
    parent_command_id, step_name, tool_kind, pool, status, answer, parked, worker_id,
    claimed_at, started_at, completed_at, attempt, max_attempts, iter_index, context,
    meta, error, latest_event_id, prev_event_id, created_at, updated_at
)
SELECT * FROM incoming_command
ON CONFLICT (execution_id, command_id) DO UPDATE SET
    status = excluded.status, answer = excluded.answer, parked = excluded.parked,
    worker_id = excluded.worker_id, claimed_at = excluded.claimed_at,
    started_at = excluded.started_at, completed_at = excluded.completed_at,
    error = excluded.error, latest_event_id = excluded.latest_event_id,
    prev_event_id = excluded.prev_event_id, updated_at = excluded.updated_at
WHERE known.latest_event_id < excluded.latest_event_id;

-- name: change_commands
UPDATE noetl.command AS known SET
    status = new.status, answer = new.answer, parked = new.parked,
    worker_id = new.worker_id, claimed_at = new.claimed_at,
    started_at = new.started_at, completed_at = new.completed_at, error = new.error,
    latest_event_id = new.latest_event_id, prev_event_id = new.prev_event_id,
    updated_at = new.updated_at
FROM unnest(
    $1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::BOOLEAN[], $6::TEXT[],
    $7::TIMESTAMPTZ[], $8::TIMESTAMPTZ[], $9::TIMESTAMPTZ[], $10::TEXT[],
    $11::BIGINT[], $12::BIGINT[], $13::TIMESTAMPTZ[]
) AS new (
    execution_id, command_id, status, answer, parked, worker_id, claimed_at, started_at,
    completed_at, error, latest_event_id, prev_event_id, updated_at
)
WHERE known.execution_id = new.execution_id AND known.command_id = new.command_id
  AND known.latest_event_id < new.latest_event_id;

-- name: add_executions
INSERT INTO noetl.execution AS known (
    execution_id, catalog_id, path, version, parent_execution_id, parent_command_id,
    status, pool, head_event_id, last_event_type, last_node_name, event_count,
    steps_known, steps_done, start_time, end_time, result, error, workload, updated_at,
    last_event_id
)
SELECT new.*, new.head_event_id FROM unnest(
    $1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::INT[], $5::BIGINT[], $6::TEXT[],
    $7::TEXT[], $8::TEXT[], $9::BIGINT[], $10::TEXT[], $11::TEXT[], $12::BIGINT[],
    $13::INT[], $14::INT[], $15::TIMESTAMPTZ[], $16::TIMESTAMPTZ[], $17::JSONB[],
    $18::TEXT[], $19::JSONB[], $20::TIMESTAMPTZ[]
) AS new (
    execution_id, catalog_id, path, version, parent_execution_id, parent_command_id,
    status, pool, head_event_id, last_event_type, last_node_name, event_count,
    steps_known, steps_done, start_time, end_time, result, error, workload, updated_at
)
ON CONFLICT (execution_id) DO UPDATE SET
    status = excluded.status, head_event_id = excluded.head_event_id,
    last_event_id = excluded.head_event_id,
    last_event_type = excluded.last_event_type,
    last_node_name = excluded.last_node_name, event_count = excluded.event_count,
    steps_known = excluded.steps_known, steps_done = excluded.steps_done,
    end_time = excluded.end_time, result = excluded.result, error = excluded.error,
    updated_at = excluded.updated_at
WHERE known.head_event_id < excluded.head_event_id;

-- name: change_executions
UPDATE noetl.execution AS known SET
    status = new.status, head_event_id = new.head_event_id,
    last_event_id = new.head_event_id, last_event_type = new.last_event_type, last_node_name = new.last_node_name,
    event_count = new.event_count, steps_known = new.steps_known,
    steps_done = new.steps_done,
    end_time = coalesce(new.end_time, known.end_time),
    result = coalesce(new.result, known.result),
    error = coalesce(new.error, known.error), updated_at = new.updated_at
FROM unnest(
    $1::BIGINT[], $2::TEXT[], $3::BIGINT[], $4::TEXT[], $5::TEXT[], $6::BIGINT[],
    $7::INT[], $8::INT[], $9::TIMESTAMPTZ[], $10::JSONB[], $11::TEXT[],
    $12::TIMESTAMPTZ[]
) AS new (
    execution_id, status, head_event_id, last_event_type, last_node_name, event_count,
    steps_known, steps_done, end_time, result, error, updated_at
)
WHERE known.execution_id = new.execution_id AND known.head_event_id < new.head_event_id;

-- name: add_quarantined
INSERT INTO noetl.event_quarantine (
    generation, stream_seq, idx, execution_id, event_id, reason, payload
)
SELECT * FROM unnest(
    $1::BIGINT[], $2::BIGINT[], $3::INT[], $4::BIGINT[], $5::BIGINT[], $6::TEXT[],
    $7::BYTEA[]
)
ON CONFLICT (generation, stream_seq, idx) DO NOTHING;

-- name: life_read
SELECT stream_created_at, life.generation, greatest(
    life.last_seq,
    (SELECT max(position.last_seq) FROM noetl.materializer_position AS position
     WHERE position.generation = life.generation)
)
FROM noetl.stream_generation AS life WHERE stream = $1;

-- name: life_first
INSERT INTO noetl.stream_generation (stream, stream_created_at, generation, last_seq)
VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING true;

-- name: life_next
UPDATE noetl.stream_generation
SET stream_created_at = $4, generation = $5, last_seq = $6, updated_at = now()
WHERE stream = $1 AND stream_created_at = $2 AND generation = $3
RETURNING true;

-- name: life_positions
UPDATE noetl.materializer_position
SET generation = $1, last_seq = $2, updated_at = now() WHERE generation < $1;

-- name: executions
SELECT execution_id, catalog_id, path, version, status, start_time, end_time,
       parent_execution_id, parent_command_id, pool, result, error, event_count,
       steps_known, steps_done, last_event_type, last_node_name, head_event_id
FROM noetl.execution
WHERE ($1::BIGINT IS NULL OR catalog_id = $1)
  AND ($2::TEXT IS NULL OR path = $2)
  AND ($3::TEXT IS NULL OR status = $3)
ORDER BY execution_id DESC LIMIT $4 OFFSET $5;

-- name: execution
SELECT execution_id, catalog_id, path, version, status, start_time, end_time,
       parent_execution_id, parent_command_id, pool, result, error, event_count,
       steps_known, steps_done, last_event_type, last_node_name, head_event_id, workload
FROM noetl.execution WHERE execution_id = $1;

-- name: events_newest
SELECT execution_id, event_id, event_type, catalog_id, created_at, status, node_id,
       node_name, node_type, command_id, parent_execution_id, parent_event_id,
       prev_event_id, worker_id, duration, context, result, meta, error
FROM noetl.event
WHERE execution_id = $1 AND event_id > $2 AND event_id <= $3
  AND ($4::TIMESTAMPTZ IS NULL OR created_at <= $4)
  AND ($5::TEXT IS NULL OR event_type = $5)
ORDER BY event_id DESC LIMIT $6 OFFSET $7;

-- name: events_oldest
SELECT execution_id, event_id, event_type, catalog_id, created_at, status, node_id,
       node_name, node_type, command_id, parent_execution_id, parent_event_id,
       prev_event_id, worker_id, duration, context, result, meta, error
FROM noetl.event
WHERE execution_id = $1 AND event_id > $2 AND event_id <= $3
  AND ($4::TIMESTAMPTZ IS NULL OR created_at <= $4)
  AND ($5::TEXT IS NULL OR event_type = $5)
ORDER BY event_id LIMIT $6 OFFSET $7;

-- name: events_total
SELECT count(*) FROM noetl.event
WHERE execution_id = $1 AND event_id > $2 AND event_id <= $3
  AND ($4::TIMESTAMPTZ IS NULL OR created_at <= $4)
  AND ($5::TEXT IS NULL OR event_type = $5);

-- name: event_at
-- Rows are stored in log order, so the block range index finds the few pages.
SELECT execution_id, event_id, event_type, catalog_id, created_at, status, node_id,
       node_name, node_type, command_id, parent_execution_id, parent_event_id,
       prev_event_id, worker_id, duration, context, result, meta, error
FROM noetl.event WHERE event_id = $1;

-- name: steps
WITH step_event AS (
    SELECT node_name, event_id, event_type, status
    FROM noetl.event
    WHERE execution_id = $1 AND node_name IS NOT NULL AND status <> 'IGNORED'
      AND event_type IN ('step.enter', 'step.exit', 'step.skipped', 'step_failed')
)
SELECT node_name,
       (array_agg(event_type ORDER BY event_id DESC))[1] AS last_type,
       (array_agg(status ORDER BY event_id DESC))[1] AS last_status,
       max(event_id) FILTER (WHERE event_type IN ('step.enter', 'step.skipped'))
           AS entered
FROM step_event GROUP BY node_name ORDER BY min(event_id);

-- name: descendants
WITH RECURSIVE tree (execution_id, status, depth) AS (
    SELECT execution_id, status, 1 FROM noetl.execution
    WHERE parent_execution_id = $1
    UNION
    SELECT child.execution_id, child.status, tree.depth + 1
    FROM noetl.execution AS child
    JOIN tree ON child.parent_execution_id = tree.execution_id
    WHERE tree.depth < 64
)
SELECT execution_id FROM tree WHERE status IN ('PENDING', 'RUNNING')
GROUP BY execution_id ORDER BY min(depth), execution_id;

-- name: idle_executions
SELECT execution_id FROM noetl.execution
WHERE status IN ('PENDING', 'RUNNING') AND updated_at < $1
  AND NOT EXISTS (
      SELECT FROM noetl.command
      WHERE command.execution_id = execution.execution_id
        AND (command.parked OR command.started_at IS NOT NULL)
        AND command.status IN ('PENDING', 'CLAIMED', 'RUNNING')
  )
  AND NOT EXISTS (
      SELECT FROM noetl.event AS timer
      WHERE timer.execution_id = execution.execution_id
        AND timer.event_type = 'timer.set'
        AND NOT EXISTS (
            SELECT FROM noetl.event AS fired
            WHERE fired.execution_id = timer.execution_id
              AND fired.event_id > timer.event_id
              AND fired.event_type = 'timer.fired'
              AND fired.meta ->> 'timer' = timer.meta ->> 'timer'
        )
  )
ORDER BY execution_id;

-- name: waiting_executions
WITH open AS (
    SELECT execution.execution_id,
           CASE WHEN bool_or(NOT command.parked AND command.started_at IS NULL)
                    THEN 'unclaimed'
                WHEN bool_or(NOT command.parked) THEN 'running'
                WHEN bool_or(command.parked) THEN 'parked'
                ELSE 'other' END AS reason
    FROM noetl.execution
    LEFT JOIN noetl.command
      ON command.execution_id = execution.execution_id
     AND command.status IN ('PENDING', 'CLAIMED', 'RUNNING')
    WHERE execution.status IN ('PENDING', 'RUNNING') AND execution.start_time < $1
    GROUP BY execution.execution_id
)
SELECT reason, count(*), min(execution_id) FROM open GROUP BY reason ORDER BY reason;

-- name: open_executions
SELECT count(*) FROM noetl.execution
WHERE catalog_id = $1 AND status IN ('PENDING', 'RUNNING');

-- name: execution_counts
SELECT count(*) AS total,
       count(*) FILTER (WHERE status IN ('PENDING', 'RUNNING')) AS running,
       count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
       count(*) FILTER (WHERE status = 'FAILED') AS failed,
       count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled
FROM noetl.execution;

-- name: catalog_path_lock
-- Registrations of one path wait for each other: each sees the version before it.
SELECT pg_advisory_xact_lock(hashtextextended('noetl.catalog:' || $1, 0));

-- name: catalog_register
INSERT INTO noetl.catalog (
    catalog_id, path, version, kind, content, layout, payload, meta
)
SELECT $1, $2, coalesce(max(version), 0) + 1, $3, $4, $5, $6, $7
FROM noetl.catalog WHERE path = $2
RETURNING *;

-- name: catalog_list
SELECT * FROM noetl.catalog
WHERE ($1::TEXT IS NULL OR kind = lower($1))
  AND ($2::TEXT IS NULL OR path = $2)
  AND ($3::TEXT IS NULL OR starts_with(path, $3))
  AND ($4 OR archived_at IS NULL)
ORDER BY created_at DESC, catalog_id DESC;

-- name: catalog_entry
SELECT * FROM noetl.catalog WHERE catalog_id = $1;

-- name: catalog_version
SELECT * FROM noetl.catalog WHERE path = $1 AND version = $2;

-- name: catalog_latest
SELECT * FROM noetl.catalog WHERE path = $1 AND archived_at IS NULL
ORDER BY version DESC LIMIT 1;

-- name: catalog_archive
UPDATE noetl.catalog SET archived_at = coalesce(archived_at, now())
WHERE catalog_id = $1 RETURNING true;

-- name: claim_start
-- A claim that has expired is as good as none. The statement always returns whose the
-- start is now: the no-op update makes a conflicting row visible.
INSERT INTO noetl.subscription_dedup AS known (
    subscription_id, dedup_key, execution_id, seen_at, expires_at
)
VALUES ($1, $2, $3, clock_timestamp(), clock_timestamp() + $4::INTERVAL)
ON CONFLICT (subscription_id, dedup_key) DO UPDATE SET
    execution_id = CASE WHEN known.expires_at <= clock_timestamp()
        THEN excluded.execution_id ELSE known.execution_id END,
    seen_at = CASE WHEN known.expires_at <= clock_timestamp()
        THEN excluded.seen_at ELSE known.seen_at END,
    expires_at = CASE WHEN known.expires_at <= clock_timestamp()
        THEN excluded.expires_at ELSE known.expires_at END
RETURNING execution_id;

-- name: runtime_register
INSERT INTO noetl.runtime AS known (
    runtime_id, name, kind, uri, status, labels, capabilities, capacity, runtime,
    worker_public_key, heartbeat, created_at, updated_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now(), now(), now())
ON CONFLICT (kind, name) DO UPDATE SET
    uri = excluded.uri, status = excluded.status, labels = excluded.labels,
    capabilities = excluded.capabilities, capacity = excluded.capacity,
    runtime = excluded.runtime, worker_public_key = excluded.worker_public_key,
    heartbeat = now(), updated_at = now()
RETURNING *;

-- name: runtime_beat
UPDATE noetl.runtime SET
    heartbeat = now(), updated_at = now(),
    status = coalesce($3, CASE WHEN status = 'offline' THEN 'ready' ELSE status END),
    runtime = coalesce($4, runtime)
WHERE kind = $1 AND name = $2 RETURNING *;

-- name: runtime_drop
DELETE FROM noetl.runtime WHERE kind = $1 AND name = $2 RETURNING true;

-- name: runtimes
SELECT * FROM noetl.runtime
WHERE ($1::TEXT IS NULL OR kind = $1) AND ($2::TEXT IS NULL OR status = $2)
  AND ($3::TEXT IS NULL OR name = $3)
ORDER BY kind, name;

-- name: runtime_sweep
UPDATE noetl.runtime SET status = 'offline', updated_at = now()
WHERE status <> 'offline' AND heartbeat < now() - $1::INTERVAL RETURNING runtime_id;

-- name: credential_save
-- No row comes back when the name belongs to another id: the envelope is bound to its
-- row, so the caller seals again for the right one.
INSERT INTO noetl.credential AS known (
    id, name, type, data_encrypted, schema, meta, tags, description
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (name) DO UPDATE SET
    type = excluded.type, data_encrypted = excluded.data_encrypted,
    schema = excluded.schema, meta = excluded.meta, tags = excluded.tags,
    description = excluded.description,
    updated_at = greatest(clock_timestamp(), known.updated_at + '1 us')
WHERE known.id = excluded.id
RETURNING *;

-- name: credential_find
SELECT * FROM noetl.credential WHERE id = $1 OR name = $2
ORDER BY (id IS NOT DISTINCT FROM $1) DESC LIMIT 1;

-- name: credential_list
SELECT * FROM noetl.credential
WHERE ($1::TEXT IS NULL OR type = $1)
  AND ($2::TEXT IS NULL OR strpos(lower(name || ' ' || coalesce(description, '')),
                                  lower($2)) > 0)
ORDER BY name;

-- name: credential_drop
DELETE FROM noetl.credential WHERE id = $1 RETURNING true;

-- name: credential_cells
SELECT id::TEXT AS key, data_encrypted FROM noetl.credential
WHERE id > $1 ORDER BY id LIMIT $2;

-- name: credential_swap
UPDATE noetl.credential SET data_encrypted = $3
WHERE id = $1 AND data_encrypted = $2 RETURNING true;

-- name: keychain_save
INSERT INTO noetl.keychain AS known (
    cache_key, keychain_name, catalog_id, scope_type, data_encrypted, credential_type,
    cache_type, execution_id, parent_execution_id, expires_at, auto_renew, renew_config
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (cache_key) DO UPDATE SET
    data_encrypted = excluded.data_encrypted, expires_at = excluded.expires_at,
    credential_type = excluded.credential_type, cache_type = excluded.cache_type,
    auto_renew = excluded.auto_renew, renew_config = excluded.renew_config,
    created_at = clock_timestamp();

-- name: keychain_replace
UPDATE noetl.keychain SET data_encrypted = $3, expires_at = $4, created_at = now()
WHERE cache_key = $1 AND data_encrypted = $2 RETURNING true;

-- name: keychain_find
UPDATE noetl.keychain SET accessed_at = now(), access_count = access_count + 1
WHERE cache_key = $1 RETURNING *;

-- name: keychain_list
SELECT * FROM noetl.keychain WHERE catalog_id = $1 ORDER BY keychain_name, cache_key;

-- name: keychain_drop
DELETE FROM noetl.keychain WHERE cache_key = $1 RETURNING true;

-- name: keychain_purge
DELETE FROM noetl.keychain AS known
WHERE (known.expires_at <= now() AND NOT known.auto_renew)
   OR EXISTS (
       SELECT FROM noetl.execution AS run
       WHERE run.execution_id = known.execution_id
         AND run.status IN ('COMPLETED', 'FAILED', 'CANCELLED')
   )
RETURNING true;

-- name: keychain_cells
SELECT cache_key AS key, data_encrypted FROM noetl.keychain
WHERE cache_key > $1 ORDER BY cache_key LIMIT $2;

-- name: keychain_swap
UPDATE noetl.keychain SET data_encrypted = $3
WHERE cache_key = $1 AND data_encrypted = $2 RETURNING true;

-- name: audit_add
INSERT INTO noetl.secret_audit (
    occurred_at, credential, operation, outcome, worker_id, execution_id,
    parent_execution_id, server_region, broker_region, kek_version, notes
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: audit_list
SELECT * FROM noetl.secret_audit
WHERE ($1::TEXT IS NULL OR credential = $1)
  AND ($2::BIGINT IS NULL OR execution_id = $2)
  AND ($3::TEXT IS NULL OR operation = $3)
  AND ($4::TEXT IS NULL OR outcome = $4)
  AND ($5::TIMESTAMPTZ IS NULL OR occurred_at >= $5)
  AND ($6::TIMESTAMPTZ IS NULL OR occurred_at < $6)
ORDER BY occurred_at DESC, audit_id DESC LIMIT $7;

-- name: result_add
INSERT INTO noetl.result_store
    (result_id, execution_id, name, scope, source_step, object_key, bytes, sha256,
     media_type, idempotency_key, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (idempotency_key) DO NOTHING RETURNING *;

-- name: result_by_key
SELECT * FROM noetl.result_store WHERE idempotency_key = $1;

-- name: result_find
SELECT * FROM noetl.result_store
WHERE execution_id = $1 AND result_id = $2
  AND (expires_at IS NULL OR expires_at > now());

-- name: results_listed
SELECT * FROM noetl.result_store
WHERE execution_id = $1 AND ($2::TEXT IS NULL OR scope = $2)
  AND ($3::TEXT IS NULL OR coalesce(source_step, name) = $3)
  AND (expires_at IS NULL OR expires_at > now())
ORDER BY result_id;

-- name: results_drop
DELETE FROM noetl.result_store
WHERE execution_id = $1 AND ($2::TEXT IS NULL OR scope = $2)
  AND ($3::TEXT IS NULL OR coalesce(source_step, name) = $3)
RETURNING *;

-- name: results_expired
SELECT * FROM noetl.result_store WHERE expires_at <= now()
ORDER BY expires_at, result_id LIMIT $1;

-- name: results_forget
DELETE FROM noetl.result_store WHERE result_id = ANY ($1::BIGINT[]);

-- name: references_of
SELECT node_name, (result->'reference')::TEXT AS reference FROM noetl.event
WHERE execution_id = $1 AND event_type = 'call.done'
  AND result->'reference' IS NOT NULL
ORDER BY event_id;

-- name: executions_unneeded
WITH RECURSIVE above AS (
    SELECT asked.execution_id AS asked, asked.execution_id
    FROM unnest($1::BIGINT[]) AS asked (execution_id)
    UNION
    SELECT above.asked, e.parent_execution_id
    FROM above JOIN noetl.execution AS e USING (execution_id)
    WHERE e.parent_execution_id IS NOT NULL
)
SELECT DISTINCT asked AS execution_id FROM above
EXCEPT
SELECT above.asked FROM above JOIN noetl.execution AS e USING (execution_id)
WHERE e.end_time IS NULL OR e.end_time >= now() - make_interval(secs => $2);

-- name: variables_set
INSERT INTO noetl.transient AS known
    (execution_id, var_name, var_type, var_value, source_step)
SELECT $1, given.* FROM unnest($2::TEXT[], $3::TEXT[], $4::JSONB[], $5::TEXT[]) AS given
ON CONFLICT (execution_id, var_name) DO UPDATE SET
    var_type = excluded.var_type, var_value = excluded.var_value,
    source_step = excluded.source_step;

-- name: variables
SELECT * FROM noetl.transient
WHERE execution_id = $1 AND (expires_at IS NULL OR expires_at > now())
ORDER BY var_name;

-- name: variable_read
UPDATE noetl.transient SET accessed_at = now(), access_count = access_count + 1
WHERE execution_id = $1 AND var_name = $2
AND (expires_at IS NULL OR expires_at > now())
RETURNING *;

-- name: variables_drop
DELETE FROM noetl.transient
WHERE execution_id = $1 AND ($2::TEXT IS NULL OR var_name = $2) RETURNING var_name;

-- name: suite_save
INSERT INTO noetl.playbook_test_suite (suite_id, playbook_path, tests, metadata)
VALUES ($1, $2, $3::JSONB, $4::JSONB)
ON CONFLICT (suite_id) DO UPDATE SET
    playbook_path = excluded.playbook_path, tests = excluded.tests,
    metadata = excluded.metadata, updated_at = now()
RETURNING *;

-- name: suite
SELECT * FROM noetl.playbook_test_suite WHERE suite_id = $1;

-- name: suite_drop
DELETE FROM noetl.playbook_test_suite WHERE suite_id = $1 RETURNING true;
