-- Recording and reading usage. Transactional: what a transaction recorded is gone if it rolls back.

CREATE FUNCTION amp.add_usage(tenant text, metric text, amount bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    -- Under REPEATABLE READ a slot that moved on since our snapshot would be a serialization failure: a new slot never is.
    IF current_setting('transaction_isolation') = 'read committed' THEN
        UPDATE amp.usage_counters c SET amount = c.amount + add_usage.amount
        WHERE c.tenant_id = tenant AND c.metric = add_usage.metric AND c.day = today AND c.slot = (
            SELECT f.slot FROM amp.usage_counters f
            WHERE f.tenant_id = tenant AND f.metric = add_usage.metric AND f.day = today
            LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED);
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    INSERT INTO amp.usage_counters AS c (tenant_id, metric, day, slot, amount)
    VALUES (tenant, add_usage.metric, today, (random() * 2147483647)::integer, add_usage.amount)
    ON CONFLICT ON CONSTRAINT usage_counters_pkey DO UPDATE SET amount = c.amount + excluded.amount;
END
$$;
COMMENT ON FUNCTION amp.add_usage(text, text, bigint) IS
'Internal: adds to a counter of today (UTC, by the start of the transaction), waiting for nobody.';

CREATE FUNCTION amp.assert_metric(metric text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF metric IS NULL OR metric !~ '^[a-z][a-z0-9_]{0,49}$' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('invalid metric %s', coalesce(quote_literal(left(metric, 50)), 'NULL')),
            HINT = 'Use 1 to 50 characters of a-z, 0-9 and _, such as api_calls or cost_cents.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_metric(text) IS 'Internal: raises 22023 unless the name is a metric''s.';

CREATE FUNCTION amp.record_usage(metric text, amount bigint DEFAULT 1, idempotency_key text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := amp.tenant_id();
    known record;
BEGIN
    PERFORM amp.context_holds(); -- from a DO block no statement has asked yet
    PERFORM amp.assert_metric(metric);
    -- With a bound, nobody fills up a counter for the others: bigint holds nine million times as much.
    IF amount IS NULL OR amount <= 0 OR amount > 1000000000000 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid amount %s', coalesce(amount::text, 'NULL')),
            HINT = 'Pass a whole number from 1 to 1000000000000; cost_cents is in cents.';
    END IF;
    IF idempotency_key IS NOT NULL THEN
        IF length(idempotency_key) NOT BETWEEN 1 AND 255 THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'an idempotency key has 1 to 255 characters',
                DETAIL = format('Given: %s characters.', length(idempotency_key)),
                HINT = 'Pass the id of the request, or leave it out.';
        END IF;
        -- A concurrent transaction with the same key is waited for: it counts once, whichever commits.
        INSERT INTO amp.usage_keys (tenant_id, idempotency_key, metric, amount)
        VALUES (tenant, record_usage.idempotency_key, record_usage.metric, record_usage.amount)
        ON CONFLICT ON CONSTRAINT usage_keys_pkey DO NOTHING;
        IF NOT FOUND THEN
            SELECT k.metric, k.amount INTO known FROM amp.usage_keys k
            WHERE k.tenant_id = tenant AND k.idempotency_key = record_usage.idempotency_key;
            IF (known.metric, known.amount) IS DISTINCT FROM (record_usage.metric, record_usage.amount) THEN
                RAISE EXCEPTION USING ERRCODE = '22023',
                    MESSAGE = format('idempotency key %L was used for something else', idempotency_key),
                    DETAIL = format('It counted %s of %s; now asked for %s of %s.', known.amount, known.metric, amount, metric),
                    HINT = 'Use a new key for every new event.';
            END IF;
            RETURN false;
        END IF;
    END IF;
    PERFORM amp.add_usage(tenant, metric, amount);
    RETURN true;
END
$$;
COMMENT ON FUNCTION amp.record_usage(text, bigint, text) IS
'Adds to a counter of the session''s tenant for today (UTC); exact, transactional, waiting for no other session. True if counted, false if this idempotency key was counted before. Errors: as tenant_id(), 22023 bad metric, amount or key, or a key used for another amount.';

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
    FROM (SELECT c.metric, sum(c.amount) AS total FROM amp.usage_counters c
          WHERE c.tenant_id = tenant AND c.day >= first_day AND c.day < (first_day + interval '1 month')
          GROUP BY c.metric) s;
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
