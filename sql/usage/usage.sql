-- Recording and reading usage. Transactional, unless it is asked to be immediate: what a transaction recorded is gone if it rolls back.

CREATE FUNCTION amp.add_usage(tenant text, metric text, amount bigint) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_add_usage';
COMMENT ON FUNCTION amp.add_usage(text, text, bigint) IS
'Internal: adds to a tenant''s counter of today (UTC, by the start of the transaction); cost_cents as charge() does. Errors: as that, 22023 bad metric.';

CREATE FUNCTION amp.record_usage(
        metric text, amount bigint DEFAULT 1, idempotency_key text DEFAULT NULL, durability text DEFAULT 'transaction') RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_record_usage';
COMMENT ON FUNCTION amp.record_usage(text, bigint, text, text) IS
'Adds to a counter of the session''s tenant for today (UTC, by the start of the transaction); exact, waiting for no other session. True if counted, false if this idempotency key was counted before; a key that somebody else''s open transaction counts is waited for. durability transaction: gone if the transaction rolls back; immediate: kept whatever becomes of it, in the tables within a second, or lost if the server crashes before (preloaded; not for cost_cents; keys of 255 bytes). Errors: as tenant_id(), 22023 bad metric, amount, key or durability, or a key used for another amount, 42704 a metric that is not registered where they have to be, immediate: 55000 without preload, or in a transaction that counts the key or creates the tenant, 25006 on a standby, 53400 no room or no worker in ten seconds; cost_cents: as charge().';

CREATE FUNCTION amp.charge(cents bigint, idempotency_key text DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_charge';
COMMENT ON FUNCTION amp.charge(bigint, text) IS
'Spends cents of the session''s tenant, for today and this month (UTC, by the start of the transaction): adds to cost_cents, gone if the transaction rolls back. Never beyond a hard limit, at any concurrency; without hard_stop_at_limit limits only alert. Waits for other sessions only where what is left is not enough without what they have under way. True if charged, false if this idempotency key was charged before. Errors: as tenant_id(), TN005 a limit is reached (with limit, spent, asked and the end of the period), 22023 bad amount or key, 40P01 deadlock: run it again.';

CREATE FUNCTION amp.generation_allowed() RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'amp_generation_allowed';
COMMENT ON FUNCTION amp.generation_allowed() IS
'Whether the session''s tenant may go on with what costs: false when a limit with hard_stop_at_limit is used up. Errors: as tenant_id().';

CREATE FUNCTION amp.assert_metric(metric text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF metric IS NULL OR metric !~ '^[a-z][a-z0-9_]{0,49}$' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('invalid metric %s', coalesce(quote_literal(left(metric, 50)), 'NULL')),
            HINT = 'Use 1 to 50 characters of a-z, 0-9 and _, such as api_calls or cost_cents.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_metric(text) IS 'Internal: raises 22023 unless the name is a metric''s.';

CREATE FUNCTION amp.add_metric(name text, description text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    PERFORM amp.assert_metric(name);
    IF description IS NULL OR btrim(description) = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('metric "%s" needs a description', name),
            HINT = 'Say in a few words what it counts.';
    END IF;
    INSERT INTO amp.metrics AS m (name, description) VALUES (add_metric.name, btrim(add_metric.description))
    ON CONFLICT ON CONSTRAINT metrics_pkey DO UPDATE SET description = excluded.description WHERE NOT m.built_in;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '23505', MESSAGE = format('metric "%s" is built in', name), HINT = 'See amp.metrics.';
    END IF;
    PERFORM amp.log_change('metric.registered', NULL, jsonb_build_object('name', name));
END
$$;
COMMENT ON FUNCTION amp.add_metric(text, text) IS 'The work of register_metric(), for operators.';

CREATE FUNCTION amp.register_metric(name text, description text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.add_metric(name, description);
END
$$;
COMMENT ON FUNCTION amp.register_metric(text, text) IS
'Operator: gives a metric a description, and lets it be counted where amp.open_metrics is off. Again: another description. Errors: TN004, 22023 bad name or description, 23505 built in.';

CREATE FUNCTION amp.month_of(period text) RETURNS date
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    month text := coalesce(period, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM'));
BEGIN
    IF month !~ '^[0-9]{4}-(0[1-9]|1[0-2])$' OR month < '0001' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid period %L', left(month, 20)),
            HINT = 'Pass a calendar month (UTC) as YYYY-MM, such as 2024-01.';
    END IF;
    RETURN to_date(month, 'YYYY-MM');
END
$$;
COMMENT ON FUNCTION amp.month_of(text) IS 'Internal: the first day of a month given as YYYY-MM; of this one (UTC) if none is. Errors: 22023.';

CREATE FUNCTION amp.usage_document(tenant text, period text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first_day date;
    totals jsonb;
    monthly_limit jsonb;
BEGIN
    PERFORM amp.assert_tenant(tenant);
    first_day := amp.month_of(usage_document.period);
    SELECT '{"missions_created": 0, "content_generated": 0, "content_published": 0, "api_calls": 0,
             "llm_tokens_used": 0, "images_generated": 0, "cost_cents": 0}'::jsonb
           || coalesce(jsonb_object_agg(s.metric, s.total), '{}')
    INTO totals
    FROM (SELECT m.metric, sum(m.amount) AS total FROM amp.monthly_usage m
          WHERE m.tenant_id = tenant AND m.month = first_day GROUP BY m.metric) s;
    SELECT c.config #> '{cost_limits,monthly_limit_cents}' INTO monthly_limit FROM amp.tenant_configs c WHERE c.tenant_id = tenant;
    IF jsonb_typeof(monthly_limit) IS DISTINCT FROM 'number' OR monthly_limit::numeric <= 0 THEN
        monthly_limit := 'null';
    END IF;
    RETURN jsonb_build_object(
        'tenant_id', tenant, 'period', to_char(first_day, 'YYYY-MM'), 'usage', totals,
        'limits', jsonb_build_object(
            'monthly_limit_cents', monthly_limit,
            'percent_used', CASE WHEN monthly_limit <> 'null'
                THEN round((totals->>'cost_cents')::numeric * 100 / monthly_limit::numeric, 2) END));
END
$$;
COMMENT ON FUNCTION amp.usage_document(text, text) IS 'Internal: the work of usage().';

CREATE FUNCTION amp.usage_document_for_caller(tenant_id text, period text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF amp.called_by_operator() AND tenant_id IS NOT NULL THEN
        RETURN amp.usage_document(tenant_id, period);
    END IF;
    RETURN amp.usage_document(amp.own_tenant(tenant_id), period);
END
$$;
COMMENT ON FUNCTION amp.usage_document_for_caller(text, text) IS 'usage(), by the rights of who called that.';

CREATE FUNCTION amp.usage(tenant_id text DEFAULT NULL, period text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.usage_document_for_caller(tenant_id, period);
END
$$;
COMMENT ON FUNCTION amp.usage(text, text) IS
'A month''s usage (period YYYY-MM in UTC, default this month) of the session''s tenant, or of any for an operator: {"tenant_id", "period", "usage": {metric: amount}, "limits": {"monthly_limit_cents", "percent_used"}}; costs in cents; limits are null where none is configured. Errors: TN001, TN002, TN003 another tenant, 22023 bad period.';
