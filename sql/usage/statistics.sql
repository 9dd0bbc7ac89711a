-- What each tenant's statements cost, counted in shared memory: see src/usage/statistics.

CREATE FUNCTION amp.stat_tenants_data(
        OUT tenant_id text, OUT calls bigint, OUT rows bigint, OUT exec_time_ms double precision,
        OUT shared_blks_hit bigint, OUT shared_blks_read bigint, OUT shared_blks_dirtied bigint, OUT shared_blks_written bigint,
        OUT temp_blks_read bigint, OUT temp_blks_written bigint, OUT wal_bytes bigint, OUT since timestamptz)
    RETURNS SETOF record LANGUAGE c VOLATILE ROWS 1000 AS 'MODULE_PATHNAME', 'amp_stat_tenants_data';
COMMENT ON FUNCTION amp.stat_tenants_data() IS
'What amp.stat_tenants shows: of a tenant''s own session no time, blocks and WAL. Errors: 55000 the library is not preloaded; where a tenant is set, as tenant_id().';

CREATE VIEW amp.stat_tenants WITH (security_invoker = true) AS
    SELECT d.oid AS datid, d.datname, s.*
    FROM amp.stat_tenants_data() s JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database();
COMMENT ON VIEW amp.stat_tenants IS
'What the statements of this database''s tenants cost: all of them for members of amp_operator and pg_read_all_stats, else the session''s own, with calls and rows alone; none without a context. Time, blocks and WAL are NULL there: they tell of rows that the policies hide. Errors: 55000 the library is not preloaded; where a tenant is set, as tenant_id().';
COMMENT ON COLUMN amp.stat_tenants.calls IS 'Statements that ended, each with everything that it called; a cursor is one.';
COMMENT ON COLUMN amp.stat_tenants.rows IS 'Rows that they returned or changed.';
COMMENT ON COLUMN amp.stat_tenants.exec_time_ms IS 'Time that they ran, without planning. NULL for a tenant''s own session.';
COMMENT ON COLUMN amp.stat_tenants.shared_blks_hit IS 'Blocks of tables and indexes found in memory, parallel workers'' too. NULL for a tenant''s own session, as all blocks.';
COMMENT ON COLUMN amp.stat_tenants.wal_bytes IS 'Write-ahead log. NULL for a tenant''s own session.';
COMMENT ON COLUMN amp.stat_tenants.since IS 'When counting began: at the tenant''s first statement after a reset, a crash, or after others needed its place.';
GRANT SELECT ON amp.stat_tenants TO PUBLIC;

CREATE FUNCTION amp.stat_tenants_evicted() RETURNS bigint
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_stat_tenants_evicted';
COMMENT ON FUNCTION amp.stat_tenants_evicted() IS
'Members of amp_operator and pg_read_all_stats: how many tenants, of any database, amp.stat_tenants has forgotten for others since the server started; when it grows, amp.stat_tenants_max is too small. Errors: TN004, 55000 the library is not preloaded.';

CREATE FUNCTION amp.clear_stat_tenants() RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_clear_stat_tenants';
COMMENT ON FUNCTION amp.clear_stat_tenants() IS 'Internal: forgets this database''s tenants when the transaction commits. Errors: 55000.';

CREATE FUNCTION amp.clear_stat_tenants_for_caller() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    PERFORM amp.clear_stat_tenants();
    PERFORM amp.log_change('stat_tenants.reset');
END
$$;
COMMENT ON FUNCTION amp.clear_stat_tenants_for_caller() IS 'The work of reset_stat_tenants(), for operators.';

CREATE FUNCTION amp.reset_stat_tenants() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.clear_stat_tenants_for_caller();
END
$$;
COMMENT ON FUNCTION amp.reset_stat_tenants() IS
'Operator: begins amp.stat_tenants anew for this database, when the transaction commits. Errors: TN004, 55000 the library is not preloaded, or PREPARE TRANSACTION follows.';
