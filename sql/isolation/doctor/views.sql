-- What the doctor finds in views of protected tables, and in materialized views of those, through any number of others; and in rules elsewhere that
-- reach protected tables.

CREATE FUNCTION amp.dependent_findings(touched oid[] DEFAULT NULL)
    RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    roots CONSTANT oid[] := CASE WHEN touched IS NULL THEN ARRAY(SELECT p.relation::oid FROM amp.protected_tables p) ELSE amp.relatives(touched) END;
BEGIN
    RETURN QUERY
    WITH RECURSIVE over(relation) AS (
        SELECT u.oid FROM unnest(roots) u(oid)
        UNION
        SELECT r.ev_class
        FROM over t
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.relation AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite r ON r.oid = d.objid
        WHERE r.ev_class <> t.relation
    ), below(view, relation, direct) AS (
        -- What each of them reads.
        SELECT t.relation, d.refobjid, true
        FROM over t JOIN pg_rewrite r ON r.ev_class = t.relation AND r.ev_type = '1'
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> t.relation
        UNION
        SELECT b.view, d.refobjid, false
        FROM below b JOIN pg_rewrite r ON r.ev_class = b.relation AND r.ev_type = '1'
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> b.relation
    ), dependent AS MATERIALIZED (
        SELECT c.relkind, format('%I.%I', n.nspname, c.relname) AS named, o.rolname AS owner, o.rolsuper OR o.rolbypassrls AS bypasses, b.direct,
               coalesce((SELECT bool_or(lower(split_part(option, '=', 2)) IN ('true', 'on', 'yes', '1', ''))
                         FROM unnest(c.reloptions) option WHERE option LIKE 'security_invoker%'), false) AS invoker
        FROM (SELECT b.view, bool_or(b.direct) AS direct FROM below b JOIN amp.protected_tables p ON p.relation = b.relation GROUP BY b.view) b
        JOIN pg_class c ON c.oid = b.view JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
    )
    SELECT 'error', 'materialized-view', d.named, 'It keeps rows of protected tables, of every tenant who refreshed it, for whoever may read it.',
           format('DROP MATERIALIZED VIEW %s', d.named)
    FROM dependent d WHERE d.relkind = 'm'
    UNION ALL
    SELECT CASE WHEN d.bypasses THEN 'error' ELSE 'warning' END, 'view-without-security-invoker', d.named,
           CASE WHEN d.bypasses THEN format('It reads protected tables as %I, who bypasses row security: every tenant''s rows.', d.owner)
                ELSE format('It reads protected tables with the privileges of %I, not of who asks.', d.owner) END,
           format('ALTER VIEW %s SET (security_invoker = true)', d.named)
    -- A view of views asks each of them, and one with security_invoker asks as whoever began.
    FROM dependent d WHERE d.relkind = 'v' AND d.direct AND NOT d.invoker
    UNION ALL
    -- Whatever a rule other than a view's own query names itself it reaches as its relation's owner, security_invoker or not.
    SELECT CASE WHEN r.bypasses THEN 'error' ELSE 'warning' END, 'rule-acts-as-owner', format('rule %I on %s', r.rulename, r.named),
           CASE WHEN r.bypasses THEN format('It reaches protected tables as %I, who bypasses row security, for whoever may write to %s.', r.owner, r.named)
                ELSE format('It reaches protected tables with the privileges of %I, not of who writes to %s.', r.owner, r.named) END,
           format('DROP RULE %I ON %s', r.rulename, r.named)
    FROM (
        SELECT w.rulename, format('%I.%I', n.nspname, c.relname) AS named, o.rolname AS owner, o.rolsuper OR o.rolbypassrls AS bypasses
        FROM over t
        JOIN pg_rewrite w ON w.ev_class = t.relation AND w.ev_type <> '1'
        JOIN pg_class c ON c.oid = t.relation JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
        -- On a protected table any rule is a hole.
        WHERE NOT EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = t.relation)
          AND EXISTS (SELECT FROM pg_depend d JOIN amp.protected_tables p ON p.relation = d.refobjid
                      WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass)
    ) r;
END
$$;
COMMENT ON FUNCTION amp.dependent_findings(oid[]) IS
'Internal: what doctor() finds in views over protected tables, and in rules that reach them. With relations (pg_class): in them, and in views over them, their parts and parents.';
