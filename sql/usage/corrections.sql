-- Corrections: what was counted too much is taken out again, by an entry that says why. Nothing is rewritten.

CREATE TABLE amp.usage_corrections (
    id text COLLATE "C" CONSTRAINT usage_corrections_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    metric text COLLATE "C" NOT NULL,
    day date NOT NULL,
    amount bigint NOT NULL CHECK (amount < 0),
    reason text NOT NULL,
    idempotency_key text COLLATE "C",
    corrected_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT usage_corrections_key UNIQUE (tenant_id, idempotency_key)
);
COMMENT ON TABLE amp.usage_corrections IS
'What was taken out of counters, and why; the counters are without it. A session sees its own tenant''s; an operator sees all.';
COMMENT ON COLUMN amp.usage_corrections.amount IS 'Negative; cost_cents in cents.';
CREATE INDEX usage_corrections_tenant_id_idx ON amp.usage_corrections (tenant_id, day);
ALTER TABLE amp.usage_corrections ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.usage_corrections FOR SELECT USING (tenant_id = amp.tenant_id());
CREATE POLICY operator ON amp.usage_corrections FOR SELECT TO amp_operator USING (true);
GRANT SELECT ON amp.usage_corrections TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('amp.usage_corrections', '');

CREATE FUNCTION amp.subtract_usage(tenant text, metric text, day date, amount bigint) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_subtract_usage';
COMMENT ON FUNCTION amp.subtract_usage(text, text, date, bigint) IS
'Internal: takes an amount out of a tenant''s counter. Errors: 22023 it has not counted so much that day.';

CREATE FUNCTION amp.correction_document(correction amp.usage_corrections) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('id', correction.id, 'tenant_id', correction.tenant_id, 'metric', correction.metric, 'day', correction.day,
                              'amount', correction.amount, 'reason', correction.reason, 'corrected_at', amp.utc(correction.corrected_at))
$$;
COMMENT ON FUNCTION amp.correction_document(amp.usage_corrections) IS 'Internal: a correction as correct_usage() returns it.';

CREATE FUNCTION amp.correct_usage_for_caller(
        tenant_id text, metric text, amount bigint, reason text, day date, idempotency_key text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    on_day CONSTANT date := coalesce($5, (now() AT TIME ZONE 'UTC')::date);
    entry amp.usage_corrections;
BEGIN
    PERFORM amp.assert_called_by_operator();
    PERFORM amp.assert_tenant($1);
    PERFORM amp.assert_metric($2);
    IF $3 IS NULL OR $3 >= 0 OR $3 < -1000000000000 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid amount of a correction %s', coalesce($3::text, 'NULL')),
            HINT = 'Pass a negative whole number, at least -1000000000000; what is to be added is recorded with amp.record_usage() or amp.charge().';
    END IF;
    IF $4 IS NULL OR btrim($4) = '' OR length($4) > 1000 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a correction needs a reason of 1 to 1000 characters',
            HINT = 'Say why it is not to be billed.';
    END IF;
    IF NOT isfinite(on_day) OR on_day > today THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid day %s', on_day), HINT = 'Pass the day (UTC) on which it was counted.';
    END IF;
    IF length($6) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'an idempotency key has 1 to 255 characters',
            DETAIL = format('Given: %s characters.', length($6)), HINT = 'Pass the id of the request, or leave it out.';
    END IF;
    INSERT INTO amp.usage_corrections AS c (id, tenant_id, metric, day, amount, reason, idempotency_key)
    VALUES (amp.new_id('cor_'), $1, $2, on_day, $3, btrim($4), $6)
    ON CONFLICT ON CONSTRAINT usage_corrections_key DO NOTHING RETURNING c.* INTO entry;
    IF NOT FOUND THEN
        SELECT c.* INTO STRICT entry FROM amp.usage_corrections c WHERE c.tenant_id = $1 AND c.idempotency_key = $6;
        IF (entry.metric, entry.amount, entry.day) IS DISTINCT FROM ($2, $3, on_day) THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('idempotency key %L was used for something else', $6),
                DETAIL = format('It corrected %s of %s on %s.', entry.amount, entry.metric, entry.day),
                HINT = 'Use a new key for every new correction.';
        END IF;
        RETURN amp.correction_document(entry);
    END IF;
    PERFORM amp.subtract_usage($1, $2, on_day, -$3);
    PERFORM amp.log_change('usage.corrected', $1, amp.correction_document(entry) - 'tenant_id');
    RETURN amp.correction_document(entry);
END
$$;
COMMENT ON FUNCTION amp.correct_usage_for_caller(text, text, bigint, text, date, text) IS 'The work of correct_usage(), for operators.';

CREATE FUNCTION amp.correct_usage(
        tenant_id text, metric text, amount bigint, reason text, day date DEFAULT NULL, idempotency_key text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.correct_usage_for_caller(tenant_id, metric, amount, reason, day, idempotency_key);
END
$$;
COMMENT ON FUNCTION amp.correct_usage(text, text, bigint, text, date, text) IS
'Operator: takes a (negative) amount out of what was counted of a metric on a day (UTC, default today), at most what was, with a reason; cost_cents in cents, which makes room below the limits. Returns {"id", "tenant_id", "metric", "day", "amount", "reason", "corrected_at"}; the same idempotency key again returns the same entry. Errors: TN004, TN002, 22023 bad metric, amount, reason, day or key, or more than was counted, 40P01 deadlock with who is charging near a limit: run it again.';
