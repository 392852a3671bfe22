-- The index of stored results, multi-part results, and execution variables.

CREATE TABLE IF NOT EXISTS noetl.result_store (
    result_id       BIGINT PRIMARY KEY,
    execution_id    BIGINT NOT NULL,
    name            TEXT NOT NULL,
    scope           TEXT NOT NULL
                    CHECK (scope IN ('step', 'execution', 'workflow', 'permanent')),
    source_step     TEXT,
    data            JSONB,
    object_key      TEXT,
    bytes           BIGINT NOT NULL,
    sha256          TEXT NOT NULL,
    media_type      TEXT NOT NULL,
    idempotency_key TEXT UNIQUE,
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at      TIMESTAMPTZ
);
CREATE INDEX IF NOT EXISTS result_store_name
    ON noetl.result_store (execution_id, name);
CREATE INDEX IF NOT EXISTS result_store_expiry ON noetl.result_store (expires_at);

CREATE TABLE IF NOT EXISTS noetl.result_ref (
    ref          TEXT PRIMARY KEY,
    execution_id BIGINT NOT NULL,
    name         TEXT NOT NULL,
    store        TEXT NOT NULL,
    uri          TEXT,
    meta         JSONB,
    extracted    JSONB,
    scope        TEXT NOT NULL,
    expires_at   TIMESTAMPTZ,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS result_ref_execution ON noetl.result_ref (execution_id);

CREATE TABLE IF NOT EXISTS noetl.manifest (
    manifest_id  TEXT PRIMARY KEY,
    execution_id BIGINT NOT NULL,
    strategy     TEXT NOT NULL,
    total_parts  INT NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS noetl.manifest_part (
    manifest_id TEXT NOT NULL REFERENCES noetl.manifest (manifest_id)
                ON DELETE CASCADE,
    part_index  INT NOT NULL,
    ref         TEXT NOT NULL,
    bytes       BIGINT,
    meta        JSONB,
    PRIMARY KEY (manifest_id, part_index)
);

CREATE TABLE IF NOT EXISTS noetl.transient (
    execution_id BIGINT NOT NULL,
    var_name     TEXT NOT NULL,
    var_type     TEXT NOT NULL DEFAULT 'user_defined' CHECK (var_type IN (
        'user_defined', 'step_result', 'computed', 'iterator_state'
    )),
    var_value    JSONB,
    source_step  TEXT,
    scope        TEXT NOT NULL DEFAULT 'execution',
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    accessed_at  TIMESTAMPTZ,
    access_count BIGINT NOT NULL DEFAULT 0,
    expires_at   TIMESTAMPTZ,
    PRIMARY KEY (execution_id, var_name)
);
