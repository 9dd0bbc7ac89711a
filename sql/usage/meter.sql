-- Counting rows as they come in, or into a state. The conditions of row triggers count them in the backend, and a statement trigger adds
-- what they have counted: see src/usage/meter.rs.

CREATE TABLE amp.meters (
    relation regclass NOT NULL,
    metric text COLLATE "C" NOT NULL,
    state_column name,
    states text[],
    root regclass NOT NULL,
    CONSTRAINT meters_pkey PRIMARY KEY (relation, metric)
);
COMMENT ON TABLE amp.meters IS
'Which tables'' rows count for which metric: those that are inserted, or, with a state_column, those that enter one of its states. Partitions and children are listed, too, partitions with the table at the root.';
ALTER TABLE amp.meters ENABLE ROW LEVEL SECURITY; -- everybody may read it; against who may write everything
CREATE POLICY everybody ON amp.meters FOR SELECT USING (true);
GRANT SELECT ON amp.meters TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('amp.meters', '');

-- All of these run with the rights of whoever writes. None is leakproof, parallel safe or anything but volatile: they count.
CREATE FUNCTION amp.meter_row(metric text, tenant text, root regclass) RETURNS boolean
    LANGUAGE c COST 1 AS 'MODULE_PATHNAME', 'amp_meter_text';
CREATE FUNCTION amp.meter_row(metric text, tenant uuid, root regclass) RETURNS boolean
    LANGUAGE c COST 1 AS 'MODULE_PATHNAME', 'amp_meter_uuid';
CREATE FUNCTION amp.meter_row(metric text, tenant bigint, root regclass) RETURNS boolean
    LANGUAGE c COST 1 AS 'MODULE_PATHNAME', 'amp_meter_bigint';
COMMENT ON FUNCTION amp.meter_row(text, text, regclass) IS
'Internal: in a trigger''s condition, counts the row and is never true, so that the trigger does not fire.';
COMMENT ON FUNCTION amp.meter_row(text, uuid, regclass) IS 'Internal: meter_row() for tables keyed by uuid.';
COMMENT ON FUNCTION amp.meter_row(text, bigint, regclass) IS 'Internal: meter_row() for tables keyed by bigint.';

CREATE FUNCTION amp.meter_moved(metric text, moved record) RETURNS boolean
    LANGUAGE c COST 1 AS 'MODULE_PATHNAME', 'amp_meter_moved';
COMMENT ON FUNCTION amp.meter_moved(text, record) IS
'Internal: in the condition of a partitioned table''s trigger, takes back the count of a row that was only moved; is never true. Errors: 55000 called from anywhere else.';

CREATE FUNCTION amp.count_inserted() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'amp_count_inserted';
COMMENT ON FUNCTION amp.count_inserted() IS
'Trigger of amp.meter(): adds what the statement has counted to the session''s tenant; past row security to each row''s tenant, which takes a superuser or EXECUTE on amp.add_usage.';

-- For the tables' owners.

CREATE FUNCTION amp.register_meter(relation regclass, metric text, state_column name DEFAULT NULL, states text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_table(relation, amp.caller());
    INSERT INTO amp.meters AS m
    VALUES (register_meter.relation, register_meter.metric, register_meter.state_column, register_meter.states,
            coalesce(pg_partition_root(register_meter.relation), register_meter.relation))
    ON CONFLICT ON CONSTRAINT meters_pkey DO UPDATE SET
        state_column = excluded.state_column, states = excluded.states, root = excluded.root;
END
$$;
COMMENT ON FUNCTION amp.register_meter(regclass, text, name, text[]) IS 'Internal: notes a meter, for the table''s owner.';

CREATE FUNCTION amp.forget_meter(relation regclass, metric text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_owner(relation, amp.caller());
    DELETE FROM amp.meters m WHERE m.relation = forget_meter.relation AND m.metric = forget_meter.metric;
END
$$;
COMMENT ON FUNCTION amp.forget_meter(regclass, text) IS 'Internal: forgets a meter, for the table''s owner.';

CREATE FUNCTION amp.drop_meter_triggers(relation regclass, metric text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own name;
BEGIN
    FOR own IN
        SELECT t.tgname FROM pg_trigger t
        WHERE t.tgrelid = relation AND t.tgfoid = 'amp.count_inserted()'::regprocedure AND t.tgparentid = 0
          AND t.tgname IN ('amp_meter_' || metric, 'amp_count_' || metric, 'amp_enter_' || metric, 'amp_moved_' || metric)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', own, amp.qualified(relation));
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.drop_meter_triggers(regclass, text) IS 'Internal: drops the triggers of a table''s meter.';

CREATE FUNCTION amp.make_meter(meter amp.meters) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named text := amp.qualified(meter.relation);
    is_table boolean := (SELECT c.relkind = 'r' FROM pg_class c WHERE c.oid = meter.relation);
    tenant_column name;
    state_type text;
    entered text;
    stayed text;
    counts text;
BEGIN
    SELECT p.tenant_column INTO STRICT tenant_column FROM amp.protected_tables p WHERE p.relation = meter.relation;
    counts := format('amp.meter_row(%L, NEW.%I, %L::regclass)', meter.metric, tenant_column, amp.qualified(meter.root));
    IF meter.state_column IS NOT NULL THEN
        -- In the column's own collation: what readers take for that state is that state.
        state_type := amp.state_type(meter.relation, meter.state_column, meter.states, 'which states count?');
        -- One by one: = ANY takes an array apart for every row.
        SELECT format('(%s)', string_agg(format('NEW.%I::%s = %L', meter.state_column, state_type, u), ' OR ')),
               format('(%s)', string_agg(format('OLD.%I::%s = %L', meter.state_column, state_type, u), ' OR '))
        INTO STRICT entered, stayed FROM unnest(meter.states) u;
    END IF;
    -- Replaced, not dropped and made: a drop would take the registration along (forget_dropped()).
    -- A statement fires the statement triggers of the table it names, whichever partition its rows are in.
    EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT %s ON %s FOR EACH STATEMENT EXECUTE FUNCTION amp.count_inserted(%L)',
                   'amp_meter_' || meter.metric, CASE WHEN entered IS NOT NULL THEN 'OR UPDATE' END, named, meter.metric);
    -- Row triggers are of the table that a row is in: a partition has its own.
    IF is_table THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION amp.count_inserted(%L)',
                       'amp_count_' || meter.metric, named, concat_ws(' AND ', entered, counts), meter.metric);
        IF entered IS NOT NULL THEN
            EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE ON %s FOR EACH ROW WHEN (%s AND %s IS NOT TRUE AND %s) '
                           'EXECUTE FUNCTION amp.count_inserted(%L)',
                           'amp_enter_' || meter.metric, named, entered, stayed, counts, meter.metric);
        ELSIF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = meter.relation AND t.tgname = 'amp_enter_' || meter.metric) THEN
            EXECUTE format('DROP TRIGGER %I ON %s', 'amp_enter_' || meter.metric, named);
        END IF;
    ELSIF meter.root = meter.relation THEN
        IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = meter.relation AND a.attgenerated = 'v' AND NOT a.attisdropped) THEN
            RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = format('partitioned table %s has a virtual column', meter.relation),
                DETAIL = 'A row with one is another row in its triggers'' conditions, where a meter looks for rows that move.',
                HINT = 'Use a stored column.';
        END IF;
        -- With the row of a partition OLD and NEW say which; with one that was moved they are copies, of no table.
        EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION amp.count_inserted(%L)',
                       'amp_moved_' || meter.metric, named,
                       concat_ws(' AND ', '(OLD.tableoid = 0 OR OLD.tableoid <> NEW.tableoid)', entered, stayed,
                                 format('amp.meter_moved(%L, NEW.*)', meter.metric)),
                       meter.metric);
    END IF;
