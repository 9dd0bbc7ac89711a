-- unprotect() takes back what protect() did, but the keys; share_table() declares a table tenantless.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_owner
CREATE SCHEMA back;
GRANT USAGE ON SCHEMA back TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA back GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO PUBLIC;
CREATE TABLE back.plain (tenant_id text, id int);
SELECT count(*) > 0 AS protected FROM amp.protect('back.plain');
SELECT amp.meter('back.plain', 'back_test');
SELECT * FROM amp.unprotect('back.plain') WHERE object NOT LIKE 'policy%';
SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'back.plain'::regclass;
SELECT (SELECT count(*) FROM pg_policy WHERE polrelid = 'back.plain'::regclass) AS policies,
       (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'back.plain'::regclass AND NOT tgisinternal) AS triggers,
       (SELECT count(*) FROM pg_attrdef WHERE adrelid = 'back.plain'::regclass) AS defaults,
       (SELECT count(*) FROM amp.protected_tables WHERE relation = 'back.plain'::regclass) AS registered,
       (SELECT count(*) FROM amp.meters WHERE relation = 'back.plain'::regclass) AS meters;
INSERT INTO back.plain VALUES ('alpha', 1), ('beta', 2);
SELECT count(*) FROM back.plain;
-- And protected again: what is there is kept.
SELECT status, what FROM amp.protect('back.plain') WHERE object NOT LIKE 'policy%' ORDER BY what;
\connect - regress_service
SET amp.tenant_id = 'beta';
SELECT * FROM back.plain;
\connect - regress_owner

-- A default of one's own stays, and so do policies of one's own, with row security.
CREATE TABLE back.own (tenant_id text, id int);
CREATE POLICY mine ON back.own AS RESTRICTIVE USING (id > 0);
SELECT count(*) > 0 AS protected FROM amp.protect('back.own');
ALTER TABLE back.own ALTER tenant_id SET DEFAULT 'house';
SELECT status, object, what FROM amp.unprotect('back.own') WHERE object NOT LIKE 'policy%';
SELECT relrowsecurity, pg_get_expr(adbin, adrelid) FROM pg_class JOIN pg_attrdef ON adrelid = pg_class.oid WHERE pg_class.oid = 'back.own'::regclass;
SELECT policyname FROM pg_policies WHERE schemaname = 'back' AND tablename = 'own';

-- A tree goes as a whole, never a part of it alone.
CREATE TABLE back.tree (tenant_id text, id int) PARTITION BY RANGE (id);
CREATE TABLE back.tree_1 PARTITION OF back.tree FOR VALUES FROM (0) TO (10);
SELECT count(*) > 0 AS protected FROM amp.protect('back.tree');
SELECT * FROM amp.unprotect('back.tree_1');
\echo :SQLSTATE
SELECT count(*) > 0 AS unprotected FROM amp.unprotect('back.tree');
SELECT count(*) FROM amp.protected_tables WHERE relation::text LIKE 'back.tree%';
SELECT relname, relrowsecurity FROM pg_class WHERE relname LIKE 'tree%' AND relnamespace = 'back'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1;

-- Composite foreign keys stay.
CREATE TABLE back.parent (tenant_id text, id int PRIMARY KEY);
CREATE TABLE back.child (tenant_id text, parent int REFERENCES back.parent);
SELECT count(*) > 0 AS protected FROM amp.protect('back.parent');
SELECT count(*) > 0 AS protected FROM amp.protect('back.child', fix => true);
SELECT count(*) > 0 AS unprotected FROM amp.unprotect('back.parent');
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'back.child'::regclass AND contype = 'f';

-- What is not protected cannot be unprotected.
SELECT * FROM amp.unprotect('back.parent');
\echo :SQLSTATE
SELECT * FROM amp.unprotect(NULL);
\echo :SQLSTATE

-- A shared table has no tenants; a protected one is not shared by the way.
CREATE TABLE back.countries (code text, tenant_id text);
SELECT amp.share_table('back.countries');
SELECT amp.share_table('back.countries');
SELECT relation FROM amp.shared_tables WHERE relation::text LIKE 'back.%';
SELECT amp.share_table('back.child');
\echo :SQLSTATE
SELECT count(*) > 0 AS protected FROM amp.protect('back.countries');
SELECT count(*) FROM amp.shared_tables WHERE relation = 'back.countries'::regclass;
CREATE VIEW back.view AS SELECT 1 AS one;
SELECT amp.share_table('back.view');
\echo :SQLSTATE
SELECT amp.share_table(NULL);
\echo :SQLSTATE
SELECT amp.share_table('pg_class');
\echo :SQLSTATE
-- Dropped tables are forgotten.
CREATE TABLE back.gone (code text);
SELECT amp.share_table('back.gone');
DROP TABLE back.gone, back.plain;
SELECT count(*) FROM amp.shared_tables s WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = s.relation);
SELECT count(*) FROM amp.protected_tables s WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = s.relation);
