-- TRUNCATE would remove every tenant's rows: only the owner may, where no tenant is set.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - postgres
CREATE ROLE regress_app_owner LOGIN IN ROLE amp_service, regress_owner;
\connect - regress_owner
CREATE SCHEMA trunc;
GRANT USAGE ON SCHEMA trunc TO PUBLIC;
CREATE TABLE trunc.parent (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE trunc.child (tenant_id text, id int, FOREIGN KEY (tenant_id, id) REFERENCES trunc.parent);
CREATE TABLE trunc.tree (tenant_id text, id int) PARTITION BY RANGE (id);
CREATE TABLE trunc.tree_1 PARTITION OF trunc.tree FOR VALUES FROM (0) TO (10);
SELECT count(*) > 0 AS protected FROM amp.protect_schema('trunc');
GRANT SELECT, INSERT, TRUNCATE ON ALL TABLES IN SCHEMA trunc TO PUBLIC;
\connect - regress_service
SET amp.tenant_id = 'alpha';
INSERT INTO trunc.parent (id) VALUES (1);
INSERT INTO trunc.child (id) VALUES (1);
INSERT INTO trunc.tree (id) VALUES (1);

-- With the privilege, in a tenant or outside of one: refused, by every way to the table.
TRUNCATE trunc.child;
\echo :SQLSTATE
TRUNCATE trunc.parent CASCADE;
\echo :SQLSTATE
TRUNCATE trunc.tree_1;
\echo :SQLSTATE
TRUNCATE ONLY trunc.child RESTART IDENTITY;
\echo :SQLSTATE
RESET amp.tenant_id;
TRUNCATE trunc.child;
\echo :SQLSTATE
SET session_replication_role = replica;
\echo :SQLSTATE
\connect - regress_operator
TRUNCATE trunc.child;
\echo :SQLSTATE
\connect - regress_client
TRUNCATE trunc.tree;
\echo :SQLSTATE

-- An owner who acts for a tenant is a tenant.
\connect - regress_app_owner
SET amp.tenant_id = 'beta';
TRUNCATE trunc.child;
\echo :SQLSTATE
SET amp.tenant_id = 'alpha';
SELECT (SELECT count(*) FROM trunc.parent), (SELECT count(*) FROM trunc.child), (SELECT count(*) FROM trunc.tree);
-- Without one, the owner may.
RESET amp.tenant_id;
TRUNCATE trunc.parent, trunc.child;
TRUNCATE trunc.tree;
SET amp.tenant_id = 'alpha';
SELECT (SELECT count(*) FROM trunc.parent), (SELECT count(*) FROM trunc.child), (SELECT count(*) FROM trunc.tree);
