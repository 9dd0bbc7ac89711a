-- What the doctor finds in roles: of those who use protected tables, whoever is more than a user of them.

CREATE VIEW amp.subject_roles WITH (security_invoker) AS
    WITH RECURSIVE user_of AS MATERIALIZED (
        SELECT DISTINCT g.grantee AS role
        FROM amp.protected_tables p JOIN pg_catalog.pg_class c ON c.oid = p.relation, pg_catalog.aclexplode(c.relacl) g
        WHERE g.grantee NOT IN (0, c.relowner)
    ), above(login, role) AS (
        SELECT r.oid, r.oid FROM pg_catalog.pg_roles r WHERE r.rolcanlogin
        UNION
        SELECT a.login, m.roleid FROM above a JOIN pg_catalog.pg_auth_members m ON m.member = a.role
    ), acting AS (
        -- As a superuser is a member of everything: by what was granted.
        SELECT a.login, pg_catalog.array_agg(a.role) AS roles, pg_catalog.bool_or(g.rolname = 'amp_service') AS service,
               pg_catalog.bool_or(u.role IS NOT NULL) AS uses
        FROM above a JOIN pg_catalog.pg_roles g ON g.oid = a.role LEFT JOIN user_of u ON u.role = a.role GROUP BY a.login
    )
    SELECT r.oid AS role, r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolreplication, a.service, a.roles
    FROM acting a JOIN pg_catalog.pg_roles r ON r.oid = a.login
    WHERE a.service OR a.uses AND NOT r.rolsuper;
COMMENT ON VIEW amp.subject_roles IS
'Internal: login roles that tenancy is to hold for: services, and those who were granted something on a protected table.';
GRANT SELECT ON amp.subject_roles TO PUBLIC;

CREATE FUNCTION amp.role_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE subject AS MATERIALIZED (
        SELECT s.* FROM amp.subject_roles s
    ), membership(role, member, roleid, grantor) AS (
        SELECT s.role, m.member, m.roleid, m.grantor FROM subject s JOIN pg_auth_members m ON m.member = s.role WHERE NOT s.rolsuper
        UNION
        SELECT b.role, m.member, m.roleid, m.grantor FROM membership b JOIN pg_auth_members m ON m.member = b.roleid
    ), entered AS MATERIALIZED (
        -- The roles that each can become, and what takes that away: from 16 on, who granted it has to be named.
        SELECT b.role, b.roleid, string_agg(
                   concat(format('REVOKE %s FROM %s', b.roleid::regrole, b.member::regrole),
                          CASE WHEN current_setting('server_version_num')::integer >= 160000 AND b.grantor <> 10
                               THEN format(' GRANTED BY %s', b.grantor::regrole) END), '; ' ORDER BY b.member, b.grantor) AS leave
        FROM membership b GROUP BY b.role, b.roleid
    ), owner AS MATERIALIZED (
        SELECT c.relowner AS role, count(*) AS tables, min(amp.qualified(p.relation) COLLATE "C") AS example
        FROM amp.protected_tables p JOIN pg_class c ON c.oid = p.relation GROUP BY c.relowner
    )
    SELECT CASE WHEN s.service THEN 'error' ELSE 'warning' END, CASE WHEN s.service THEN 'service-bypasses' ELSE 'role-bypasses' END,
           format('role %I', s.rolname), 'A superuser or a role with BYPASSRLS sees every tenant''s rows.',
           format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS', s.rolname)
    FROM subject s WHERE s.rolsuper OR s.rolbypassrls
    UNION ALL
    SELECT 'error', 'role-becomes-bypasser', format('role %I', s.rolname),
           format('By SET ROLE it becomes %I, who bypasses row security: every tenant''s rows.', r.rolname), e.leave
    FROM entered e JOIN subject s ON s.role = e.role JOIN pg_roles r ON r.oid = e.roleid
    WHERE r.rolsuper OR r.rolbypassrls
    UNION ALL
    SELECT 'warning', 'role-creates-roles', format('role %I', s.rolname), 'Whoever makes roles makes himself a member of others.',
           format('ALTER ROLE %I NOCREATEROLE', s.rolname)
    FROM subject s WHERE s.rolcreaterole AND NOT s.rolsuper
    UNION ALL
    SELECT 'error', 'role-replicates', format('role %I', s.rolname), 'A role with REPLICATION copies the whole server, every tenant''s rows included.',
           format('ALTER ROLE %I NOREPLICATION', s.rolname)
    FROM subject s WHERE s.rolreplication AND NOT s.rolsuper
    UNION ALL
    SELECT CASE WHEN r.rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program') THEN 'error' ELSE 'warning' END,
           CASE WHEN r.rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
                THEN 'role-reaches-files' ELSE 'role-privileged' END,
           format('role %I', s.rolname), format('As a member of %s %s', r.rolname, w.what), e.leave
    FROM entered e JOIN subject s ON s.role = e.role JOIN pg_roles r ON r.oid = e.roleid
    JOIN (VALUES
        ('pg_read_server_files', 'it reads the files with every tenant''s rows.'),
        ('pg_write_server_files', 'it writes the server''s files, its programs included.'),
        ('pg_execute_server_program', 'it runs programs as the server, which reads every tenant''s rows.'),
        ('pg_read_all_data', 'it reads every table that has no row security.'),
        ('pg_write_all_data', 'it writes every table that has no row security.'),
        ('pg_monitor', 'it sees what other tenants'' sessions do, and EXPLAIN of protected tables.'),
        ('pg_read_all_stats', 'it sees what other tenants'' sessions do, and EXPLAIN of protected tables.'),
        ('pg_stat_scan_tables', 'it may call functions that look at tables past row security.'),
        ('pg_signal_backend', 'it cancels and ends other tenants'' sessions.'),
        ('pg_maintain', 'it may lock, cluster and reindex every table.'),
        ('pg_create_subscription', 'it writes what another server sends.')) w(role, what) ON w.role = r.rolname
    UNION ALL
    SELECT 'warning', 'role-is-both', format('role %I', s.rolname), 'A service that is an operator, too: who injects SQL into it runs the platform.', e.leave
    FROM entered e JOIN subject s ON s.role = e.role WHERE s.service AND e.roleid = 'amp_operator'::regrole
    UNION ALL
    SELECT 'warning', 'role-owns-table', format('role %I', s.rolname),
           format('It may act as %s, who owns %s: the owner of a table can take its protection away.', o.role::regrole,
                  concat(o.example, ' and ' || nullif(o.tables - 1, 0) || ' more')), e.leave
    FROM entered e JOIN subject s ON s.role = e.role JOIN owner o ON o.role = e.roleid
    UNION ALL
    SELECT 'warning', 'service-owns-table', format('role %I', s.rolname),
           format('It owns %s: the owner of a table can take its protection away.', concat(o.example, ' and ' || nullif(o.tables - 1, 0) || ' more')),
           format('Give its tables to a role of their own: ALTER TABLE %s OWNER TO ...', o.example)
    FROM subject s JOIN owner o ON o.role = s.role WHERE s.service AND NOT s.rolsuper
$$;
COMMENT ON FUNCTION amp.role_findings() IS 'Internal: what doctor() finds in the login roles that tenancy is to hold for.';
