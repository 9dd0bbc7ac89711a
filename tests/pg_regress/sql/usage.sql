-- Usage: recorded per tenant, once per idempotency key, with the transaction; reported as the seed's document.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_operator
SELECT amp.create_tenant('Usage One', 'usage-one', '{"cost_limits": {"monthly_limit_cents": 500000}}', 'usage1') ->> 'id' AS id;
SELECT amp.create_tenant('Usage Two', 'usage-two', id => 'usage2') ->> 'id' AS id;
\connect - postgres
INSERT INTO amp.app_users (id, email) VALUES ('user_usage', 'usage@usage.example');
\connect - regress_operator
SELECT amp.invite_user('usage@usage.example', 'viewer', 'usage1') ->> 'role' AS role;

-- Nothing used yet: every metric of the seed is there, with 0.
\connect - regress_service
SET amp.tenant_id = 'usage1';
SELECT jsonb_pretty(amp.usage(period => '2023-12'));

-- The seed's numbers give the seed's document.
SELECT amp.record_usage('missions_created', 12), amp.record_usage('content_generated', 456), amp.record_usage('content_published', 423),
       amp.record_usage('api_calls', 34567), amp.record_usage('llm_tokens_used', 2345678), amp.record_usage('images_generated', 89),
       amp.record_usage('cost_cents', 45600);
SELECT jsonb_pretty(amp.usage() - 'period');
SELECT amp.usage() ->> 'period' = to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM') AS this_month;
SELECT amp.usage('usage1') = amp.usage() AS same, amp.usage(NULL, NULL) = amp.usage() AS same;
-- More metrics by name; the amount is 1 unless said.
SELECT amp.record_usage('videos_cut');
SELECT amp.record_usage('videos_cut');
SELECT amp.usage() #> '{usage,videos_cut}' AS videos_cut;

-- Months and days are calendar ones, in UTC: what lies a moment outside of a month does not count in it.
\connect - postgres
INSERT INTO amp.usage_counters VALUES ('usage1', 'cost_cents', '2024-01-01', 1, 40000), ('usage1', 'cost_cents', '2024-01-31', 1, 5000),
    ('usage1', 'cost_cents', '2024-01-31', 2, 600), ('usage1', 'cost_cents', '2023-12-31', 1, 7), ('usage1', 'cost_cents', '2024-02-01', 1, 9),
    ('usage2', 'cost_cents', '2024-01-15', 1, 99), ('usage1', 'cost_cents', '2024-02-29', 1, 500001);
INSERT INTO amp.monthly_usage
SELECT tenant_id, date_trunc('month', day), metric, slot, sum(amount) FROM amp.usage_counters WHERE tenant_id LIKE 'usage_' AND day < '2024-03-01' GROUP BY 1, 2, 3, 4;
\connect - regress_service
SET amp.tenant_id = 'usage1';
SELECT amp.usage(period => '2024-01') #> '{usage,cost_cents}' AS cents, amp.usage(period => '2024-01') -> 'limits' AS limits;
SELECT amp.usage(period => '2023-12') #> '{usage,cost_cents}' AS cents, amp.usage(period => '2023-12') -> 'limits' AS limits;
SELECT amp.usage(period => '2024-02') #> '{usage,cost_cents}' AS cents, amp.usage(period => '2024-02') -> 'limits' AS limits;
BEGIN;
SET LOCAL timezone = 'Pacific/Kiritimati';
SELECT amp.record_usage('zones');
SET LOCAL timezone = 'Etc/GMT+12';
SELECT amp.record_usage('zones');
SELECT sum(amount) AS zones, count(DISTINCT day) AS days, min(day) = (now() AT TIME ZONE 'UTC')::date AS utc FROM amp.usage_counters WHERE metric = 'zones';
COMMIT;
-- Without a limit there is none to use up.
SET amp.tenant_id = 'usage2';
SELECT amp.usage(period => '2024-01') AS document;

-- An idempotency key counts once, and for one thing.
SET amp.tenant_id = 'usage1';
SELECT amp.record_usage('api_calls', 5, 'request-1');
SELECT amp.record_usage('api_calls', 5, 'request-1');
SELECT amp.record_usage('api_calls', 6, 'request-1');
\echo :SQLSTATE
SELECT amp.record_usage('cost_cents', 5, 'request-1');
\echo :SQLSTATE
SELECT amp.usage() #> '{usage,api_calls}' AS api_calls;
-- Another tenant's key is another key.
SET amp.tenant_id = 'usage2';
SELECT amp.record_usage('api_calls', 7, 'request-1');
SELECT amp.usage() #> '{usage,api_calls}' AS api_calls;
SELECT amp.record_usage('api_calls', 1, repeat('ü', 255));

