-- A tenant's export, deletion and purge.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
-- In a database of its own: an export reads every protected table.
\connect - postgres
CREATE DATABASE regress_lifecycle;
\connect regress_lifecycle
CREATE EXTENSION amp_tenancy;
GRANT CREATE ON DATABASE regress_lifecycle TO regress_owner;
INSERT INTO amp.app_users (id, email) VALUES ('user_ann', 'ann@alpha.example'), ('user_vic', 'vic@alpha.example');
\connect - regress_operator
SELECT amp.create_tenant('Alpha Inc', 'alpha-inc', id => 'alpha') ->> 'id' AS id;
SELECT amp.invite_user('ann@alpha.example', 'admin', 'alpha') ->> 'id' AS id;
SELECT amp.invite_user('vic@alpha.example', 'viewer', 'alpha') ->> 'id' AS id;
SELECT amp.create_tenant('Gone Inc', 'gone-inc', '{"cost_limits": {"monthly_limit_cents": 5}}', 'gone') ->> 'id' AS id;
SELECT amp.create_tenant('Stays Ltd', 'stays-ltd', id => 'stays') ->> 'id' AS id;
SELECT amp.invite_user('vic@alpha.example', 'admin', 'gone') ->> 'id' AS id;
\connect - regress_owner
CREATE SCHEMA lifecycle;
GRANT USAGE ON SCHEMA lifecycle TO PUBLIC;
CREATE TABLE lifecycle.b_parents (tenant_id text COLLATE "C", id int, name text, PRIMARY KEY (tenant_id, id));
CREATE TABLE lifecycle.a_children (
    tenant_id text COLLATE "C", id int, parent_id int, tags text[], doc jsonb, at timestamptz, PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, parent_id) REFERENCES lifecycle.b_parents);
CREATE TABLE lifecycle.trees (
    tenant_id text COLLATE "C", id int, parent_id int, PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, parent_id) REFERENCES lifecycle.trees);
CREATE TABLE lifecycle.numbers (tenant_id bigint, id int);
INSERT INTO lifecycle.b_parents VALUES ('gone', 1, 'one'), ('gone', 2, 'two'), ('stays', 1, 'theirs');
INSERT INTO lifecycle.a_children VALUES
    ('gone', 1, 1, '{a,NULL}', '{"n": 1.50}', '2024-01-02 03:04:05+00'), ('gone', 2, 2, '[0:1]={x,y}', 'null', NULL),
    ('stays', 1, 1, NULL, NULL, NULL);
INSERT INTO lifecycle.trees VALUES ('gone', 1, NULL), ('gone', 2, 1), ('stays', 1, NULL);
INSERT INTO lifecycle.numbers VALUES (7, 7);
SELECT count(*) > 0 AS protected FROM amp.protect_schema('lifecycle');
GRANT SELECT ON ALL TABLES IN SCHEMA lifecycle TO regress_service;

