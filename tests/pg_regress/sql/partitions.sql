-- Partitions and inheritance children are protected with their parent: those that are there, and those that come.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - postgres
CREATE FOREIGN DATA WRAPPER parts;
CREATE SERVER parts FOREIGN DATA WRAPPER parts;
GRANT USAGE ON FOREIGN SERVER parts TO regress_owner;
\connect - regress_operator
SELECT amp.register_permission('parts.write', 'Write to parts', '{admin,operator}');
\connect - regress_owner
CREATE SCHEMA parts;
GRANT USAGE ON SCHEMA parts TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA parts GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO PUBLIC;
-- Whether a table is under row security, with amp's floor, and registered like its parent.
CREATE VIEW parts.state AS
    SELECT c.oid::regclass::text AS relation, c.relrowsecurity AND c.relforcerowsecurity AS forced,
           EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'amp_tenant' AND NOT p.polpermissive AND p.polcmd = '*') AS floor,
           p.tenant_column, p.read_permission, p.insert_permission, p.delete_permission,
           (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) AS triggers
    FROM pg_class c LEFT JOIN amp.protected_tables p ON p.relation = c.oid
    WHERE c.relnamespace = 'parts'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1;

-- Range, list and hash, two levels deep.
CREATE TABLE parts.events (org text, day date, kind text, id int) PARTITION BY RANGE (day);
CREATE TABLE parts.events_2024 PARTITION OF parts.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (kind);
CREATE TABLE parts.events_2024_a PARTITION OF parts.events_2024 FOR VALUES IN ('a');
CREATE TABLE parts.events_2024_rest PARTITION OF parts.events_2024 DEFAULT PARTITION BY HASH (id);
CREATE TABLE parts.events_2024_rest_0 PARTITION OF parts.events_2024_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts.events_2024_rest_1 PARTITION OF parts.events_2024_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT count(*) > 0 AS protected FROM amp.protect('parts.events', 'org', write => 'parts.write', "delete" => 'users.manage');
SELECT * FROM parts.state;
SELECT DISTINCT status FROM amp.protect('parts.events', 'org', write => 'parts.write', "delete" => 'users.manage');

-- New ones: CREATE … PARTITION OF, ATTACH of a table, of a tree, of one in another schema.
CREATE TABLE parts.events_2025 PARTITION OF parts.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE parts.events_2024_b PARTITION OF parts.events_2024 FOR VALUES IN ('b');
CREATE TABLE parts.events_2026 (org text NOT NULL, day date, kind text, id int);
ALTER TABLE parts.events ATTACH PARTITION parts.events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE parts.events_2027 (LIKE parts.events) PARTITION BY LIST (kind);
CREATE TABLE parts.events_2027_a PARTITION OF parts.events_2027 FOR VALUES IN ('a');
ALTER TABLE parts.events ATTACH PARTITION parts.events_2027 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
SELECT * FROM parts.state WHERE relation ~ '(202[567]|_b)';

-- One that comes with a schema of its own.
CREATE SCHEMA parts_too CREATE TABLE events_2028 PARTITION OF parts.events FOR VALUES FROM ('2028-01-01') TO ('2029-01-01');
SELECT relrowsecurity AND relforcerowsecurity AS forced FROM pg_class WHERE oid = 'parts_too.events_2028'::regclass;

-- One that comes back from a dump, which switches row_security off.
SET row_security = off;
CREATE TABLE parts.events_2029 PARTITION OF parts.events FOR VALUES FROM ('2029-01-01') TO ('2030-01-01');
RESET row_security;
SELECT relrowsecurity AND relforcerowsecurity AS forced FROM pg_class WHERE oid = 'parts.events_2029'::regclass;

-- Through the parent or by its own name, a part shows a tenant's rows only.
\connect - regress_service
SET amp.tenant_id = 'alpha';
INSERT INTO parts.events (day, kind, id) VALUES ('2024-05-01', 'a', 1), ('2024-05-01', 'z', 2), ('2024-05-01', 'z', 3), ('2025-05-01', 'a', 4), ('2027-05-01', 'a', 5);
INSERT INTO parts.events_2026 (day, kind, id) VALUES ('2026-05-01', 'a', 6);
SELECT tableoid::regclass, org, id FROM parts.events ORDER BY id;
SET amp.tenant_id = 'beta';
SELECT count(*) FROM parts.events;
SELECT (SELECT count(*) FROM parts.events_2024), (SELECT count(*) FROM parts.events_2024_a), (SELECT count(*) FROM parts.events_2024_rest),
       (SELECT count(*) FROM parts.events_2025), (SELECT count(*) FROM parts.events_2026), (SELECT count(*) FROM parts.events_2027_a);
INSERT INTO parts.events_2024_a (org, day, kind, id) VALUES ('alpha', '2024-05-01', 'a', 9);
\echo :SQLSTATE
UPDATE parts.events_2025 SET id = 0 RETURNING id;
DELETE FROM parts.events_2027_a RETURNING id;
-- The roles hold there, too.
SET amp.tenant_id = 'alpha';
SET amp.user_id = 'user_vic';
SELECT count(*) FROM parts.events_2024_a;
INSERT INTO parts.events_2025 (day, kind, id) VALUES ('2025-05-01', 'a', 9);
\echo :SQLSTATE
SET amp.user_id = 'user_olga';
INSERT INTO parts.events_2025 (day, kind, id) VALUES ('2025-05-01', 'a', 9) RETURNING id;
DELETE FROM parts.events_2025 WHERE id = 9;
\echo :SQLSTATE
DELETE FROM parts.events WHERE id = 9;
\echo :SQLSTATE
-- No context is no context.
RESET amp.user_id;
RESET amp.tenant_id;
SELECT count(*) FROM parts.events_2025;
\echo :SQLSTATE

