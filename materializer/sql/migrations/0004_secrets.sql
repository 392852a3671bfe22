-- Keys of workers that credentials are sealed to, and the trail of one execution.

ALTER TABLE noetl.runtime
    ADD COLUMN IF NOT EXISTS worker_public_key TEXT;

CREATE INDEX IF NOT EXISTS secret_audit_execution
    ON noetl.secret_audit (execution_id, occurred_at);
