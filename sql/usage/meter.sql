-- Counting rows as they come in: a statement trigger with a transition table, once a statement, never once a row.

CREATE TABLE amp.meters (
    relation regclass NOT NULL,
    metric text COLLATE "C" NOT NULL,
    CONSTRAINT meters_pkey PRIMARY KEY (relation, metric)
);
COMMENT ON TABLE amp.meters IS 'Which tables'' inserts count for which metric; partitions are listed, too.';
ALTER TABLE amp.meters ENABLE ROW LEVEL SECURITY; -- everybody may read it; against who may write everything
CREATE POLICY everybody ON amp.meters FOR SELECT USING (true);
GRANT SELECT ON amp.meters TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('amp.meters', '');

-- With the rights of whoever inserts, for it touches the table's own columns and types: those are its owner's to define.
CREATE FUNCTION amp.count_inserted() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text;
    rows_inserted bigint;
    tenant_column name;
BEGIN
    IF row_security_active(TG_RELID) THEN
        -- The policies let in rows of the session's tenant only.
        SELECT count(*) INTO rows_inserted FROM inserted;
        IF rows_inserted > 0 THEN
            PERFORM amp.record_usage(TG_ARGV[0], rows_inserted);
        END IF;
        RETURN NULL;
    END IF;
    -- A load past row security: the rows may be of many tenants. add_usage() is not for everybody.
    SELECT p.tenant_column INTO tenant_column FROM amp.protected_tables p WHERE p.relation = TG_RELID;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is not protected', TG_RELID::regclass),
            HINT = 'Use amp.protect() and amp.meter(); drop triggers that were made by hand.';
    END IF;
    FOR tenant, rows_inserted IN
        EXECUTE format('SELECT i.%I::text, count(*) FROM inserted i GROUP BY 1', tenant_column)
    LOOP
        PERFORM amp.add_usage(tenant, TG_ARGV[0], rows_inserted);
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION amp.count_inserted() IS
'Trigger of amp.meter(): adds the inserted rows to the session''s tenant; past row security to each row''s tenant, which takes a superuser or EXECUTE on amp.add_usage.';

CREATE FUNCTION amp.register_meter(relation regclass, metric text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_table(relation, amp.caller());
    INSERT INTO amp.meters VALUES (register_meter.relation, register_meter.metric) ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION amp.register_meter(regclass, text) IS 'Internal: notes a meter, for the table''s owner.';

CREATE FUNCTION amp.meter("table" regclass, metric text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation regclass;
    trigger_name name := 'amp_meter_' || metric;
BEGIN
    PERFORM amp.assert_metric(metric);
    PERFORM amp.assert_owner("table");
    IF NOT EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = "table") THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is not protected', "table"),
            HINT = format('Run SELECT * FROM amp.protect(%L) first.', "table");
    END IF;
    -- A statement fires the triggers of the table it names: each partition has its own, for rows that go to it directly.
    FOR relation IN SELECT d.relation FROM amp.descendants("table") d LOOP
        PERFORM amp.mark_caller();
        PERFORM amp.register_meter(relation, metric);
        IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = trigger_name) THEN
            EXECUTE format('CREATE TRIGGER %I AFTER INSERT ON %s REFERENCING NEW TABLE AS inserted '
                           'FOR EACH STATEMENT EXECUTE FUNCTION amp.count_inserted(%L)',
                           trigger_name, amp.qualified(relation), metric);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.meter(regclass, text) IS
'Table owner: from now on every row inserted into a protected table adds 1 to this metric of its tenant. Idempotent. Errors: 22023 bad metric, 42501 not the owner, 55000 not protected.';
