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
BEGIN;
CREATE TABLE meter.events_3 (tenant_id text NOT NULL, id int);
ALTER TABLE meter.events ATTACH PARTITION meter.events_3 FOR VALUES FROM (20) TO (30);
COMMIT;
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
-- From here on tables come one by one.
\connect - postgres
DELETE FROM amp.protected_schemas WHERE schema = 'meter';
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
\connect - postgres
BEGIN;
SET LOCAL amp.allow_unsafe_ddl = on;
SET LOCAL client_min_messages = error;
ALTER TABLE meter.forged NO FORCE ROW LEVEL SECURITY;
COMMIT;
\connect - regress_owner
INSERT INTO meter.forged VALUES ('meter2', 1);
\echo :SQLSTATE
\connect - postgres
SELECT count(*) FROM amp.usage_counters WHERE metric IN ('m_mine', 'm_forged');

-- A row that enters a state counts once for every time it enters: from outside of all that are named, or inserted in one.
\connect - regress_owner
CREATE TYPE meter.state AS ENUM ('draft', 'review', 'published', 'featured');
CREATE DOMAIN meter.shown AS meter.state;
CREATE TABLE meter.content (tenant_id text, id int, state meter.shown, body text, PRIMARY KEY (tenant_id, id));
SELECT count(*) > 0 AS protected FROM amp.protect('meter.content');
SELECT amp.meter('meter.content', 'm_bad', 'no_such', '{published}');
\echo :SQLSTATE
SELECT amp.meter('meter.content', 'm_bad', 'state');
\echo :SQLSTATE
SELECT amp.meter('meter.content', 'm_bad', states => '{published}');
\echo :SQLSTATE
SELECT amp.meter('meter.content', 'm_bad', 'state', '{}');
\echo :SQLSTATE
SELECT amp.meter('meter.content', 'm_bad', 'state', '{gone}');
\echo :SQLSTATE
SELECT amp.meter('meter.content', 'm_bad', 'state', ARRAY['published', NULL]);
\echo :SQLSTATE
SELECT amp.meter('meter.content', 'cost_cents');
\echo :SQLSTATE
SELECT count(*) FROM amp.meters WHERE metric IN ('m_bad', 'cost_cents');
SELECT amp.meter('meter.content', 'm_published', 'state', '{published}');
SELECT amp.meter('meter.content', 'm_published', 'state', '{published,featured}');
SELECT relation, metric, state_column, states FROM amp.meters WHERE relation = 'meter.content'::regclass;
CREATE FUNCTION meter.count(metric text) RETURNS bigint LANGUAGE sql AS
    $$ SELECT coalesce((SELECT sum(c.amount) FROM amp.usage_counters c WHERE c.metric = $1), 0) $$;
\connect - regress_service
SET amp.tenant_id = 'meter1';
INSERT INTO meter.content (id, state) VALUES (1, 'draft'), (2, NULL), (3, 'published'), (4, 'review');
SELECT meter.count('m_published') AS inserted_in_one;
UPDATE meter.content SET state = 'published' WHERE id < 4;
SELECT meter.count('m_published') AS two_more_entered;
UPDATE meter.content SET state = 'featured' WHERE id < 4;
UPDATE meter.content SET state = state, body = 'other';
UPDATE meter.content SET state = 'draft';
UPDATE meter.content SET state = 'review' WHERE false;
SELECT meter.count('m_published') AS none_entered;
UPDATE meter.content SET state = 'published' WHERE id = 1;
SELECT meter.count('m_published') AS entered_again;
INSERT INTO meter.content (id, state) VALUES (1, 'draft'), (2, 'draft'), (9, 'published')
    ON CONFLICT (tenant_id, id) DO UPDATE SET state = 'featured';
SELECT meter.count('m_published') AS one_updated_one_inserted;
MERGE INTO meter.content c USING (VALUES (1), (3), (10), (11)) v (id) ON c.id = v.id
    WHEN MATCHED AND c.id = 1 THEN UPDATE SET state = 'published'
    WHEN MATCHED THEN UPDATE SET state = 'featured'
    WHEN NOT MATCHED AND v.id = 10 THEN INSERT (id, state) VALUES (v.id, 'published')
    WHEN NOT MATCHED THEN INSERT (id, state) VALUES (v.id, 'draft');
