-- Spending: charged within limits, corrected with a reason, alerted of; tables that refuse new rows when nothing is left.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_operator
SELECT amp.create_tenant('Spender One', 'spender-one',
    '{"cost_limits": {"monthly_limit_cents": 5000, "daily_limit_cents": 1000, "alert_threshold_percent": 80, "hard_stop_at_limit": true}}', 'spender1') ->> 'id' AS id;
SELECT amp.create_tenant('Spender Two', 'spender-two',
    '{"cost_limits": {"monthly_limit_cents": 1000, "alert_threshold_percent": 50}}', 'spender2') ->> 'id' AS id;
SELECT amp.create_tenant('Spender Three', 'spender-three', id => 'spender3') ->> 'id' AS id;

-- Up to the limit, and not a cent more; the error says what, how much, and until when.
\connect - regress_service
SET amp.tenant_id = 'spender1';
SELECT amp.charge(700), amp.charge(1), amp.generation_allowed();
SELECT count(*) AS alerts FROM amp.alerts;
SELECT amp.charge(99);
SELECT length(period) AS of_a_day, threshold_percent, threshold_cents, limit_cents, spent_cents, hard_stop FROM amp.alerts;
\set VERBOSITY sqlstate
SELECT amp.charge(201);
CREATE TEMP TABLE told (message text, detail text, hint text);
DO $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    PERFORM amp.charge(201);
EXCEPTION WHEN SQLSTATE 'TN005' THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    INSERT INTO told VALUES (message, detail, hint);
END
$$;
SELECT regexp_replace(message, '[0-9]{4}-[0-9]{2}-[0-9]{2}', 'DAY') AS message, regexp_replace(detail, '[0-9]{4}-[0-9]{2}-[0-9]{2}', 'DAY') AS detail, hint FROM told;
SELECT detail LIKE '%' || to_char((now() AT TIME ZONE 'UTC')::date + 1, 'YYYY-MM-DD') || 'T00:00:00Z.' AS ends_at_midnight FROM told;
SELECT amp.charge(200), amp.generation_allowed();
SELECT threshold_percent, spent_cents FROM amp.alerts ORDER BY 1;
SELECT amp.usage() #> '{usage,cost_cents}' AS cents, amp.usage() -> 'limits' AS limits;
-- It is the same under another name; and it does not keep anything else from being counted.
SELECT amp.record_usage('cost_cents', 1);
SELECT amp.record_usage('api_calls', 3);
-- A refused charge leaves its key free.
BEGIN;
SAVEPOINT s;
SELECT amp.charge(1, 'refused');
ROLLBACK TO s;
SELECT count(*) AS keys FROM amp.usage_keys WHERE idempotency_key = 'refused';
COMMIT;

-- Raised: at the next statement. Lowered: nothing more.
\connect - regress_operator
SELECT amp.update_config('{"cost_limits": {"daily_limit_cents": 1100}}', 'spender1') IS NOT NULL AS changed;
\connect - regress_service
SET amp.tenant_id = 'spender1';
SELECT amp.charge(50, 'refused'), amp.generation_allowed();
\connect - regress_operator
SELECT amp.update_config('{"cost_limits": {"daily_limit_cents": 1020}}', 'spender1') IS NOT NULL AS changed;
\connect - regress_service
SET amp.tenant_id = 'spender1';
SELECT amp.charge(1);
SELECT amp.charge(50, 'refused') AS again, amp.generation_allowed();

