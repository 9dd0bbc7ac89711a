-- Accounts: an agency or an enterprise, and the tenants that it owns. Its members have their role in every tenant of it, its admins
-- make tenants and members of their account, and no others.

CREATE FUNCTION amp.managed_account(account_id text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    person text := amp.required_user();
    managed text[];
    present text;
BEGIN
    IF amp.only_tenant() IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003',
            MESSAGE = format('this session''s credential is for tenant "%s" only', amp.only_tenant()),
            HINT = 'Pass a credential for the account, or for all of the user''s tenants, to amp.authenticate().';
    END IF;
    IF account_id IS NULL THEN
        SELECT coalesce(array_agg(m.account_id ORDER BY m.account_id), '{}') INTO managed
        FROM amp.account_members m WHERE m.user_id = person AND amp.account_role(m.account_id) = 'admin';
        IF cardinality(managed) <> 1 THEN
            RAISE EXCEPTION USING ERRCODE = CASE managed WHEN '{}' THEN 'TN004' ELSE '22023' END,
                MESSAGE = CASE managed WHEN '{}' THEN format('user "%s" is not an admin of any account', person)
                          ELSE format('user "%s" is an admin of several accounts', person) END,
                HINT = CASE managed WHEN '{}' THEN 'Ask an operator, or an admin of the account.'
                       ELSE format('Pass account_id => ''%s'', for example.', managed[1]) END;
        END IF;
        RETURN managed[1];
    END IF;
    present := amp.account_role(account_id);
    IF present IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003',
            MESSAGE = format('user "%s" is not a member of account "%s"', person, left(account_id, 64)), HINT = 'See amp.my_accounts().';
    ELSIF present <> 'admin' THEN
        RAISE EXCEPTION USING ERRCODE = 'TN004',
            MESSAGE = format('user "%s" is not an admin of account "%s"', person, account_id),
            DETAIL = format('His role in it is "%s".', present), HINT = 'Ask an admin of the account.';
    END IF;
    RETURN account_id;
END
$$;
COMMENT ON FUNCTION amp.managed_account(text) IS
'Internal: the account of which the session''s user is an admin; the only one if none is named. Errors: TN003 no user, no member, or a credential for a tenant or for another account, TN004 no admin, 22023 several.';

CREATE FUNCTION amp.lock_account(account_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- An update, not a lock, for the reason that lock_tenant() has.
    UPDATE amp.accounts a SET updated_at = now() WHERE a.id = lock_account.account_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('account %s is unknown', coalesce(quote_literal(left(account_id, 64)), 'NULL')),
            HINT = 'See amp.accounts.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.lock_account(text) IS 'Internal: serializes changes to an account''s people. Errors: 42704.';

CREATE FUNCTION amp.settle_account(account text) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT amp.settle_tenant(t.id) FROM amp.tenants t WHERE t.account_id = account $$;
COMMENT ON FUNCTION amp.settle_account(text) IS
'Internal: before and after the people of an account change, for they may be approvers in its tenants (sql/approval/requests.sql).';

CREATE FUNCTION amp.changed_account(account_id text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account text := account_id;
BEGIN
    IF amp.called_by_operator() THEN
        PERFORM amp.lock_account(account);
        RETURN account;
    END IF;
    PERFORM amp.assert_called_by_session();
    account := amp.managed_account(account);
    PERFORM amp.lock_account(account);
    -- Whom we waited for may have taken it away.
    RETURN amp.managed_account(account);
END
$$;
COMMENT ON FUNCTION amp.changed_account(text) IS
'Internal: the account, locked, that an operator names or that the session''s user administers. Errors: as managed_account(), 42704.';

CREATE FUNCTION amp.account_document(account_id text) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'id', a.id, 'name', a.name, 'kind', a.kind,
        'tenants', coalesce((
            SELECT jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name, 'slug', t.slug, 'status', t.status) ORDER BY t.created_at, t.id)
            FROM amp.tenants t WHERE t.account_id = a.id AND t.status <> 'deleted'), '[]'),
        'members', coalesce((
            SELECT jsonb_agg(jsonb_build_object('id', u.id, 'email', u.email, 'role', m.role) ORDER BY lower(u.email))
            FROM amp.account_members m JOIN amp.app_users u ON u.id = m.user_id WHERE m.account_id = a.id), '[]'),
        'api_keys', coalesce((
            SELECT jsonb_agg(jsonb_build_object('id', k.id, 'user_id', k.user_id, 'name', k.name, 'expires_at', amp.utc(k.expires_at))
                             ORDER BY k.created_at, k.id)
            FROM amp.stored_api_keys k WHERE k.account_id = a.id
             AND NOT EXISTS (SELECT FROM amp.revoked_api_keys r WHERE r.key_id = k.id)), '[]'),
        'created_at', amp.utc(a.created_at))
    FROM amp.accounts a WHERE a.id = account_document.account_id
