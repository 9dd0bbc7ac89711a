-- Who did what to which tenant, when, from where. A change is written here by the function that makes it, in the same transaction; a
-- refusal by the background worker of src/audit.rs, for its own transaction is rolled back.

-- No sequence: its gaps would tell a tenant how busy the others are.
CREATE TABLE amp.audit_log (
    id uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT audit_log_pkey PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    login_role text NOT NULL DEFAULT session_user,
    user_id text COLLATE "C",
    key_id text COLLATE "C",
    token_id text COLLATE "C",
    action text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C",
    detail jsonb NOT NULL DEFAULT '{}',
    client_address inet DEFAULT inet_client_addr()
);
CREATE INDEX audit_log_tenant_id_at_idx ON amp.audit_log (tenant_id, at);
CREATE INDEX audit_log_at_idx ON amp.audit_log (at);
COMMENT ON TABLE amp.audit_log IS
'Who did what to which tenant, when, from where; append-only. An operator sees all, a member with users.manage his own tenant''s.';
COMMENT ON COLUMN amp.audit_log.user_id IS 'Proved by a credential or a bound role, or named by a service.';
COMMENT ON COLUMN amp.audit_log.key_id IS 'The API key, or the kid of the key that signed the token.';
COMMENT ON COLUMN amp.audit_log.token_id IS 'The token''s jti.';
COMMENT ON COLUMN amp.audit_log.client_address IS 'NULL for a Unix socket.';

CREATE FUNCTION amp.refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'amp.audit_log is append-only',
        DETAIL = format('%s is refused, for superusers, too.', TG_OP),
        HINT = 'A superuser who has to remove old entries disables its triggers for that transaction.';
END
$$;
COMMENT ON FUNCTION amp.refuse_change() IS 'Trigger: refuses to change or remove what was logged.';
CREATE TRIGGER amp_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON amp.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION amp.refuse_change();
ALTER TABLE amp.audit_log ENABLE ALWAYS TRIGGER amp_append_only;

CREATE FUNCTION amp.actor() RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_actor';
COMMENT ON FUNCTION amp.actor() IS
'Internal: who acts, as a JSON document {"user_id", "key_id", "token_id"}: by his credential, or by whom a service names.';

CREATE FUNCTION amp.log_change(action text, tenant text DEFAULT NULL, detail jsonb DEFAULT '{}') RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor jsonb := amp.actor()::jsonb;
BEGIN
    INSERT INTO amp.audit_log (action, tenant_id, detail, user_id, key_id, token_id)
    VALUES (log_change.action, tenant, jsonb_strip_nulls(log_change.detail),
            actor->>'user_id', actor->>'key_id', actor->>'token_id');
END
$$;
COMMENT ON FUNCTION amp.log_change(text, text, jsonb) IS 'Internal: writes one entry of the audit log, in the transaction of the change.';

ALTER TABLE amp.audit_log ENABLE ROW LEVEL SECURITY;
-- Who was refused may be another tenant's user: that is for operators.
CREATE POLICY own ON amp.audit_log FOR SELECT
    USING (tenant_id = amp.tenant_id('users.manage') AND action <> 'context.refused');
CREATE POLICY operator ON amp.audit_log FOR SELECT TO amp_operator USING (true);
GRANT SELECT ON amp.audit_log TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('amp.audit_log', '');
