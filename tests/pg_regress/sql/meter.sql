-- meter(): every inserted row counts for its tenant, once, whichever way it came in.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_operator
SELECT amp.create_tenant('Meter One', 'meter-one', id => 'meter1') ->> 'id' AS id;
SELECT amp.create_tenant('Meter Two', 'meter-two', id => 'meter2') ->> 'id' AS id;
SELECT amp.create_tenant('Meter Seven', 'meter-seven', id => '777') ->> 'id' AS id;
\connect - regress_owner
CREATE SCHEMA meter;
GRANT USAGE ON SCHEMA meter TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA meter GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO PUBLIC;
CREATE TABLE meter.missions (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE meter.events (tenant_id text, id int) PARTITION BY RANGE (id);
CREATE TABLE meter.events_1 PARTITION OF meter.events FOR VALUES FROM (0) TO (10);
CREATE TABLE meter.by_number (org bigint, id int);

-- A table has to be protected first; then it may be metered, again and again, by more than one metric.
SELECT amp.meter('meter.missions', 'm_missions');
\echo :SQLSTATE
SELECT count(*) > 0 AS protected FROM amp.protect_schema('meter');
SELECT count(*) > 0 AS protected FROM amp.protect('meter.by_number', 'org');
SELECT amp.meter('meter.missions', 'm_missions');
SELECT amp.meter('meter.missions', 'm_missions');
SELECT amp.meter('meter.missions', 'm_rows');
SELECT amp.meter('meter.events', 'm_events');
SELECT amp.meter('meter.by_number', 'm_number');
SELECT relation, metric FROM amp.meters WHERE relation::text LIKE 'meter.%' ORDER BY relation::text, metric;
SELECT amp.meter('meter.missions', 'Bad Metric');
\echo :SQLSTATE
SELECT amp.meter('meter.missions', NULL);
\echo :SQLSTATE
SELECT amp.meter(NULL, 'm_rows');
\echo :SQLSTATE

-- One row, many rows, none; what is refused or was there already does not count.
\connect - regress_service
SET amp.tenant_id = 'meter1';
INSERT INTO meter.missions (id) VALUES (1);
INSERT INTO meter.missions (id) VALUES (2), (3), (4);
INSERT INTO meter.missions (id) SELECT generate_series(5, 10);
INSERT INTO meter.missions (id) SELECT 1 WHERE false;
INSERT INTO meter.missions (id) VALUES (10), (11) ON CONFLICT DO NOTHING;
INSERT INTO meter.missions (id) VALUES (1);
\echo :SQLSTATE
MERGE INTO meter.missions m USING (VALUES (11), (12)) v (id) ON m.id = v.id WHEN NOT MATCHED THEN INSERT (id) VALUES (v.id);
WITH w AS (INSERT INTO meter.missions (id) VALUES (13) RETURNING id) SELECT id FROM w;
UPDATE meter.missions SET id = 100 WHERE id = 13;
DELETE FROM meter.missions WHERE id = 100;
SELECT count(*) FROM meter.missions;
SELECT amp.usage() #> '{usage,m_missions}' AS m_missions, amp.usage() #> '{usage,m_rows}' AS m_rows;
-- Rolled back, not counted.
BEGIN;
INSERT INTO meter.missions (id) VALUES (50);
SAVEPOINT s;
INSERT INTO meter.missions (id) VALUES (51);
ROLLBACK TO s;
COMMIT;
BEGIN;
INSERT INTO meter.missions (id) VALUES (60), (61);
ROLLBACK;
SELECT amp.usage() #> '{usage,m_missions}' AS m_missions;
-- The other tenant's count is its own; a viewer's refused insert counts for nobody.
SET amp.tenant_id = 'meter2';
INSERT INTO meter.missions (id) VALUES (1), (2);
SELECT amp.usage() #> '{usage,m_missions}' AS m_missions;
INSERT INTO meter.missions VALUES ('meter1', 70);
\echo :SQLSTATE
SELECT amp.usage() #> '{usage,m_missions}' AS m_missions;

-- A partition counts once: through its parent, and by its own name; new ones, too.
\connect - regress_owner
CREATE TABLE meter.events_2 PARTITION OF meter.events FOR VALUES FROM (10) TO (20);
CREATE TABLE meter.events_3 (tenant_id text NOT NULL, id int);
ALTER TABLE meter.events ATTACH PARTITION meter.events_3 FOR VALUES FROM (20) TO (30);
SELECT relation, metric FROM amp.meters WHERE relation::text LIKE 'meter.events%' ORDER BY relation::text;
\connect - regress_service
SET amp.tenant_id = 'meter1';
INSERT INTO meter.events (id) VALUES (1), (11), (21);
SELECT amp.usage() #> '{usage,m_events}' AS m_events;
INSERT INTO meter.events_1 (id) VALUES (2);
INSERT INTO meter.events_2 (id) VALUES (12), (13);
INSERT INTO meter.events_3 (id) VALUES (22);
SELECT amp.usage() #> '{usage,m_events}' AS m_events;
UPDATE meter.events SET id = id + 10 WHERE id < 20;
SELECT amp.usage() #> '{usage,m_events}' AS m_events;
-- By any key.
SET amp.tenant_id = '777';
INSERT INTO meter.by_number (id) VALUES (1), (2);
SELECT amp.usage() #> '{usage,m_number}' AS m_number;

-- COPY FROM is refused under row security. A bulk load by a superuser counts for each row's tenant.
\copy meter.missions FROM /dev/null
\echo :SQLSTATE
\connect - postgres
COPY meter.missions FROM STDIN;
meter1	201
meter1	202
meter2	203
\.
INSERT INTO meter.missions VALUES ('meter1', 204), ('meter2', 205), ('meter2', 206);
COPY meter.events FROM STDIN;
meter2	3
meter2	14
\.
SELECT tenant_id, metric, sum(amount) FROM amp.usage_counters WHERE metric LIKE 'm\_%' GROUP BY 1, 2 ORDER BY 1, 2;

-- Only the owner meters, and nobody calls the trigger by hand.
\connect - regress_stranger
SELECT amp.meter('meter.missions', 'm_mine');
\echo :SQLSTATE
SELECT amp.count_inserted();
\echo :SQLSTATE
\connect - regress_owner
CREATE TABLE meter.own (tenant_id text);
CREATE TRIGGER own AFTER INSERT ON meter.own REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION amp.count_inserted('cost_cents');
INSERT INTO meter.own VALUES ('meter1');
\echo :SQLSTATE

-- The trigger runs with the rights of whoever inserts: a cast of his own gets no others, and a context of alpha bills alpha.
\connect - regress_client
CREATE TYPE pg_temp.key AS (x int);
CREATE FUNCTION pg_temp.as_text(pg_temp.key) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE 'running as %', current_user; RETURN 'meter2'; END $$;
CREATE CAST (pg_temp.key AS text) WITH FUNCTION pg_temp.as_text(pg_temp.key);
CREATE TEMP TABLE mine (tenant_id pg_temp.key);
SELECT amp.mark_caller(), amp.register_protection('mine', 'tenant_id', NULL, NULL, NULL, NULL, false);
SELECT amp.mark_caller(), amp.register_meter('mine', 'm_mine');
CREATE TRIGGER mine AFTER INSERT ON mine REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION amp.count_inserted('m_mine');
INSERT INTO mine VALUES (ROW(1));
\echo :SQLSTATE
\connect - regress_owner
CREATE TABLE meter.forged (tenant_id text, id int);
SELECT count(*) > 0 AS protected FROM amp.protect('meter.forged');
SELECT amp.meter('meter.forged', 'm_forged');
ALTER TABLE meter.forged NO FORCE ROW LEVEL SECURITY;
INSERT INTO meter.forged VALUES ('meter2', 1);
\echo :SQLSTATE
\connect - postgres
SELECT count(*) FROM amp.usage_counters WHERE metric IN ('m_mine', 'm_forged');