-- A part that goes its own way stays protected.
\connect - regress_owner
ALTER TABLE parts.events DETACH PARTITION parts.events_2025;
SELECT * FROM parts.state WHERE relation = 'parts.events_2025';
\connect - regress_service
SELECT count(*) FROM parts.events_2025;
\echo :SQLSTATE
SET amp.tenant_id = 'beta';
SELECT count(*) FROM parts.events_2025;
\connect - regress_owner
ALTER TABLE parts.events ATTACH PARTITION parts.events_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
-- One that is dropped is forgotten.
DROP TABLE parts.events_2027;
SELECT relation FROM parts.state WHERE relation LIKE '%2027%';
SELECT count(*) FROM amp.protected_tables WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation);

-- What cannot be protected cannot be attached, and is then what it was.
CREATE FOREIGN TABLE parts.remote (org text NOT NULL, day date, kind text, id int) SERVER parts;
ALTER TABLE parts.events ATTACH PARTITION parts.remote FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');
\echo :SQLSTATE
SELECT relispartition FROM pg_class WHERE oid = 'parts.remote'::regclass;
CREATE FOREIGN TABLE parts.remote2 PARTITION OF parts.events FOR VALUES FROM ('2030-01-01') TO ('2031-01-01') SERVER parts;
\echo :SQLSTATE
CREATE TABLE parts.nulls (org text, day date NOT NULL, kind text, id int);
INSERT INTO parts.nulls VALUES (NULL, '2031-05-01', 'a', 1);
\set VERBOSITY sqlstate
ALTER TABLE parts.events ATTACH PARTITION parts.nulls FOR VALUES FROM ('2031-01-01') TO ('2032-01-01');
\set VERBOSITY default
SELECT relation, forced, floor FROM parts.state WHERE relation = 'parts.nulls';

-- Inheritance: the children that are there, and those that come.
CREATE TABLE parts.asset (tenant_id text, id int);
CREATE TABLE parts.image (width int) INHERITS (parts.asset);
SELECT count(*) > 0 AS protected FROM amp.protect('parts.asset');
CREATE TABLE parts.video (length int) INHERITS (parts.asset);
CREATE TABLE parts.clip () INHERITS (parts.video);
CREATE TABLE parts.sound (tenant_id text NOT NULL, id int);
ALTER TABLE parts.sound INHERIT parts.asset;
CREATE FOREIGN TABLE parts.remote_asset () INHERITS (parts.asset) SERVER parts;
\echo :SQLSTATE
ALTER FOREIGN TABLE parts.remote ADD tenant_id text NOT NULL, INHERIT parts.asset;
\echo :SQLSTATE
SELECT relation, forced, floor FROM parts.state WHERE relation ~ '(asset|image|video|clip|sound)';
\connect - regress_service
SET amp.tenant_id = 'alpha';
INSERT INTO parts.image (id) VALUES (1);
INSERT INTO parts.clip (id) VALUES (2);
INSERT INTO parts.sound (id) VALUES (3);
SELECT tableoid::regclass, tenant_id, id FROM parts.asset ORDER BY id;
SET amp.tenant_id = 'beta';
SELECT (SELECT count(*) FROM parts.asset), (SELECT count(*) FROM ONLY parts.asset), (SELECT count(*) FROM parts.image), (SELECT count(*) FROM parts.clip), (SELECT count(*) FROM parts.sound);
\connect - regress_owner
ALTER TABLE parts.sound NO INHERIT parts.asset;
SELECT relation, forced, floor FROM parts.state WHERE relation = 'parts.sound';

-- A foreign key to a partitioned table includes the tenant.
CREATE TABLE parts.orders (tenant_id text, id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parts.orders_1 PARTITION OF parts.orders FOR VALUES FROM (0) TO (100);
CREATE TABLE parts.lines (tenant_id text, id int, order_id int REFERENCES parts.orders ON DELETE CASCADE) PARTITION BY RANGE (id);
CREATE TABLE parts.lines_1 PARTITION OF parts.lines FOR VALUES FROM (0) TO (100);
SELECT status, object FROM amp.protect('parts.lines') WHERE object LIKE 'foreign%';
SELECT status, object FROM amp.protect('parts.orders') WHERE object LIKE 'foreign%';
CREATE TABLE parts.lines_2 PARTITION OF parts.lines FOR VALUES FROM (100) TO (200);
SELECT DISTINCT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN ('parts.lines'::regclass, 'parts.lines_1'::regclass, 'parts.lines_2'::regclass)
    AND contype = 'f' AND confrelid = 'parts.orders'::regclass;
\connect - regress_service
SET amp.tenant_id = 'alpha';
INSERT INTO parts.orders (id) VALUES (1);
INSERT INTO parts.lines (id, order_id) VALUES (1, 1);
SET amp.tenant_id = 'beta';
INSERT INTO parts.lines (id, order_id) VALUES (101, 1);
\echo :SQLSTATE
-- Rows that point across tenants in partitions are found, also by an owner whom the policies bind.
\connect - regress_owner
CREATE TABLE parts.crossed (tenant_id text, id int, order_id int REFERENCES parts.orders) PARTITION BY RANGE (id);
CREATE TABLE parts.crossed_1 PARTITION OF parts.crossed FOR VALUES FROM (0) TO (100);
\connect - postgres
INSERT INTO parts.crossed VALUES ('beta', 1, 1);
\connect - regress_owner
SELECT * FROM amp.protect('parts.crossed');
\echo :SQLSTATE
