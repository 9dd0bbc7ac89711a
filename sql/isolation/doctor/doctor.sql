-- What is left open, as far as the catalogs show it. A finding has a severity (error: a hole; warning: a hole for somebody whom you may trust, or
-- a way to one; info), a stable code, the object, one sentence, and what closes it. Each function looks at one kind of object.

CREATE FUNCTION amp.doctor() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN QUERY
        SELECT f.* FROM (
            SELECT t.* FROM amp.table_findings() t
            UNION ALL SELECT t.* FROM amp.grant_findings() t
            UNION ALL SELECT t.* FROM amp.default_grant_findings() t
            UNION ALL SELECT t.* FROM amp.access_findings() t
            UNION ALL SELECT t.* FROM amp.dependent_findings() t
            UNION ALL SELECT t.* FROM amp.function_findings() t
            UNION ALL SELECT t.* FROM amp.role_findings() t
            UNION ALL SELECT t.* FROM amp.replication_findings() t
            UNION ALL SELECT t.* FROM amp.setting_findings() t
            UNION ALL SELECT t.* FROM amp.hardening_findings() t
            UNION ALL SELECT t.* FROM amp.server_findings() t
            UNION ALL SELECT t.* FROM amp.tenant_findings_for_caller() t
        ) f
        ORDER BY array_position(ARRAY['error', 'warning', 'info'], f.severity), f.code, f.object, f.finding;
END
$$;
COMMENT ON FUNCTION amp.doctor() IS
'What is left open, as far as the catalogs show it: severity (error, warning, info), a stable code, the object, one sentence, and the SQL that closes it. An installation is done when there is no error. What it finds in tenants it tells operators only. docs/doctor.md explains each code.';