-- What a transaction or a savepoint recorded goes with it, key and all.
SET amp.tenant_id = 'usage1';
BEGIN;
SELECT amp.record_usage('api_calls', 1000, 'request-2');
SELECT amp.usage() #> '{usage,api_calls}' AS api_calls;
ROLLBACK;
SELECT amp.usage() #> '{usage,api_calls}' AS api_calls;
BEGIN;
SELECT amp.record_usage('api_calls', 1, 'request-2');
SAVEPOINT s;
SELECT amp.record_usage('api_calls', 500, 'request-3');
SELECT amp.record_usage('api_calls', 500);
ROLLBACK TO s;
SELECT amp.record_usage('api_calls', 2, 'request-3');
COMMIT;
SELECT amp.usage() #> '{usage,api_calls}' AS api_calls;
-- In every isolation level.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT amp.record_usage('api_calls', 10), amp.record_usage('api_calls', 10);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT amp.record_usage('api_calls', 10, 'request-4'), amp.record_usage('api_calls', 10, 'request-4');
COMMIT;
SELECT amp.usage() #> '{usage,api_calls}' AS api_calls;
BEGIN READ ONLY;
SELECT amp.usage() #> '{usage,api_calls}' AS api_calls;
SELECT amp.record_usage('api_calls');
\echo :SQLSTATE
ROLLBACK;

-- Bad input counts nothing.
SELECT amp.record_usage(NULL);
\echo :SQLSTATE
SELECT amp.record_usage('API calls');
\echo :SQLSTATE
SELECT amp.record_usage('api_calls', 0);
\echo :SQLSTATE
SELECT amp.record_usage('api_calls', -5);
\echo :SQLSTATE
SELECT amp.record_usage('api_calls', NULL);
\echo :SQLSTATE
SELECT amp.record_usage('api_calls', 1, '');
\echo :SQLSTATE
SELECT amp.record_usage('api_calls', 1, repeat('k', 256));
\echo :SQLSTATE
SELECT amp.usage(period => '2024-13');
\echo :SQLSTATE
SELECT amp.usage(period => '2024');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.record_usage('');
SELECT amp.record_usage('1st');
SELECT amp.record_usage('größe');
SELECT amp.record_usage(E'api_calls\n');
SELECT amp.record_usage(repeat('m', 51));
SELECT amp.record_usage('api_calls', 9223372036854775808);
SELECT amp.record_usage('huge', 9223372036854775807);
SELECT amp.record_usage('huge', 1);
SELECT amp.usage(period => '');
SELECT amp.usage(period => '0000-01');
SELECT amp.usage(period => '2024-00');
SELECT amp.usage(period => '2024-01-01');
SELECT amp.usage(period => E'2024-01\n');
SELECT amp.usage(period => '２０２４-01');
\set VERBOSITY default
SELECT amp.usage() -> 'usage' ?| '{"",1st,größe}' AS stored, amp.usage() #> '{usage,api_calls}' AS api_calls;

-- A member sees his own tenant's usage, nobody another's; without a context it is nobody's.
SET amp.user_id = 'user_usage';
SELECT amp.usage() #> '{usage,missions_created}' AS missions_created;
SELECT amp.usage('usage2');
\echo :SQLSTATE
SELECT amp.usage('nowhere');
\echo :SQLSTATE
RESET amp.user_id;
RESET amp.tenant_id;
SELECT amp.usage();
\echo :SQLSTATE
SELECT amp.usage('usage1');
\echo :SQLSTATE
SELECT amp.record_usage('api_calls');
\echo :SQLSTATE
\connect - regress_client
SELECT amp.usage('usage1');
\echo :SQLSTATE
-- An operator reviews any tenant's, and records nobody's.
\connect - regress_operator
SELECT amp.usage('usage1', '2024-01') -> 'limits' AS limits, amp.usage('usage2', '2024-01') #> '{usage,cost_cents}' AS cents;
SELECT amp.usage('nowhere', '2024-01');
\echo :SQLSTATE
SELECT amp.record_usage('api_calls');
\echo :SQLSTATE
