-- People and their membership. Each verb has three functions: the one that clients call; the check of who called, an operator
-- or a member, who needs users.manage and can give or take only what he holds; and the work itself.

CREATE FUNCTION amp.assert_role(tenant text, role text) RETURNS text[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held text[] := amp.role_permissions(tenant, role);
BEGIN
    IF held IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = format('role %s does not exist in tenant "%s"', coalesce(quote_literal(left(role, 64)), 'NULL'), tenant),
            HINT = 'Choose admin, operator, viewer, or one made by amp.define_role().';
    END IF;
    RETURN held;
END
$$;
COMMENT ON FUNCTION amp.assert_role(text, text) IS 'Internal: what a role holds. Errors: 42704 there is no such role.';

CREATE FUNCTION amp.member_role(tenant text, user_id text) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    present text;
BEGIN
    SELECT m.role INTO present FROM amp.members m WHERE m.tenant_id = tenant AND m.user_id = member_role.user_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003',
            MESSAGE = format('user %s is not a member of tenant "%s"', coalesce(quote_literal(left(user_id, 64)), 'NULL'), tenant),
            HINT = 'See amp.users(); who has an account_id there is managed by the admins of that account.';
    END IF;
    RETURN present;
END
$$;
COMMENT ON FUNCTION amp.member_role(text, text) IS 'Internal: a member''s present role. Errors: TN003.';

CREATE FUNCTION amp.assert_other_admin(tenant text, user_id text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- An account always has an admin once it had one, so it may be he himself; see move_tenant().
    IF NOT EXISTS (SELECT FROM amp.memberships m WHERE m.tenant_id = tenant AND m.role = 'admin'
                     AND (m.user_id <> assert_other_admin.user_id OR m.account_id IS NOT NULL)) THEN
        RAISE EXCEPTION USING ERRCODE = 'TN004',
            MESSAGE = format('user "%s" is the last admin of tenant "%s"', user_id, tenant),
            HINT = 'Make somebody else an admin first.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_other_admin(text, text) IS 'Internal: raises TN004 if nobody else is an admin of the tenant.';

-- Inviting.

CREATE FUNCTION amp.person_of(email text, default_tenant text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    -- One spelling: somebody else's would tell that he was known before.
    address text := lower(btrim(person_of.email));
    person text;
BEGIN
    IF address IS NULL OR address !~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$' OR length(address) > 254 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('invalid e-mail address %s', coalesce(quote_literal(left(address, 64)), 'NULL')),
            HINT = 'Pass one address, such as newuser@example.com.';
    END IF;
    -- FOR KEY SHARE: a purge of his last other tenant would delete him now. First, for an INSERT waits for whoever changes his row, and he
    -- himself could put off what is done about him.
    SELECT u.id INTO person FROM amp.app_users u WHERE lower(u.email) = address FOR KEY SHARE;
    IF person IS NULL THEN
        INSERT INTO amp.app_users (id, email, default_tenant_id) VALUES (amp.new_id('user_'), address, default_tenant)
        ON CONFLICT (lower(email)) DO NOTHING RETURNING id INTO person;
    END IF;
    IF person IS NULL THEN
        SELECT u.id INTO person FROM amp.app_users u WHERE lower(u.email) = address FOR KEY SHARE;
    END IF;
    IF person IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'the same person was invited at the same time',
            HINT = 'Run the transaction again.';
    END IF;
    RETURN person;
END
$$;
COMMENT ON FUNCTION amp.person_of(text, text) IS
'Internal: the user with this e-mail address; a new one, with this default tenant, if there is none. Errors: 22023 bad e-mail, 40001.';

CREATE FUNCTION amp.add_member(tenant text, email text, role text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    address text := lower(btrim(add_member.email));
    person text;
BEGIN
    PERFORM amp.lock_tenant(tenant);
    PERFORM amp.assert_role(tenant, add_member.role);
    person := amp.person_of(address, tenant);
    -- Who comes back to decide finds decided what was while he was gone (sql/approval/requests.sql).
    PERFORM amp.settle_tenant(tenant);
    INSERT INTO amp.members (tenant_id, user_id, role) VALUES (tenant, person, add_member.role)
    ON CONFLICT ON CONSTRAINT members_pkey DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '23505', MESSAGE = format('"%s" is a member of tenant "%s" already', address, tenant),
            HINT = 'Change his role with amp.set_user_role().';
    END IF;
    -- The first tenant is the default, also after one was the default that he is no member of any more.
    UPDATE amp.app_users u SET default_tenant_id = tenant
    WHERE u.id = person AND u.default_tenant_id IS DISTINCT FROM tenant AND NOT EXISTS (
        SELECT FROM amp.memberships m WHERE m.tenant_id = u.default_tenant_id AND m.user_id = person);
    -- Who may be in by an account holds more now than what backends remember: a change, not only a new row.
    UPDATE amp.members m SET role = m.role
    WHERE m.tenant_id = tenant AND m.user_id = person
      AND EXISTS (SELECT FROM amp.tenants t WHERE t.id = tenant AND t.account_id IS NOT NULL);
    PERFORM amp.log_change('member.added', tenant, jsonb_build_object('user_id', person, 'role', add_member.role));
    RETURN jsonb_build_object('id', person, 'email', address, 'role', add_member.role, 'tenant_id', tenant);
END
$$;
COMMENT ON FUNCTION amp.add_member(text, text, text) IS 'Internal: the work of invite_user().';

CREATE FUNCTION amp.add_member_for_caller(tenant_id text, email text, role text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text;
BEGIN
    IF amp.called_by_operator() AND tenant_id IS NOT NULL THEN
        RETURN amp.add_member(tenant_id, email, role);
    END IF;
    tenant := amp.managed_tenant(tenant_id);
    PERFORM amp.assert_holds(amp.assert_role(tenant, role), format('role "%s"', role));
    RETURN amp.add_member(tenant, email, role);
END
$$;
COMMENT ON FUNCTION amp.add_member_for_caller(text, text, text) IS 'invite_user(), by the rights of who called that.';

CREATE FUNCTION amp.invite_user(email text, role text, tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.add_member_for_caller(tenant_id, email, role);
END
$$;
COMMENT ON FUNCTION amp.invite_user(text, text, text) IS
'users.manage, or an operator naming a tenant: makes a person (new, or known by e-mail, case-insensitive) a member. Returns id, email, role, tenant_id. Errors: TN001, TN002, TN003 another tenant, TN004 not permitted or the role holds more than you do, 22023 bad e-mail, 42704 unknown role, 23505 a member already.';

-- Changing a role.

CREATE FUNCTION amp.change_member(tenant text, user_id text, role text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.lock_tenant(tenant);
    PERFORM amp.assert_role(tenant, change_member.role);
    IF amp.member_role(tenant, change_member.user_id) = 'admin' AND change_member.role <> 'admin' THEN
        PERFORM amp.assert_other_admin(tenant, change_member.user_id);
    END IF;
    PERFORM amp.settle_tenant(tenant); -- by whoever could decide until now, and then by whoever can from now on
    UPDATE amp.members m SET role = change_member.role
    WHERE m.tenant_id = tenant AND m.user_id = change_member.user_id;
    PERFORM amp.settle_tenant(tenant);
    PERFORM amp.log_change('member.changed', tenant, jsonb_build_object('user_id', user_id, 'role', change_member.role));
    RETURN (SELECT jsonb_build_object('id', u.id, 'email', u.email, 'role', change_member.role, 'tenant_id', tenant)
            FROM amp.app_users u WHERE u.id = change_member.user_id);
END
$$;
COMMENT ON FUNCTION amp.change_member(text, text, text) IS 'Internal: the work of set_user_role().';

CREATE FUNCTION amp.change_member_for_caller(tenant_id text, user_id text, role text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text;
    present text;
BEGIN
    IF amp.called_by_operator() AND tenant_id IS NOT NULL THEN
        RETURN amp.change_member(tenant_id, user_id, role);
    END IF;
    tenant := amp.managed_tenant(tenant_id);
    present := amp.member_role(tenant, user_id);
    PERFORM amp.assert_holds(amp.role_permissions(tenant, present), format('changing a member with role "%s"', present));
    PERFORM amp.assert_holds(amp.assert_role(tenant, role), format('role "%s"', role));
    RETURN amp.change_member(tenant, user_id, role);
END
$$;
COMMENT ON FUNCTION amp.change_member_for_caller(text, text, text) IS 'set_user_role(), by the rights of who called that.';

CREATE FUNCTION amp.set_user_role(user_id text, role text, tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.change_member_for_caller(tenant_id, user_id, role);
END
$$;
COMMENT ON FUNCTION amp.set_user_role(text, text, text) IS
'users.manage, or an operator naming a tenant: changes a member''s role, from every session''s next statement on. Returns id, email, role, tenant_id. Errors: TN001, TN002, TN003, TN004 not permitted, not held, or the last admin, 42704 unknown role.';

-- Removing.

CREATE FUNCTION amp.drop_member(tenant text, user_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.lock_tenant(tenant);
    IF amp.member_role(tenant, drop_member.user_id) = 'admin' THEN
        PERFORM amp.assert_other_admin(tenant, drop_member.user_id);
    END IF;
    -- Requests that waited for him alone are approved. One that he holds is passed over: he does not put off his removal.
    PERFORM amp.settle_tenant(tenant);
    -- His default tenant stays what it is, and counts for nothing: he could hold its row and put off his removal.
    DELETE FROM amp.members m WHERE m.tenant_id = tenant AND m.user_id = drop_member.user_id;
    PERFORM amp.settle_tenant(tenant);
    -- Should he be invited again one day, what he had in his pocket opens nothing. Not if he is still there through the account: to take
    -- those keys away takes what he holds.
    PERFORM amp.end_api_key(k.id, k.user_id, k.tenant_id) FROM amp.stored_api_keys k
    WHERE k.tenant_id = tenant AND k.user_id = drop_member.user_id AND amp.permissions_of(tenant, drop_member.user_id) IS NULL;
    PERFORM amp.log_change('member.removed', tenant, jsonb_build_object('user_id', user_id));
END
$$;
COMMENT ON FUNCTION amp.drop_member(text, text) IS 'Internal: the work of remove_user().';

CREATE FUNCTION amp.drop_member_for_caller(tenant_id text, user_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text;
    present text;
BEGIN
    IF amp.called_by_operator() AND tenant_id IS NOT NULL THEN
        PERFORM amp.drop_member(tenant_id, user_id);
        RETURN;
    END IF;
    tenant := amp.managed_tenant(tenant_id);
    present := amp.member_role(tenant, user_id);
    PERFORM amp.assert_holds(amp.role_permissions(tenant, present), format('changing a member with role "%s"', present));
    PERFORM amp.drop_member(tenant, user_id);
END
$$;
COMMENT ON FUNCTION amp.drop_member_for_caller(text, text) IS 'remove_user(), by the rights of who called that.';

CREATE FUNCTION amp.remove_user(user_id text, tenant_id text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.drop_member_for_caller(tenant_id, user_id);
END
$$;
COMMENT ON FUNCTION amp.remove_user(text, text) IS
'users.manage, or an operator naming a tenant: ends a membership, from every session''s next statement on. Errors: TN001, TN002, TN003, TN004 not permitted, not held, or the last admin.';

-- Listing.

CREATE FUNCTION amp.assert_tenant(tenant text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM amp.tenants t WHERE t.id = tenant) THEN
        RAISE EXCEPTION USING ERRCODE = 'TN002', MESSAGE = format('tenant "%s" is unknown', left(tenant, 64)),
            HINT = 'See amp.tenants.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_tenant(text) IS 'Internal: raises TN002 unless the tenant exists, active or not.';

CREATE FUNCTION amp.members_document(tenant text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_tenant(tenant);
    RETURN jsonb_build_object('data', coalesce((
        SELECT jsonb_agg(jsonb_build_object('id', u.id, 'email', u.email, 'role', m.role)
                         || CASE WHEN m.account_id IS NULL THEN '{}' ELSE jsonb_build_object('account_id', m.account_id) END
                         ORDER BY lower(u.email), m.account_id NULLS FIRST)
        FROM amp.memberships m JOIN amp.app_users u ON u.id = m.user_id
        WHERE m.tenant_id = tenant), '[]'));
END
$$;
COMMENT ON FUNCTION amp.members_document(text) IS 'Internal: the work of users().';

CREATE FUNCTION amp.members_document_for_caller(tenant_id text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF amp.called_by_operator() AND tenant_id IS NOT NULL THEN
        RETURN amp.members_document(tenant_id);
    END IF;
    RETURN amp.members_document(amp.own_tenant(tenant_id));
END
$$;
COMMENT ON FUNCTION amp.members_document_for_caller(text) IS 'users(), by the rights of who called that.';

CREATE FUNCTION amp.users(tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.members_document_for_caller(tenant_id);
END
$$;
COMMENT ON FUNCTION amp.users(text) IS
'The members of the session''s tenant, or of any for an operator: {"data": [{"id", "email", "role"}]}, by e-mail; who is in it through its account has an entry with "account_id", too. Errors: TN001, TN002, TN003 another tenant.';

CREATE FUNCTION amp.my_tenants() RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    person text := amp.required_user();
BEGIN
    RETURN jsonb_build_object('data', coalesce((
        SELECT jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name, 'role', m.role,
                                            'is_default', t.id IS NOT DISTINCT FROM u.default_tenant_id)
                         ORDER BY m.created_at, t.id)
        FROM (SELECT b.tenant_id, min(b.created_at) AS created_at,
                     amp.leading_role(min(b.role) FILTER (WHERE b.account_id IS NULL), min(b.role) FILTER (WHERE b.account_id IS NOT NULL))
              FROM amp.memberships b WHERE b.user_id = person GROUP BY b.tenant_id) m(tenant_id, created_at, role)
        JOIN amp.tenants t ON t.id = m.tenant_id
        JOIN amp.app_users u ON u.id = person
        WHERE t.status = 'active' AND t.id = coalesce(amp.only_tenant(), t.id)
          AND (amp.only_account() IS NULL OR t.account_id = amp.only_account())), '[]'));
END
$$;
COMMENT ON FUNCTION amp.my_tenants() IS
'The active tenants of the session''s user: {"data": [{"id", "name", "role", "is_default"}]}, oldest membership first; only those that a credential opens. Needs a user, no tenant. Errors: TN003 no user, or unknown.';

CREATE FUNCTION amp.required_user() RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    person text := amp.user_id();
BEGIN
    IF person IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003', MESSAGE = 'no user is set for this session',
            HINT = 'Pass a credential to amp.authenticate(), or run SET amp.user_id = ''...'' as a service.';
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
    IF amp.only_tenant() IS NOT NULL OR amp.only_account() IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003',
            MESSAGE = format('this session''s credential is for %s "%s" only', CASE WHEN amp.only_tenant() IS NULL THEN 'account' ELSE 'tenant' END,
                             coalesce(amp.only_tenant(), amp.only_account())),
            HINT = 'Pass a credential for all of the user''s tenants to amp.authenticate().';
    END IF;
    UPDATE amp.app_users u SET default_tenant_id = set_default_tenant.tenant_id
    WHERE u.id = person AND EXISTS (
        SELECT FROM amp.memberships m JOIN amp.tenants t ON t.id = m.tenant_id
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
'Makes one of the user''s active tenants his default. Returns {"default_tenant_id"}. Counts from the next session or credential on. Errors: TN003 no user, not a member, or a credential for one tenant or account.';
