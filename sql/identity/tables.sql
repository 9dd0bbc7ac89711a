-- What proofs rest on, and what ends them. src/context/catalog.rs reads the leading columns by number: append only. No foreign keys, as in
-- tenants/tables.sql; only the functions of this folder write.

CREATE TABLE amp.stored_api_keys (
    id text COLLATE "C" CONSTRAINT stored_api_keys_pkey PRIMARY KEY,
    hash bytea NOT NULL CHECK (length(hash) = 32),
    user_id text COLLATE "C",
    tenant_id text COLLATE "C",
    operator boolean NOT NULL DEFAULT false,
    permissions text[] COLLATE "C",
    expires_at timestamptz,
    name text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_used_at timestamptz,
    account_id text COLLATE "C",
    CHECK (operator = (user_id IS NULL)),
    CHECK (NOT operator OR tenant_id IS NULL),
    CHECK (account_id IS NULL OR NOT operator AND tenant_id IS NULL)
);
CREATE INDEX stored_api_keys_user_id_idx ON amp.stored_api_keys (user_id);
CREATE INDEX stored_api_keys_tenant_id_idx ON amp.stored_api_keys (tenant_id);
COMMENT ON TABLE amp.stored_api_keys IS 'Internal: API keys; of the key itself only a hash. See amp.api_keys.';

-- Rows that are only added, and no unique key: whoever keeps a transaction open in which he revokes a key could otherwise put off
-- that somebody else does.
CREATE TABLE amp.revoked_api_keys (
    key_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C",
    tenant_id text COLLATE "C",
    revoked_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX revoked_api_keys_key_id_idx ON amp.revoked_api_keys (key_id);
COMMENT ON TABLE amp.revoked_api_keys IS 'Internal: the API keys that count no more. See amp.api_keys.';

CREATE VIEW amp.api_keys WITH (security_invoker) AS
    SELECT k.id, k.user_id, k.tenant_id, k.operator, k.permissions, k.name, k.created_by, k.created_at, k.expires_at,
           (SELECT min(r.revoked_at) FROM amp.revoked_api_keys r WHERE r.key_id = k.id) AS revoked_at, k.last_used_at,
           k.account_id
    FROM amp.stored_api_keys k;
COMMENT ON VIEW amp.api_keys IS
'API keys, without the keys. A session sees its own user''s, unless its credential is for one tenant or account; with users.manage its tenant''s; an operator sees all.';
COMMENT ON COLUMN amp.api_keys.tenant_id IS 'The only tenant that it opens; NULL for all of the user''s.';
COMMENT ON COLUMN amp.api_keys.account_id IS 'The account whose tenants it opens, and no others; NULL for no such bound.';
COMMENT ON COLUMN amp.api_keys.permissions IS 'What it gives at most: what its maker held; NULL for no cap.';
COMMENT ON COLUMN amp.api_keys.last_used_at IS 'To a minute; kept when the library is preloaded.';

CREATE TABLE amp.signing_keys (
    kid text COLLATE "C" CONSTRAINT signing_keys_pkey PRIMARY KEY,
    algorithm text COLLATE "C" NOT NULL CHECK (algorithm IN ('HS256', 'ES256', 'EdDSA', 'RS256')),
    key text NOT NULL,
    issuer text,
    audience text,
    single_use boolean NOT NULL DEFAULT false,
    retired_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE amp.signing_keys IS
'Keys whose tokens amp.authenticate() accepts, each for one algorithm. Operators see all but the keys themselves: that of HS256 is a secret.';
COMMENT ON COLUMN amp.signing_keys.single_use IS 'Each of its tokens is accepted once.';

CREATE TABLE amp.bound_roles (
    role_name text COLLATE "C" CONSTRAINT bound_roles_pkey PRIMARY KEY,
    role regrole NOT NULL,
    user_id text COLLATE "C" NOT NULL
);
COMMENT ON TABLE amp.bound_roles IS
'Login roles that are a user. Both name and number have to be the role''s: one that was renamed, or dropped and made anew, is bound to nobody.';

-- As in tenants/tables.sql: whatever can make a cached answer untrue tells the backends.
CREATE TRIGGER amp_invalidate AFTER DELETE OR UPDATE OF id, hash, user_id, tenant_id, operator, permissions, expires_at, account_id
    ON amp.stored_api_keys FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.stored_api_keys EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_uncommitted AFTER INSERT ON amp.stored_api_keys EXECUTE FUNCTION amp.mark_uncommitted();
CREATE TRIGGER amp_invalidate AFTER INSERT OR DELETE OR UPDATE ON amp.revoked_api_keys
    FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.revoked_api_keys EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate AFTER DELETE OR UPDATE ON amp.signing_keys
    FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.signing_keys EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_uncommitted AFTER INSERT ON amp.signing_keys EXECUTE FUNCTION amp.mark_uncommitted();
CREATE TRIGGER amp_invalidate AFTER DELETE OR UPDATE ON amp.bound_roles
    FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.bound_roles EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_uncommitted AFTER INSERT ON amp.bound_roles EXECUTE FUNCTION amp.mark_uncommitted();
ALTER TABLE amp.stored_api_keys ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all,
    ENABLE ALWAYS TRIGGER amp_uncommitted;
ALTER TABLE amp.revoked_api_keys ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all;
ALTER TABLE amp.signing_keys ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all,
    ENABLE ALWAYS TRIGGER amp_uncommitted;
ALTER TABLE amp.bound_roles ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all,
    ENABLE ALWAYS TRIGGER amp_uncommitted;

ALTER TABLE amp.stored_api_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.stored_api_keys FOR SELECT
    USING (user_id = amp.user_id() AND amp.only_tenant() IS NULL AND amp.only_account() IS NULL OR tenant_id = amp.tenant_id('users.manage'));
CREATE POLICY operator ON amp.stored_api_keys FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.revoked_api_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.revoked_api_keys FOR SELECT
    USING (user_id = amp.user_id() AND amp.only_tenant() IS NULL AND amp.only_account() IS NULL OR tenant_id = amp.tenant_id('users.manage'));
CREATE POLICY operator ON amp.revoked_api_keys FOR SELECT TO amp_operator USING (true);
GRANT SELECT (id, user_id, tenant_id, operator, permissions, expires_at, name, created_by, created_at, last_used_at, account_id)
    ON amp.stored_api_keys TO PUBLIC;
GRANT SELECT ON amp.revoked_api_keys, amp.api_keys TO PUBLIC;
-- Also against pg_read_all_data and pg_write_all_data: a secret of HS256 is in there, and whoever writes a row is anybody.
ALTER TABLE amp.signing_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY operator ON amp.signing_keys FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.bound_roles ENABLE ROW LEVEL SECURITY;
CREATE POLICY operator ON amp.bound_roles FOR SELECT TO amp_operator USING (true);
GRANT SELECT (kid, algorithm, issuer, audience, single_use, retired_at, created_at) ON amp.signing_keys TO amp_operator;
GRANT SELECT ON amp.bound_roles TO amp_operator;

SELECT pg_catalog.pg_extension_config_dump('amp.stored_api_keys', '');
SELECT pg_catalog.pg_extension_config_dump('amp.revoked_api_keys', '');
SELECT pg_catalog.pg_extension_config_dump('amp.signing_keys', '');
SELECT pg_catalog.pg_extension_config_dump('amp.bound_roles', '');