SELECT meter.count('m_published') AS two_merged;
WITH i AS (INSERT INTO meter.content (id, state) VALUES (20, 'published'), (21, 'draft') RETURNING id),
     u AS (UPDATE meter.content SET state = 'published' WHERE id = 11 RETURNING id)
SELECT count(*) FROM i, u;
SELECT meter.count('m_published') AS two_by_a_with;
BEGIN;
UPDATE meter.content SET state = 'published' WHERE id = 4;
SAVEPOINT s;
UPDATE meter.content SET state = 'published' WHERE id = 21;
ROLLBACK TO s;
COMMIT;
SELECT meter.count('m_published') AS one_kept;

-- Partitioned by the state itself, with columns in another order: a row that moves is no new one, whoever moves it.
\connect - regress_owner
CREATE TABLE meter.posts (gone int, tenant_id text, id int, state text) PARTITION BY LIST (state);
ALTER TABLE meter.posts DROP COLUMN gone;
CREATE TABLE meter.posts_draft PARTITION OF meter.posts FOR VALUES IN ('draft');
CREATE TABLE meter.posts_shown PARTITION OF meter.posts FOR VALUES IN ('published', 'featured') PARTITION BY LIST (state);
CREATE TABLE meter.posts_published PARTITION OF meter.posts_shown FOR VALUES IN ('published');
CREATE TABLE meter.posts_featured (state text, id int, tenant_id text NOT NULL);
ALTER TABLE meter.posts_shown ATTACH PARTITION meter.posts_featured FOR VALUES IN ('featured');
SELECT count(*) > 0 AS protected FROM amp.protect('meter.posts');
SELECT amp.meter('meter.posts', 'm_posts');
SELECT amp.meter('meter.posts', 'm_shown', 'state', '{published,featured}');
SELECT relation, metric, states, root FROM amp.meters WHERE relation::text LIKE 'meter.posts%' ORDER BY relation::text, metric;
SELECT amp.meter('meter.posts_shown', 'm_posts');
\echo :SQLSTATE
CREATE VIEW meter.counted AS SELECT meter.count('m_posts') AS posts, meter.count('m_shown') AS shown;
GRANT SELECT ON meter.counted TO PUBLIC;
ALTER VIEW meter.counted SET (security_invoker = true);
\connect - regress_service
SET amp.tenant_id = 'meter1';
INSERT INTO meter.posts (id, state) VALUES (1, 'draft'), (2, 'draft'), (3, 'published'), (4, 'featured');
TABLE meter.counted;
UPDATE meter.posts SET state = 'published' WHERE id IN (1, 4);
SELECT posts, shown AS one_entered_one_stayed FROM meter.counted;
UPDATE meter.posts SET state = 'draft' WHERE id = 1;
UPDATE meter.posts_shown SET state = 'featured';
SELECT posts, shown AS none_entered FROM meter.counted;
MERGE INTO meter.posts p USING (VALUES (1), (3), (4), (5)) v (id) ON p.id = v.id
    WHEN MATCHED AND p.id = 1 THEN UPDATE SET state = 'featured'
    WHEN MATCHED AND p.id = 3 THEN UPDATE SET state = 'published'
    WHEN MATCHED THEN DELETE
    WHEN NOT MATCHED THEN INSERT (id, state) VALUES (v.id, 'published');
SELECT posts AS one_inserted, shown AS one_of_two_moved_and_it FROM meter.counted;
BEGIN;
UPDATE meter.posts SET state = 'draft' WHERE id = 5;
UPDATE meter.posts SET state = 'published' WHERE id = 5;
INSERT INTO meter.posts (id, state) VALUES (6, 'draft');
COMMIT;
SELECT posts AS one_inserted, shown AS one FROM meter.counted;
WITH i AS (INSERT INTO meter.posts (id, state) SELECT g, 'draft' FROM generate_series(30, 32) g RETURNING id)
UPDATE meter.posts p SET state = 'draft' FROM i WHERE p.id = 3 AND i.id = 31;
SELECT posts AS three_inserted, shown AS none FROM meter.counted;
WITH d AS (DELETE FROM meter.posts WHERE id = 30 RETURNING id),
     i AS (INSERT INTO meter.posts (id, state) SELECT id, 'published' FROM d RETURNING id)
