-- What protect() refuses, with which SQLSTATE and advice; the table is then as it was.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - postgres
CREATE FOREIGN DATA WRAPPER refusals;
CREATE SERVER refusals FOREIGN DATA WRAPPER refusals;
GRANT USAGE ON FOREIGN SERVER refusals TO regress_owner;
\connect - regress_owner
CREATE SCHEMA refusals;
CREATE TABLE refusals.good (tenant_id text, id int);
CREATE VIEW refusals.view AS SELECT * FROM refusals.good;
CREATE MATERIALIZED VIEW refusals.matview AS SELECT * FROM refusals.good;
CREATE FOREIGN TABLE refusals.remote (tenant_id text, id int) SERVER refusals;
CREATE SEQUENCE refusals.sequence;
CREATE TYPE refusals.composite AS (tenant_id text, id int);
CREATE INDEX index ON refusals.good (id);
CREATE TABLE refusals.partitioned (tenant_id text, id int) PARTITION BY RANGE (id);
CREATE FOREIGN TABLE refusals.partition PARTITION OF refusals.partitioned FOR VALUES FROM (0) TO (10) SERVER refusals;
CREATE TABLE refusals.no_column (id int);
CREATE TABLE refusals.nulls (tenant_id text, id int);
INSERT INTO refusals.nulls VALUES ('alpha', 1), (NULL, 2), (NULL, 3);
CREATE TABLE refusals.partly (tenant_id text, id int) PARTITION BY LIST (id);
CREATE TABLE refusals.partly_1 PARTITION OF refusals.partly FOR VALUES IN (1);
INSERT INTO refusals.partly VALUES (NULL, 1);
CREATE TABLE refusals.generated (id int, tenant_id text GENERATED ALWAYS AS ('t' || CASE WHEN id > 0 THEN 'a' ELSE 'b' END) STORED);
CREATE TABLE refusals.identity (tenant_id bigint GENERATED ALWAYS AS IDENTITY, id int);
CREATE COLLATION refusals.nondeterministic (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE refusals.collated (tenant_id text COLLATE refusals.nondeterministic, id int);
CREATE DOMAIN refusals.id AS text;
-- A picture of all of it.
CREATE VIEW refusals.picture AS
    SELECT md5(string_agg(t::text, E'\n' ORDER BY t::text)) AS picture FROM (
        SELECT c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relchecks, c.relhasindex, a.attname, a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
               (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid), (SELECT count(*) FROM pg_trigger g WHERE g.tgrelid = c.oid),
               (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid), (SELECT count(*) FROM pg_constraint k WHERE k.conrelid = c.oid),
               (SELECT count(*) FROM amp.protected_tables p WHERE p.relation = c.oid), (SELECT count(*) FROM amp.shared_tables s WHERE s.relation = c.oid)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'refusals'::regnamespace AND c.relname <> 'picture') t;
SELECT picture FROM refusals.picture \gset before_

-- No table that row security can hold for.
SELECT * FROM amp.protect('refusals.view');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.matview');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.remote');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.sequence');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.index');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.composite');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.partitioned');
\echo :SQLSTATE
CREATE TEMP TABLE temporary (tenant_id text, id int);
SELECT * FROM amp.protect('temporary');
\echo :SQLSTATE
\connect - postgres
SELECT * FROM amp.protect('pg_class');
\echo :SQLSTATE
SELECT * FROM amp.protect('information_schema.sql_features');
\echo :SQLSTATE
SELECT * FROM amp.protect('amp.members');
\echo :SQLSTATE
\connect - regress_owner

-- No table at all.
SELECT * FROM amp.protect(NULL);
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.missing');
\echo :SQLSTATE

-- No tenant column, or none that can be.
SELECT * FROM amp.protect('refusals.no_column');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.good', 'organisation');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.good', NULL);
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.good', 'ctid');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.good', 'id');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.generated');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.identity');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.collated');
\echo :SQLSTATE
\set VERBOSITY sqlstate
CREATE TABLE refusals.typed (c char(10), n name, s smallint, d refusals.id, j jsonb, a text[], u numeric);
SELECT * FROM amp.protect('refusals.typed', 'c');
SELECT * FROM amp.protect('refusals.typed', 'n');
SELECT * FROM amp.protect('refusals.typed', 's');
SELECT * FROM amp.protect('refusals.typed', 'd');
SELECT * FROM amp.protect('refusals.typed', 'j');
SELECT * FROM amp.protect('refusals.typed', 'a');
SELECT * FROM amp.protect('refusals.typed', 'u');
DROP TABLE refusals.typed;
\set VERBOSITY default

-- Rows without a tenant.
SELECT * FROM amp.protect('refusals.nulls');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.partly');
\echo :SQLSTATE

-- A permission that nobody registered.
SELECT * FROM amp.protect('refusals.good', read => 'content.veiw');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.good', write => '');
\echo :SQLSTATE
SELECT * FROM amp.protect('refusals.good', "delete" => 'Missions.Create');
\echo :SQLSTATE

-- Spending limits, which are not there yet.

-- Somebody else's table.
\connect - regress_stranger
SELECT * FROM amp.protect('app.notes');
\echo :SQLSTATE
SELECT * FROM amp.unprotect('app.notes');
\echo :SQLSTATE
SELECT amp.share_table('app.notes');
\echo :SQLSTATE
SELECT amp.meter('app.notes', 'notes');
\echo :SQLSTATE
-- The parts behind it ask again.
\set VERBOSITY sqlstate
SELECT amp.register_protection('app.notes', 'body', NULL, NULL, NULL, NULL, false);
SELECT amp.forget_table('app.notes');
SELECT amp.register_shared('app.notes');
SELECT amp.register_meter('app.notes', 'notes');
SELECT amp.register_schema('app', 'tenant_id');
\set VERBOSITY default
-- A service, a tenant's admin and an operator are no owners either.
\connect - regress_service
SET amp.tenant_id = 'alpha';
SET amp.user_id = 'user_ann';
SELECT * FROM amp.unprotect('app.notes');
\echo :SQLSTATE
\connect - regress_operator
SELECT * FROM amp.unprotect('app.notes');
\echo :SQLSTATE

-- Everything is as it was.
\connect - regress_owner
SELECT picture = :'before_picture' AS as_it_was FROM refusals.picture;
SELECT count(*) FROM refusals.nulls;
SET client_min_messages = warning;
DROP SCHEMA refusals CASCADE;
