-- The review of a month: who may read it, and what is in it to the cent; the same as a page.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\pset null NULL
\connect - postgres
INSERT INTO amp.app_users (id, email) VALUES ('user_boss', 'boss@review.example'), ('user_view', 'view@review.example'),
    ('user_rival', 'rival@review.example'), ('user_tenant', 'tenant@review.example');
\connect - regress_operator
SELECT amp.create_account('Review Agency', 'agency', 'acc_review') ->> 'id' AS id;
SELECT amp.create_account('Review Rival', 'agency', 'acc_rereview') ->> 'id' AS id;
SELECT amp.create_tenant(n.name, n.slug, n.config, n.id, n.account) ->> 'id' AS id
FROM (VALUES
    ('rev-acme', 'Acme', 'review-acme', 'acc_review', '{"cost_limits": {"monthly_limit_cents": 500000, "alert_threshold_percent": 80, "hard_stop_at_limit": true}}'::jsonb),
    ('rev-bob', E'<script>alert("1")</script> & ''x'' \u2028\u202E', 'review-bob', 'acc_review', '{"cost_limits": {"monthly_limit_cents": 3, "daily_limit_cents": 2}}'),
    ('rev-gone', 'Gone', 'review-gone', 'acc_review', '{}'),
    ('rev-idle', 'Idle', 'review-idle', NULL, '{"cost_limits": {"monthly_limit_cents": 0}}'),
    ('rev-none', 'Never used', 'review-none', 'acc_review', '{}'),
    ('rev-old', 'Gone before', 'review-old', 'acc_review', '{}'),
    ('rev-rival', 'Rival''s', 'review-rival', 'acc_rereview', '{}')) n(id, name, slug, account, config) ORDER BY n.id;
SELECT amp.suspend_tenant('rev-idle') ->> 'status' AS status;
SELECT amp.delete_tenant(t) ->> 'status' AS status FROM unnest('{rev-gone,rev-old}'::text[]) t;
SELECT amp.add_account_member('acc_review', 'boss@review.example', 'admin') ->> 'role' AS role;
SELECT amp.add_account_member('acc_review', 'view@review.example', 'viewer') ->> 'role' AS role;
SELECT amp.add_account_member('acc_rereview', 'rival@review.example', 'admin') ->> 'role' AS role;
SELECT amp.invite_user('tenant@review.example', 'admin', 'rev-acme') ->> 'role' AS role;
SELECT amp.create_api_key('user_boss', name => 'review') ->> 'key' AS boss \gset
SELECT amp.create_api_key('user_boss', 'rev-acme', 'review') ->> 'key' AS narrow \gset
SELECT amp.create_api_key('user_view', name => 'review') ->> 'key' AS viewer \gset
SELECT amp.create_api_key('user_rival', name => 'review') ->> 'key' AS rival \gset
SELECT amp.create_api_key('user_tenant', name => 'review') ->> 'key' AS tenant \gset

-- Counters of two months and a moment around them, over several slots, with corrections.
\connect - postgres
INSERT INTO amp.usage_counters (tenant_id, metric, day, slot, amount) VALUES
    ('rev-acme', 'cost_cents', '2019-03-01', 1, 40000), ('rev-acme', 'cost_cents', '2019-03-31', 1, 5000),
    ('rev-acme', 'cost_cents', '2019-03-31', 2, 700), ('rev-acme', 'cost_cents', '2019-03-31', 3, -100),
    ('rev-acme', 'missions_created', '2019-03-02', 1, 12), ('rev-acme', 'videos_cut', '2019-03-02', 1, 2),
    ('rev-acme', 'api_calls', '2019-02-28', 1, 999), ('rev-acme', 'cost_cents', '2019-02-01', 1, 40000),
    ('rev-acme', 'cost_cents', '2019-01-31', 1, 7), ('rev-acme', 'cost_cents', '2019-04-01', 1, 9),
    ('rev-bob', 'cost_cents', '2019-03-10', 1, 7), ('rev-gone', 'cost_cents', '2019-03-15', 1, 900),
    ('rev-old', 'cost_cents', '2019-02-15', 1, 100), ('rev-old', 'cost_cents', '2019-03-15', 1, 5), ('rev-old', 'cost_cents', '2019-03-15', 2, -5),
    ('rev-idle', 'api_calls', '2019-03-15', 1, 5), ('rev-idle', 'cost_cents', '2019-02-15', 1, 400),
    ('rev-rival', 'cost_cents', '2019-03-15', 1, 53493), ('rev-rival', 'cost_cents', '2019-02-15', 1, -3);