SELECT id FROM i;
SELECT posts AS one_inserted, shown AS one FROM meter.counted;
INSERT INTO meter.posts_featured (id, state) VALUES (40, 'featured');
INSERT INTO meter.posts_shown (id, state) VALUES (41, 'published');
SELECT posts AS two_inserted, shown AS two FROM meter.counted;

-- Triggers that drop and change rows, and that write to metered tables themselves, with savepoints of their own.
\connect - regress_owner
CREATE FUNCTION meter.interfere() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id % 100 = 13 THEN
        RETURN NULL;
    ELSIF NEW.id % 100 = 14 THEN
        NEW.state := 'published';
    ELSIF NEW.id % 100 = 15 THEN
        INSERT INTO meter.posts (id, state) VALUES (NEW.id + 1, 'published');
        BEGIN
            INSERT INTO meter.posts (id, state) VALUES (NEW.id + 2, 'published');
            RAISE 'undone';
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER interfere BEFORE INSERT ON meter.posts_draft FOR EACH ROW EXECUTE FUNCTION meter.interfere();
CREATE TRIGGER interfere BEFORE INSERT ON meter.posts_featured FOR EACH ROW EXECUTE FUNCTION meter.interfere();
CREATE TRIGGER interfere BEFORE INSERT OR UPDATE ON meter.content FOR EACH ROW EXECUTE FUNCTION meter.interfere();
\connect - regress_service
SET amp.tenant_id = 'meter1';
INSERT INTO meter.posts (id, state) VALUES (112, 'draft'), (113, 'draft'), (115, 'draft'), (117, 'draft');
SELECT posts AS four, shown AS one FROM meter.counted;
UPDATE meter.posts SET id = 213, state = 'draft' WHERE id = 40;
SELECT posts AS gone_on_its_way, shown FROM meter.counted;
INSERT INTO meter.posts (id, state) VALUES (50, 'draft');
SELECT posts AS one, shown FROM meter.counted;
SELECT meter.count('m_published') AS before;
INSERT INTO meter.content (id, state) VALUES (313, 'published'), (314, 'draft');
UPDATE meter.content SET state = 'draft' WHERE id = 2;
UPDATE meter.content SET id = 214 WHERE id = 2;
SELECT meter.count('m_published') AS two_changed_on_their_way;

-- Past row security a row counts for its own tenant, the one that it is changed to.
\connect - postgres
SELECT tenant_id, metric, sum(amount) FROM amp.usage_counters WHERE metric IN ('m_posts', 'm_shown') GROUP BY 1, 2 ORDER BY 1, 2;
COPY meter.posts (tenant_id, id, state) FROM STDIN;
meter1	60	draft
meter2	61	published
meter2	62	featured
meter1	63	published
\.
UPDATE meter.posts SET tenant_id = 'meter2' WHERE id = 60;
UPDATE meter.posts SET tenant_id = 'meter2', state = 'published' WHERE id = 60;
UPDATE meter.posts SET tenant_id = 'meter1', state = 'featured' WHERE id IN (61, 62);
SELECT tenant_id, metric, sum(amount) FROM amp.usage_counters WHERE metric IN ('m_posts', 'm_shown') GROUP BY 1, 2 ORDER BY 1, 2;

-- Parts that come and go: a new one counts like its parent, one that is detached counts on, for itself, and may come back.
\connect - regress_owner
CREATE TABLE meter.posts_review PARTITION OF meter.posts FOR VALUES IN ('review');
ALTER TABLE meter.posts DETACH PARTITION meter.posts_draft;
ALTER TABLE meter.posts DETACH PARTITION meter.posts_shown;
CREATE TABLE meter.mine (tenant_id text NOT NULL, id int, state text);
SELECT count(*) > 0 AS protected FROM amp.protect('meter.mine');
SELECT amp.meter('meter.mine', 'm_alone');
ALTER TABLE meter.posts ATTACH PARTITION meter.mine FOR VALUES IN ('mine');
\echo :SQLSTATE
SELECT amp.unmeter('meter.mine', 'm_alone');
ALTER TABLE meter.posts ATTACH PARTITION meter.mine FOR VALUES IN ('mine');
SELECT relation, metric, states, root FROM amp.meters WHERE relation::text LIKE 'meter.posts%' OR relation = 'meter.mine'::regclass
ORDER BY relation::text, metric;
\connect - regress_service
SET amp.tenant_id = '777';
SELECT * FROM meter.counted;
INSERT INTO meter.posts_draft (id, state) VALUES (70, 'draft'), (71, 'draft');
INSERT INTO meter.posts_shown (id, state) VALUES (72, 'published');
UPDATE meter.posts_shown SET state = 'featured';
INSERT INTO meter.posts (id, state) VALUES (73, 'review'), (74, 'mine');
SELECT posts AS five, shown AS one FROM meter.counted;
\connect - regress_owner
BEGIN;
DROP TABLE meter.posts;
SELECT relation, metric, root FROM amp.meters WHERE relation::text LIKE 'meter.posts%' ORDER BY relation::text, metric;
ROLLBACK;
ALTER TABLE meter.posts ATTACH PARTITION meter.posts_draft FOR VALUES IN ('draft');
\connect - regress_service
SET amp.tenant_id = '777';
INSERT INTO meter.posts (id, state) VALUES (75, 'draft');
SELECT posts AS one, shown FROM meter.counted;