END
$$;
COMMENT ON FUNCTION amp.make_meter(amp.meters) IS 'Internal: makes the triggers of a table''s meter.';

CREATE FUNCTION amp.meter_part(relation regclass, metric text, state_column name, states text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    meter amp.meters;
BEGIN
    -- Noted first, or the event trigger would take it for a new part again.
    PERFORM amp.mark_caller();
    PERFORM amp.register_meter(relation, metric, state_column, states);
    SELECT m.* INTO STRICT meter FROM amp.meters m WHERE m.relation = meter_part.relation AND m.metric = meter_part.metric;
    PERFORM amp.make_meter(meter);
END
$$;
COMMENT ON FUNCTION amp.meter_part(regclass, text, name, text[]) IS 'Internal: notes and makes the meter of one table or part of one.';

CREATE FUNCTION amp.assert_whole(relation regclass, what text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent regclass;
BEGIN
    SELECT i.inhparent::regclass INTO parent FROM pg_inherits i WHERE i.inhrelid = relation ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is a part of %s', relation, parent),
            DETAIL = format('Its rows are written through the other, too: %s is for all of its parts.', what),
            HINT = 'Call it for the parent.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_whole(regclass, text) IS 'Internal: raises 55000 if a table is a part of another.';

CREATE FUNCTION amp.meter("table" regclass, metric text, "column" name DEFAULT NULL, states text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part regclass;
BEGIN
    PERFORM amp.assert_metric(metric);
    IF metric = 'cost_cents' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'cost_cents counts money, not rows',
            HINT = 'Record it with amp.charge() where it is spent, and meter another metric.';
    END IF;
    PERFORM amp.assert_owner("table");
    IF NOT EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = "table") THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is not protected', "table"),
            HINT = format('Run SELECT * FROM amp.protect(%L) first.', "table");
    END IF;
    PERFORM amp.assert_whole("table", 'a meter');
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', amp.qualified("table"));
    IF "column" IS NOT NULL OR states IS NOT NULL THEN
        PERFORM amp.state_type("table", "column", states, 'which states count?');
    END IF;
    FOR part IN SELECT d.relation FROM amp.descendants("table") d LOOP
        PERFORM amp.meter_part(part, metric, "column", states);
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.meter(regclass, text, name, text[]) IS
'Table owner: from now on every row inserted into a protected table, its partitions and children adds 1 to this metric of its tenant; with column and states every row that enters one of these states, inserted in it or updated from outside of them. Idempotent; called again, it is as called last. Errors: 22023 bad metric, cost_cents or states, 42501 not the owner, 42703 42804 the column, 55000 not protected, or a part of another table, 0A000 a partitioned table with a virtual column.';

CREATE FUNCTION amp.unmeter("table" regclass, metric text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part regclass;
BEGIN
    PERFORM amp.assert_metric(metric);
    PERFORM amp.assert_owner("table");
    IF NOT EXISTS (SELECT FROM amp.meters m WHERE m.relation = "table" AND m.metric = unmeter.metric) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s has no meter for %s', "table", metric),
            HINT = 'See amp.meters.';
    END IF;
    PERFORM amp.assert_whole("table", 'a meter');
    FOR part IN SELECT d.relation FROM amp.descendants("table") d LOOP
        PERFORM amp.drop_meter_triggers(part, metric);
        PERFORM amp.mark_caller();
        PERFORM amp.forget_meter(part, metric);
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.unmeter(regclass, text) IS
'Table owner: the opposite of meter(); what was counted stays. Errors: 22023 bad metric, 42501 not the owner, 55000 no such meter, or a part of another table.';
