-- The review as a page to look at: src/usage/report/report.html.

CREATE FUNCTION amp.usage_page(report bytea) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'amp_usage_page';
COMMENT ON FUNCTION amp.usage_page(bytea) IS
'Internal: the page of a report, which is JSON in UTF-8 (src/usage/report/mod.rs says which); all of it is ASCII, whatever is in the report.';

-- Amounts are texts: they are of any length, and JSON's numbers are not.
CREATE FUNCTION amp.usage_report_for_caller(period text, account_id text) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account CONSTANT text := amp.reviewed_account(account_id);
    first_day CONSTANT date := amp.month_of(period);
    report json;
BEGIN
    WITH reviewed AS MATERIALIZED (
        SELECT r.*, l.daily, l.threshold, row_number() OVER (ORDER BY r.cost_cents DESC, r.tenant_id) AS place,
               CASE WHEN r.monthly_limit_cents IS NULL THEN 'no_limit'
                    WHEN r.cost_cents >= r.monthly_limit_cents THEN 'over_limit'
                    WHEN r.cost_cents * 100 >= r.monthly_limit_cents * l.threshold THEN 'over_threshold'
                    ELSE 'within' END AS state
        FROM amp.reviewed_usage(first_day, account) r LEFT JOIN (
            SELECT c.tenant_id, jsonb_path_query_first(c.config, '$.cost_limits.daily_limit_cents ? (@ > 0)')::numeric AS daily,
                   jsonb_path_query_first(c.config, '$.cost_limits.alert_threshold_percent ? (@ > 0)')::numeric AS threshold
            FROM amp.tenant_configs c WHERE c.config ? 'cost_limits') l ON l.tenant_id = r.tenant_id
    )
    SELECT json_build_object(
        'year', extract(year FROM first_day), 'month', extract(month FROM first_day),
        'days', (first_day + interval '1 month')::date - first_day,
        -- Of a month that is not over, the days there have been.
        'days_past', least(greatest((now() AT TIME ZONE 'UTC')::date - first_day + 1, 0), (first_day + interval '1 month')::date - first_day),
        'generated_at', amp.utc(now()),
        'account', (SELECT json_build_object('id', a.id, 'name', a.name) FROM amp.accounts a WHERE a.id = account),
        'totals', (
            SELECT json_build_object(
                'tenants', count(*), 'cost', coalesce(sum(r.cost_cents), 0)::text, 'previous', coalesce(sum(r.previous_cost_cents), 0)::text,
                'trend', CASE WHEN sum(r.previous_cost_cents) > 0
                    THEN round((sum(r.cost_cents) - sum(r.previous_cost_cents)) * 100 / sum(r.previous_cost_cents), 2)::text END,
                'limited', count(r.monthly_limit_cents),
                'over_threshold', count(*) FILTER (WHERE r.state = 'over_threshold'),
                'over_limit', count(*) FILTER (WHERE r.state = 'over_limit'))
            FROM reviewed r),
        'tenants', (
            SELECT coalesce(json_agg(json_build_object(
                'id', r.tenant_id, 'name', r.name, 'status', r.status, 'account_id', r.account_id, 'state', r.state,
                'usage', ARRAY(SELECT r.usage ->> u.metric
                               FROM unnest(ARRAY['missions_created', 'content_generated', 'content_published', 'api_calls',
                                                 'llm_tokens_used', 'images_generated']) WITH ORDINALITY u(metric, place) ORDER BY u.place),
                'cost', r.cost_cents::text, 'share', r.share_percent::text, 'previous', r.previous_cost_cents::text, 'trend', r.trend_percent::text,
                'limit', r.monthly_limit_cents::text, 'daily_limit', r.daily::text, 'threshold', r.threshold::text,
                'used', r.percent_used::text, 'hard_stop', r.hard_stop, 'alerts', r.alerts,
                'by_day', CASE WHEN r.place <= 100 THEN (
                    SELECT json_agg(json_build_array(extract(day FROM d.day), d.cents::text) ORDER BY d.day)
                    FROM (SELECT c.day, sum(c.amount) AS cents FROM amp.usage_counters c
                          WHERE c.tenant_id = r.tenant_id AND c.metric = 'cost_cents'
                            AND c.day >= first_day AND c.day < first_day + interval '1 month'
                          GROUP BY c.day) d) END) ORDER BY r.place), '[]')
            FROM reviewed r WHERE r.place <= 1000))
    INTO report;
    RETURN amp.usage_page(convert_to(report::text, CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END));
END
$$;
COMMENT ON FUNCTION amp.usage_report_for_caller(text, text) IS 'usage_report(), by the rights of who called that.';

CREATE FUNCTION amp.usage_report(period text DEFAULT NULL, account_id text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.usage_report_for_caller(period, account_id);
END
$$;
COMMENT ON FUNCTION amp.usage_report(text, text) IS
'The review of a month, as usage_review(), as an HTML page in one file that loads nothing: totals, a chart of spending against its limit for each of the 100 most expensive tenants, and a table of the 1000 most expensive, which sorts. Errors: as usage_review().';
