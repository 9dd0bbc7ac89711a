-- Keys and indexes that tell about other tenants: reported, and with fix => true rebuilt with the tenant in front.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_owner
CREATE SCHEMA ix;
GRANT USAGE ON SCHEMA ix TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA ix GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO PUBLIC;
CREATE VIEW ix.indexes AS
    SELECT x.indrelid::regclass AS relation, coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(x.indexrelid)) AS definition
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.contype IN ('p', 'u', 'x') WHERE i.relnamespace = 'ix'::regnamespace;

CREATE TABLE ix.all_kinds (tenant_id text COLLATE "C", id int PRIMARY KEY, a int, b text, during int4range);
ALTER TABLE ix.all_kinds ADD CONSTRAINT a_key UNIQUE (a), ADD CONSTRAINT b_key UNIQUE NULLS NOT DISTINCT (b) INCLUDE (a),
    ADD CONSTRAINT ab_key UNIQUE (a, b) DEFERRABLE INITIALLY DEFERRED, ADD CONSTRAINT during_excl EXCLUDE USING gist (during WITH &&);
CREATE UNIQUE INDEX partial ON ix.all_kinds (a) WHERE b IS NOT NULL;
CREATE UNIQUE INDEX expression ON ix.all_kinds (lower(b), a DESC NULLS LAST) INCLUDE (id);
CREATE UNIQUE INDEX opclass ON ix.all_kinds (b text_pattern_ops);
CREATE INDEX secondary ON ix.all_kinds (b) WITH (fillfactor = 80);
CREATE INDEX hashed ON ix.all_kinds USING hash (b);
CREATE INDEX ranges ON ix.all_kinds USING gist (during);
CREATE INDEX tenant_second ON ix.all_kinds (a, tenant_id);
CREATE INDEX tenant_first ON ix.all_kinds (tenant_id, b);
CREATE UNIQUE INDEX unique_tenant_second ON ix.all_kinds (b, a, tenant_id);

-- Reported, and nothing rebuilt without being asked.
SELECT status, object, what, remedy FROM amp.protect('ix.all_kinds') WHERE status = 'left' ORDER BY object;
SELECT count(*) FROM ix.indexes WHERE relation = 'ix.all_kinds'::regclass AND definition LIKE '%(tenant_id%';
-- A unique key without the tenant tells that another tenant has a value: so it is before the fix.
\connect - regress_service
SET amp.tenant_id = 'alpha';
INSERT INTO ix.all_kinds (id, a, b, during) VALUES (1, 1, 'one', '[1,5)');
SET amp.tenant_id = 'beta';
INSERT INTO ix.all_kinds (id, a, b, during) VALUES (1, 1, 'one', '[1,5)');
\echo :SQLSTATE

-- Rebuilt: every property but the place of the tenant stays. What only a person can judge is left.
\connect - regress_owner
SELECT status, object, what, remedy FROM amp.protect('ix.all_kinds', fix => true) WHERE status <> 'kept' ORDER BY status, object;
SELECT definition FROM ix.indexes WHERE relation = 'ix.all_kinds'::regclass ORDER BY definition;
SELECT status, object FROM amp.protect('ix.all_kinds', fix => true) WHERE status <> 'kept' ORDER BY object;
\connect - regress_service
SET amp.tenant_id = 'beta';
INSERT INTO ix.all_kinds (id, a, b, during) VALUES (1, 1, 'one', '[1,5)');
INSERT INTO ix.all_kinds (id, a, b, during) VALUES (2, 2, 'two', '[4,9)');
\echo :SQLSTATE
INSERT INTO ix.all_kinds (id, a, b, during) VALUES (2, 1, 'two', '[5,9)');
\echo :SQLSTATE

-- An index led by the tenant is made where there is none; a partial one or another kind is none.
\connect - regress_owner
CREATE TABLE ix.none (tenant_id text, id int);
CREATE INDEX ON ix.none (tenant_id) WHERE id > 0;
CREATE INDEX ON ix.none USING hash (tenant_id);
SELECT status, object, what FROM amp.protect('ix.none') WHERE what LIKE 'index%';
SELECT definition FROM ix.indexes WHERE relation = 'ix.none'::regclass ORDER BY definition;
CREATE TABLE ix.there (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
SELECT status, object, what FROM amp.protect('ix.there') WHERE what LIKE 'index%';

-- A key that a foreign key needs: rebuilt together with it.
CREATE TABLE ix.parent (tenant_id text, id int PRIMARY KEY, code text UNIQUE);
CREATE TABLE ix.child (tenant_id text, id int PRIMARY KEY, parent int REFERENCES ix.parent, code text REFERENCES ix.parent (code) ON DELETE CASCADE);
SELECT status, object, what, remedy FROM amp.protect('ix.parent', fix => true) WHERE object LIKE 'constraint%' OR object LIKE 'foreign%' ORDER BY object;
SELECT status, object, what, remedy FROM amp.protect('ix.child', fix => true) WHERE object LIKE 'constraint%' OR object LIKE 'foreign%' ORDER BY object;
SELECT status, object, what, remedy FROM amp.protect('ix.parent', fix => true) WHERE object LIKE 'constraint%' OR object LIKE 'foreign%' ORDER BY object;
SELECT relation, definition FROM ix.indexes WHERE relation IN ('ix.parent'::regclass, 'ix.child'::regclass) ORDER BY 1, 2;
SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'ix.child'::regclass AND contype = 'f' ORDER BY 2;
SELECT status, object FROM amp.protect('ix.parent', fix => true) WHERE status <> 'kept';
SELECT status, object FROM amp.protect('ix.child', fix => true) WHERE status <> 'kept';

-- A partitioned table's keys and indexes are rebuilt for all its partitions.
CREATE TABLE ix.events (tenant_id text, day date, id int, note text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE ix.events_2024 PARTITION OF ix.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE UNIQUE INDEX events_note ON ix.events (note, day);
SELECT status, object, what FROM amp.protect('ix.events', fix => true) WHERE object LIKE 'constraint%' OR object LIKE 'index%' ORDER BY object;
SELECT relation, definition FROM ix.indexes WHERE relation IN ('ix.events'::regclass, 'ix.events_2024'::regclass) ORDER BY 1, 2;
SELECT status, object FROM amp.protect('ix.events', fix => true) WHERE status <> 'kept';

-- NULL for fix is no.
CREATE TABLE ix.null_fix (tenant_id text, id int PRIMARY KEY);
SELECT status, object FROM amp.protect('ix.null_fix', fix => NULL) WHERE object LIKE 'constraint%';

-- What hung on a key hangs on the new one.
CREATE TABLE ix.hung (tenant_id text NOT NULL, id int PRIMARY KEY, code text NOT NULL);
CREATE UNIQUE INDEX hung_code ON ix.hung (code);
ALTER TABLE ix.hung REPLICA IDENTITY USING INDEX hung_code;
ALTER TABLE ix.hung CLUSTER ON hung_pkey;
COMMENT ON CONSTRAINT hung_pkey ON ix.hung IS 'its key';
SELECT status, object, what FROM amp.protect('ix.hung', fix => true) WHERE object ~ 'hung_' ORDER BY object;
SELECT indexrelid::regclass, indisreplident, indisclustered FROM pg_index WHERE indrelid = 'ix.hung'::regclass ORDER BY indexrelid::regclass::text;
SELECT obj_description(oid) FROM pg_constraint WHERE conname = 'hung_pkey';
