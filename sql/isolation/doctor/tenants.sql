-- What the doctor finds in tenants.

CREATE FUNCTION amp.tenant_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'info', 'slug-not-descriptive', format('tenant %s', t.id), format('Slug "%s" does not say whose it is.', t.slug),
           'Choose a descriptive slug, such as acme-corp-2024.'
    FROM amp.tenants t
    WHERE t.status <> 'deleted'
      AND t.slug ~ '^(tnt|tenant|client|customer|company|corp|org|organization|account|agency|brand|user|team|group|test|demo|example|sample|new|temp|tmp|foo|bar|abc|xxx)?(-?[0-9]+)?$'
$$;
COMMENT ON FUNCTION amp.tenant_findings() IS 'Internal: what doctor() finds in tenants, for operators.';

CREATE FUNCTION amp.tenant_findings_for_caller() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF amp.called_by_operator() THEN
        RETURN QUERY SELECT f.* FROM amp.tenant_findings() f;
    END IF;
END
$$;
COMMENT ON FUNCTION amp.tenant_findings_for_caller() IS 'Internal: tenant_findings(), if an operator asks.';

