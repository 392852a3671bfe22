CREATE TABLE IF NOT EXISTS noetl.playbook_test_suite (
    suite_id      TEXT PRIMARY KEY,
    playbook_path TEXT NOT NULL,
    tests         JSONB NOT NULL,
    metadata      JSONB NOT NULL,
    updated_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);
