-- What the doctor finds in roles.

CREATE FUNCTION amp.role_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH service AS (
        SELECT r.* FROM pg_roles r
        WHERE r.rolcanlogin AND EXISTS (
            WITH RECURSIVE above(role) AS (
                SELECT m.roleid FROM pg_auth_members m WHERE m.member = r.oid
                UNION SELECT m.roleid FROM above a JOIN pg_auth_members m ON m.member = a.role
            ) SELECT FROM above WHERE role = 'amp_service'::regrole)
    )
    SELECT 'error', 'service-bypasses', format('role %I', s.rolname), 'A superuser or a role with BYPASSRLS sees every tenant''s rows.',
           format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS', s.rolname)
    FROM service s WHERE s.rolsuper OR s.rolbypassrls
    UNION ALL
    SELECT 'warning', 'service-creates-roles', format('role %I', s.rolname), 'Whoever makes roles makes himself a member of others.',
           format('ALTER ROLE %I NOCREATEROLE', s.rolname)
    FROM service s WHERE s.rolcreaterole AND NOT s.rolsuper
    UNION ALL
    SELECT DISTINCT 'warning', 'service-owns-table', format('role %I', s.rolname),
           format('It has the rights of %I, who owns %s: the owner of a table can take its protection away.', c.relowner::regrole::text, amp.qualified(p.relation)),
           format('Give the table to a role of its own: ALTER TABLE %s OWNER TO ...', amp.qualified(p.relation))
    FROM service s, amp.protected_tables p JOIN pg_class c ON c.oid = p.relation
    WHERE NOT s.rolsuper AND pg_has_role(s.oid, c.relowner, 'MEMBER')
$$;
COMMENT ON FUNCTION amp.role_findings() IS 'Internal: what doctor() finds in the login roles of services.';

