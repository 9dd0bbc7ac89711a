-- protect(): what it does to a table, and what the table does then.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_operator
SELECT amp.create_tenant('Uuid', 'protect-uuid', id => '11111111-1111-4111-8111-111111111111') ->> 'id' AS id;
SELECT amp.create_tenant('Number', 'protect-number', id => '7') ->> 'id' AS id;
SELECT amp.create_tenant('Upper', 'protect-upper', id => '22222222-AAAA-4222-8222-222222222222') ->> 'id' AS id;
SELECT amp.create_tenant('Zero', 'protect-zero', id => '007') ->> 'id' AS id;
SELECT amp.register_permission('protect.read', 'Read', '{admin,operator}');
SELECT amp.register_permission('protect.insert', 'Insert', '{admin}');
SELECT amp.register_permission('protect.update', 'Update', '{admin,operator}');
SELECT amp.register_permission('protect.delete', 'Delete', '{admin,viewer}');
\connect - regress_owner
CREATE SCHEMA protect;
GRANT USAGE ON SCHEMA protect TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA protect GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO PUBLIC;

-- The report says what was done; done again, it says that it is there.
CREATE TABLE protect.missions (tenant_id text DEFAULT 'nobody', id int, title text, UNIQUE (title));
SELECT status, object, what, remedy FROM amp.protect('protect.missions');
SELECT DISTINCT status FROM amp.protect('protect.missions') WHERE object NOT LIKE 'constraint%';
SELECT status, what FROM amp.protect('protect.missions') WHERE status <> 'kept';

-- What the catalogs say then.
SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'protect.missions'::regclass;
SELECT policyname, permissive, roles, cmd, qual, with_check FROM pg_policies WHERE schemaname = 'protect' ORDER BY policyname;
SELECT attnotnull, pg_get_expr(adbin, adrelid) AS "default" FROM pg_attribute JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = 'protect.missions'::regclass AND attname = 'tenant_id';
SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'protect.missions'::regclass ORDER BY 1;
SELECT * FROM amp.protected_tables WHERE relation = 'protect.missions'::regclass;

-- Each tenant sees and changes its own rows; the tenant of a new row is the context's.
\connect - regress_service
SET amp.tenant_id = 'alpha';
INSERT INTO protect.missions (id, title) VALUES (1, 'alpha one'), (2, 'alpha two');
SET amp.tenant_id = 'beta';
INSERT INTO protect.missions (id, title) VALUES (1, 'beta one');
SELECT * FROM protect.missions;
SELECT * FROM protect.missions WHERE tenant_id = 'alpha' OR true;
UPDATE protect.missions SET title = title || '!' RETURNING title;
UPDATE protect.missions SET title = 'x' WHERE tenant_id = 'alpha' RETURNING title;
DELETE FROM protect.missions WHERE id = 2 RETURNING title;
-- A row for somebody else, or handed to him.
INSERT INTO protect.missions VALUES ('alpha', 9, 'planted');
\echo :SQLSTATE
UPDATE protect.missions SET tenant_id = 'alpha';
\echo :SQLSTATE
INSERT INTO protect.missions VALUES (NULL, 9, 'nobody''s');
\echo :SQLSTATE
INSERT INTO protect.missions SELECT 'alpha', 9, 'planted';
\echo :SQLSTATE
MERGE INTO protect.missions m USING (VALUES (1), (9)) v (id) ON m.id = v.id
    WHEN MATCHED THEN UPDATE SET tenant_id = 'alpha' WHEN NOT MATCHED THEN INSERT VALUES ('alpha', v.id, 'planted');
\echo :SQLSTATE
SET amp.tenant_id = 'alpha';
SELECT * FROM protect.missions ORDER BY id;
-- The owner is under the policies, too.
\connect - regress_owner
SELECT count(*) FROM protect.missions;
\echo :SQLSTATE

-- A policy that somebody adds cannot widen what a tenant sees; protect() points it out.
CREATE POLICY everything ON protect.missions USING (true) WITH CHECK (true);
SELECT status, object, what, remedy FROM amp.protect('protect.missions') WHERE object LIKE '%everything%';
\connect - regress_service
SET amp.tenant_id = 'alpha';
SELECT * FROM protect.missions ORDER BY id;
INSERT INTO protect.missions VALUES ('beta', 9, 'planted');
\echo :SQLSTATE

