-- What the doctor finds in functions.

CREATE FUNCTION amp.function_findings(functions oid[] DEFAULT NULL)
    RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    looked_at CONSTANT oid[] := coalesce(functions, ARRAY(
        SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'amp')));
BEGIN
    RETURN QUERY
    SELECT 'warning', 'definer-function', p.oid::regprocedure::text,
           format('It runs as %I, who bypasses row security, for whoever may call it.', o.rolname),
           format('ALTER FUNCTION %s SECURITY INVOKER, or REVOKE EXECUTE, or ALTER FUNCTION ... OWNER TO an ordinary role', p.oid::regprocedure)
    FROM unnest(looked_at) f(oid) JOIN pg_proc p ON p.oid = f.oid JOIN pg_roles o ON o.oid = p.proowner JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.prosecdef AND (o.rolsuper OR o.rolbypassrls) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'amp')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e');
END
$$;
COMMENT ON FUNCTION amp.function_findings(oid[]) IS 'Internal: what doctor() finds in functions; with functions (pg_proc): in these.';