INSERT INTO amp.usage_counters SELECT 'rev-rival', 'm' || i, '2019-03-01', 1, 1 FROM generate_series(1, 150) i;
INSERT INTO amp.monthly_usage
SELECT tenant_id, date_trunc('month', day), metric, slot, sum(amount) FROM amp.usage_counters WHERE tenant_id LIKE 'rev-%' GROUP BY 1, 2, 3, 4;
INSERT INTO amp.alerts VALUES
    ('rev-bob', '2019-03', 80, 2, 3, 7, false, '2019-03-10 10:00+00'), ('rev-bob', '2019-03-10', 100, 2, 2, 7, false, '2019-03-10 09:00+00'),
    ('rev-bob', '2019-02', 80, 2, 3, 7, false, '2019-02-10 10:00+00'), ('rev-bob', '2019-02-28', 80, 2, 3, 7, false, '2019-02-28 10:00+00');

-- An operator sees all tenants that are not deleted, and deleted ones that cost something then.
\connect - regress_operator
SELECT tenant_id, status, account_id, cost_cents, monthly_limit_cents, percent_used, hard_stop, previous_cost_cents, trend_percent, share_percent
FROM amp.usage_review('2019-03') WHERE tenant_id LIKE 'rev-%';
SELECT count(*) = (SELECT count(*) FROM amp.tenants WHERE status <> 'deleted' OR id = 'rev-gone') AS all_of_them, sum(share_percent) AS shares
FROM amp.usage_review('2019-03');
SELECT tenant_id, usage FROM amp.usage_review('2019-03') WHERE tenant_id IN ('rev-acme', 'rev-idle', 'rev-none') ORDER BY 1;
SELECT jsonb_pretty(alerts) AS alerts FROM amp.usage_review('2019-03') WHERE tenant_id = 'rev-bob';
SELECT count(*) FROM amp.usage_review('2019-03') WHERE alerts <> '[]';
-- It says what usage() says, and what the seven metrics leave room for of others.
SELECT bool_and(r.usage = d -> 'usage' AND r.percent_used IS NOT DISTINCT FROM (d #>> '{limits,percent_used}')::numeric) AS agree, count(*)
FROM amp.usage_review('2019-03') r, amp.usage(r.tenant_id, '2019-03') d WHERE r.tenant_id IN ('rev-acme', 'rev-bob', 'rev-none');
SELECT count(*) FROM amp.usage_review('2019-03') r, jsonb_object_keys(r.usage) WHERE r.tenant_id = 'rev-rival';
-- One account's; the parts are of that.
SELECT tenant_id, cost_cents, share_percent FROM amp.usage_review('2019-03', 'acc_review');
SELECT tenant_id, cost_cents, previous_cost_cents, trend_percent FROM amp.usage_review('2019-04', account_id => 'acc_review');
-- This month is what there is without a period.
SELECT count(*) = (SELECT count(*) FROM amp.usage_review(to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM'))) AS this_month FROM amp.usage_review();
-- The first month and the last.
SELECT DISTINCT cost_cents, share_percent FROM amp.usage_review('0001-01') UNION ALL SELECT DISTINCT cost_cents, share_percent FROM amp.usage_review('9999-12');
SELECT * FROM amp.usage_review('2019-03', 'acc_nowhere');
\echo :SQLSTATE
SELECT * FROM amp.usage_review('2019-3');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT * FROM amp.usage_review('');
SELECT * FROM amp.usage_review('0000-01');
SELECT * FROM amp.usage_review('2019-13');
SELECT * FROM amp.usage_review('2019-03-01');
SELECT * FROM amp.usage_review(E'2019-03\n');
SELECT * FROM amp.usage_review('２０19-03');
SELECT amp.usage_report('2019');
SELECT amp.usage_report('2019-03', 'acc_nowhere');
\set VERBOSITY default
BEGIN READ ONLY;
SELECT count(*) FROM amp.usage_review('2019-03', 'acc_review');
SELECT length(amp.usage_report('2019-03', 'acc_review')) > 10000 AS page;
COMMIT;

-- An account's admin sees his account's tenants, named or not, and no others.
\connect - regress_client
SELECT amp.authenticate(:'boss') IS NOT NULL AS accepted;
SELECT tenant_id, cost_cents, share_percent FROM amp.usage_review('2019-03');
SELECT count(*) FROM amp.usage_review('2019-03', 'acc_review');
SELECT * FROM amp.usage_review('2019-03', 'acc_rereview');
\echo :SQLSTATE
SELECT * FROM amp.usage_review('2019-03', 'acc_nowhere');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.usage_report('2019-03', 'acc_rereview');
SELECT * FROM amp.usage_review('2019-13');
\set VERBOSITY default
SELECT p LIKE '%acc_review%' AS own, p LIKE '%rev-rival%' OR p LIKE '%acc_rereview%' OR p LIKE '%534.93%' AS others FROM amp.usage_report('2019-03') p;
SELECT amp.authenticate(:'rival') IS NOT NULL AS accepted;
SELECT tenant_id, cost_cents, share_percent FROM amp.usage_review('2019-03');

-- Nobody else: neither another member of the account, nor a tenant's admin, nor a credential for one tenant, nor a service, nor a stranger.
SELECT amp.authenticate(:'viewer') IS NOT NULL AS accepted;
SELECT * FROM amp.usage_review('2019-03');
\echo :SQLSTATE
SELECT * FROM amp.usage_review('2019-03', 'acc_review');
\echo :SQLSTATE
SELECT amp.usage_report('2019-03');
\echo :SQLSTATE
SELECT amp.authenticate(:'tenant') IS NOT NULL AS accepted;
SELECT * FROM amp.usage_review('2019-03');
\echo :SQLSTATE
SELECT amp.authenticate(:'narrow') IS NOT NULL AS accepted;
SELECT * FROM amp.usage_review('2019-03');
\echo :SQLSTATE
\connect - regress_client
SELECT * FROM amp.usage_review('2019-03');
\echo :SQLSTATE
SELECT amp.usage_report();
\echo :SQLSTATE
\connect - regress_service
SET amp.tenant_id = 'rev-acme';
SELECT * FROM amp.usage_review('2019-03');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.usage_report('2019-03');
SELECT * FROM amp.usage_review_for_caller('2019-03', NULL);
SELECT amp.usage_report_for_caller('2019-03', NULL);
SELECT * FROM amp.reviewed_usage('2019-03-01', NULL);
SELECT amp.reviewed_account(NULL);
SELECT amp.usage_page('{}');
\set VERBOSITY default
-- A tenant sees its own alerts, an operator all, and nobody writes them.
SELECT count(*) FROM amp.alerts;
INSERT INTO amp.alerts VALUES ('rev-acme', '2019-03', 80, 2, 3, 7, false);
\echo :SQLSTATE
SET amp.tenant_id = 'rev-bob';
SELECT count(*) FROM amp.alerts;
RESET amp.tenant_id;
SELECT count(*) FROM amp.alerts;
\echo :SQLSTATE
\connect - regress_operator
SELECT count(*) FROM amp.alerts WHERE tenant_id = 'rev-bob';

-- The page: what it is, its numbers, and a name that is nothing but text. What is in it: tests/examples/test_usage_report.py.
SELECT p LIKE '<!DOCTYPE html>%</html>%' AS html, p LIKE '%default-src ''none''%' AS policy, p ~ '[^ -~\n\t]' AS more_than_ascii,
       p LIKE '%March 2019%' AS month, p LIKE '%456.00%' AS cost, p LIKE '%+14.00&nbsp;%' AS trend, p LIKE '%9.12&nbsp;%' AS used
FROM amp.usage_report('2019-03', 'acc_review') p;
SELECT p LIKE '%<script>alert%' AS script, p LIKE '%&#60;script&#62;alert(&#34;1&#34;)&#60;/script&#62; &#38; &#39;x&#39; &#x2028;&#x202E;%' AS text
FROM amp.usage_report('2019-03') p;
-- Where there is nothing, it says so.
SELECT p LIKE '%Nothing was spent in March 2018%' AS spent, p LIKE '%Nothing was used in March 2018%' AS used FROM amp.usage_report('2018-03') p;
SELECT amp.create_account('Review Empty', 'agency', 'acc_reempty') ->> 'id' AS id;
SELECT count(*) FROM amp.usage_review('2019-03', 'acc_reempty');
SELECT p LIKE '%There are no tenants in this account%' AS said FROM amp.usage_report('2019-03', 'acc_reempty') p;

-- What others' tests count stays as it was.
\connect - postgres
DELETE FROM amp.usage_counters WHERE tenant_id LIKE 'rev-%';
DELETE FROM amp.monthly_usage WHERE tenant_id LIKE 'rev-%';
DELETE FROM amp.alerts WHERE tenant_id LIKE 'rev-%';