-- protect() mends what was broken.
\connect - postgres
BEGIN;
SET LOCAL amp.allow_unsafe_ddl = on;
SET LOCAL client_min_messages = error;
DROP POLICY everything ON protect.missions;
DROP POLICY amp_tenant ON protect.missions;
ALTER TABLE protect.missions DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY, ALTER tenant_id DROP NOT NULL, ALTER tenant_id DROP DEFAULT;
ALTER TABLE protect.missions DISABLE TRIGGER amp_truncate;
COMMIT;
\connect - regress_owner
SELECT status, object, what FROM amp.protect('protect.missions') WHERE status = 'done';
SELECT DISTINCT status FROM amp.protect('protect.missions') WHERE object NOT LIKE 'constraint%';

-- A table keyed by uuid, by bigint, by varchar, by another column's name.
CREATE TABLE protect.by_uuid (org uuid, id int);
SELECT status, object, what FROM amp.protect('protect.by_uuid', 'org') WHERE what LIKE '%DEFAULT%' OR object LIKE '%amp_tenant%';
CREATE TABLE protect.by_bigint (org bigint, id int);
SELECT status, object, what FROM amp.protect('protect.by_bigint', 'org') WHERE what LIKE '%DEFAULT%' OR object LIKE '%amp_tenant%';
CREATE TABLE protect.by_varchar ("Org Id" varchar(40), id int);
SELECT status, object, what FROM amp.protect('protect.by_varchar', 'Org Id') WHERE what LIKE '%DEFAULT%' OR object LIKE '%amp_tenant%';
\connect - regress_service
SET amp.tenant_id = '11111111-1111-4111-8111-111111111111';
INSERT INTO protect.by_uuid (id) VALUES (1) RETURNING *;
INSERT INTO protect.by_varchar (id) VALUES (1) RETURNING *;
SELECT * FROM protect.by_bigint;
\echo :SQLSTATE
SET amp.tenant_id = '7';
INSERT INTO protect.by_bigint (id) VALUES (1) RETURNING *;
INSERT INTO protect.by_bigint VALUES (8, 1);
\echo :SQLSTATE
SELECT count(*) FROM protect.by_varchar;
SELECT * FROM protect.by_uuid;
\echo :SQLSTATE
-- Another spelling of the same key would be another tenant with the same rows.
SET amp.tenant_id = '007';
SELECT * FROM protect.by_bigint;
\echo :SQLSTATE
SELECT count(*) FROM protect.by_varchar;
SET amp.tenant_id = '22222222-AAAA-4222-8222-222222222222';
SELECT * FROM protect.by_uuid;
\echo :SQLSTATE

-- A permission for each verb. Without the one for reading there is nothing to see; without one for writing an error says so.
\connect - regress_owner
CREATE TABLE protect.verbs (tenant_id text, id int);
SELECT status, object, what FROM amp.protect('protect.verbs', read => 'protect.read', "insert" => 'protect.insert',
    "update" => 'protect.update', "delete" => 'protect.delete') WHERE object LIKE '%policy amp\_%' AND object NOT LIKE '%amp\_tenant%';
\connect - regress_service
SET amp.tenant_id = 'alpha';
INSERT INTO protect.verbs VALUES ('alpha', 1), ('alpha', 2);
SET amp.user_id = 'user_ann';
INSERT INTO protect.verbs (id) VALUES (3);
UPDATE protect.verbs SET id = 4 WHERE id = 3 RETURNING id;
SET amp.user_id = 'user_olga';
UPDATE protect.verbs SET id = 5 WHERE id = 4 RETURNING id;
INSERT INTO protect.verbs (id) VALUES (6);
\echo :SQLSTATE
DELETE FROM protect.verbs WHERE id = 5;
\echo :SQLSTATE
SET amp.user_id = 'user_vic';
SELECT count(*) FROM protect.verbs;
SELECT count(*) FROM protect.verbs WHERE id = 5;
INSERT INTO protect.verbs (id) VALUES (6);
\echo :SQLSTATE
-- What he cannot see he cannot delete, though he may delete.
DELETE FROM protect.verbs;
SET amp.user_id = 'user_ann';
SELECT count(*) FROM protect.verbs;
DELETE FROM protect.verbs WHERE id = 5 RETURNING id;

