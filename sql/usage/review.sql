-- The review of a month: what every tenant used, against its limit and the month before. For an operator all tenants, for an admin of
-- an account those of his account.

CREATE FUNCTION amp.reviewed_account(account_id text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF amp.called_by_operator() THEN
        IF account_id IS NOT NULL AND NOT EXISTS (SELECT FROM amp.accounts a WHERE a.id = reviewed_account.account_id) THEN
            RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('account %L is unknown', left(account_id, 64)),
                HINT = 'See amp.accounts.';
        END IF;
        RETURN account_id;
    ELSIF amp.user_id() IS NULL THEN
        PERFORM amp.assert_called_by_operator();
    END IF;
    PERFORM amp.assert_called_by_session();
    RETURN amp.managed_account(account_id);
END
$$;
COMMENT ON FUNCTION amp.reviewed_account(text) IS
'Internal: the account whose tenants may be reviewed by who said mark_caller(); NULL for all tenants, which is for operators. Errors: as managed_account(), TN004 neither operator nor user, 42704.';

CREATE FUNCTION amp.still_in_account(tenants text[], account text) RETURNS text[]
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_still_in_account';
COMMENT ON FUNCTION amp.still_in_account(text[], text) IS
'Internal: those of the tenants that are in the account now, whatever the transaction''s snapshot shows: one that was moved away is gone.';

-- One pass over two months. A plan for any two months would be one for a sliver of the table, hence the setting.
CREATE FUNCTION amp.reviewed_usage(first_day date, account text) RETURNS TABLE (
        tenant_id text, name text, slug text, status text, account_id text, usage jsonb, cost_cents numeric, monthly_limit_cents numeric,
        percent_used numeric, hard_stop boolean, alerts jsonb, previous_cost_cents numeric, trend_percent numeric, share_percent numeric)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    previous_day CONSTANT date := first_day - interval '1 month';
    month CONSTANT text := to_char(first_day, 'YYYY-MM');
    tenants CONSTANT text[] := amp.still_in_account(ARRAY(SELECT t.id FROM amp.tenants t WHERE t.account_id = account), account);
BEGIN
    RETURN QUERY
    WITH counted AS (
        SELECT m.tenant_id, m.metric,
               sum(m.amount) FILTER (WHERE m.month = first_day) AS amount, sum(m.amount) FILTER (WHERE m.month = previous_day) AS previous
        FROM amp.monthly_usage m
        WHERE m.month IN (first_day, previous_day) AND (m.month = first_day OR m.metric = 'cost_cents')
          AND (account IS NULL OR m.tenant_id = ANY (tenants))
        GROUP BY m.tenant_id, m.metric
    ), ranked AS (
        SELECT c.tenant_id, c.metric, c.amount, c.previous, known.metric IS NOT NULL AS known,
               row_number() OVER (PARTITION BY c.tenant_id, known.metric IS NULL ORDER BY c.metric) AS place
        FROM counted c LEFT JOIN unnest(ARRAY['missions_created', 'content_generated', 'content_published', 'api_calls',
                                              'llm_tokens_used', 'images_generated', 'cost_cents']) known(metric) USING (metric)
    ), used AS (
        -- Names of metrics are the tenants' own: whoever makes up a million of them does not fill everybody's review.
        SELECT r.tenant_id, jsonb_object_agg(r.metric, r.amount) FILTER (WHERE r.amount IS NOT NULL AND (r.known OR r.place <= 100)) AS usage,
               coalesce(max(r.amount) FILTER (WHERE r.metric = 'cost_cents'), 0) AS cost,
               coalesce(max(r.previous) FILTER (WHERE r.metric = 'cost_cents'), 0) AS previous
        FROM ranked r GROUP BY r.tenant_id
    ), alerted AS (
        SELECT a.tenant_id, jsonb_agg(jsonb_build_object(
                   'period', a.period, 'threshold_percent', a.threshold_percent, 'threshold_cents', a.threshold_cents,
                   'limit_cents', a.limit_cents, 'spent_cents', a.spent_cents, 'hard_stop', a.hard_stop,
                   'raised_at', to_char(a.raised_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) ORDER BY a.raised_at, a.period, a.threshold_percent, a.threshold_cents) AS alerts
        FROM amp.alerts a WHERE left(a.period, 7) = month AND (account IS NULL OR a.tenant_id = ANY (tenants))
        GROUP BY a.tenant_id
    ), limits AS (
        -- As usage(): a limit of nothing is none.
        SELECT c.tenant_id, jsonb_path_query_first(c.config, '$.cost_limits.monthly_limit_cents ? (@ > 0)')::numeric AS monthly,
               coalesce(c.config #> '{cost_limits,hard_stop_at_limit}' = 'true', false) AS hard_stop
        FROM amp.tenant_configs c WHERE c.config ? 'cost_limits'
    ), shown AS (
        SELECT t.id, t.name, t.slug, t.status, t.account_id, u.usage, coalesce(u.cost, 0) AS cost, coalesce(u.previous, 0) AS previous,
               sum(coalesce(u.cost, 0)) OVER () AS total
        FROM amp.tenants t LEFT JOIN used u ON u.tenant_id = t.id
        WHERE (account IS NULL OR t.id = ANY (tenants)) AND (t.status <> 'deleted' OR u.cost <> 0)
    )
    SELECT s.id, s.name, s.slug, s.status, s.account_id,
           '{"missions_created": 0, "content_generated": 0, "content_published": 0, "api_calls": 0,
             "llm_tokens_used": 0, "images_generated": 0, "cost_cents": 0}'::jsonb || coalesce(s.usage, '{}'),
           s.cost, l.monthly, round(s.cost * 100 / l.monthly, 2), coalesce(l.hard_stop, false), coalesce(a.alerts, '[]'), s.previous,
           CASE WHEN s.previous > 0 THEN round((s.cost - s.previous) * 100 / s.previous, 2) END,
           CASE WHEN s.total > 0 THEN round(s.cost * 100 / s.total, 2) END
    FROM shown s LEFT JOIN limits l ON l.tenant_id = s.id LEFT JOIN alerted a ON a.tenant_id = s.id
    ORDER BY s.cost DESC, s.id;
END
$$;
COMMENT ON FUNCTION amp.reviewed_usage(date, text) IS
'Internal: the work of usage_review() and usage_report(), for the month that begins on this day and the tenants of this account (NULL: all).';

CREATE FUNCTION amp.usage_review_for_caller(period text, account text) RETURNS TABLE (
        tenant_id text, name text, slug text, status text, account_id text, usage jsonb, cost_cents numeric, monthly_limit_cents numeric,
        percent_used numeric, hard_stop boolean, alerts jsonb, previous_cost_cents numeric, trend_percent numeric, share_percent numeric)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT r.* FROM amp.reviewed_account(account) a(id) CROSS JOIN LATERAL amp.reviewed_usage(amp.month_of(period), a.id) r;
END
$$;
COMMENT ON FUNCTION amp.usage_review_for_caller(text, text) IS 'usage_review(), by the rights of who called that.';

CREATE FUNCTION amp.usage_review(period text DEFAULT NULL, account_id text DEFAULT NULL) RETURNS TABLE (
        tenant_id text, name text, slug text, status text, account_id text, usage jsonb, cost_cents numeric, monthly_limit_cents numeric,
        percent_used numeric, hard_stop boolean, alerts jsonb, previous_cost_cents numeric, trend_percent numeric, share_percent numeric)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT amp.mark_caller();
    SELECT r.* FROM amp.usage_review_for_caller(usage_review.period, usage_review.account_id) r
$$;
COMMENT ON FUNCTION amp.usage_review(text, text) IS
'Operator, or an admin of an account for its tenants (the only account that he is an admin of, unless it is named): a month''s usage (period YYYY-MM in UTC, default this month), a row a tenant, the most expensive first; deleted tenants only if they cost something. usage has the seven metrics and up to 100 others; the limit is the present one, alerts are those raised for the month and its days; trend_percent is against the month before, NULL where that cost nothing; share_percent is the part of the cost of all rows. Errors: TN003 no member of the account, or a credential for one tenant, TN004 neither operator nor admin, 22023 bad period, or several accounts, 42704 unknown account.';
