-- API keys. An operator makes them for anybody; a member with users.manage for members of his tenant, for that tenant alone, and
-- capped by what he holds himself: whoever has the key is that member, and a role may be raised later. An admin of an account makes them
-- for its members, for its tenants.

CREATE FUNCTION amp.add_api_key(
        user_id text, tenant_id text, account_id text, name text, expires_at timestamptz, permissions text[], operator boolean) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_key text[] := amp.new_api_key();
    ends timestamptz := amp.bounded_expiry(expires_at);
BEGIN
    IF name IS NULL OR name !~ '[^[:space:]]' OR name ~ '[[:cntrl:]]' OR length(name) > 200 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'an API key needs a name of 1 to 200 characters on one line',
            HINT = 'Say what it is for: name => ''nightly export''.';
    END IF;
    IF expires_at <= now() OR NOT isfinite(expires_at) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('an API key cannot expire at %s', expires_at),
            HINT = 'Pass a time to come, such as now() + interval ''90 days'', or leave it out for a key that does not expire.';
    END IF;
    INSERT INTO amp.stored_api_keys (id, hash, user_id, tenant_id, operator, permissions, expires_at, name, created_by, account_id)
    VALUES (new_key[1], decode(new_key[3], 'hex'), add_api_key.user_id, add_api_key.tenant_id, add_api_key.operator,
            add_api_key.permissions, ends, btrim(add_api_key.name),
            coalesce(amp.actor()::jsonb->>'user_id', session_user), add_api_key.account_id);
    PERFORM amp.log_change('api_key.created', add_api_key.tenant_id, jsonb_build_object(
        'id', new_key[1], 'user_id', add_api_key.user_id, 'account_id', add_api_key.account_id, 'operator', add_api_key.operator,
        'name', btrim(add_api_key.name), 'expires_at', amp.utc(ends), 'permissions', to_jsonb(add_api_key.permissions)));
    RETURN jsonb_build_object(
        'id', new_key[1], 'key', new_key[2], 'user_id', add_api_key.user_id, 'tenant_id', add_api_key.tenant_id,
        'account_id', add_api_key.account_id, 'operator', add_api_key.operator, 'name', btrim(add_api_key.name),
        'expires_at', amp.utc(ends));
END
$$;
COMMENT ON FUNCTION amp.add_api_key(text, text, text, text, timestamptz, text[], boolean) IS 'Internal: makes a key. Errors: 22023 name or expiry.';

