-- The log as rows, and what is projected from it. Written by the materializer alone.

-- Weekly ranges of execution ids: an id is a snowflake, its upper bits are the time it
-- was minted, so dropping a partition is retention. Columns the write path leaves out
-- keep their defaults; names and order of the others are those of EventRow.
CREATE TABLE IF NOT EXISTS noetl.event (
    execution_id        BIGINT NOT NULL,
    event_id            BIGINT NOT NULL,
    catalog_id          BIGINT NOT NULL CHECK (catalog_id <> 0),
    event_type          TEXT NOT NULL,
    status              TEXT,
    node_id             TEXT,
    node_name           TEXT,
    node_type           TEXT,
    parent_event_id     BIGINT,
    causation_id        BIGINT,
    prev_event_id       BIGINT,
    parent_execution_id BIGINT,
    command_id          TEXT,
    stage_id            TEXT,
    frame_id            TEXT,
    context             JSONB,
    result              JSONB,
    meta                JSONB,
    error               TEXT,
    worker_id           TEXT,
    duration            DOUBLE PRECISION,
    created_at          TIMESTAMPTZ NOT NULL,
    event_time          TIMESTAMPTZ,
    ingest_time         TIMESTAMPTZ NOT NULL DEFAULT now(),
    correlation_id      TEXT,
    idempotency_key     TEXT,
    trace_component     JSONB,
    stack_trace         TEXT,
    tenant_id           TEXT NOT NULL DEFAULT 'default',
    organization_id     TEXT NOT NULL DEFAULT 'default',
    stream_id           TEXT,
    stream_version      BIGINT,
    aggregate_type      TEXT,
    aggregate_id        TEXT,
    schema_name         TEXT,
    schema_version      INT,
    producer            TEXT,
    payload_ref         JSONB,
    envelope_checksum   TEXT,
    current_index       INT,
    current_item        JSONB,
    context_key         TEXT,
    context_value       JSONB,
    distributed_state   JSONB,
    PRIMARY KEY (execution_id, event_id),
    CONSTRAINT event_result_envelope CHECK (
        result IS NULL
        OR (
            jsonb_typeof(result) = 'object'
            AND jsonb_typeof(result -> 'status') = 'string'
            AND result - '{status,reference,context}'::TEXT[] = '{}'::JSONB
        )
    )
) PARTITION BY RANGE (execution_id);

CREATE INDEX IF NOT EXISTS event_catalog ON noetl.event (catalog_id);
CREATE INDEX IF NOT EXISTS event_type_time ON noetl.event (event_type, created_at);

-- Rows come in log order, so a few bytes per block range find an event by position.
CREATE INDEX IF NOT EXISTS event_position
    ON noetl.event USING brin (event_id) WITH (autosummarize = on);

-- Guards against a bug of ours: the projection lets neither a second root nor a second
-- terminal through.
CREATE UNIQUE INDEX IF NOT EXISTS event_one_root
    ON noetl.event (execution_id) WHERE prev_event_id IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS event_one_terminal
    ON noetl.event (execution_id) WHERE event_type IN (
        'playbook.completed', 'playbook_completed', 'execution.completed',
        'workflow.completed', 'playbook.failed', 'playbook_failed',
        'execution.failed', 'workflow.failed', 'playbook_cancelled',
        'playbook.cancelled', 'execution.cancelled'
    );

CREATE TABLE IF NOT EXISTS noetl.event_default PARTITION OF noetl.event DEFAULT;

-- Owner's rights: the runtime role creates partitions and nothing else (RT-HSK-2).
CREATE OR REPLACE FUNCTION noetl.ensure_event_partitions(weeks_ahead INT)
RETURNS INT LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    week_ms  CONSTANT BIGINT := 604800000;
    epoch_ms CONSTANT BIGINT := 1704067200000;
    week     BIGINT;
    made     INT := 0;
BEGIN
    week := ((extract(epoch FROM clock_timestamp()) * 1000)::BIGINT - epoch_ms)
            / week_ms;
    FOR number IN week .. week + weeks_ahead LOOP
        CONTINUE WHEN to_regclass(format('noetl.event_w%s', number)) IS NOT NULL;
        BEGIN
            EXECUTE format(
                'CREATE TABLE noetl.event_w%s PARTITION OF noetl.event '
                'FOR VALUES FROM (%s) TO (%s)',
                number, (number * week_ms) << 22, ((number + 1) * week_ms) << 22
            );
            made := made + 1;
        EXCEPTION WHEN check_violation THEN
            -- The default partition holds rows of that week already: it keeps the rest.
            RAISE NOTICE 'week % stays in the default partition', number;
        END;
    END LOOP;
    RETURN made;
END;
$$;

SELECT noetl.ensure_event_partitions(4);

CREATE OR REPLACE VIEW noetl.event_log AS
SELECT execution_id, event_id, catalog_id, event_type, status, node_id, node_name,
       node_type, parent_event_id, prev_event_id, parent_execution_id, command_id,
       context, result, meta, error, worker_id, duration, created_at
FROM noetl.event;