-- Without the column that says the state there is no meter.
\connect - regress_owner
BEGIN;
SET LOCAL client_min_messages = warning;
ALTER TABLE meter.content DROP COLUMN state CASCADE;
SELECT count(*) FROM amp.meters WHERE relation = 'meter.content'::regclass;
ROLLBACK;
SELECT amp.meter('meter.content', 'm_published');
SELECT metric, state_column, (SELECT array_agg(tgname ORDER BY tgname) FROM pg_trigger WHERE tgrelid = relation AND tgname LIKE 'amp\_%\_m\_%') AS triggers
FROM amp.meters WHERE relation = 'meter.content'::regclass;

-- An inheritance child is written to directly, and updated through its parent.
\connect - regress_owner
CREATE TABLE meter.base (tenant_id text, id int, state text);
CREATE TABLE meter.special (extra text) INHERITS (meter.base);
SELECT count(*) > 0 AS protected FROM amp.protect('meter.base');
SELECT amp.meter('meter.base', 'm_base', 'state', '{on}');
\connect - regress_service
SET amp.tenant_id = 'meter1';
INSERT INTO meter.base (id, state) VALUES (1, 'on'), (2, 'off');
INSERT INTO meter.special (id, state) VALUES (3, 'on'), (4, 'off');
UPDATE meter.base SET state = 'on';
SELECT meter.count('m_base') AS four;

-- By a uuid.
\connect - regress_operator
SELECT amp.create_tenant('Meter Uuid', 'meter-uuid', id => '0a0a0a0a-0000-4000-8000-00000000000b') ->> 'id' AS id;
\connect - regress_owner
CREATE TABLE meter.by_uuid (tenant_id uuid, id int);
SELECT count(*) > 0 AS protected FROM amp.protect('meter.by_uuid');
SELECT amp.meter('meter.by_uuid', 'm_uuid');
\connect - regress_service
SET amp.tenant_id = '0a0a0a0a-0000-4000-8000-00000000000b';
INSERT INTO meter.by_uuid (id) VALUES (1), (2);
\connect - postgres
INSERT INTO meter.by_uuid VALUES ('0a0a0a0a-0000-4000-8000-00000000000b', 3), ('0a0a0a0a-0000-4000-8000-00000000000c', 3);
SELECT tenant_id, amount FROM amp.usage_counters WHERE metric = 'm_uuid' ORDER BY 1;

-- Without it, nothing counts; what did, stays.
\connect - regress_stranger
SELECT amp.unmeter('meter.posts', 'm_posts');
\echo :SQLSTATE
SELECT amp.mark_caller(), amp.forget_meter('meter.posts', 'm_posts');
\echo :SQLSTATE
\connect - regress_owner
SELECT amp.unmeter('meter.posts_review', 'm_posts');
\echo :SQLSTATE
SELECT amp.unmeter('meter.posts', 'm_posts');
SELECT amp.unmeter('meter.posts', 'm_posts');
\echo :SQLSTATE
SELECT relation, metric FROM amp.meters WHERE relation::text LIKE 'meter.posts%' ORDER BY relation::text, metric;
SELECT tgrelid::regclass AS relation, tgname FROM pg_trigger WHERE tgname LIKE 'amp\_%\_m\_posts' ORDER BY 1, 2;
\connect - regress_service
SET amp.tenant_id = 'meter1';
INSERT INTO meter.posts (id, state) VALUES (80, 'review');
SELECT meter.count('m_posts');