-- A correction is an entry with a reason, and makes room.
\connect - regress_operator
SELECT amp.correct_usage('spender1', 'cost_cents', -100, ' Provider refunded us ', idempotency_key => 'refund 1') - 'id' - 'day' - 'corrected_at' AS correction;
SELECT amp.correct_usage('spender1', 'cost_cents', -100, 'Provider refunded us', idempotency_key => 'refund 1') ->> 'amount' AS once;
SELECT amp.correct_usage('spender1', 'api_calls', -2, 'Counted twice') ->> 'metric' AS metric;
SELECT tenant_id, metric, amount, reason FROM amp.usage_corrections ORDER BY metric;
SELECT amp.usage('spender1') #> '{usage,cost_cents}' AS cents, amp.usage('spender1') #> '{usage,api_calls}' AS api_calls;
SELECT action, detail ->> 'amount' AS amount FROM amp.audit_log WHERE tenant_id = 'spender1' AND action = 'usage.corrected' ORDER BY 2;
\set VERBOSITY default
SELECT amp.correct_usage('spender1', 'cost_cents', -951, 'more than there is');
\echo :SQLSTATE
SELECT amp.correct_usage('spender1', 'cost_cents', 5, 'not negative');
\echo :SQLSTATE
SELECT amp.correct_usage('spender1', 'cost_cents', -5, ' ');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.correct_usage('spender1', 'cost_cents', 0, 'nothing');
SELECT amp.correct_usage('spender1', 'cost_cents', NULL, 'nothing');
SELECT amp.correct_usage('spender1', 'cost_cents', -5, 'tomorrow', (now() AT TIME ZONE 'UTC')::date + 1);
SELECT amp.correct_usage('spender1', 'cost_cents', -5, 'then', 'infinity');
SELECT amp.correct_usage('spender1', 'cost_cents', -5, 'long ago', '2001-01-01');
SELECT amp.correct_usage('spender1', 'cost_cents', -7, 'another', idempotency_key => 'refund 1');
SELECT amp.correct_usage('spender1', 'cost_cents', -7, 'another', idempotency_key => '');
SELECT amp.correct_usage('spender1', 'Cost', -7, 'no metric');
SELECT amp.correct_usage('nowhere', 'cost_cents', -7, 'no tenant');
\connect - regress_service
SET amp.tenant_id = 'spender1';
SELECT amp.correct_usage('spender1', 'cost_cents', -1, 'not an operator');
SELECT amp.charge(70);
SELECT amp.charge(1);

-- A soft limit alerts, and goes on; the month's name is the period.
SET amp.tenant_id = 'spender2';
SELECT amp.charge(499);
SELECT amp.charge(1);
SELECT amp.charge(9500), amp.generation_allowed();
SELECT length(period) AS of_a_month, threshold_percent, threshold_cents, limit_cents, spent_cents, hard_stop FROM amp.alerts ORDER BY 2;
-- Without limits nothing is refused, and nobody is told.
SET amp.tenant_id = 'spender3';
SELECT amp.charge(1000000000000), amp.generation_allowed();
SELECT count(*) AS alerts FROM amp.alerts;
SET amp.tenant_id = 'spender2';
SELECT count(*) AS own FROM amp.alerts;

-- Bad input.
\set VERBOSITY default
SELECT amp.charge(0);
\echo :SQLSTATE
SELECT amp.charge(NULL);
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.charge(-5);
SELECT amp.charge(1000000000001);
SELECT amp.charge(9223372036854775807);
SELECT amp.charge(1, '');
SELECT amp.charge(1, repeat('k', 256));
SELECT amp.charge(1, repeat('k', 100000));
SELECT amp.record_usage('api_calls', 1, NULL, 'sometimes');
SELECT amp.record_usage('api_calls', 1, NULL, NULL);
BEGIN READ ONLY;
SELECT amp.charge(1);
ROLLBACK;
RESET amp.tenant_id;
SELECT amp.charge(1);
SELECT amp.generation_allowed();
\connect - regress_operator
SELECT amp.charge(1);

