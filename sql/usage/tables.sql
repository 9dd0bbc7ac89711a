-- Usage: counters without a hot row. A counter of one tenant, metric and UTC day is the sum of its slots; a session adds to a
-- slot that no open transaction holds (SKIP LOCKED), or opens a new one, so sessions of one tenant never wait for each other.
-- No foreign key to amp.tenants: an increment must not lock the tenant's row.

CREATE TABLE amp.usage_counters (
    tenant_id text COLLATE "C" NOT NULL,
    metric text COLLATE "C" NOT NULL,
    day date NOT NULL,
    slot integer NOT NULL,
    amount bigint NOT NULL,
    CONSTRAINT usage_counters_pkey PRIMARY KEY (tenant_id, metric, day, slot)
) WITH (fillfactor = 70);
-- The rows of a month lie together: a review reads those and not the years before, for a few pages of index, which no increment touches.
CREATE INDEX usage_counters_day_idx ON amp.usage_counters USING brin (day);
COMMENT ON TABLE amp.usage_counters IS 'What tenants used: amount of a metric on a UTC day is the sum over slots. cost_cents is in cents.';

CREATE TABLE amp.usage_keys (
    tenant_id text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    metric text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT usage_keys_pkey PRIMARY KEY (tenant_id, idempotency_key)
);
COMMENT ON TABLE amp.usage_keys IS 'The idempotency keys that were counted, with what they counted.';

ALTER TABLE amp.usage_counters ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.usage_counters FOR SELECT USING (tenant_id = amp.tenant_id());
CREATE POLICY operator ON amp.usage_counters FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.usage_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.usage_keys FOR SELECT USING (tenant_id = amp.tenant_id());
CREATE POLICY operator ON amp.usage_keys FOR SELECT TO amp_operator USING (true);
GRANT SELECT ON amp.usage_counters, amp.usage_keys TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('amp.usage_counters', '');
SELECT pg_catalog.pg_extension_config_dump('amp.usage_keys', '');

CREATE TABLE amp.alerts (
    tenant_id text COLLATE "C" NOT NULL,
    period text COLLATE "C" NOT NULL,
    threshold_percent integer NOT NULL,
    threshold_cents bigint NOT NULL,
    limit_cents bigint NOT NULL,
    spent_cents bigint NOT NULL,
    hard_stop boolean NOT NULL,
    raised_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT alerts_pkey PRIMARY KEY (tenant_id, period, threshold_percent, threshold_cents)
);
COMMENT ON TABLE amp.alerts IS
'Which tenant''s spending has reached which part of a limit. A session sees its own tenant''s; an operator sees all.';
COMMENT ON COLUMN amp.alerts.period IS 'YYYY-MM for a month''s limit, YYYY-MM-DD for a day''s, in UTC.';
ALTER TABLE amp.alerts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.alerts FOR SELECT USING (tenant_id = amp.tenant_id());
CREATE POLICY operator ON amp.alerts FOR SELECT TO amp_operator USING (true);
GRANT SELECT ON amp.alerts TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('amp.alerts', '');
