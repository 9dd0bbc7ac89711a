-- The life of a tenant.

CREATE FUNCTION amp.utc(at timestamptz) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;
COMMENT ON FUNCTION amp.utc(timestamptz) IS 'Internal: a time as documents show it, ISO 8601 in UTC, whole seconds.';

CREATE FUNCTION amp.tenant_document(tenant_id text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    month jsonb := amp.usage_document(tenant_id, NULL) -> 'usage';
BEGIN
    RETURN (
        SELECT jsonb_build_object(
            'id', t.id, 'name', t.name, 'slug', t.slug, 'status', t.status, 'config', coalesce(c.config, '{}'),
            'usage', jsonb_build_object('current_month', jsonb_build_object(
                'missions_created', month -> 'missions_created', 'content_generated', month -> 'content_generated',
                'api_calls', month -> 'api_calls', 'cost_cents', month -> 'cost_cents')),
            'created_at', amp.utc(t.created_at), 'updated_at', amp.utc(greatest(t.updated_at, c.updated_at)))
        FROM amp.tenants t LEFT JOIN amp.tenant_configs c ON c.tenant_id = t.id
        WHERE t.id = tenant_document.tenant_id);
END
$$;
COMMENT ON FUNCTION amp.tenant_document(text) IS 'Internal: the work of tenant().';

CREATE FUNCTION amp.add_tenant_for_caller(name text, slug text, config jsonb, id text, account_id text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := coalesce(add_tenant_for_caller.id, amp.new_id('tnt_'));
    account text := add_tenant_for_caller.account_id;
    taken text;
BEGIN
    IF amp.called_by_operator() THEN
        PERFORM amp.lock_account(account) WHERE account IS NOT NULL;
    ELSIF amp.user_id() IS NULL THEN
        PERFORM amp.assert_called_by_operator();
    ELSE
        PERFORM amp.assert_called_by_session();
        account := amp.managed_account(account);
        IF add_tenant_for_caller.id IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'TN004', MESSAGE = 'only an operator chooses a tenant''s id', HINT = 'Leave id out for a new one.';
        END IF;
    END IF;
    IF name IS NULL OR btrim(name) = '' OR length(name) > 200 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a tenant needs a name of 1 to 200 characters',
            HINT = 'Pass name => ''...''.';
    END IF;
    IF slug IS NULL OR slug !~ '^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('invalid slug %s', coalesce(quote_literal(left(slug, 64)), 'NULL')),
            HINT = 'Use 3 to 63 characters of a-z, 0-9 and -, with a letter or digit at both ends.';
    END IF;
    IF config IS NULL OR jsonb_typeof(config) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'TN010', MESSAGE = 'config has to be a JSON object',
            DETAIL = format('Given: %s.', coalesce(jsonb_typeof(config), 'NULL')), HINT = 'Pass config => ''{}'' for none.';
    END IF;
    IF slug IN ('account', 'accounts', 'admin', 'amp', 'api', 'app', 'auth', 'billing', 'brand', 'help', 'internal', 'login', 'logout',
                'operator', 'public', 'root', 'settings', 'status', 'support', 'system', 'tenant', 'tenants', 'user', 'users', 'www') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('slug "%s" is reserved', slug),
            HINT = 'Choose one that names the tenant, such as acme-corp.';
    END IF;
    IF tenant !~ '^[A-Za-z0-9_-]{1,64}$' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid tenant id %L', left(tenant, 64)),
            HINT = 'Use 1 to 64 characters of A-Z, a-z, 0-9, _ and -, or leave it out for a new one.';
    END IF;
    INSERT INTO amp.tenants (id, name, slug, account_id)
    VALUES (tenant, btrim(add_tenant_for_caller.name), add_tenant_for_caller.slug, account)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        SELECT CASE WHEN EXISTS (SELECT FROM amp.tenants t WHERE t.id = tenant) THEN format('id "%s"', tenant)
               ELSE format('slug "%s"', add_tenant_for_caller.slug) END INTO taken;
        RAISE EXCEPTION USING ERRCODE = '23505', MESSAGE = format('a tenant with %s exists or existed', taken),
            HINT = 'Choose another one; ids are never given twice.';
    END IF;
    -- A patch of nothing: without the members that it has none of yet, and checked as any other.
    INSERT INTO amp.tenant_configs (tenant_id) VALUES (tenant);
    PERFORM amp.store_config(tenant, amp.patched_config(tenant, '{}', add_tenant_for_caller.config));
    PERFORM amp.log_change('tenant.created', tenant, jsonb_build_object(
        'name', btrim(add_tenant_for_caller.name), 'slug', add_tenant_for_caller.slug, 'account_id', account));
    -- As with the first tenant that somebody is invited to.
    UPDATE amp.app_users u SET default_tenant_id = tenant WHERE u.id = amp.actor()::jsonb ->> 'user_id' AND u.default_tenant_id IS NULL;
    RETURN amp.tenant_document(tenant);
END
$$;
COMMENT ON FUNCTION amp.add_tenant_for_caller(text, text, jsonb, text, text) IS 'The work of create_tenant(), by the rights of who called that.';

CREATE FUNCTION amp.create_tenant(
        name text, slug text, config jsonb DEFAULT '{}', id text DEFAULT NULL, account_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_confidential();
    PERFORM amp.mark_caller();
    RETURN amp.add_tenant_for_caller(name, slug, config, id, account_id);
END
$$;
COMMENT ON FUNCTION amp.create_tenant(text, text, jsonb, text, text) IS
'Operator, or an admin of an account for his account (the only one that he is an admin of, unless it is named): creates an active tenant and returns its document. The id is tnt_ and 16 base62 characters unless an operator gives an existing one. Errors: TN003 no member of the account, TN004, 22023 bad name, slug or id, or several accounts, 42704 unknown account, TN010 what is wrong in config where, 55000 a secret in it, and no key, 23505 slug or id taken.';

CREATE FUNCTION amp.set_tenant_status(tenant_id text, status text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    UPDATE amp.tenants t SET status = set_tenant_status.status, updated_at = now()
    WHERE t.id = set_tenant_status.tenant_id AND t.status <> 'deleted';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TN002',
            MESSAGE = format('tenant %s is unknown or deleted', coalesce(quote_ident(left(tenant_id, 64)), 'NULL')),
            HINT = 'See amp.tenants; a deleted tenant does not come back.';
    END IF;
    PERFORM amp.log_change('tenant.' || CASE status WHEN 'active' THEN 'activated' ELSE status END, tenant_id);
    RETURN amp.tenant_document(tenant_id);
END
$$;
COMMENT ON FUNCTION amp.set_tenant_status(text, text) IS 'The work of suspend_tenant() and its kin, for operators: the change of status.';

CREATE FUNCTION amp.suspend_tenant(tenant_id text) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.set_tenant_status(tenant_id, 'suspended');
END
$$;
COMMENT ON FUNCTION amp.suspend_tenant(text) IS
'Operator: shuts a tenant out of every session at its next statement, open transactions included. Returns its document. Errors: TN004, TN002.';

CREATE FUNCTION amp.activate_tenant(tenant_id text) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.set_tenant_status(tenant_id, 'active');
END
$$;
COMMENT ON FUNCTION amp.activate_tenant(text) IS 'Operator: lets a suspended tenant in again. Returns its document. Errors: TN004, TN002.';
