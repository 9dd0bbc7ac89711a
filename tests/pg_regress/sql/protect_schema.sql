-- protect_schema(): every table of a schema that has the tenant column, and a report of the rest.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_owner
CREATE SCHEMA whole;
GRANT USAGE ON SCHEMA whole TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA whole GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO PUBLIC;
CREATE TABLE whole.brands (tenant_id text, id int PRIMARY KEY);
CREATE TABLE whole.posts (tenant_id text, id int PRIMARY KEY, brand int REFERENCES whole.brands);
CREATE TABLE whole.logs (tenant_id text, day date) PARTITION BY RANGE (day);
CREATE TABLE whole.logs_2024 PARTITION OF whole.logs FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE whole.countries (code text);
CREATE TABLE whole.settings (key text);
CREATE VIEW whole.view AS SELECT * FROM whole.posts;
SELECT amp.share_table('whole.countries');

SELECT status, object, what, remedy FROM amp.protect_schema('whole') WHERE status = 'left' ORDER BY object;
SELECT relation, tenant_column, read_permission, insert_permission FROM amp.protected_tables WHERE relation::text LIKE 'whole.%' ORDER BY relation::text;
SELECT relation FROM amp.shared_tables WHERE relation::text LIKE 'whole.%';
SELECT * FROM amp.protected_schemas WHERE schema = 'whole';
SELECT relname, relrowsecurity AND relforcerowsecurity AS forced FROM pg_class WHERE relnamespace = 'whole'::regnamespace AND relkind IN ('r', 'p') ORDER BY relname;
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'whole.posts'::regclass AND contype = 'f';
-- Again, and with the keys rebuilt.
SELECT status, count(*) FROM amp.protect_schema('whole') WHERE status = 'done' GROUP BY status;
SELECT DISTINCT status, object, what FROM amp.protect_schema('whole', fix => true) WHERE status <> 'kept' ORDER BY object;
SELECT DISTINCT status, object, what FROM amp.protect_schema('whole', fix => true) WHERE status <> 'kept' ORDER BY object;
SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'whole'::regnamespace AND contype IN ('p', 'f') ORDER BY conrelid::regclass::text, 2;
-- All at once, on a schema whose keys depend on each other.
CREATE SCHEMA whole2;
CREATE TABLE whole2.b (org text, id int PRIMARY KEY);
CREATE TABLE whole2.a (org text, id int PRIMARY KEY, b int REFERENCES whole2.b);
ALTER TABLE whole2.b ADD a int REFERENCES whole2.a;
SELECT DISTINCT status FROM amp.protect_schema('whole2', 'org', 'analytics.view', NULL, fix => true) WHERE status = 'left';
SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'whole2'::regnamespace AND contype IN ('p', 'f') ORDER BY conrelid::regclass::text, 2;
SELECT relation, tenant_column, read_permission, insert_permission FROM amp.protected_tables WHERE relation::text LIKE 'whole2.%' ORDER BY relation::text;
SELECT status, object FROM amp.protect_schema('whole2', 'org', 'analytics.view', NULL, fix => true) WHERE status <> 'kept';

-- One table that cannot be protected, and nothing is.
CREATE SCHEMA whole3;
CREATE TABLE whole3.good (tenant_id text);
CREATE TABLE whole3.typed (tenant_id int);
SELECT * FROM amp.protect_schema('whole3');
\echo :SQLSTATE
SELECT count(*) FROM amp.protected_tables WHERE relation::text LIKE 'whole3.%';
SELECT count(*) FROM amp.protected_schemas WHERE schema = 'whole3';
SELECT count(*) FROM pg_policies WHERE schemaname = 'whole3';
-- An empty schema has nothing to do.
CREATE SCHEMA whole4;
SELECT * FROM amp.protect_schema('whole4');
DROP SCHEMA whole4;
SELECT count(*) FROM amp.protected_schemas WHERE schema = 'whole4';

-- Refused.
SELECT * FROM amp.protect_schema('missing');
\echo :SQLSTATE
SELECT * FROM amp.protect_schema(NULL);
\echo :SQLSTATE
SELECT * FROM amp.protect_schema('pg_catalog');
\echo :SQLSTATE
SELECT * FROM amp.protect_schema('information_schema');
\echo :SQLSTATE
SELECT * FROM amp.protect_schema('amp');
\echo :SQLSTATE
SELECT * FROM amp.protect_schema('whole', read => 'content.veiw');
\echo :SQLSTATE
\connect - regress_stranger
SELECT * FROM amp.protect_schema('whole');
\echo :SQLSTATE
