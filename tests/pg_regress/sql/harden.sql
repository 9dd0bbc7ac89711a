-- harden() and unharden(): what is revoked and granted, that it is noted, and that all of it is given back to the byte.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - postgres
CREATE DATABASE regress_harden;
\connect regress_harden
CREATE EXTENSION amp_tenancy;
CREATE TABLE public.acls (at text, catalog regclass, object oid, acl text);
CREATE FUNCTION public.note_acls(at text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.acls
    SELECT at, 'pg_proc', oid, proacl::text FROM pg_proc UNION ALL SELECT at, 'pg_class', oid, relacl::text FROM pg_class
    UNION ALL SELECT at, 'pg_namespace', oid, nspacl::text FROM pg_namespace UNION ALL SELECT at, 'pg_database', oid, datacl::text FROM pg_database
$$;
CREATE FUNCTION public.changed_acls(was text, "is" text) RETURNS TABLE (object text, was text, "is" text) LANGUAGE sql AS $$
    SELECT CASE b.catalog WHEN 'pg_proc'::regclass THEN b.object::regprocedure::text WHEN 'pg_class'::regclass THEN b.object::regclass::text
           WHEN 'pg_namespace'::regclass THEN b.object::regnamespace::text ELSE 'database' END, b.acl, a.acl
    FROM public.acls b JOIN public.acls a USING (catalog, object)
    WHERE b.at = changed_acls.was AND a.at = changed_acls."is" AND a.acl IS DISTINCT FROM b.acl ORDER BY 1
$$;

-- What an administrator did before: privileges for somebody, in another order, from somebody else, or none for PUBLIC.
GRANT EXECUTE ON FUNCTION pg_stat_get_activity(integer) TO regress_owner;
REVOKE EXECUTE ON FUNCTION pg_blocking_pids(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pg_cancel_backend(integer) TO pg_signal_backend, regress_owner;
REVOKE EXECUTE ON FUNCTION pg_cancel_backend(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pg_cancel_backend(integer) TO PUBLIC;
CREATE ROLE regress_gone;
GRANT EXECUTE ON FUNCTION pg_relation_size(regclass, text) TO regress_gone;
GRANT CREATE ON SCHEMA public TO PUBLIC;
GRANT TEMPORARY ON DATABASE regress_harden TO regress_owner;
GRANT EXECUTE ON FUNCTION pg_notification_queue_usage() TO regress_owner WITH GRANT OPTION;
SET ROLE regress_owner;
GRANT EXECUTE ON FUNCTION pg_notification_queue_usage() TO PUBLIC;
RESET ROLE;
SELECT public.note_acls('before');

-- For superusers.
\connect - regress_owner
SELECT * FROM amp.harden();
\echo :SQLSTATE
SELECT * FROM amp.unharden();
\echo :SQLSTATE
\connect - regress_operator
SELECT * FROM amp.harden();
\echo :SQLSTATE
-- Everybody may ask what is open.
SELECT count(*) > 100 AS open, count(*) FILTER (WHERE fix <> 'SELECT * FROM amp.harden()') AS otherwise FROM amp.hardening_gaps();

-- Done, kept, and left with what there is to do.
\connect - postgres
CREATE TABLE public.report AS SELECT * FROM amp.harden();
SELECT status, count(*) > 100 AS many FROM public.report GROUP BY status ORDER BY status;
SELECT * FROM public.report
WHERE object IN ('database regress_harden', 'schema public', 'function pg_catalog.pg_stat_get_activity(integer)', 'function pg_catalog.pg_blocking_pids(integer)',
                 'function pg_catalog.pg_cancel_backend(integer)', 'function pg_catalog.pg_advisory_xact_lock(bigint)', 'function pg_catalog.lo_get(oid)')
   OR status = 'left' ORDER BY object;
SELECT DISTINCT split_part(what, ', ', 2) AS keeper FROM public.report WHERE status = 'done' ORDER BY 1;
SELECT * FROM amp.hardening WHERE acl_before IS NOT NULL AND revoked ORDER BY kind, identity;
SELECT object, fix FROM amp.hardening_gaps();
SET ROLE regress_owner; REVOKE EXECUTE ON ROUTINE pg_catalog.pg_notification_queue_usage() FROM PUBLIC; RESET ROLE;
-- Once is enough.
SELECT status, object FROM amp.harden() WHERE status <> 'kept' ORDER BY object;
SELECT status, object FROM amp.harden() WHERE status <> 'kept';
SELECT count(*) FROM amp.hardening_gaps();
SELECT public.note_acls('hardened');

-- Not an index, not a view, not a table: functions, the schema public, the database.
SELECT DISTINCT a.catalog FROM public.acls b JOIN public.acls a USING (catalog, object)
WHERE b.at = 'before' AND a.at = 'hardened' AND a.acl IS DISTINCT FROM b.acl ORDER BY 1;
\connect - regress_service
SELECT query FROM pg_stat_activity;
\echo :SQLSTATE
CREATE TEMP TABLE t (n int);
\echo :SQLSTATE
CREATE TABLE public.t (n int);
\echo :SQLSTATE
SELECT usename, state FROM amp.stat_activity;
SELECT DISTINCT mode FROM amp.locks WHERE relation = 'amp.locks'::regclass;
INSERT INTO amp.hardening VALUES ('function', 'x', 'EXECUTE', false);
\echo :SQLSTATE
SELECT count(*) > 100 AS noted FROM amp.hardening;

-- What an administrator did since: PUBLIC again, somebody else, a role that is gone.
\connect - postgres
GRANT EXECUTE ON FUNCTION pg_lock_status() TO PUBLIC;
SELECT * FROM amp.hardening_gaps();
SELECT * FROM amp.harden() WHERE status <> 'kept';
GRANT EXECUTE ON FUNCTION pg_table_size(regclass) TO regress_service;
REVOKE EXECUTE ON FUNCTION pg_relation_size(regclass, text) FROM regress_gone;
DROP ROLE regress_gone;
SELECT * FROM amp.unharden() WHERE status <> 'done' AND object !~ 'lo_(im|ex)port' ORDER BY object;
SELECT public.note_acls('after');
-- His changes are there, and no others; what GRANT has written since, he has granted himself.
SELECT * FROM public.changed_acls('before', 'after');
SELECT * FROM amp.hardening;
SELECT * FROM amp.unharden();
SELECT action, (detail->>'objects')::integer < 100 AS few FROM amp.audit_log WHERE action LIKE 'database.%' ORDER BY at;
\connect - regress_service
SELECT count(*) FROM pg_stat_activity WHERE pid = pg_backend_pid();
CREATE TEMP TABLE t (n int);

-- Hardened and undone, everything is as it was.
\connect - postgres
SELECT count(*) > 100 AS many FROM amp.harden() WHERE status = 'done';
SELECT DISTINCT status FROM amp.unharden() ORDER BY 1;
SELECT public.note_acls('again');
SELECT * FROM public.changed_acls('after', 'again');
\connect regress postgres
DROP DATABASE regress_harden;
