-- Usage: counters without a hot row. A counter of one tenant, metric and UTC day is the sum of its slots; a transaction writes a slot
-- that no other open one holds, so sessions of one tenant never wait for each other: see src/usage, which writes these tables by the
-- order of their columns: append only, and constraints are checked there. No foreign key to amp.tenants: an increment must not lock
-- the tenant's row.

CREATE TABLE amp.usage_counters (
    tenant_id text COLLATE "C" NOT NULL,
    metric text COLLATE "C" NOT NULL,
    day date NOT NULL,
    slot integer NOT NULL,
    amount bigint NOT NULL,
    CONSTRAINT usage_counters_pkey PRIMARY KEY (tenant_id, metric, day, slot)
) WITH (fillfactor = 70);
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

CREATE TABLE amp.monthly_usage (
    tenant_id text COLLATE "C" NOT NULL,
    month date NOT NULL,
    metric text COLLATE "C" NOT NULL,
    slot integer NOT NULL,
    amount bigint NOT NULL,
    CONSTRAINT monthly_usage_pkey PRIMARY KEY (tenant_id, month, metric, slot)
) WITH (fillfactor = 70);
-- The rows of a month lie together: a review reads those and not the years before, for a few pages of index, which no increment touches.
CREATE INDEX monthly_usage_month_idx ON amp.monthly_usage USING brin (month);
COMMENT ON TABLE amp.monthly_usage IS
'Internal: what tenants used by month (its first day, UTC), the sum of its days in amp.usage_counters; kept beside them, so that a month is read at once and its limit has slots of its own.';

CREATE TABLE amp.spending_limits (
    tenant_id text COLLATE "C" CONSTRAINT spending_limits_pkey PRIMARY KEY,
    monthly_limit_cents bigint,
    daily_limit_cents bigint,
    alert_threshold_percent integer,
    hard_stop boolean NOT NULL,
    version bigint NOT NULL
);
COMMENT ON TABLE amp.spending_limits IS 'Internal: tenants'' cost_limits, from their configuration, as charging reads them.';
COMMENT ON COLUMN amp.spending_limits.version IS 'Grows when a hard limit is lowered or comes into being: the slots have to be settled then.';

CREATE TABLE amp.settled_limits (
    tenant_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT settled_limits_pkey PRIMARY KEY (tenant_id, version)
);
COMMENT ON TABLE amp.settled_limits IS 'Internal: the versions of limits that the slots are in line with.';

-- Without a unique key: nobody waits for another one who notes the same.
CREATE TABLE amp.spending_watches (
    tenant_id text COLLATE "C" NOT NULL,
    period text COLLATE "C" NOT NULL,
    threshold_cents bigint NOT NULL
);
CREATE INDEX spending_watches_tenant_id_idx ON amp.spending_watches (tenant_id, period);
COMMENT ON TABLE amp.spending_watches IS 'Internal: thresholds that are so near that every charge is looked at; see src/usage/alerts.rs.';

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
'One row for each tenant, period and threshold of spending that was reached: the early one (cost_limits.alert_threshold_percent) and the limit itself (100). A session sees its own tenant''s; an operator sees all.';
COMMENT ON COLUMN amp.alerts.period IS 'YYYY-MM for a monthly limit, YYYY-MM-DD for a daily one; UTC.';
COMMENT ON COLUMN amp.alerts.threshold_cents IS 'The amount that was reached. With another limit the same percentage is another threshold.';
COMMENT ON COLUMN amp.alerts.spent_cents IS 'What had been spent in the period when it was reached, the charge that reached it included.';

CREATE TABLE amp.metrics (
    name text COLLATE "C" CONSTRAINT metrics_pkey PRIMARY KEY,
    description text NOT NULL,
    built_in boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE amp.metrics IS 'Metrics with a description. Others are counted, too, unless amp.open_metrics is off.';

INSERT INTO amp.metrics (name, description, built_in) VALUES
    ('missions_created', 'Missions created', true),
    ('content_generated', 'Pieces of content generated', true),
    ('content_published', 'Pieces of content published', true),
    ('api_calls', 'Calls of the API', true),
    ('llm_tokens_used', 'Tokens used by language models', true),
    ('images_generated', 'Images generated', true),
    ('cost_cents', 'Spending, in cents: charged with amp.charge(), within the tenant''s limits', true);

-- Everybody may read it; row security is for who may write everything (pg_write_all_data).
ALTER TABLE amp.metrics ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON amp.metrics FOR SELECT USING (true);

-- Every change makes what backends know of limits untrue; ALWAYS, so that replication's apply does too.
CREATE TRIGGER amp_invalidate AFTER INSERT OR DELETE OR UPDATE ON amp.spending_limits
    FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.spending_limits EXECUTE FUNCTION amp.invalidate();
ALTER TABLE amp.spending_limits ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all;

ALTER TABLE amp.monthly_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE amp.spending_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE amp.settled_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE amp.spending_watches ENABLE ROW LEVEL SECURITY;
ALTER TABLE amp.alerts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.alerts FOR SELECT USING (tenant_id = amp.tenant_id());
CREATE POLICY operator ON amp.alerts FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.usage_counters ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.usage_counters FOR SELECT USING (tenant_id = amp.tenant_id());
CREATE POLICY operator ON amp.usage_counters FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.usage_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.usage_keys FOR SELECT USING (tenant_id = amp.tenant_id());
CREATE POLICY operator ON amp.usage_keys FOR SELECT TO amp_operator USING (true);
GRANT SELECT ON amp.usage_counters, amp.usage_keys, amp.alerts, amp.metrics TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('amp.usage_counters', '');
SELECT pg_catalog.pg_extension_config_dump('amp.usage_keys', '');
SELECT pg_catalog.pg_extension_config_dump('amp.monthly_usage', '');
SELECT pg_catalog.pg_extension_config_dump('amp.spending_limits', '');
SELECT pg_catalog.pg_extension_config_dump('amp.settled_limits', '');
SELECT pg_catalog.pg_extension_config_dump('amp.spending_watches', '');
SELECT pg_catalog.pg_extension_config_dump('amp.alerts', '');
SELECT pg_catalog.pg_extension_config_dump('amp.metrics', 'WHERE NOT built_in');
