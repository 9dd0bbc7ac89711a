-- Compaction: a day that is over needs one row a counter, not one a slot. Nobody who counts waits for it: it takes slots that are free.

CREATE FUNCTION amp.try_usage_slot(tenant text, slot integer) RETURNS boolean
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_try_usage_slot';
COMMENT ON FUNCTION amp.try_usage_slot(text, integer) IS
'Internal: takes a slot of a tenant''s counters until the transaction ends; false if another transaction has it.';

CREATE FUNCTION amp.compact_tenant_for_caller(tenant text, before date) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    over_before CONSTANT date := date_trunc('month', before)::date;
    slot_number integer;
    gone bigint;
    kept bigint;
BEGIN
    PERFORM amp.assert_called_by_operator();
    FOR slot_number IN
        SELECT 0 UNION
        SELECT c.slot FROM amp.usage_counters c WHERE c.tenant_id = tenant AND c.day < before UNION
        SELECT m.slot FROM amp.monthly_usage m WHERE m.tenant_id = tenant AND m.month < over_before
        ORDER BY 1
    LOOP
        IF NOT amp.try_usage_slot(tenant, slot_number) THEN
            RETURN NULL;
        END IF;
    END LOOP;
    WITH several AS (
        SELECT c.metric, c.day FROM amp.usage_counters c WHERE c.tenant_id = tenant AND c.day < before
        GROUP BY c.metric, c.day HAVING count(*) > 1
    ), taken AS (
        DELETE FROM amp.usage_counters c USING several s
        WHERE c.tenant_id = tenant AND (c.metric, c.day) = (s.metric, s.day) RETURNING c.metric, c.day, c.amount
    ), put AS (
        INSERT INTO amp.usage_counters (tenant_id, metric, day, slot, amount)
        SELECT tenant, t.metric, t.day, 0, sum(t.amount) FROM taken t GROUP BY t.metric, t.day RETURNING 1
    )
    SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM put) INTO gone, kept;
    WITH several AS (
        SELECT m.metric, m.month FROM amp.monthly_usage m WHERE m.tenant_id = tenant AND m.month < over_before
        GROUP BY m.metric, m.month HAVING count(*) > 1
    ), taken AS (
        DELETE FROM amp.monthly_usage m USING several s
        WHERE m.tenant_id = tenant AND (m.metric, m.month) = (s.metric, s.month) RETURNING m.metric, m.month, m.amount
    )
    INSERT INTO amp.monthly_usage (tenant_id, month, metric, slot, amount)
    SELECT tenant, t.month, t.metric, 0, sum(t.amount) FROM taken t GROUP BY t.month, t.metric;
    DELETE FROM amp.spending_watches w WHERE w.tenant_id = tenant AND left(w.period, 7) < to_char(over_before, 'YYYY-MM');
    RETURN gone - kept;
END
$$;
COMMENT ON FUNCTION amp.compact_tenant_for_caller(text, date) IS
'Internal, for operators: one tenant''s part of compact_usage(): how many rows of counters it saved; NULL if somebody is counting in one of the slots.';

CREATE FUNCTION amp.compactable_tenants(before date) RETURNS SETOF text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    RETURN QUERY
        SELECT c.tenant_id FROM amp.usage_counters c WHERE c.day < before AND c.slot <> 0
        UNION SELECT m.tenant_id FROM amp.monthly_usage m WHERE m.month < date_trunc('month', before) AND m.slot <> 0
        ORDER BY 1;
END
$$;
COMMENT ON FUNCTION amp.compactable_tenants(date) IS 'Internal, for operators: the tenants that compact_usage() has something to do for.';

CREATE FUNCTION amp.forget_usage_keys(before timestamptz, at_most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone bigint;
BEGIN
    PERFORM amp.assert_called_by_operator();
    DELETE FROM amp.usage_keys k WHERE k.ctid = ANY (ARRAY(
        SELECT o.ctid FROM amp.usage_keys o WHERE o.recorded_at < before LIMIT at_most));
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;
COMMENT ON FUNCTION amp.forget_usage_keys(timestamptz, integer) IS 'Internal, for operators: deletes some old idempotency keys.';

-- A procedure that commits has no SET of its own: nothing here is looked up by a search_path, as in purge_tenant().
CREATE PROCEDURE amp.compact_usage(before date DEFAULT NULL, keys_before timestamptz DEFAULT NULL, INOUT compacted jsonb DEFAULT NULL)
    LANGUAGE plpgsql AS $$
DECLARE
    until date;
    tenants text[];
    saved bigint := 0;
    busy bigint := 0;
    keys bigint := 0;
    result bigint;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    -- Whoever began yesterday may still be counting for yesterday.
    until := pg_catalog.date_mii((now() AT TIME ZONE 'UTC')::date, 1);
    IF before > until THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('days before %s cannot be compacted yet', before),
            HINT = format('Pass a day up to %s (UTC), or leave it out.', until);
    END IF;
    until := coalesce(before, until);
    PERFORM amp.mark_caller();
    tenants := ARRAY(SELECT t FROM amp.compactable_tenants(until) t);
    COMMIT;
    FOR n IN 1..coalesce(pg_catalog.array_length(tenants, 1), 0) LOOP
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        PERFORM amp.mark_caller();
        result := amp.compact_tenant_for_caller(tenants[n], until);
        IF result IS NULL THEN
            busy := busy + 1;
        ELSE
            saved := saved + result;
        END IF;
        COMMIT;
    END LOOP;
    WHILE keys_before IS NOT NULL LOOP
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        PERFORM amp.mark_caller();
        result := amp.forget_usage_keys(keys_before, 10000);
        keys := keys + result;
        COMMIT;
        EXIT WHEN result = 0;
    END LOOP;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    compacted := jsonb_build_object('rows', saved, 'busy_tenants', busy, 'keys', keys);
END
$$;
COMMENT ON PROCEDURE amp.compact_usage(date, timestamptz, jsonb) IS
'Operator: merges the slots of days before that one (UTC, default yesterday) into one row for each counter and day, a tenant a transaction, and forgets idempotency keys recorded before keys_before (default: none). Waits for nobody, and nobody waits for it: a tenant whose slots are being written is left for the next time. compacted is {"rows": saved, "busy_tenants", "keys"}. For any scheduler, once a day. Errors: TN004, 22023 a day that is not over, 2D000 inside of a transaction.';
