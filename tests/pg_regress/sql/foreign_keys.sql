-- Foreign keys between protected tables include the tenant: no tenant can link to, probe for or cascade into another's rows.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_owner
CREATE SCHEMA fk;
GRANT USAGE ON SCHEMA fk TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA fk GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO PUBLIC;
CREATE VIEW fk.keys AS SELECT c.conrelid::regclass AS child, c.conname, pg_get_constraintdef(c.oid) AS definition
    FROM pg_constraint c WHERE c.connamespace = 'fk'::regnamespace AND c.contype = 'f' AND c.conparentid = 0;

-- Without it: by a plain foreign key one tenant finds out about, links to and destroys another's rows.
CREATE TABLE fk.plain_parent (tenant_id text, id int PRIMARY KEY);
CREATE TABLE fk.plain_child (tenant_id text, id int, parent int REFERENCES fk.plain_parent ON DELETE CASCADE);
INSERT INTO fk.plain_parent VALUES ('alpha', 1), ('beta', 2);
INSERT INTO fk.plain_child VALUES ('beta', 1, 1);
DELETE FROM fk.plain_parent WHERE tenant_id = 'alpha';
SELECT count(*) FROM fk.plain_child WHERE tenant_id = 'beta';

-- Every action, the way it was; the key keeps its name.
CREATE TABLE fk.parent (tenant_id text, id int PRIMARY KEY, code text UNIQUE, x int, y int, UNIQUE (x, y));
CREATE TABLE fk.child (
    tenant_id text, id int PRIMARY KEY,
    plain int CONSTRAINT plain REFERENCES fk.parent,
    cascading int CONSTRAINT cascading REFERENCES fk.parent ON UPDATE CASCADE ON DELETE CASCADE,
    nulled int CONSTRAINT nulled REFERENCES fk.parent ON DELETE SET NULL,
    defaulted int DEFAULT 0 CONSTRAINT defaulted REFERENCES fk.parent ON DELETE SET DEFAULT,
    restricted int CONSTRAINT restricted REFERENCES fk.parent ON UPDATE RESTRICT ON DELETE RESTRICT,
    checked_late int CONSTRAINT deferrable_key REFERENCES fk.parent DEFERRABLE,
    deferred int CONSTRAINT deferred_key REFERENCES fk.parent DEFERRABLE INITIALLY DEFERRED,
    by_code text CONSTRAINT by_code REFERENCES fk.parent (code),
    p int, q int, r int, s int, x int, y int,
    CONSTRAINT pair FOREIGN KEY (p, q) REFERENCES fk.parent (x, y) ON DELETE SET NULL,
    CONSTRAINT half FOREIGN KEY (r, s) REFERENCES fk.parent (x, y) ON DELETE SET NULL (s),
    CONSTRAINT full_match FOREIGN KEY (x, y) REFERENCES fk.parent (x, y) MATCH FULL,
    unchecked int,
    above int CONSTRAINT above REFERENCES fk.child ON DELETE CASCADE);
ALTER TABLE fk.child ADD CONSTRAINT not_valid FOREIGN KEY (unchecked) REFERENCES fk.parent NOT VALID;
INSERT INTO fk.parent VALUES ('alpha', 0, 'zero', 0, 0), ('alpha', 1, 'one', 1, 1), ('alpha', 2, 'two', 2, 2);
-- The parent first: what is left to do is said.
SELECT status, object, what FROM amp.protect('fk.parent') WHERE object LIKE 'foreign key%' ORDER BY object;
SELECT status, object, what FROM amp.protect('fk.child') WHERE object LIKE 'foreign key%' ORDER BY object;
SELECT conname, definition FROM fk.keys WHERE child = 'fk.child'::regclass ORDER BY conname;
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'fk.parent'::regclass AND contype = 'u' ORDER BY 2;
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'fk.child'::regclass AND contype = 'c' ORDER BY 1;
SELECT relforcerowsecurity FROM pg_class WHERE oid IN ('fk.parent'::regclass, 'fk.child'::regclass);
-- Done again, there is nothing to do.
SELECT status, object FROM amp.protect('fk.child') WHERE status = 'done';
SELECT status, object FROM amp.protect('fk.parent') WHERE status = 'done';

