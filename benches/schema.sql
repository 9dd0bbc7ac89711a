-- One variant's tables, in the schema :variant. Rows lie in order of arrival, so that the tenants' rows are mixed.

CREATE SCHEMA :"variant";
SET search_path = :"variant";

-- Two million rows by default: an identity that every tenant counts from 1.
CREATE TABLE item (tenant_id text COLLATE "C" NOT NULL, id bigint NOT NULL, amount bigint NOT NULL, body text NOT NULL);
INSERT INTO item
SELECT 'tnt_' || (1000000000000000 + tenant), id, id % 97, md5(id::text)
FROM generate_series(1, :rows / :tenants) id, generate_series(1, :tenants) tenant
ORDER BY id, tenant;
ALTER TABLE item ADD PRIMARY KEY (tenant_id, id);

-- What the join meets: a note on every second item.
CREATE TABLE note (tenant_id text COLLATE "C" NOT NULL, item_id bigint NOT NULL, weight bigint NOT NULL);
INSERT INTO note
SELECT tenant_id, id, id % 7 FROM item WHERE id % 2 = 0 ORDER BY id, tenant_id;
ALTER TABLE note ADD PRIMARY KEY (tenant_id, item_id);

-- What the full scans read: of `log` one row in :tenants is the tenant's, of `own` every row.
CREATE TABLE log (tenant_id text COLLATE "C" NOT NULL, amount bigint NOT NULL);
INSERT INTO log
SELECT 'tnt_' || (1000000000000001 + n % :tenants), n % 97 FROM generate_series(1, :scan_rows) n;
CREATE INDEX ON log (tenant_id);

CREATE TABLE own (tenant_id text COLLATE "C" NOT NULL, amount bigint NOT NULL);
INSERT INTO own
SELECT :'tenant', n % 97 FROM generate_series(1, :scan_rows) n;
CREATE INDEX ON own (tenant_id);

VACUUM (ANALYZE, FREEZE) item, note, log, own;

-- ANALYZE takes a random sample: let every variant be planned by the first one's.
SELECT format('DELETE FROM pg_statistic WHERE starelid = %L::regclass', c.oid),
       format('INSERT INTO pg_statistic SELECT %L::regclass, %s FROM pg_statistic WHERE starelid = %L::regclass',
              c.oid, (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
                      WHERE attrelid = 'pg_statistic'::regclass AND attnum > 1), first.oid)
FROM pg_class c JOIN pg_class first USING (relname)
WHERE c.relnamespace = :'variant'::regnamespace AND first.relnamespace = 'hand'::regnamespace AND c.oid <> first.oid \gexec

GRANT USAGE ON SCHEMA :"variant" TO bench_service, bench_pool, bench_client;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA :"variant" TO bench_service, bench_pool, bench_client;
