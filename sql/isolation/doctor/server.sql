-- What the doctor finds in the server.

CREATE FUNCTION amp.is_preloaded() RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'amp_is_preloaded';
COMMENT ON FUNCTION amp.is_preloaded() IS 'Internal: whether the library is in shared_preload_libraries.';

CREATE FUNCTION amp.server_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'warning', 'not-preloaded', 'shared_preload_libraries',
           'The first statement of a session is not checked before it starts, and refusals are in the server''s log alone.',
           'Add amp_tenancy to shared_preload_libraries and restart.'
    WHERE NOT amp.is_preloaded()
    UNION ALL
    SELECT 'warning', 'old-minor', format('PostgreSQL %s', current_setting('server_version')),
           'A later minor release closes holes in row security (CVE-2026-16237, CVE-2026-120154: ON CONFLICT).',
           format('Upgrade to %s.%s or later.', major, least)
    FROM (VALUES (15, 20), (16, 16), (17, 12), (18, 7)) v(major, least)
    WHERE current_setting('server_version_num')::integer BETWEEN major * 10000 AND major * 10000 + least - 1
$$;
COMMENT ON FUNCTION amp.server_findings() IS 'Internal: what doctor() finds in the server.';

