-- The doctor: each hole that the catalogs show has a finding, and its fix closes it.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - postgres
CREATE SCHEMA doctor;
GRANT CREATE, USAGE ON SCHEMA doctor TO regress_owner, regress_stranger, regress_service;
SET search_path = doctor;
CREATE TABLE healthy (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE by_varchar (tenant_id varchar(64), id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE by_uuid ("Tenant" uuid, id int, PRIMARY KEY ("Tenant", id));
CREATE TABLE by_bigint (tenant_id bigint, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE parent (tenant_id text, id int PRIMARY KEY, code text UNIQUE);
CREATE TABLE child (tenant_id text, id int, parent_id int REFERENCES parent, PRIMARY KEY (tenant_id, id));
CREATE TABLE parted (tenant_id text, id int, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_2 (tenant_id text NOT NULL, id int NOT NULL);
\pset tuples_only on
SELECT count(*) > 0 FROM amp.protect('healthy');
SELECT count(*) > 0 FROM amp.protect('by_varchar', read => 'analytics.view');
SELECT count(*) > 0 FROM amp.protect('by_uuid', 'Tenant', write => NULL);
SELECT count(*) > 0 FROM amp.protect('by_bigint', read => NULL, "delete" => 'users.manage');
SELECT count(*) > 0 FROM amp.protect('parent');
SELECT count(*) > 0 FROM amp.protect('parted');
\pset tuples_only off

-- What protect() has made is found to be right, whatever the type of the tenant column and the permissions.
CREATE FUNCTION findings() RETURNS TABLE (severity text, code text, object text, finding text) LANGUAGE sql SET search_path = pg_catalog AS $$
    SELECT severity, code, object, finding FROM amp.doctor() d
    WHERE object ~ 'doctor|regress_service|Doctor' AND code NOT LIKE 'server%' ORDER BY severity, code, object COLLATE "C" $$;
SELECT * FROM findings();

-- Made by whoever came later, and was let do so.
BEGIN;
SET LOCAL amp.allow_unsafe_ddl = on;
SET LOCAL client_min_messages = error;
ALTER EVENT TRIGGER amp_follow_renames DISABLE;
ALTER TABLE healthy NO FORCE ROW LEVEL SECURITY;
DROP POLICY amp_update ON healthy;
ALTER POLICY amp_tenant ON by_varchar USING (true);
ALTER POLICY amp_delete ON by_bigint TO regress_owner;
CREATE POLICY wide ON by_uuid USING (true);
DROP TRIGGER amp_truncate ON by_uuid;
ALTER TABLE by_bigint DISABLE TRIGGER amp_truncate;
ALTER TABLE by_varchar DROP CONSTRAINT by_varchar_pkey, ALTER tenant_id DROP NOT NULL;
CREATE INDEX ON healthy (id);
CREATE RULE hole AS ON INSERT TO healthy DO ALSO NOTHING;
GRANT TRIGGER, REFERENCES, TRUNCATE ON healthy TO regress_stranger;
GRANT TRIGGER ON by_uuid TO PUBLIC;
CREATE VIEW view_1 AS SELECT * FROM healthy;
CREATE VIEW view_2 WITH (security_invoker) AS SELECT * FROM view_1;
CREATE VIEW view_3 AS SELECT * FROM view_2;
CREATE VIEW view_4 AS SELECT 1;
CREATE MATERIALIZED VIEW snapshot AS SELECT * FROM view_2 WITH NO DATA;
CREATE FUNCTION definer() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
CREATE PUBLICATION doctor_publication FOR TABLE healthy;
SELECT count(*) > 0 AS protected FROM amp.protect('child');
DROP POLICY amp_allow ON child;
ALTER EVENT TRIGGER amp_protect_descendants DISABLE;
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM (100) TO (200);
ALTER EVENT TRIGGER amp_protect_descendants ENABLE;
ALTER TABLE by_bigint RENAME tenant_id TO renamed;
ALTER EVENT TRIGGER amp_follow_renames ENABLE ALWAYS;
COMMIT;
SELECT * FROM findings();

-- Each fix is run as it stands, but for those that leave a choice.
SET search_path = pg_catalog;
BEGIN;
SET LOCAL amp.allow_unsafe_ddl = on;
SET LOCAL client_min_messages = error;
ALTER EVENT TRIGGER amp_follow_renames DISABLE;
ALTER TABLE doctor.by_bigint RENAME renamed TO tenant_id;
ALTER EVENT TRIGGER amp_follow_renames ENABLE ALWAYS;
COMMIT;
\pset tuples_only on
SELECT DISTINCT ON (fix) fix FROM amp.doctor() WHERE object ~ 'doctor' AND code NOT IN ('definer-function', 'materialized-view') AND fix NOT LIKE 'SELECT%'
UNION ALL SELECT 'DROP MATERIALIZED VIEW doctor.snapshot' \gexec
SELECT DISTINCT 'SELECT count(*) > 0 FROM (' || fix || ') f' FROM amp.doctor() WHERE object ~ 'doctor' AND fix LIKE 'SELECT * FROM amp.protect%' \gexec
\pset tuples_only off
SELECT * FROM doctor.findings();

-- Roles: services that bypass row security, make roles, or own what they should be kept out of.
CREATE ROLE regress_service_super LOGIN SUPERUSER IN ROLE amp_service;
CREATE ROLE regress_service_maker LOGIN CREATEROLE IN ROLE amp_service;
ALTER TABLE doctor.healthy OWNER TO regress_service;
SELECT severity, code, object, finding, fix FROM amp.doctor() WHERE object ~ 'regress_service' ORDER BY code, object;
ALTER TABLE doctor.healthy OWNER TO postgres;
DROP ROLE regress_service_super, regress_service_maker;

-- Slugs that say nothing: for operators.
\connect - regress_operator
SELECT amp.create_tenant('Doctor', 'client-1', id => 'doctor1') ->> 'slug' AS slug;
SELECT amp.create_tenant('Doctor', 'doctor-acme-2024', id => 'doctor2') ->> 'slug' AS slug;
SELECT severity, code, object, finding, fix FROM amp.doctor() WHERE object ~ 'doctor[12]';
\connect - regress_client
SELECT count(*) FROM amp.doctor() WHERE code LIKE 'slug%';
\connect - postgres
SELECT code, object FROM amp.doctor() WHERE code IN ('not-preloaded');
SET client_min_messages = error;
DROP PUBLICATION IF EXISTS doctor_publication;
DROP SCHEMA doctor CASCADE;