-- answer and parked are what the next events of a command are judged by.
-- Rows are updated a few times each: room in the page keeps that cheap.
CREATE TABLE IF NOT EXISTS noetl.command (
    execution_id        BIGINT NOT NULL,
    command_id          TEXT NOT NULL,
    event_id            BIGINT NOT NULL,
    catalog_id          BIGINT NOT NULL,
    parent_execution_id BIGINT,
    step_name           TEXT NOT NULL,
    tool_kind           TEXT,
    pool                TEXT,
    status              TEXT NOT NULL CHECK (status IN (
        'PENDING', 'CLAIMED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED'
    )),
    answer              TEXT,
    parked              BOOLEAN NOT NULL DEFAULT false,
    worker_id           TEXT,
    claimed_at          TIMESTAMPTZ,
    started_at          TIMESTAMPTZ,
    completed_at        TIMESTAMPTZ,
    attempt             INT NOT NULL DEFAULT 1,
    max_attempts        INT NOT NULL DEFAULT 3,
    iter_index          INT,
    context             JSONB,
    meta                JSONB,
    error               TEXT,
    latest_event_id     BIGINT NOT NULL,
    prev_event_id       BIGINT,
    created_at          TIMESTAMPTZ NOT NULL,
    updated_at          TIMESTAMPTZ NOT NULL,
    parent_command_id   TEXT,
    context_key         TEXT,
    loop_event_id       BIGINT,
    stage_id            TEXT,
    frame_id            TEXT,
    result              JSONB,
    PRIMARY KEY (execution_id, command_id)
) PARTITION BY HASH (execution_id);

DO $$
BEGIN
    FOR part IN 0 .. 15 LOOP
        EXECUTE format(
            'CREATE TABLE IF NOT EXISTS noetl.command_p%s PARTITION OF noetl.command '
            'FOR VALUES WITH (MODULUS 16, REMAINDER %s) WITH (fillfactor = 70)',
            part, part
        );
    END LOOP;
END;
$$;

CREATE INDEX IF NOT EXISTS command_open ON noetl.command (status)
    WHERE status IN ('PENDING', 'CLAIMED', 'RUNNING');

-- The head moves with every batch: room in the page makes that an update in place, and
-- wide documents are kept out of the row so that it does not rewrite them.
CREATE TABLE IF NOT EXISTS noetl.execution (
    execution_id        BIGINT PRIMARY KEY,
    catalog_id          BIGINT NOT NULL,
    path                TEXT NOT NULL,
    version             INT NOT NULL,
    parent_execution_id BIGINT,
    parent_command_id   TEXT,
    status              TEXT NOT NULL CHECK (status IN (
        'PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED'
    )),
    pool                TEXT,
    head_event_id       BIGINT NOT NULL,
    last_event_type     TEXT NOT NULL,
    last_node_name      TEXT,
    last_event_id       BIGINT,
    event_count         BIGINT NOT NULL,
    steps_known         INT NOT NULL DEFAULT 0,
    steps_done          INT NOT NULL DEFAULT 0,
    start_time          TIMESTAMPTZ NOT NULL,
    end_time            TIMESTAMPTZ,
    result              JSONB,
    error               TEXT,
    workload            JSONB,
    state               JSONB,
    updated_at          TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50, toast_tuple_target = 512);

CREATE INDEX IF NOT EXISTS execution_status_time
    ON noetl.execution (status, start_time);
CREATE INDEX IF NOT EXISTS execution_parent
    ON noetl.execution (parent_execution_id) WHERE parent_execution_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS execution_path ON noetl.execution (path);

CREATE TABLE IF NOT EXISTS noetl.stage (
    stage_id     TEXT PRIMARY KEY,
    execution_id BIGINT NOT NULL,
    step         TEXT,
    status       TEXT NOT NULL,
    counts       JSONB,
    opened_at    TIMESTAMPTZ,
    closed_at    TIMESTAMPTZ,
    meta         JSONB,
    updated_at   TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS noetl.frame (
    frame_id     TEXT PRIMARY KEY,
    execution_id BIGINT NOT NULL,
    stage_id     TEXT,
    step         TEXT,
    status       TEXT NOT NULL,
    counts       JSONB,
    row_first    BIGINT,
    row_last     BIGINT,
    attempt      INT,
    worker_id    TEXT,
    opened_at    TIMESTAMPTZ,
    closed_at    TIMESTAMPTZ,
    meta         JSONB,
    updated_at   TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS noetl.projection (
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    organization_id TEXT NOT NULL DEFAULT 'default',
    projection      TEXT NOT NULL,
    key             TEXT NOT NULL,
    value           JSONB,
    version         BIGINT,
    checksum        TEXT,
    updated_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, organization_id, projection, key)
);

CREATE TABLE IF NOT EXISTS noetl.projection_snapshot (
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    organization_id TEXT NOT NULL DEFAULT 'default',
    aggregate_type  TEXT NOT NULL,
    aggregate_id    TEXT NOT NULL,
    version         BIGINT NOT NULL,
    snapshot        JSONB NOT NULL,
    checksum        TEXT NOT NULL,
    meta            JSONB,
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, organization_id, aggregate_type, aggregate_id)
);

CREATE TABLE IF NOT EXISTS noetl.materializer_position (
    shard_group TEXT PRIMARY KEY,
    generation  BIGINT NOT NULL,
    last_seq    BIGINT NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- stream_created_at is compared, never computed with: the broker's own text.
CREATE TABLE IF NOT EXISTS noetl.stream_generation (
    stream            TEXT PRIMARY KEY,
    stream_created_at TEXT NOT NULL,
    generation        BIGINT NOT NULL,
    last_seq          BIGINT NOT NULL,
    updated_at        TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS noetl.event_quarantine (
    id           BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    generation   BIGINT NOT NULL,
    stream_seq   BIGINT NOT NULL,
    idx          INT NOT NULL,
    execution_id BIGINT,
    event_id     BIGINT,
    reason       TEXT NOT NULL,
    payload      BYTEA NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (generation, stream_seq, idx)
);
