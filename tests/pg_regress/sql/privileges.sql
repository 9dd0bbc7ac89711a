-- Who may do what in schema amp, from the catalogs. A new function has to be added here on purpose.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - postgres

-- What everybody may execute.
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'amp'::regnamespace AND has_function_privilege('regress_stranger', p.oid, 'EXECUTE') ORDER BY p.oid::regprocedure::text;
-- What operators may execute beside that.
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'amp'::regnamespace AND has_function_privilege('regress_operator', p.oid, 'EXECUTE')
  AND NOT has_function_privilege('regress_stranger', p.oid, 'EXECUTE') ORDER BY p.oid::regprocedure::text;
-- What services may execute beside that.
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'amp'::regnamespace AND has_function_privilege('regress_service', p.oid, 'EXECUTE')
  AND NOT has_function_privilege('regress_stranger', p.oid, 'EXECUTE') ORDER BY p.oid::regprocedure::text;
-- What nobody but a superuser may execute.
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'amp'::regnamespace AND NOT has_function_privilege('regress_operator', p.oid, 'EXECUTE')
  AND NOT has_function_privilege('regress_service', p.oid, 'EXECUTE') ORDER BY p.oid::regprocedure::text;

-- Tables and columns: reading only.
SELECT c.oid::regclass AS relation, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, string_agg(a.privilege_type, ' ') AS privileges
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'amp'::regnamespace AND c.relkind <> 'i' AND a.grantee <> c.relowner GROUP BY c.oid, 2 ORDER BY c.relname, 2;
-- Tables that hold tenants' rows are under row security: none is not.
SELECT c.oid::regclass FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'amp'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relrowsecurity
  AND (a.attname = 'tenant_id' OR c.relname IN ('tenants', 'app_users')) ORDER BY 1;

-- Everything has a comment: none is missing.
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'amp'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL ORDER BY 1;
SELECT c.oid::regclass FROM pg_class c
WHERE c.relnamespace = 'amp'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND obj_description(c.oid, 'pg_class') IS NULL ORDER BY 1;

-- Functions not in C have a fixed search_path, pg_temp last, and no schema in it that somebody else can write to: none has not.
SELECT p.oid::regprocedure, p.prosecdef AS security_definer, p.proconfig FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'amp'::regnamespace AND l.lanname <> 'c'
  AND NOT coalesce(p.proconfig @> '{"search_path=pg_catalog, pg_temp"}', false) ORDER BY 1;
-- Functions in C run with the caller's rights.
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'amp'::regnamespace AND l.lanname = 'c' AND p.prosecdef ORDER BY 1;
-- Those that every policy calls are stable, leakproof and parallel safe, and no other is leakproof.
SELECT p.oid::regprocedure, p.provolatile, p.proparallel FROM pg_proc p
WHERE p.pronamespace = 'amp'::regnamespace AND p.proleakproof ORDER BY p.oid::regprocedure::text;
-- All belong to the extension: none does not.
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'amp'::regnamespace AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e') ORDER BY 1;
SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'amp'::regnamespace AND c.relkind IN ('r', 'v', 'S') AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1;
-- Only a superuser puts objects into the schema.
\connect - regress_operator
CREATE FUNCTION amp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1';
\echo :SQLSTATE
\connect - regress_service
CREATE TABLE amp.mine ();
\echo :SQLSTATE

-- The functions that policies call have no access list: PostgreSQL would read it at the start of every query.
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'amp'::regnamespace AND p.proacl IS NULL ORDER BY p.oid::regprocedure::text;
