-- API keys. An operator makes them for anybody; a member with users.manage for members of his tenant, for that tenant alone, and
-- capped by what he holds himself: whoever has the key is that member, and a role may be raised later.

CREATE FUNCTION amp.add_api_key(
        user_id text, tenant_id text, name text, expires_at timestamptz, permissions text[], operator boolean) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_key text[] := amp.new_api_key();
BEGIN
    IF name IS NULL OR name !~ '[^[:space:]]' OR name ~ '[[:cntrl:]]' OR length(name) > 200 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'an API key needs a name of 1 to 200 characters on one line',
            HINT = 'Say what it is for: name => ''nightly export''.';
    END IF;
    IF expires_at <= now() OR NOT isfinite(expires_at) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('an API key cannot expire at %s', expires_at),
            HINT = 'Pass a time to come, such as now() + interval ''90 days'', or leave it out for a key that does not expire.';
    END IF;
    INSERT INTO amp.stored_api_keys (id, hash, user_id, tenant_id, operator, permissions, expires_at, name, created_by)
    VALUES (new_key[1], decode(new_key[3], 'hex'), add_api_key.user_id, add_api_key.tenant_id, add_api_key.operator,
            add_api_key.permissions, add_api_key.expires_at, btrim(add_api_key.name),
            coalesce(amp.actor()::jsonb->>'user_id', session_user));
    PERFORM amp.log_change('api_key.created', add_api_key.tenant_id, jsonb_build_object(
        'id', new_key[1], 'user_id', add_api_key.user_id, 'operator', add_api_key.operator, 'name', btrim(add_api_key.name),
        'expires_at', amp.utc(add_api_key.expires_at), 'permissions', to_jsonb(add_api_key.permissions)));
    RETURN jsonb_build_object(
        'id', new_key[1], 'key', new_key[2], 'user_id', add_api_key.user_id, 'tenant_id', add_api_key.tenant_id,
        'operator', add_api_key.operator, 'name', btrim(add_api_key.name), 'expires_at', amp.utc(add_api_key.expires_at));
END
$$;
COMMENT ON FUNCTION amp.add_api_key(text, text, text, timestamptz, text[], boolean) IS 'Internal: makes a key. Errors: 22023 name or expiry.';

CREATE FUNCTION amp.add_api_key_for_caller(user_id text, tenant_id text, name text, expires_at timestamptz) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := add_api_key_for_caller.tenant_id;
    ends timestamptz := add_api_key_for_caller.expires_at;
    permissions text[];
BEGIN
    IF amp.called_by_operator() THEN
        IF tenant IS NOT NULL THEN
            PERFORM amp.assert_tenant(tenant), amp.member_role(tenant, user_id);
        ELSIF NOT EXISTS (SELECT FROM amp.app_users u WHERE u.id = add_api_key_for_caller.user_id) THEN
            RAISE EXCEPTION USING ERRCODE = 'TN003',
                MESSAGE = format('user %s is unknown', coalesce(quote_literal(left(user_id, 64)), 'NULL')),
                HINT = 'Pass the id that amp.invite_user() returned; a key for the platform itself is made by amp.create_operator_key().';
        END IF;
    ELSE
        tenant := amp.managed_tenant(tenant);
        PERFORM amp.assert_holds(amp.role_permissions(tenant, amp.member_role(tenant, user_id)),
                                 format('a key of user "%s"', user_id));
        permissions := ARRAY(SELECT jsonb_array_elements_text(amp.context()->'permissions'));
        -- A key that makes a key does not outlive itself by it. A token does: it is how people log in.
        IF amp.context() #>> '{proof,by}' = 'api_key' THEN
            ends := least(ends, (amp.context() #>> '{proof,expires_at}')::timestamptz);
        END IF;
    END IF;
    RETURN amp.add_api_key(user_id, tenant, name, ends, permissions, false);
END
$$;
COMMENT ON FUNCTION amp.add_api_key_for_caller(text, text, text, timestamptz) IS 'The work of create_api_key(), by the rights of who called that.';

CREATE FUNCTION amp.create_api_key(user_id text, tenant_id text DEFAULT NULL, name text DEFAULT NULL, expires_at timestamptz DEFAULT NULL)
    RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.add_api_key_for_caller(user_id, tenant_id, name, expires_at);
END
$$;
COMMENT ON FUNCTION amp.create_api_key(text, text, text, timestamptz) IS
'users.manage, or an operator: an API key by which amp.authenticate() makes a session this user. It opens one tenant: a member''s own, or the one that an operator names; NULL from an operator is all of the user''s. One that a member makes gives no more than he holds, and lasts no longer than the key, if any, by which he is here. Returns {"id", "key", "user_id", "tenant_id", "operator", "name", "expires_at"}; the key is shown this once. Errors: TN001, TN002, TN003 no member, or another tenant, TN004 not permitted, or the user holds more than you do, 22023 name or expiry.';

CREATE FUNCTION amp.add_operator_key(name text, expires_at timestamptz) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    RETURN amp.add_api_key(NULL, NULL, name, expires_at, NULL, true);
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
    -- A credential for one tenant is not the whole user: of his keys it ends itself.
    IF NOT operator AND (known.user_id = amp.user_id() AND (amp.only_tenant() IS NULL OR known.id = amp.actor()::jsonb->>'key_id')) IS NOT TRUE THEN
        -- The same answer for a key of somebody else's tenant and for one that never was.
        IF known.tenant_id IS DISTINCT FROM amp.managed_tenant(NULL) THEN
            RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = unknown, HINT = 'See amp.api_keys.';
        END IF;
        PERFORM amp.assert_holds(amp.role_permissions(known.tenant_id, m.role), format('a key of user "%s"', known.user_id))
        FROM amp.members m WHERE m.tenant_id = known.tenant_id AND m.user_id = known.user_id;
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
'Its own user, users.manage in its tenant, or an operator: ends a key, from every session''s next statement on. Again is no error. Errors: TN001, TN004 not permitted, or its user holds more than you do, 42704 unknown.';
