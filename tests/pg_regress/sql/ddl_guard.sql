-- What is said of a schema change that would open a hole, and what passes.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_owner
CREATE SCHEMA guarded;
CREATE TABLE guarded.posts (tenant_id text COLLATE "C", id int, body text, PRIMARY KEY (tenant_id, id));
CREATE TABLE guarded.parents (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id));
SELECT count(*) AS left FROM amp.protect_schema('guarded') WHERE status = 'left';

ALTER TABLE guarded.posts DISABLE ROW LEVEL SECURITY;
\echo :SQLSTATE
ALTER TABLE guarded.posts ADD CONSTRAINT one UNIQUE (id), ADD CONSTRAINT two UNIQUE (body);
ALTER TABLE guarded.posts ADD FOREIGN KEY (body, id) REFERENCES guarded.parents (tenant_id, id);
CREATE UNIQUE INDEX CONCURRENTLY ON guarded.posts (body);
DROP POLICY amp_tenant ON guarded.posts;
DROP TRIGGER amp_truncate ON guarded.posts;
ALTER TABLE guarded.posts DROP COLUMN tenant_id CASCADE;
GRANT ALL ON guarded.posts TO regress_service;
CREATE MATERIALIZED VIEW guarded.copy AS SELECT * FROM guarded.posts WITH NO DATA;
CREATE RULE copy AS ON INSERT TO guarded.posts DO ALSO NOTHING;
CREATE TABLE guarded.fresh (tenant_id text);
\echo :SQLSTATE
SELECT code FROM amp.doctor() WHERE object LIKE '%guarded.%' AND severity = 'error';

-- New tables: protected, or shared, before COMMIT.
BEGIN;
CREATE TABLE guarded.fresh (tenant_id text, id int, post int, PRIMARY KEY (tenant_id, id));
CREATE TABLE guarded.history (version text);
SELECT amp.share_table('guarded.history');
SELECT count(*) AS left FROM amp.protect('guarded.fresh') WHERE status = 'left';
ALTER TABLE guarded.fresh ADD FOREIGN KEY (tenant_id, post) REFERENCES guarded.posts;
COMMIT;
ALTER TABLE guarded.fresh RENAME tenant_id TO org;
SELECT relation, tenant_column FROM amp.protected_tables WHERE relation = 'guarded.fresh'::regclass;
ALTER SCHEMA guarded RENAME TO guarded2;
SELECT schema FROM amp.protected_schemas WHERE schema LIKE 'guarded%';

-- The override: a superuser's, inside a transaction.
SET amp.allow_unsafe_ddl = on;
\connect - postgres
SET amp.allow_unsafe_ddl = on;
\echo :SQLSTATE
BEGIN;
SET LOCAL amp.allow_unsafe_ddl = on;
ALTER TABLE guarded2.posts NO FORCE ROW LEVEL SECURITY;
CREATE VIEW guarded2.leak AS SELECT * FROM guarded2.posts;
COMMIT;
SELECT login_role, action, detail FROM amp.audit_log WHERE action = 'ddl.unsafe' ORDER BY at DESC LIMIT 2;
CREATE VIEW guarded2.leak2 AS SELECT * FROM guarded2.posts;
ALTER VIEW guarded2.leak SET (security_invoker = true);
ALTER TABLE guarded2.posts FORCE ROW LEVEL SECURITY;
SELECT code FROM amp.doctor() WHERE object LIKE '%guarded2.%' AND severity = 'error';
SET client_min_messages = error;
DROP SCHEMA guarded2 CASCADE;
SELECT count(*) FROM amp.protected_schemas WHERE schema LIKE 'guarded%';
