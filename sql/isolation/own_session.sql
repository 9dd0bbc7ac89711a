-- What a hardened database gives instead of what it takes: the session's own part of it, and locks of its tenant's own.

CREATE FUNCTION amp.advisory_xact_lock(key bigint) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_advisory_xact_lock';
COMMENT ON FUNCTION amp.advisory_xact_lock(bigint) IS
'Takes an exclusive lock by this number until the transaction ends, and waits for whoever has it. Each tenant has numbers of its own. Errors: as tenant_id(), 55P03, 40P01.';

CREATE FUNCTION amp.try_advisory_xact_lock(key bigint) RETURNS boolean
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_try_advisory_xact_lock';
COMMENT ON FUNCTION amp.try_advisory_xact_lock(bigint) IS
'As advisory_xact_lock(), but false, without waiting, when another transaction has the lock. Errors: as tenant_id().';

CREATE FUNCTION amp.own_activity(
        OUT datid oid, OUT datname name, OUT pid integer, OUT usesysid oid, OUT usename name, OUT application_name text,
        OUT client_addr inet, OUT client_hostname text, OUT client_port integer, OUT backend_start timestamptz, OUT xact_start timestamptz,
        OUT query_start timestamptz, OUT state_change timestamptz, OUT wait_event_type text, OUT wait_event text, OUT state text,
        OUT backend_xid xid, OUT backend_xmin xid, OUT query_id bigint, OUT query text, OUT backend_type text)
    RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.datid, a.datname, a.pid, a.usesysid, a.usename, a.application_name, a.client_addr, a.client_hostname, a.client_port,
           a.backend_start, a.xact_start, a.query_start, a.state_change, a.wait_event_type, a.wait_event, a.state, a.backend_xid,
           a.backend_xmin, a.query_id, a.query, a.backend_type
    FROM pg_stat_activity a WHERE a.pid = pg_backend_pid()
$$;
COMMENT ON FUNCTION amp.own_activity() IS 'What amp.stat_activity shows.';
CREATE VIEW amp.stat_activity WITH (security_invoker) AS SELECT * FROM amp.own_activity();
COMMENT ON VIEW amp.stat_activity IS
'The row of this session in pg_stat_activity, in a hardened database, too; none of others: a server does not know for which tenant a session works now.';
GRANT SELECT ON amp.stat_activity TO PUBLIC;

CREATE FUNCTION amp.own_locks(
        OUT locktype text, OUT database oid, OUT relation oid, OUT page integer, OUT tuple smallint, OUT virtualxid text,
        OUT transactionid xid, OUT classid oid, OUT objid oid, OUT objsubid smallint, OUT virtualtransaction text, OUT pid integer,
        OUT mode text, OUT granted boolean, OUT fastpath boolean, OUT waitstart timestamptz)
    RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.locktype, l.database, l.relation, l.page, l.tuple, l.virtualxid, l.transactionid, l.classid, l.objid, l.objsubid,
           l.virtualtransaction, l.pid, l.mode, l.granted, l.fastpath, l.waitstart
    FROM pg_locks l WHERE l.pid = pg_backend_pid()
$$;
COMMENT ON FUNCTION amp.own_locks() IS 'What amp.locks shows.';
CREATE VIEW amp.locks WITH (security_invoker) AS SELECT * FROM amp.own_locks();
COMMENT ON VIEW amp.locks IS 'The locks of this session in pg_locks, in a hardened database, too; none of others.';
GRANT SELECT ON amp.locks TO PUBLIC;
