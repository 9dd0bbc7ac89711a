-- People and their membership.

CREATE FUNCTION amp.invite_user(email text, role text, tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    tenant text := amp.managed_tenant(invite_user.tenant_id);
    -- One spelling: somebody else's would tell that he was known before.
    address text := lower(btrim(invite_user.email));
    person text;
BEGIN
    IF address IS NULL OR address !~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$' OR length(address) > 254 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('invalid e-mail address %s', coalesce(quote_literal(left(address, 64)), 'NULL')),
            HINT = 'Pass one address, such as newuser@example.com.';
    END IF;
    PERFORM amp.assert_grantable(tenant, invite_user.role);
    INSERT INTO amp.app_users (id, email, default_tenant_id) VALUES (amp.new_id('user_'), address, tenant)
    ON CONFLICT (lower(email)) DO NOTHING RETURNING id INTO person;
    IF person IS NULL THEN
        SELECT u.id INTO person FROM amp.app_users u WHERE lower(u.email) = lower(address);
    END IF;
    IF person IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'the same person was invited at the same time',
            HINT = 'Run the transaction again.';
    END IF;
    INSERT INTO amp.members (tenant_id, user_id, role) VALUES (tenant, person, invite_user.role)
    ON CONFLICT ON CONSTRAINT members_pkey DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '23505', MESSAGE = format('"%s" is a member of tenant "%s" already', address, tenant),
            HINT = 'Change his role with amp.set_user_role().';
    END IF;
    UPDATE amp.app_users u SET default_tenant_id = tenant WHERE u.id = person AND u.default_tenant_id IS NULL;
    RETURN jsonb_build_object('id', person, 'email', address, 'role', invite_user.role, 'tenant_id', tenant);
END
$$;
COMMENT ON FUNCTION amp.invite_user(text, text, text) IS
'users.manage, or an operator naming a tenant: makes a person (new, or known by e-mail, case-insensitive) a member. Returns id, email, role, tenant_id. Errors: TN001, TN002, TN003 another tenant, TN004 not permitted or the role holds more than you do, 22023 bad e-mail, 42704 unknown role, 23505 a member already.';

CREATE FUNCTION amp.assert_grantable(tenant text, role text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held text[] := amp.role_permissions(tenant, role);
BEGIN
    IF held IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = format('role %s does not exist in tenant "%s"', coalesce(quote_literal(left(role, 64)), 'NULL'), tenant),
            HINT = 'Choose admin, operator, viewer, or one made by amp.define_role().';
    END IF;
    PERFORM amp.assert_holds(held, format('role "%s"', role));
END
$$;
COMMENT ON FUNCTION amp.assert_grantable(text, text) IS 'Internal: raises unless the role exists and holds nothing that the session does not hold.';

CREATE FUNCTION amp.changeable_role(tenant text, user_id text) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    present text;
BEGIN
    SELECT m.role INTO present FROM amp.members m WHERE m.tenant_id = tenant AND m.user_id = changeable_role.user_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003',
            MESSAGE = format('user %s is not a member of tenant "%s"', coalesce(quote_literal(left(user_id, 64)), 'NULL'), tenant),
            HINT = 'See amp.users().';
    END IF;
    PERFORM amp.assert_holds(amp.role_permissions(tenant, present), format('changing a member with role "%s"', present));
    RETURN present;
END
$$;
COMMENT ON FUNCTION amp.changeable_role(text, text) IS 'Internal: a member''s present role, if the session holds all that it holds. Errors: TN003, TN004.';

CREATE FUNCTION amp.assert_other_admin(tenant text, user_id text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM amp.members m
                   WHERE m.tenant_id = tenant AND m.role = 'admin' AND m.user_id <> assert_other_admin.user_id) THEN
        RAISE EXCEPTION USING ERRCODE = 'TN004',
            MESSAGE = format('user "%s" is the last admin of tenant "%s"', user_id, tenant),
            HINT = 'Make somebody else an admin first.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_other_admin(text, text) IS 'Internal: raises TN004 if nobody else is an admin of the tenant.';

CREATE FUNCTION amp.set_user_role(user_id text, role text, tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := amp.managed_tenant(set_user_role.tenant_id);
    present text := amp.changeable_role(tenant, set_user_role.user_id);
BEGIN
    PERFORM amp.assert_grantable(tenant, set_user_role.role);
    IF present = 'admin' AND set_user_role.role <> 'admin' THEN
        PERFORM amp.assert_other_admin(tenant, set_user_role.user_id);
    END IF;
    UPDATE amp.members m SET role = set_user_role.role
    WHERE m.tenant_id = tenant AND m.user_id = set_user_role.user_id;
    RETURN (SELECT jsonb_build_object('id', u.id, 'email', u.email, 'role', set_user_role.role, 'tenant_id', tenant)
            FROM amp.app_users u WHERE u.id = set_user_role.user_id);
END
$$;
COMMENT ON FUNCTION amp.set_user_role(text, text, text) IS
'users.manage, or an operator naming a tenant: changes a member''s role, from every session''s next statement on. Returns id, email, role, tenant_id. Errors: TN001, TN002, TN003, TN004 not permitted, not held, or the last admin, 42704 unknown role.';

CREATE FUNCTION amp.remove_user(user_id text, tenant_id text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := amp.managed_tenant(remove_user.tenant_id);
BEGIN
    IF amp.changeable_role(tenant, remove_user.user_id) = 'admin' THEN
        PERFORM amp.assert_other_admin(tenant, remove_user.user_id);
    END IF;
    DELETE FROM amp.members m WHERE m.tenant_id = tenant AND m.user_id = remove_user.user_id;
    UPDATE amp.app_users u SET default_tenant_id = NULL
    WHERE u.id = remove_user.user_id AND u.default_tenant_id = tenant;
END
$$;
COMMENT ON FUNCTION amp.remove_user(text, text) IS
'users.manage, or an operator naming a tenant: ends a membership, from every session''s next statement on. Errors: TN001, TN002, TN003, TN004 not permitted, not held, or the last admin.';

CREATE FUNCTION amp.users(tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := amp.readable_tenant(users.tenant_id);
BEGIN
    RETURN jsonb_build_object('data', coalesce((
        SELECT jsonb_agg(jsonb_build_object('id', u.id, 'email', u.email, 'role', m.role) ORDER BY lower(u.email))
        FROM amp.members m JOIN amp.app_users u ON u.id = m.user_id
        WHERE m.tenant_id = tenant), '[]'));
END
$$;
COMMENT ON FUNCTION amp.users(text) IS
'The members of the session''s tenant, or of any for an operator: {"data": [{"id", "email", "role"}]}, by e-mail. Errors: TN001, TN002, TN003 another tenant.';

CREATE FUNCTION amp.readable_tenant(tenant_id text) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own text;
BEGIN
    IF amp.is_operator() AND tenant_id IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM amp.tenants t WHERE t.id = readable_tenant.tenant_id) THEN
            RAISE EXCEPTION USING ERRCODE = 'TN002', MESSAGE = format('tenant "%s" is unknown', left(tenant_id, 64)),
                HINT = 'See amp.tenants.';
        END IF;
        RETURN tenant_id;
    END IF;
    own := amp.tenant_id();
    IF tenant_id <> own THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003',
            MESSAGE = format('this session acts for tenant "%s", not for "%s"', own, left(tenant_id, 64)),
            HINT = 'Leave tenant_id out, or set the context to that tenant in another transaction.';
    END IF;
    RETURN own;
END
$$;
COMMENT ON FUNCTION amp.readable_tenant(text) IS 'Internal: the tenant whose documents the caller may read: his own, or any for an operator.';

CREATE FUNCTION amp.my_tenants() RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    person text := amp.required_user();
BEGIN
    RETURN jsonb_build_object('data', coalesce((
        SELECT jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name, 'role', m.role,
                                            'is_default', t.id IS NOT DISTINCT FROM u.default_tenant_id)
                         ORDER BY m.created_at, t.id)
        FROM amp.members m
        JOIN amp.tenants t ON t.id = m.tenant_id
        JOIN amp.app_users u ON u.id = m.user_id
        WHERE m.user_id = person AND t.status = 'active'), '[]'));
END
$$;
COMMENT ON FUNCTION amp.my_tenants() IS
'The active tenants of the session''s user: {"data": [{"id", "name", "role", "is_default"}]}, oldest membership first. Needs amp.user_id, no tenant. Errors: TN003 no user, or unknown.';

CREATE FUNCTION amp.required_user() RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    person text := amp.user_id();
BEGIN
    IF person IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003', MESSAGE = 'no user is set for this session',
            HINT = 'Run SET amp.user_id = ''…'' as a service role.';
    END IF;
    RETURN person;
END
$$;
COMMENT ON FUNCTION amp.required_user() IS 'Internal: the session''s user, or TN003.';

CREATE FUNCTION amp.set_default_tenant(tenant_id text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    person text := amp.required_user();
BEGIN
    UPDATE amp.app_users u SET default_tenant_id = set_default_tenant.tenant_id
    WHERE u.id = person AND EXISTS (
        SELECT FROM amp.members m JOIN amp.tenants t ON t.id = m.tenant_id
        WHERE m.user_id = person AND t.id = set_default_tenant.tenant_id AND t.status = 'active');
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003',
            MESSAGE = format('user "%s" is not a member of tenant %s', person, coalesce(quote_literal(left(tenant_id, 64)), 'NULL')),
            HINT = 'See amp.my_tenants().';
    END IF;
    RETURN jsonb_build_object('default_tenant_id', set_default_tenant.tenant_id);
END
$$;
COMMENT ON FUNCTION amp.set_default_tenant(text) IS
'Makes one of the user''s active tenants his default. Returns {"default_tenant_id"}. Errors: TN003 no user, or not a member.';
