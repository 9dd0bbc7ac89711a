-- What the doctor finds in privileges on protected tables.

CREATE FUNCTION amp.grant_findings(touched oid[] DEFAULT NULL)
    RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    family CONSTANT oid[] := CASE WHEN touched IS NULL THEN ARRAY(SELECT p.relation::oid FROM amp.protected_tables p) ELSE amp.relatives(touched) END;
BEGIN
    RETURN QUERY
    SELECT CASE WHEN g.privilege_type IN ('TRIGGER', 'REFERENCES') THEN 'error' ELSE 'warning' END, 'grant-' || lower(g.privilege_type), n.named,
           CASE g.privilege_type
               WHEN 'TRIGGER' THEN 'Whoever makes a trigger runs his code in other tenants'' sessions.'
               WHEN 'REFERENCES' THEN 'Whoever makes a foreign key to it learns which keys exist, of every tenant.'
               ELSE 'Its trigger refuses TRUNCATE, but nobody needs the privilege.' END,
           format('REVOKE %s ON %s FROM %s', g.privilege_type, n.named, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
    FROM unnest(family) f(oid)
    JOIN amp.protected_tables p ON p.relation = f.oid
    JOIN pg_class c ON c.oid = f.oid
    CROSS JOIN LATERAL (SELECT amp.qualified(c.oid)) n(named)
    CROSS JOIN LATERAL aclexplode(c.relacl) g
    WHERE g.privilege_type IN ('TRIGGER', 'REFERENCES', 'TRUNCATE') AND g.grantee <> c.relowner;
END
$$;
COMMENT ON FUNCTION amp.grant_findings(oid[]) IS
'Internal: what doctor() finds in privileges on protected tables; with relations (pg_class): on them, their parts and parents.';