$$;
COMMENT ON FUNCTION amp.account_document(text) IS 'Internal: the work of account(); NULL if there is none.';

CREATE FUNCTION amp.account_document_for_caller(account_id text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    document jsonb;
BEGIN
    IF NOT amp.called_by_operator() THEN
        PERFORM amp.assert_called_by_session();
        RETURN amp.account_document(amp.managed_account(account_id));
    END IF;
    document := amp.account_document(account_id);
    IF document IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('account %s is unknown', coalesce(quote_literal(left(account_id, 64)), 'NULL')),
            HINT = 'See amp.accounts.';
    END IF;
    RETURN document;
END
$$;
COMMENT ON FUNCTION amp.account_document_for_caller(text) IS 'account(), by the rights of who called that.';

CREATE FUNCTION amp.account(account_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.account_document_for_caller(account_id);
END
$$;
COMMENT ON FUNCTION amp.account(text) IS
'An account, for its admins (the only one of which the user is an admin, unless it is named) and operators: {"id", "name", "kind", "tenants": [{"id", "name", "slug", "status"}], "members": [{"id", "email", "role"}], "api_keys": [{"id", "user_id", "name", "expires_at"}], "created_at"}. Errors: TN003 no user, no member, or a credential that does not open it, TN004 no admin, 22023 several, 42704 unknown.';

CREATE FUNCTION amp.my_accounts() RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    person text := amp.required_user();
BEGIN
    RETURN jsonb_build_object('data', coalesce((
        SELECT jsonb_agg(jsonb_build_object('id', a.id, 'name', a.name, 'kind', a.kind, 'role', m.role) ORDER BY m.created_at, a.id)
        FROM amp.account_members m JOIN amp.accounts a ON a.id = m.account_id
        WHERE m.user_id = person AND amp.account_role(a.id) IS NOT NULL), '[]'));
END
$$;
COMMENT ON FUNCTION amp.my_accounts() IS
'The accounts of the session''s user that his credential opens: {"data": [{"id", "name", "kind", "role"}]}, oldest membership first. Errors: TN003 no user.';

CREATE FUNCTION amp.add_account(name text, kind text, id text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account text := coalesce(add_account.id, amp.new_id('acc_'));
BEGIN
    PERFORM amp.assert_called_by_operator();
    IF name IS NULL OR btrim(name) = '' OR length(name) > 200 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'an account needs a name of 1 to 200 characters',
            HINT = 'Pass name => ''...''.';
    END IF;
    IF kind IS NULL OR kind NOT IN ('agency', 'enterprise') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid kind of account %s', coalesce(quote_literal(left(kind, 64)), 'NULL')),
            HINT = 'Choose agency or enterprise.';
    END IF;
    IF account !~ '^[A-Za-z0-9_-]{1,64}$' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid account id %L', left(account, 64)),
            HINT = 'Use 1 to 64 characters of A-Z, a-z, 0-9, _ and -, or leave it out for a new one.';
    END IF;
    INSERT INTO amp.accounts (id, kind, name) VALUES (account, add_account.kind, btrim(add_account.name)) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '23505', MESSAGE = format('an account with id "%s" exists', account), HINT = 'Choose another one.';
    END IF;
    PERFORM amp.log_change('account.created', NULL, jsonb_build_object('id', account, 'name', btrim(name), 'kind', kind));
    RETURN amp.account_document(account);
END
$$;
COMMENT ON FUNCTION amp.add_account(text, text, text) IS 'The work of create_account(), for operators.';

CREATE FUNCTION amp.create_account(name text, kind text, id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.add_account(name, kind, id);
END
$$;
COMMENT ON FUNCTION amp.create_account(text, text, text) IS
'Operator: creates an account, an agency or an enterprise, and returns its document (see account()). The id is acc_ and 16 base62 characters unless an existing one is given. Errors: TN004, 22023 bad name, kind or id, 23505 id taken.';

CREATE FUNCTION amp.move_tenant(tenant_id text, account_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    administered boolean;
BEGIN
    PERFORM amp.assert_called_by_operator();
    PERFORM amp.lock_account(account_id) WHERE account_id IS NOT NULL;
    PERFORM amp.lock_tenant(tenant_id);
    administered := EXISTS (SELECT FROM amp.memberships m WHERE m.tenant_id = move_tenant.tenant_id AND m.role = 'admin');
    PERFORM amp.settle_tenant(tenant_id);
    UPDATE amp.tenants t SET account_id = move_tenant.account_id, updated_at = now()
    WHERE t.id = move_tenant.tenant_id AND t.status <> 'deleted';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TN002',
            MESSAGE = format('tenant %s is unknown or deleted', coalesce(quote_literal(left(tenant_id, 64)), 'NULL')), HINT = 'See amp.tenants.';
    ELSIF administered AND NOT EXISTS (SELECT FROM amp.memberships m WHERE m.tenant_id = move_tenant.tenant_id AND m.role = 'admin') THEN
        RAISE EXCEPTION USING ERRCODE = 'TN004', MESSAGE = format('tenant "%s" would have no admin there', tenant_id),
            DETAIL = 'Its only admins are those of the account that it is in.', HINT = 'Make somebody an admin of it first: amp.invite_user().';
    END IF;
    PERFORM amp.settle_tenant(tenant_id);
    PERFORM amp.log_change('tenant.moved', tenant_id, jsonb_build_object('account_id', account_id));
END
$$;
COMMENT ON FUNCTION amp.move_tenant(text, text) IS 'The work of set_tenant_account(), for operators.';

CREATE FUNCTION amp.set_tenant_account(tenant_id text, account_id text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.move_tenant(tenant_id, account_id);
END
$$;
COMMENT ON FUNCTION amp.set_tenant_account(text, text) IS
'Operator: puts a tenant into an account, or into none (NULL), from every session''s next statement on. Errors: TN004 no operator, or the tenant would have no admin, TN002 the tenant, 42704 the account.';

-- The account's people.

CREATE FUNCTION amp.assert_other_account_admin(account_id text, user_id text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM amp.account_members m
                   WHERE m.account_id = assert_other_account_admin.account_id AND m.role = 'admin'
                     AND m.user_id <> assert_other_account_admin.user_id) THEN
        RAISE EXCEPTION USING ERRCODE = 'TN004',
            MESSAGE = format('user "%s" is the last admin of account "%s"', user_id, account_id),
            HINT = 'Make somebody else an admin first.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_other_account_admin(text, text) IS 'Internal: raises TN004 if nobody else is an admin of the account.';

CREATE FUNCTION amp.put_account_member_for_caller(account_id text, email text, role text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    account text := amp.changed_account(put_account_member_for_caller.account_id);
    person text;
    present text;
BEGIN
    IF put_account_member_for_caller.role IS NULL OR put_account_member_for_caller.role NOT IN ('admin', 'operator', 'viewer') THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = format('role %s does not exist in accounts', coalesce(quote_literal(left(put_account_member_for_caller.role, 64)), 'NULL')),
            HINT = 'Choose admin, operator or viewer: a role that a tenant defines is that tenant''s alone.';
    END IF;
    person := amp.person_of(email, NULL);
    SELECT m.role INTO present FROM amp.account_members m WHERE m.account_id = account AND m.user_id = person;
    IF present = 'admin' AND put_account_member_for_caller.role <> 'admin' THEN
        PERFORM amp.assert_other_account_admin(account, person);
    END IF;
    PERFORM amp.settle_account(account);
    INSERT INTO amp.account_members (account_id, user_id, role) VALUES (account, person, put_account_member_for_caller.role)
    ON CONFLICT ON CONSTRAINT account_members_pkey DO UPDATE SET role = excluded.role;
    PERFORM amp.settle_account(account);
    PERFORM amp.log_change(CASE WHEN present IS NULL THEN 'account.member_added' ELSE 'account.member_changed' END, NULL,
        jsonb_build_object('account_id', account, 'user_id', person, 'role', put_account_member_for_caller.role));
    RETURN (SELECT jsonb_build_object('id', u.id, 'email', u.email, 'role', put_account_member_for_caller.role, 'account_id', account)
            FROM amp.app_users u WHERE u.id = person);
END
$$;
COMMENT ON FUNCTION amp.put_account_member_for_caller(text, text, text) IS 'The work of add_account_member(), by the rights of who called that.';

CREATE FUNCTION amp.add_account_member(account_id text, email text, role text) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.put_account_member_for_caller(account_id, email, role);
END
$$;
COMMENT ON FUNCTION amp.add_account_member(text, text, text) IS
'An admin of the account, or an operator: makes a person (new, or known by e-mail, case-insensitive) a member of an account, with a role (admin, operator, viewer) that he then has in all of its tenants; changes the role of one who is a member. An account that is not named (NULL) is the only one that the user is an admin of. Returns id, email, role, account_id. Errors: TN003, TN004 no admin, or the last one, or not called by the session itself, TN006 the context is locked, 22023 bad e-mail, or several accounts, 40001, 42704 unknown role or account.';

CREATE FUNCTION amp.drop_account_member_for_caller(account_id text, user_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account text := amp.changed_account(drop_account_member_for_caller.account_id);
    present text;
BEGIN
    SELECT m.role INTO present FROM amp.account_members m
    WHERE m.account_id = account AND m.user_id = drop_account_member_for_caller.user_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003',
            MESSAGE = format('user %s is not a member of account "%s"', coalesce(quote_literal(left(user_id, 64)), 'NULL'), account),
            HINT = 'See amp.account().';
    ELSIF present = 'admin' THEN
        PERFORM amp.assert_other_account_admin(account, user_id);
    END IF;
    PERFORM amp.settle_account(account);
    DELETE FROM amp.account_members m WHERE m.account_id = account AND m.user_id = drop_account_member_for_caller.user_id;
    PERFORM amp.settle_account(account);
    -- Should he be invited again one day, what he had in his pocket opens nothing. A key for a tenant in which he still is stays.
    PERFORM amp.end_api_key(k.id, k.user_id, k.tenant_id) FROM amp.stored_api_keys k
    WHERE k.user_id = drop_account_member_for_caller.user_id
      AND (k.account_id = account OR EXISTS (
          SELECT FROM amp.tenants t WHERE t.id = k.tenant_id AND t.account_id = account
             AND NOT EXISTS (SELECT FROM amp.members m WHERE m.tenant_id = t.id AND m.user_id = k.user_id)));
    PERFORM amp.log_change('account.member_removed', NULL, jsonb_build_object('account_id', account, 'user_id', user_id));
END
$$;
COMMENT ON FUNCTION amp.drop_account_member_for_caller(text, text) IS 'The work of remove_account_member(), by the rights of who called that.';

CREATE FUNCTION amp.remove_account_member(account_id text, user_id text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.drop_account_member_for_caller(account_id, user_id);
END
$$;
COMMENT ON FUNCTION amp.remove_account_member(text, text) IS
'An admin of the account, or an operator: ends a membership, in all tenants of the account, from every session''s next statement on; a role that the user has in one of them by himself stays. An account that is not named (NULL) is the only one that the user is an admin of. Errors: TN003 no member, TN004 no admin, or the last one, or not called by the session itself, TN006 the context is locked, 22023 several accounts, 42704 unknown account.';