-- They do what they did, inside a tenant.
\connect - regress_service
SET amp.tenant_id = 'alpha';
INSERT INTO fk.child (id, plain) VALUES (1, 9);
\echo :SQLSTATE
INSERT INTO fk.child (id, by_code) VALUES (1, 'nine');
\echo :SQLSTATE
INSERT INTO fk.child (id, x) VALUES (1, 1);
\echo :SQLSTATE
INSERT INTO fk.child (id, x, y) VALUES (1, 1, 2);
\echo :SQLSTATE
INSERT INTO fk.child (id, plain) VALUES (10, 1);
DELETE FROM fk.parent WHERE id = 1;
\echo :SQLSTATE
DELETE FROM fk.child;
-- (PostgreSQL 18 has an SQLSTATE of its own for RESTRICT.)
INSERT INTO fk.child (id, restricted) VALUES (10, 1);
DO $$ BEGIN DELETE FROM fk.parent WHERE id = 1; EXCEPTION WHEN foreign_key_violation OR restrict_violation THEN RAISE NOTICE 'restricted'; END $$;
DELETE FROM fk.child;
INSERT INTO fk.child (id, nulled, defaulted, p, q, r, s) VALUES (11, 1, 1, 1, 1, 1, 1);
INSERT INTO fk.child (id, cascading) VALUES (12, 1), (13, 2);
INSERT INTO fk.child (id, above) VALUES (14, 12);
UPDATE fk.parent SET id = 20 WHERE id = 2;
SELECT id, cascading FROM fk.child WHERE id = 13;
DELETE FROM fk.parent WHERE id = 1;
SELECT tenant_id, id, nulled, defaulted, p, q, r, s, cascading FROM fk.child ORDER BY id;
BEGIN;
INSERT INTO fk.child (id, deferred) VALUES (15, 7);
INSERT INTO fk.parent (id) VALUES (7);
COMMIT;
SELECT deferred FROM fk.child WHERE id = 15;
INSERT INTO fk.child (id, deferred) VALUES (16, 8);
\echo :SQLSTATE

-- Across tenants: no link, and the same error whether the row is there or not; nothing cascades.
SET amp.tenant_id = 'beta';
INSERT INTO fk.child (id, plain, defaulted) VALUES (101, 20, NULL);
\echo :SQLSTATE
INSERT INTO fk.child (id, plain, defaulted) VALUES (101, 21, NULL);
\echo :SQLSTATE
INSERT INTO fk.child (id, unchecked, defaulted) VALUES (101, 20, NULL);
\echo :SQLSTATE
INSERT INTO fk.parent (id, code) VALUES (100, 'hundred');
INSERT INTO fk.child (id, cascading, defaulted) VALUES (101, 100, NULL);
UPDATE fk.child SET cascading = 20;
\echo :SQLSTATE
DELETE FROM fk.parent;
SELECT count(*) FROM fk.child;
SET amp.tenant_id = 'alpha';
SELECT id FROM fk.parent ORDER BY id;

