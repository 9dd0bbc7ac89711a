-- Spending limits, as charging reads them. They are part of a tenant's configuration: amp.update_config() changes them.

CREATE FUNCTION amp.store_limits(tenant text, limits jsonb, is_new boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    monthly bigint := (limits ->> 'monthly_limit_cents')::bigint;
    daily bigint := (limits ->> 'daily_limit_cents')::bigint;
    percent integer := (limits ->> 'alert_threshold_percent')::integer;
    hard boolean := coalesce((limits ->> 'hard_stop_at_limit')::boolean, false);
BEGIN
    -- Nobody has spent anything of a tenant that is just coming into being: nothing to be settled.
    INSERT INTO amp.spending_limits AS s VALUES (tenant, monthly, daily, percent, hard, CASE WHEN is_new THEN 0 ELSE 1 END)
    ON CONFLICT ON CONSTRAINT spending_limits_pkey DO UPDATE SET
        monthly_limit_cents = monthly, daily_limit_cents = daily, alert_threshold_percent = percent, hard_stop = hard,
        version = s.version + CASE
            WHEN hard AND (NOT s.hard_stop OR monthly < s.monthly_limit_cents OR daily < s.daily_limit_cents
                           OR monthly IS NOT NULL AND s.monthly_limit_cents IS NULL OR daily IS NOT NULL AND s.daily_limit_cents IS NULL)
            THEN 1 ELSE 0 END
    WHERE (s.monthly_limit_cents, s.daily_limit_cents, s.alert_threshold_percent, s.hard_stop) IS DISTINCT FROM (monthly, daily, percent, hard);
    IF FOUND AND NOT is_new THEN
        -- What was within a slot's part of a threshold may not be any more.
        INSERT INTO amp.spending_watches
        SELECT tenant, p.period, greatest(ceil(p.cents * t.percent / 100.0), 1)::bigint
        FROM (VALUES (to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM'), monthly), (to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD'), daily)) p(period, cents),
             unnest(ARRAY[percent, 100]) t(percent)
        WHERE p.cents IS NOT NULL AND t.percent IS NOT NULL;
    END IF;
    IF is_new THEN
        INSERT INTO amp.settled_limits VALUES (tenant, 0) ON CONFLICT DO NOTHING;
    END IF;
    DELETE FROM amp.settled_limits d USING amp.spending_limits s
    WHERE d.tenant_id = tenant AND s.tenant_id = tenant AND d.version < s.version;
END
$$;
COMMENT ON FUNCTION amp.store_limits(text, jsonb, boolean) IS
'Internal: stores a tenant''s cost_limits as typed columns, for whoever holds the row of the configuration.';

CREATE FUNCTION amp.require_spending() RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'amp_require_spending';
COMMENT ON FUNCTION amp.require_spending() IS
'Policy of tables protected with spend => true: true, or TN005 when a limit of the session''s tenant with hard_stop_at_limit is used up.';