-- A table that spends refuses new rows at a hard stop; reading and changing go on.
\connect - regress_owner
CREATE SCHEMA spending;
GRANT USAGE ON SCHEMA spending TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA spending GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO PUBLIC;
CREATE TABLE spending.content (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
CREATE TABLE spending.content_1 PARTITION OF spending.content FOR VALUES FROM (0) TO (10);
SELECT status, object, what FROM amp.protect('spending.content', spend => true) WHERE object LIKE 'policy amp_spend%';
CREATE TABLE spending.content_2 PARTITION OF spending.content FOR VALUES FROM (10) TO (20);
SELECT relation, spend FROM amp.protected_tables WHERE relation::text LIKE 'spending.%' ORDER BY 1;
SELECT count(*) AS findings FROM amp.doctor() WHERE object LIKE '%spending.%' AND severity = 'error';
-- What is taken away is found, and what the doctor says puts it back.
\connect - postgres
BEGIN;
SET LOCAL amp.allow_unsafe_ddl = on;
SET LOCAL client_min_messages = error;
DROP POLICY amp_spend ON spending.content_1;
COMMIT;
\connect - regress_owner
SELECT severity, code, object, fix FROM amp.doctor() WHERE object LIKE '%spending.%' AND severity = 'error';
SELECT fix AS again FROM amp.doctor() WHERE object LIKE '%spending.%' AND severity = 'error' LIMIT 1 \gset
SELECT count(*) > 0 AS done FROM (:again) f;
SELECT count(*) AS findings FROM amp.doctor() WHERE object LIKE '%spending.%' AND severity = 'error';
\connect - regress_service
SET amp.tenant_id = 'spender2';
INSERT INTO spending.content (id) VALUES (1), (2), (11);
SET amp.tenant_id = 'spender1';
INSERT INTO spending.content (id) VALUES (1);
INSERT INTO spending.content_2 (id) VALUES (11);
INSERT INTO spending.content (id) SELECT 1 WHERE false;
SELECT count(*) FROM spending.content;
\connect - regress_operator
SELECT amp.update_config('{"cost_limits": {"daily_limit_cents": 1021}}', 'spender1') IS NOT NULL AS changed;
\connect - regress_service
SET amp.tenant_id = 'spender1';
INSERT INTO spending.content (id) VALUES (1), (12);
-- In one transaction: the last cent is spent, and then nothing more is made.
BEGIN;
SELECT amp.charge(1);
INSERT INTO spending.content (id) VALUES (3);
ROLLBACK;
BEGIN;
SELECT amp.charge(1);
UPDATE spending.content SET id = 2 WHERE id = 1;
DELETE FROM spending.content WHERE id = 12;
COMMIT;
SELECT id FROM spending.content ORDER BY id;
\connect - regress_owner
SELECT status, object, what FROM amp.protect('spending.content') WHERE object LIKE 'policy amp_spend%' ORDER BY object;
\connect - regress_service
SET amp.tenant_id = 'spender1';
INSERT INTO spending.content (id) VALUES (5);

\set VERBOSITY default
-- Metrics: any word, unless they are closed.
\connect - regress_operator
SELECT amp.register_metric('videos_cut', 'Videos cut');
SELECT amp.register_metric('videos_cut', 'Videos that were cut');
SELECT name, description, built_in FROM amp.metrics WHERE name IN ('videos_cut', 'cost_cents') ORDER BY name;
SELECT amp.register_metric('cost_cents', 'Free of charge');
\echo :SQLSTATE
SELECT amp.register_metric('no_words', ' ');
\echo :SQLSTATE
\connect - postgres
ALTER ROLE regress_service SET amp.open_metrics = off;
\connect - regress_service
SET amp.tenant_id = 'spender3';
SELECT amp.record_usage('videos_cut'), amp.record_usage('api_calls');
SELECT amp.record_usage('videos_sold');
\echo :SQLSTATE
SET amp.open_metrics = on;
\echo :SQLSTATE
SELECT amp.register_metric('videos_sold', 'not an operator');
\echo :SQLSTATE
\connect - postgres
ALTER ROLE regress_service RESET amp.open_metrics;

-- Days that are over become one row a counter; the sums stay.
INSERT INTO amp.usage_counters SELECT 'spender3', 'api_calls', '2024-01-05', n, n FROM generate_series(0, 9) n;
INSERT INTO amp.usage_counters SELECT 'spender3', 'cost_cents', '2024-01-05', n, 7 FROM generate_series(3, 5) n;
INSERT INTO amp.usage_counters VALUES ('spender3', 'cost_cents', '2024-01-06', 9, 5);
INSERT INTO amp.monthly_usage SELECT 'spender3', '2024-01-01', 'cost_cents', n, 13 FROM generate_series(1, 2) n;
INSERT INTO amp.monthly_usage SELECT 'spender3', '2024-01-01', 'api_calls', n, 15 FROM generate_series(0, 2) n;
INSERT INTO amp.usage_keys VALUES ('spender3', 'old', 'api_calls', 1, '2024-01-05');
\connect - regress_operator
SELECT amp.usage('spender3', '2024-01') -> 'usage' AS before;
CALL amp.compact_usage(keys_before => '2024-06-01');
SELECT amp.usage('spender3', '2024-01') -> 'usage' AS after;
SELECT metric, day, slot, amount FROM amp.usage_counters WHERE tenant_id = 'spender3' AND day < '2025-01-01' ORDER BY 1, 2, 3;
\set VERBOSITY sqlstate
CALL amp.compact_usage(before => (now() AT TIME ZONE 'UTC')::date);
\connect - regress_service
SET amp.tenant_id = 'spender3';
CALL amp.compact_usage();
SELECT count(*) AS keys FROM amp.usage_keys;
SELECT amp.charge(1000);
\connect - postgres
SELECT month < '2025-01-01' AS over, metric, count(*), sum(amount) FROM amp.monthly_usage WHERE tenant_id = 'spender3' GROUP BY 1, 2 ORDER BY 1, 2;
\connect - regress_owner
DROP SCHEMA spending CASCADE;
