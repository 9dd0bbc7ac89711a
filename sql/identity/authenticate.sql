-- Proving who a session is. The functions are in src/identity/authenticate.rs and src/context/functions.rs.

CREATE FUNCTION amp.authenticate(credential text) RETURNS jsonb
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_authenticate';
COMMENT ON FUNCTION amp.authenticate(text) IS
'Makes the session the user (or the operator) whose API key or signed token this is: until the transaction ends, if called in one, else until the session does. Gives up amp.tenant_id and amp.user_id. Returns {"user_id", "tenant_id", "operator", "expires_at"}: the tenant it starts in, null if there is none. Pass it as a parameter, so that it appears in no log. Errors: TN003 not accepted, whatever the reason, TN007 right but expired, TN002 TN003 the token''s tenant cannot be entered, TN006 the context is locked or pinned, TN009 the session bypasses row security.';

CREATE FUNCTION amp.lock_context() RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_lock_context';
COMMENT ON FUNCTION amp.lock_context() IS
'Until the transaction ends, tenant and user of this session cannot change, by no SET, RESET, credential or rollback to a savepoint. Errors: as tenant_id(); afterwards TN006 for whoever tries.';

CREATE FUNCTION amp.called_by_operator() RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_called_by_operator';
COMMENT ON FUNCTION amp.called_by_operator() IS
'Internal: whether who said mark_caller() just before may run the platform, by his login role or by an operator''s credential.';

CREATE FUNCTION amp.assert_called_by_operator() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT amp.called_by_operator() THEN
        RAISE EXCEPTION USING ERRCODE = 'TN004',
            MESSAGE = format('login role "%s" is not an operator of the platform', session_user),
            DETAIL = 'Or this is another''s function, in which the session''s rights do not count.',
            HINT = format('Connect as an operator, pass an operator''s key to amp.authenticate(), or have a superuser run: GRANT amp_operator TO %I', session_user);
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_called_by_operator() IS 'Internal: raises TN004 unless called_by_operator().';

CREATE FUNCTION amp.assert_called_by_session() RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_assert_called_by_session';
COMMENT ON FUNCTION amp.assert_called_by_session() IS
'Internal: once after called_by_operator(): raises TN004 where a stranger''s code called, and TN006 while the context is locked: an account is more than one tenant.';

CREATE FUNCTION amp.new_api_key() RETURNS text[]
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_new_api_key';
COMMENT ON FUNCTION amp.new_api_key() IS 'Internal: a new key: {id, key, SHA-256 of the key in hexadecimal}.';

CREATE FUNCTION amp.check_signing_key(algorithm text, key text) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_check_signing_key';
COMMENT ON FUNCTION amp.check_signing_key(text, text) IS
'Internal: raises 22023 unless the key fits the algorithm: a secret of 32 bytes for HS256, a public key in PEM form for ES256 (P-256), EdDSA (Ed25519), RS256 (2048 to 4096 bits).';