-- Parents first, whatever the session's settings; of amp's tables, what the tenant may know.
\connect - regress_service
SET amp.tenant_id = 'gone';
SET timezone = 'Asia/Kathmandu';
SET datestyle = 'German';
CREATE TEMP TABLE exported AS SELECT line::jsonb, n FROM amp.export_tenant() WITH ORDINALITY e(line, n);
SELECT key, CASE key WHEN 'exported_at' THEN (value #>> '{}') ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$' END AS iso_8601_utc,
    CASE WHEN key <> 'exported_at' THEN value END AS value
FROM exported, jsonb_each(line -> 'amp_export') WHERE n = 1 ORDER BY key;
SELECT line FROM exported WHERE line ->> 'table' LIKE 'lifecycle.%' ORDER BY n;
SELECT line ->> 'table' AS "table", (line -> 'row') - '{created_at,updated_at,at,id}'::text[] AS row
FROM exported WHERE line ->> 'table' LIKE 'amp.%' AND line ->> 'table' <> 'amp.audit_log' ORDER BY n;
SELECT line #>> '{row,action}' AS action FROM exported WHERE line ->> 'table' = 'amp.audit_log' ORDER BY 1;
DROP TABLE exported;

-- A member needs users.manage, another tenant is nobody's, an operator has no view.
SELECT amp.export_tenant('stays');
\echo :SQLSTATE
\connect - regress_operator
SELECT amp.export_tenant('gone');
\echo :SQLSTATE
\connect - regress_service
SET amp.tenant_id = 'alpha';
SET amp.user_id = 'user_vic';
SELECT amp.export_tenant();
\echo :SQLSTATE
SELECT amp.own_rows_for_caller(NULL);
\echo :SQLSTATE
SET amp.user_id = 'user_ann';
SELECT count(*) > 1 AS exported FROM amp.export_tenant('alpha');

-- Whoever cannot read all of it gets nothing.
\connect - regress_owner
REVOKE SELECT ON lifecycle.trees FROM regress_service;
\connect - regress_service
SET amp.tenant_id = 'gone';
SELECT amp.export_tenant();
\echo :SQLSTATE
\connect - regress_owner
SELECT count(*) > 0 AS protected FROM amp.protect('lifecycle.b_parents', read => 'billing.configure');
GRANT SELECT ON lifecycle.trees TO regress_service;
\connect - regress_service
SET amp.tenant_id = 'gone';
SELECT amp.export_tenant();
\echo :SQLSTATE

-- A superuser has no tenant and names one; if its id is no number, it has no rows in a table keyed by numbers.
\connect - postgres
SELECT amp.export_tenant();
\echo :SQLSTATE
SELECT amp.export_tenant('nowhere');
\echo :SQLSTATE
SELECT (line::jsonb) ->> 'table' AS "table", count(*) FROM amp.export_tenant('gone') line
WHERE (line::jsonb) ->> 'table' LIKE 'lifecycle.%' GROUP BY 1 ORDER BY 1;

-- Not deleted is not purged.
\connect - regress_operator
SELECT amp.delete_tenant('gone', purge => true);
\echo :SQLSTATE
BEGIN;
SELECT amp.delete_tenant('gone') ->> 'status' AS status;
SELECT amp.delete_tenant('gone', purge => true);
\echo :SQLSTATE
ROLLBACK;
SELECT amp.delete_tenant('nowhere', purge => true);
\echo :SQLSTATE
CALL amp.purge_tenant('nowhere');
\echo :SQLSTATE
CALL amp.purge_tenant('gone', 0);
\echo :SQLSTATE
BEGIN;
CALL amp.purge_tenant('gone');
\echo :SQLSTATE
ROLLBACK;
SELECT status FROM amp.tenants WHERE id = 'gone';
SELECT count(*) FROM amp.purges;

-- A call purges what is deleted, in its own transaction.
SELECT amp.delete_tenant('gone') ->> 'status' AS status;
BEGIN;
SELECT jsonb_pretty(amp.delete_tenant('gone', purge => true) -> 'purged') AS purged;
ROLLBACK;
SELECT name, purged_at FROM amp.tenants WHERE id = 'gone';

-- The procedure does all of it, and again is no error.
CALL amp.purge_tenant('gone', 1);
CALL amp.purge_tenant('gone');
SELECT amp.delete_tenant('gone', purge => true) - '{created_at,updated_at,purged}'::text[] AS document;
SELECT status, name, slug, purged_at IS NOT NULL AS purged FROM amp.tenants WHERE id = 'gone';
SELECT action, detail FROM amp.audit_log WHERE tenant_id = 'gone' ORDER BY at DESC LIMIT 1;
SELECT tenant_id, step, awaited, purged ->> 'lifecycle.trees' AS trees FROM amp.purges;
\connect - postgres
SELECT tenant_id, count(*) FROM lifecycle.b_parents GROUP BY 1 ORDER BY 1;
SELECT tenant_id, count(*) FROM lifecycle.a_children GROUP BY 1 ORDER BY 1;
SELECT tenant_id, count(*) FROM lifecycle.trees GROUP BY 1 ORDER BY 1;
-- He is in another tenant, too.
SELECT email FROM amp.app_users WHERE id = 'user_vic';

-- Its id is never given again; its slug is free.
\connect - regress_operator
SELECT amp.create_tenant('Gone again', 'gone-again', id => 'gone');
\echo :SQLSTATE
SELECT amp.create_tenant('Gone again', 'gone-inc', id => 'gone2') ->> 'slug' AS slug;

-- Operators only.
\connect - regress_service
\set VERBOSITY sqlstate
SELECT amp.delete_tenant('stays', purge => true);
CALL amp.purge_tenant('stays');
SELECT amp.purge_batch_for_caller('stays', 1);
SELECT amp.run_as_owner('lifecycle.trees', 'SELECT 1', 'stays');
SELECT * FROM amp.purges;
\connect regress postgres
DROP DATABASE regress_lifecycle;
