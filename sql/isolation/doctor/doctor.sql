-- What is left open, as far as the catalogs show it. A finding has a severity (error: a hole; warning: a hole for somebody whom you may trust, or
-- a way to one; info), a stable code, the object, one sentence, and what closes it. Each function looks at one kind of object.

CREATE FUNCTION amp.doctor() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN QUERY
        SELECT f.* FROM (
            SELECT t.* FROM amp.table_findings() t
            UNION ALL SELECT g.* FROM amp.grant_findings() g
            UNION ALL SELECT d.* FROM amp.dependent_findings() d
            UNION ALL SELECT p.* FROM amp.function_findings() p
            UNION ALL SELECT r.* FROM amp.role_findings() r
            UNION ALL SELECT s.* FROM amp.server_findings() s
            UNION ALL SELECT o.* FROM amp.tenant_findings_for_caller() o
        ) f
        ORDER BY array_position(ARRAY['error', 'warning', 'info'], f.severity), f.code, f.object;
END
$$;
COMMENT ON FUNCTION amp.doctor() IS
'What is left open, as far as the catalogs show it: severity (error, warning, info), a stable code, the object, one sentence, and the SQL that closes it. An installation is done when there is no error. What it finds in tenants it tells operators only. docs/doctor.md explains each code.';