-- The other order: the child first, then the parent.
\connect - regress_owner
CREATE TABLE fk.parent2 (tenant_id text, id int PRIMARY KEY);
CREATE TABLE fk.child2 (tenant_id text, parent int REFERENCES fk.parent2 ON DELETE CASCADE);
SELECT status, object, what, remedy FROM amp.protect('fk.child2') WHERE object LIKE 'foreign key%';
SELECT definition FROM fk.keys WHERE child = 'fk.child2'::regclass;
SELECT status, object, what, remedy FROM amp.protect('fk.parent2') WHERE object LIKE 'foreign key%';
SELECT definition FROM fk.keys WHERE child = 'fk.child2'::regclass;
-- Two tables that point at each other, other columns' names, keyed by uuid.
CREATE TABLE fk.left (org uuid, id int PRIMARY KEY, twin int);
CREATE TABLE fk.right (organisation uuid, id int PRIMARY KEY, twin int REFERENCES fk.left);
ALTER TABLE fk.left ADD CONSTRAINT left_twin_fkey FOREIGN KEY (twin) REFERENCES fk.right;
SELECT count(*) > 0 AS protected FROM amp.protect('fk.left', 'org');
SELECT count(*) > 0 AS protected FROM amp.protect('fk.right', 'organisation');
SELECT child, definition FROM fk.keys WHERE child IN ('fk.left'::regclass, 'fk.right'::regclass) ORDER BY 1;
-- To a shared table there is nothing to add.
CREATE TABLE fk.countries (code text PRIMARY KEY);
CREATE TABLE fk.offices (tenant_id text, country text REFERENCES fk.countries);
SELECT amp.share_table('fk.countries');
SELECT status, object FROM amp.protect('fk.offices') WHERE object LIKE 'foreign key%';
SELECT definition FROM fk.keys WHERE child = 'fk.offices'::regclass;
-- One that includes the tenant already stays what it is.
CREATE TABLE fk.parent3 (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE fk.child3 (tenant_id text, parent int, FOREIGN KEY (tenant_id, parent) REFERENCES fk.parent3 ON DELETE CASCADE);
SELECT count(*) > 0 AS protected FROM amp.protect('fk.parent3');
SELECT status, object FROM amp.protect('fk.child3') WHERE object LIKE 'foreign key%';
SELECT definition FROM fk.keys WHERE child = 'fk.child3'::regclass;
-- Rows that point across tenants already: an error, and both tables as they were.
CREATE TABLE fk.bad_parent (tenant_id text, id int PRIMARY KEY);
CREATE TABLE fk.bad_child (tenant_id text, mother int REFERENCES fk.bad_parent ON DELETE CASCADE);
INSERT INTO fk.bad_parent VALUES ('alpha', 1);
INSERT INTO fk.bad_child VALUES ('alpha', 1), ('beta', 1);
SELECT count(*) > 0 AS protected FROM amp.protect('fk.bad_parent');
SELECT * FROM amp.protect('fk.bad_child');
\echo :SQLSTATE
SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname LIKE 'bad\_%' AND relkind = 'r' ORDER BY 1;
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid IN ('fk.bad_parent'::regclass, 'fk.bad_child'::regclass) AND contype <> 'n' ORDER BY conname;
SELECT attname, attnotnull, atthasdef FROM pg_attribute WHERE attrelid = 'fk.bad_child'::regclass AND attnum > 0 ORDER BY attnum;
SELECT count(*) FROM fk.bad_child;
SELECT count(*) FROM amp.protected_tables WHERE relation = 'fk.bad_child'::regclass;
-- With the rows corrected it works.
UPDATE fk.bad_child SET tenant_id = 'alpha';
SELECT status, object FROM amp.protect('fk.bad_child') WHERE object LIKE 'foreign key%';

-- What cannot include the tenant: refused, and the tables as they were.
CREATE TABLE fk.odd_parent (tenant_id text, id int PRIMARY KEY);
CREATE TABLE fk.odd_child (tenant_id text, parent int REFERENCES fk.odd_parent ON UPDATE SET NULL);
SELECT count(*) > 0 AS protected FROM amp.protect('fk.odd_parent');
SELECT * FROM amp.protect('fk.odd_child');
\echo :SQLSTATE
CREATE TABLE fk.odder_parent (tenant_id text, id int PRIMARY KEY);
CREATE TABLE fk.odder_child (tenant_id text, parent int REFERENCES fk.odder_parent ON UPDATE SET DEFAULT);
SELECT count(*) > 0 AS protected FROM amp.protect('fk.odder_child');
SELECT * FROM amp.protect('fk.odder_parent');
\echo :SQLSTATE
SELECT definition FROM fk.keys WHERE child IN ('fk.odd_child'::regclass, 'fk.odder_child'::regclass) ORDER BY 1;
SELECT relname, relrowsecurity FROM pg_class WHERE relname ~ '^odd.*(child|parent)$' ORDER BY relname;
CREATE TABLE fk.uuid_parent (tenant_id uuid, id int PRIMARY KEY);
CREATE TABLE fk.uuid_child (tenant_id text, parent int REFERENCES fk.uuid_parent);
SELECT count(*) > 0 AS protected FROM amp.protect('fk.uuid_parent');
SELECT * FROM amp.protect('fk.uuid_child');
\echo :SQLSTATE
SELECT definition FROM fk.keys WHERE child = 'fk.uuid_child'::regclass;
CREATE TABLE fk.parent4 (tenant_id text, id text, UNIQUE (id, tenant_id));
CREATE TABLE fk.child4 (tenant_id text, parent text, FOREIGN KEY (tenant_id, parent) REFERENCES fk.parent4 (id, tenant_id));
SELECT count(*) > 0 AS protected FROM amp.protect('fk.parent4');
SELECT * FROM amp.protect('fk.child4');
\echo :SQLSTATE
