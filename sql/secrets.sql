-- Tenants' secrets. What is stored is a ciphertext that opens for its tenant and path alone, under a key that is not in the database: see
-- src/secrets. amp.update_config() stores and removes them.

CREATE TABLE amp.secrets (
    tenant_id text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    sealed bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT secrets_pkey PRIMARY KEY (tenant_id, path)
);
COMMENT ON TABLE amp.secrets IS 'Internal: tenants'' secrets, encrypted; see amp.secret(). Nobody reads the table.';
ALTER TABLE amp.secrets ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('amp.secrets', '');

CREATE FUNCTION amp.open_secret(tenant text, path text, key_id text, sealed bytea) RETURNS text
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_open_secret';
COMMENT ON FUNCTION amp.open_secret(text, text, text, bytea) IS
'Internal: decrypts a row of amp.secrets. Errors: 55000 its key is not in the file, XX001 it is not what was stored there.';

CREATE FUNCTION amp.reseal_secret(tenant text, path text, key_id text, sealed bytea, new_key_id text) RETURNS bytea
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_reseal_secret';
COMMENT ON FUNCTION amp.reseal_secret(text, text, text, bytea, text) IS 'Internal: the same secret under another key. Errors: as open_secret().';

CREATE FUNCTION amp.newest_secret_key() RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_newest_secret_key';
COMMENT ON FUNCTION amp.newest_secret_key() IS 'Internal: the id of the key that encrypts. Errors: 55000 there is none.';

CREATE FUNCTION amp.mark_confidential() RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_mark_confidential';
COMMENT ON FUNCTION amp.mark_confidential() IS
'Internal: the running statement may hold a secret in the clear; if it fails, the server''s log shows the error without it.';

CREATE FUNCTION amp.secret(path text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := amp.own_tenant(NULL);
    stored record;
BEGIN
    -- A service that names no user is the tenant itself, and works with its integrations; a person has to hold the permission.
    IF amp.user_id() IS NOT NULL THEN
        PERFORM amp.require_permission('integrations.manage');
    END IF;
    SELECT s.path, s.key_id, s.sealed INTO stored FROM amp.secrets s WHERE s.tenant_id = tenant AND s.path = secret.path;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('no secret is stored at %s', coalesce(quote_literal(left(path, 200)), 'NULL')),
            HINT = 'Pass the path at which amp.tenant() shows "encrypted", such as metricool.token.';
    END IF;
    RETURN amp.open_secret(tenant, stored.path, stored.key_id, stored.sealed);
END
$$;
COMMENT ON FUNCTION amp.secret(text) IS
'integrations.manage, or a service that acts as the tenant itself: a secret of the session''s tenant in the clear, by its path in the configuration (metricool.token, integrations.slack.secret). Errors: TN001, TN002, TN003, TN004, 42704 there is none, 55000 no key, or not the one it was encrypted under, XX001 it was changed.';

CREATE FUNCTION amp.reseal_secrets() RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest text;
    stored record;
    resealed bigint := 0;
    remaining jsonb;
BEGIN
    PERFORM amp.assert_called_by_operator();
    newest := amp.newest_secret_key();
    -- One by one, and past those that somebody holds: no tenant keeps the others' secrets from being rotated, or their owners from changing
    -- theirs.
    FOR stored IN
        SELECT s.tenant_id, s.path, s.key_id, s.sealed FROM amp.secrets s WHERE s.key_id <> newest FOR UPDATE SKIP LOCKED
    LOOP
        BEGIN
            UPDATE amp.secrets s
            SET sealed = amp.reseal_secret(s.tenant_id, s.path, s.key_id, s.sealed, newest), key_id = newest
            WHERE s.tenant_id = stored.tenant_id AND s.path = stored.path;
            resealed := resealed + 1;
        EXCEPTION
            WHEN object_not_in_prerequisite_state OR data_corrupted THEN
                NULL; -- it is left, and named below
        END;
    END LOOP;
    SELECT jsonb_build_object('left', count(*), 'left_of', coalesce(
               jsonb_agg(jsonb_build_object('tenant_id', s.tenant_id, 'path', s.path, 'key_id', s.key_id)) FILTER (WHERE s.number <= 100), '[]'))
    INTO remaining
    FROM (SELECT s.*, row_number() OVER (ORDER BY s.tenant_id, s.path) AS number FROM amp.secrets s WHERE s.key_id <> newest) s;
    PERFORM amp.log_change('secrets.rotated', NULL, jsonb_build_object('key_id', newest, 'secrets', resealed, 'left', remaining -> 'left'));
    RETURN jsonb_build_object('key_id', newest, 'secrets', resealed) || remaining;
END
$$;
COMMENT ON FUNCTION amp.reseal_secrets() IS 'The work of rotate_secret_key(), for operators.';

CREATE FUNCTION amp.rotate_secret_key() RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.reseal_secrets();
END
$$;
COMMENT ON FUNCTION amp.rotate_secret_key() IS
'Operator: encrypts all tenants'' secrets under the newest key, the first one in the file of amp.secret_key_file. Waits for nobody. Returns {"key_id": the newest key''s, "secrets": how many were under another one and are not any more, "left": how many still are, "left_of": the first 100 of them, {"tenant_id", "path", "key_id"}}: they are being changed now, their key is not in the file, or they were changed by hand. The other keys of the file are needed no more when nothing is left, by a call that began after all transactions that began before the file was changed. Errors: TN004, 55000 no key.';