CREATE FUNCTION amp.bounded_expiry(expires_at timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN c.proof ->> 'by' = 'api_key' THEN least(expires_at, (c.proof ->> 'expires_at')::timestamptz) ELSE expires_at END
    FROM (SELECT amp.context() -> 'proof') c(proof)
$$;
COMMENT ON FUNCTION amp.bounded_expiry(timestamptz) IS
'Internal: when a key that this session makes ends at the latest. A key that makes a key does not outlive itself by it. A token does: it is how people log in.';

CREATE FUNCTION amp.assert_in_tenant(tenant text, user_id text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF amp.permissions_of(tenant, user_id) IS NULL THEN
        PERFORM amp.member_role(tenant, user_id); -- its error
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_in_tenant(text, text) IS 'Internal: raises TN003 unless the user is in the tenant, as its member or through its account.';

CREATE FUNCTION amp.add_api_key_for_caller(user_id text, tenant_id text, name text, expires_at timestamptz, account_id text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    operator boolean := amp.called_by_operator();
    tenant text := add_api_key_for_caller.tenant_id;
    permissions text[];
BEGIN
    IF account_id IS NOT NULL THEN
        IF tenant IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'an API key is for a tenant or for an account, not for both',
                HINT = 'Leave tenant_id or account_id out.';
        ELSIF NOT operator THEN
            PERFORM amp.assert_called_by_session();
            PERFORM amp.managed_account(account_id); -- an admin: he holds everything that a member of the account can hold
        END IF;
        IF NOT EXISTS (SELECT FROM amp.account_members m WHERE m.account_id = add_api_key_for_caller.account_id
                         AND m.user_id = add_api_key_for_caller.user_id) THEN
            RAISE EXCEPTION USING ERRCODE = 'TN003',
                MESSAGE = format('user %s is not a member of account %L', coalesce(quote_literal(left(user_id, 64)), 'NULL'), left(account_id, 64)),
                HINT = 'See amp.account().';
        END IF;
    ELSIF operator THEN
        IF tenant IS NOT NULL THEN
            PERFORM amp.assert_tenant(tenant), amp.assert_in_tenant(tenant, user_id);
        ELSE
            PERFORM FROM amp.app_users u WHERE u.id = add_api_key_for_caller.user_id FOR KEY SHARE; -- against a purge that would delete him now
            IF NOT FOUND THEN
                RAISE EXCEPTION USING ERRCODE = 'TN003',
                    MESSAGE = format('user %s is unknown', coalesce(quote_literal(left(user_id, 64)), 'NULL')),
                    HINT = 'Pass the id that amp.invite_user() returned; a key for the platform itself is made by amp.create_operator_key().';
            END IF;
        END IF;
    ELSE
        tenant := amp.managed_tenant(tenant);
        PERFORM amp.assert_in_tenant(tenant, user_id);
        PERFORM amp.assert_holds(amp.permissions_of(tenant, user_id), format('a key of user "%s"', user_id));
        permissions := ARRAY(SELECT jsonb_array_elements_text(amp.context()->'permissions'));
    END IF;
    RETURN amp.add_api_key(user_id, tenant, account_id, name, expires_at, permissions, false);
END
$$;
COMMENT ON FUNCTION amp.add_api_key_for_caller(text, text, text, timestamptz, text) IS 'The work of create_api_key(), by the rights of who called that.';

CREATE FUNCTION amp.create_api_key(
        user_id text, tenant_id text DEFAULT NULL, name text DEFAULT NULL, expires_at timestamptz DEFAULT NULL, account_id text DEFAULT NULL)
    RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.add_api_key_for_caller(user_id, tenant_id, name, expires_at, account_id);
END
$$;
COMMENT ON FUNCTION amp.create_api_key(text, text, text, timestamptz, text) IS
'users.manage, an admin of the account, or an operator: an API key by which amp.authenticate() makes a session this user. It opens one tenant: a member''s own, or the one that an operator names; NULL from an operator is all of the user''s; or, with account_id, the tenants of that account, of which the user has to be a member. One that a member makes gives no more than he holds, and lasts no longer than the key, if any, by which he is here. Returns {"id", "key", "user_id", "tenant_id", "account_id", "operator", "name", "expires_at"}; the key is shown this once. Errors: TN001, TN002, TN003 no member, or another tenant or account, TN004 not permitted, or the user holds more than you do, TN006 the context is locked, 22023 name or expiry, or both a tenant and an account.';

CREATE FUNCTION amp.add_operator_key(name text, expires_at timestamptz) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    RETURN amp.add_api_key(NULL, NULL, NULL, name, expires_at, NULL, true);
END
$$;
COMMENT ON FUNCTION amp.add_operator_key(text, timestamptz) IS 'The work of create_operator_key(), for operators.';

CREATE FUNCTION amp.create_operator_key(name text, expires_at timestamptz DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.add_operator_key(name, expires_at);
END
$$;
COMMENT ON FUNCTION amp.create_operator_key(text, timestamptz) IS
'Operator: an API key by which amp.authenticate() lets a session of any login role run the operators'' functions, and nothing more. Returns as create_api_key(). Errors: TN004, 22023 name or expiry.';

CREATE FUNCTION amp.end_api_key(key text, user_id text, tenant_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM amp.revoked_api_keys r WHERE r.key_id = key) THEN
        RETURN;
    END IF;
    INSERT INTO amp.revoked_api_keys (key_id, user_id, tenant_id) VALUES (key, end_api_key.user_id, end_api_key.tenant_id);
    PERFORM amp.log_change('api_key.revoked', end_api_key.tenant_id, jsonb_build_object('id', key, 'user_id', end_api_key.user_id));
END
$$;
COMMENT ON FUNCTION amp.end_api_key(text, text, text) IS 'Internal: ends a key, waiting for nobody. Again is no error.';

CREATE FUNCTION amp.revoke_api_key_for_caller(id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    operator boolean := amp.called_by_operator();
    known amp.stored_api_keys;
    unknown text := format('API key %s is unknown', coalesce(quote_literal(left(id, 64)), 'NULL'));
BEGIN
    SELECT * INTO known FROM amp.stored_api_keys k WHERE k.id = revoke_api_key_for_caller.id;
    -- A credential for one tenant or account is not the whole user: of his keys it ends itself.
    IF NOT operator AND (known.user_id = amp.user_id() AND (coalesce(amp.only_tenant(), amp.only_account()) IS NULL OR known.id = amp.actor()::jsonb->>'key_id')) IS NOT TRUE THEN
        IF known.account_id IS NULL OR amp.account_role(known.account_id) IS DISTINCT FROM 'admin' THEN
            -- The same answer for a key of somebody else's tenant and for one that never was.
            IF known.tenant_id IS DISTINCT FROM amp.managed_tenant(NULL) THEN
                RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = unknown, HINT = 'See amp.api_keys.';
            END IF;
        END IF;
        PERFORM amp.assert_holds(amp.permissions_of(known.tenant_id, known.user_id), format('a key of user "%s"', known.user_id))
        WHERE amp.permissions_of(known.tenant_id, known.user_id) IS NOT NULL;
    END IF;
    IF known.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = unknown, HINT = 'See amp.api_keys.';
    END IF;
    PERFORM amp.end_api_key(known.id, known.user_id, known.tenant_id);
END
$$;
COMMENT ON FUNCTION amp.revoke_api_key_for_caller(text) IS 'The work of revoke_api_key(), by the rights of who called that.';

CREATE FUNCTION amp.revoke_api_key(id text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.revoke_api_key_for_caller(id);
END
$$;
COMMENT ON FUNCTION amp.revoke_api_key(text) IS
'Its own user, users.manage in its tenant, an admin of its account, or an operator: ends a key, from every session''s next statement on. Again is no error. Errors: TN001, TN004 not permitted, or its user holds more than you do, 42704 unknown.';