-- NULL asks for no permission: every member may.
\connect - regress_owner
CREATE TABLE protect.free (tenant_id text, id int);
SELECT count(*) > 0 AS protected FROM amp.protect('protect.free', read => NULL, write => NULL);
SELECT read_permission IS NULL AND insert_permission IS NULL AND update_permission IS NULL AND delete_permission IS NULL AS none
FROM amp.protected_tables WHERE relation = 'protect.free'::regclass;
\connect - regress_service
SET amp.tenant_id = 'alpha';
SET amp.user_id = 'user_vic';
INSERT INTO protect.free (id) VALUES (1) RETURNING tenant_id;
UPDATE protect.free SET id = 2 RETURNING id;
INSERT INTO protect.free VALUES ('beta', 1);
\echo :SQLSTATE
DELETE FROM protect.free RETURNING id;

-- A viewer reads, and writes by no verb.
SET amp.user_id = 'user_vic';
SELECT title FROM protect.missions ORDER BY title;
COPY protect.missions TO STDOUT;
COPY (SELECT title FROM protect.missions ORDER BY title) TO STDOUT;
INSERT INTO protect.missions (id) VALUES (9);
\echo :SQLSTATE
\set VERBOSITY sqlstate
UPDATE protect.missions SET title = 'x';
DELETE FROM protect.missions;
SELECT title FROM protect.missions FOR UPDATE;
SELECT title FROM protect.missions FOR NO KEY UPDATE;
SELECT title FROM protect.missions FOR SHARE;
SELECT title FROM protect.missions FOR KEY SHARE;
INSERT INTO protect.missions (id, title) VALUES (9, 'x') ON CONFLICT DO NOTHING;
INSERT INTO protect.missions (id, title) VALUES (9, 'alpha one') ON CONFLICT (title) DO NOTHING;
INSERT INTO protect.missions (id, title) VALUES (9, 'alpha one') ON CONFLICT (title) DO UPDATE SET id = 9;
MERGE INTO protect.missions m USING (VALUES (1)) v (id) ON m.id = v.id WHEN MATCHED THEN UPDATE SET title = 'x';
MERGE INTO protect.missions m USING (VALUES (1)) v (id) ON m.id = v.id WHEN MATCHED THEN DELETE;
MERGE INTO protect.missions m USING (VALUES (9)) v (id) ON m.id = v.id WHEN NOT MATCHED THEN INSERT (id) VALUES (9);
WITH w AS (DELETE FROM protect.missions RETURNING 1) SELECT count(*) FROM w;
\copy protect.missions FROM /dev/null
TRUNCATE protect.missions;
\set VERBOSITY default
SELECT title FROM protect.missions ORDER BY title;

-- COPY FROM is PostgreSQL's to refuse under row security: INSERT takes its place. COPY TO gives a tenant's own rows.
RESET amp.user_id;
\copy protect.missions FROM /dev/null
\echo :SQLSTATE
COPY protect.missions TO STDOUT;
RESET amp.tenant_id;
COPY protect.missions TO STDOUT;
\echo :SQLSTATE
-- row_security = off asks for all rows or an error: it gets the error.
SET amp.tenant_id = 'alpha';
SET row_security = off;
SELECT count(*) FROM protect.missions;
\echo :SQLSTATE

-- What was undone since is mended, by an owner whom the forced policies bind.
\connect - regress_owner
CREATE TABLE protect.mended (tenant_id text, id int);
SELECT count(*) > 0 AS protected FROM amp.protect('protect.mended');
\connect - postgres
BEGIN;
SET LOCAL amp.allow_unsafe_ddl = on;
SET LOCAL client_min_messages = error;
ALTER TABLE protect.mended ALTER tenant_id DROP NOT NULL, ALTER tenant_id DROP DEFAULT;
DROP POLICY amp_tenant ON protect.mended;
COMMIT;
\connect - regress_owner
SELECT status, object, what FROM amp.protect('protect.mended') WHERE status <> 'kept';
SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'protect.mended'::regclass;
