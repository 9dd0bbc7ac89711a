-- Permissions, the roles made of them, and who may manage a tenant.

CREATE FUNCTION amp.add_permission(name text, description text, roles text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    IF name IS NULL OR name !~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$' OR length(name) > 100 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('invalid permission name %s', coalesce(quote_literal(left(name, 100)), 'NULL')),
            HINT = 'Use lower-case words with a dot between them, such as invoices.view.';
    END IF;
    IF description IS NULL OR btrim(description) = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('permission "%s" needs a description', name),
            HINT = 'Say in a few words what it permits.';
    END IF;
    IF roles IS NULL OR NOT roles <@ ARRAY['admin', 'operator', 'viewer'] THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('invalid built-in roles %s', coalesce(roles::text, 'NULL')),
            HINT = 'Choose from admin, operator and viewer; tenants put it into their own roles with amp.define_role().';
    END IF;
    INSERT INTO amp.permissions (name, description, roles)
    -- An admin holds everything: he could not give a role that holds what he lacks.
    VALUES (add_permission.name, add_permission.description,
            ARRAY(SELECT DISTINCT r FROM unnest(add_permission.roles || 'admin'::text) r ORDER BY r))
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '23505', MESSAGE = format('permission "%s" is registered already', name),
            HINT = 'See amp.permissions.';
    END IF;
    PERFORM amp.log_change('permission.registered', NULL, jsonb_build_object('name', name, 'roles', to_jsonb(roles)));
END
$$;
COMMENT ON FUNCTION amp.add_permission(text, text, text[]) IS 'The work of register_permission(), for operators.';

CREATE FUNCTION amp.register_permission(name text, description text, roles text[] DEFAULT '{admin}') RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.add_permission(name, description, roles);
END
$$;
COMMENT ON FUNCTION amp.register_permission(text, text, text[]) IS
'Operator: adds a permission of the application''s own; roles are the built-in ones that hold it; admin always does. Errors: TN004, 22023 bad name, description or roles, 23505 registered already.';

CREATE FUNCTION amp.assert_permissions(permissions text[]) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unknown text;
BEGIN
    SELECT u INTO unknown FROM unnest(permissions) u
    WHERE u IS NOT NULL AND NOT EXISTS (SELECT FROM amp.permissions p WHERE p.name = u) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('permission "%s" is not registered', left(unknown, 100)),
            HINT = 'See amp.permissions; an operator adds one with amp.register_permission().';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_permissions(text[]) IS 'Internal: raises 42704 unless all of them are registered; NULL is none.';

CREATE FUNCTION amp.role_permissions(tenant_id text, role text) RETURNS text[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN role IN ('admin', 'operator', 'viewer')
        THEN ARRAY(SELECT p.name FROM amp.permissions p WHERE role_permissions.role = ANY (p.roles) ORDER BY p.name)
        ELSE (SELECT r.permissions FROM amp.roles r
              WHERE r.tenant_id = role_permissions.tenant_id AND r.name = role_permissions.role)
    END
$$;
COMMENT ON FUNCTION amp.role_permissions(text, text) IS 'Internal: what a role holds in a tenant; NULL if there is no such role.';

CREATE FUNCTION amp.leading_role(own text, by_account text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN own IS NULL OR by_account = 'admin' OR own = 'viewer' AND by_account = 'operator' THEN by_account ELSE own END
$$;
COMMENT ON FUNCTION amp.leading_role(text, text) IS
'Internal: the role that somebody goes by who has one in a tenant and one through its account; src/tenants/membership.rs says the same.';

CREATE FUNCTION amp.permissions_of(tenant text, user_id text) RETURNS text[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT p.name ORDER BY p.name) FILTER (WHERE p.name IS NOT NULL), '{}')
    FROM amp.memberships m LEFT JOIN LATERAL unnest(amp.role_permissions(m.tenant_id, m.role)) p(name) ON true
    WHERE m.tenant_id = tenant AND m.user_id = permissions_of.user_id
    GROUP BY m.tenant_id
$$;
COMMENT ON FUNCTION amp.permissions_of(text, text) IS
'Internal: what a user holds in a tenant, as its member and through its account; NULL if he is not in it.';

-- Operators and members come in by the same name, such as invite_user(), which runs with the caller's rights and notes who he is
-- (mark_caller()). It calls a function that looks at that note, or at the context, and then has the work done with its owner's rights.

CREATE FUNCTION amp.lock_tenant(tenant text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM amp.tenants t WHERE t.id = tenant AND t.status <> 'deleted') THEN
        RAISE EXCEPTION USING ERRCODE = 'TN002', MESSAGE = format('tenant "%s" is unknown', left(tenant, 64)), HINT = 'See amp.tenants.';
    END IF;
    -- One change to a tenant's people at a time: counting the admins must not race. An update, not a lock: under REPEATABLE
    -- READ the second of two has to fail, for its snapshot does not show what the first one did. Not of the tenant's row, or
    -- whoever keeps his transaction open could put off his own suspension.
    INSERT INTO amp.tenant_locks AS l VALUES (tenant) ON CONFLICT ON CONSTRAINT tenant_locks_pkey DO UPDATE SET taken = 1;
END
$$;
COMMENT ON FUNCTION amp.lock_tenant(text) IS 'Internal: serializes changes to a tenant''s people. Errors: TN002.';

CREATE FUNCTION amp.managed_tenant(tenant_id text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own text := amp.own_tenant(managed_tenant.tenant_id);
BEGIN
    PERFORM amp.require_permission('users.manage');
    PERFORM amp.lock_tenant(own);
    -- Whom we waited for may have taken it away.
    PERFORM amp.require_permission('users.manage');
    RETURN own;
END
$$;
COMMENT ON FUNCTION amp.managed_tenant(text) IS
'Internal: the session''s tenant, locked, if the session has users.manage in it. Errors: TN001, TN002, TN003 another tenant, TN004.';

CREATE FUNCTION amp.own_tenant(tenant_id text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own text;
BEGIN
    -- Hears first what others have changed: an expression of PL/pgSQL does not by itself.
    PERFORM amp.context_holds();
    own := amp.tenant_id();
    IF tenant_id <> own THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003',
            MESSAGE = format('this session acts for tenant "%s", not for "%s"', own, left(tenant_id, 64)),
            HINT = 'Leave tenant_id out, or set the context to that tenant in another transaction.';
    END IF;
    RETURN own;
END
$$;
COMMENT ON FUNCTION amp.own_tenant(text) IS 'Internal: the session''s tenant, which tenant_id has to be if it is given. Errors: as tenant_id(), TN003.';

CREATE FUNCTION amp.assert_holds(permissions text[], purpose text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    permission text;
BEGIN
    FOREACH permission IN ARRAY permissions LOOP
        IF NOT amp.has_permission(permission) THEN
            RAISE EXCEPTION USING ERRCODE = 'TN004',
                MESSAGE = format('%s takes permission "%s", which you do not hold', purpose, permission),
                DETAIL = 'Nobody can give, change or take away what he does not hold himself.',
                HINT = 'Ask an admin of the tenant.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.assert_holds(text[], text) IS 'Internal: raises TN004 unless the session holds all of these permissions.';

CREATE FUNCTION amp.define_role(name text, permissions text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := amp.managed_tenant(NULL);
BEGIN
    IF name IS NULL OR name !~ '^[a-z][a-z0-9_-]{0,62}$' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('invalid role name %s', coalesce(quote_literal(left(name, 64)), 'NULL')),
            HINT = 'Use 1 to 63 characters of a-z, 0-9, _ and -, beginning with a letter.';
    END IF;
    IF name IN ('admin', 'operator', 'viewer') THEN
        RAISE EXCEPTION USING ERRCODE = '42939', MESSAGE = format('role "%s" is built in', name),
            HINT = 'Choose another name.';
    END IF;
    IF permissions IS NULL OR array_position(permissions, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = format('role "%s" needs a list of permissions', name),
            HINT = 'An empty list is one; NULL is not.';
    END IF;
    PERFORM amp.assert_permissions(permissions);
    PERFORM amp.assert_holds(permissions, format('role "%s"', name));
    PERFORM amp.assert_holds(amp.role_permissions(tenant, name), format('changing role "%s"', name))
    WHERE amp.role_permissions(tenant, name) IS NOT NULL;
    PERFORM amp.settle_tenant(tenant); -- by whoever could decide until now, and then by whoever can from now on
    INSERT INTO amp.roles (tenant_id, name, permissions)
    VALUES (tenant, define_role.name, ARRAY(SELECT DISTINCT u FROM unnest(define_role.permissions) u ORDER BY u))
    ON CONFLICT ON CONSTRAINT roles_pkey DO UPDATE SET permissions = excluded.permissions;
    PERFORM amp.settle_tenant(tenant);
    PERFORM amp.log_change('role.defined', tenant, jsonb_build_object('name', name, 'permissions', to_jsonb(permissions)));
END
$$;
COMMENT ON FUNCTION amp.define_role(text, text[]) IS
'users.manage: makes or changes a role of the session''s tenant. Errors: TN001, TN004 not permitted or not held, 22023 bad name, 42939 built in, 42704 unknown permission, 22004 NULL.';

CREATE FUNCTION amp.drop_role(name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := amp.managed_tenant(NULL);
    held text[] := amp.role_permissions(tenant, drop_role.name);
    members bigint;
BEGIN
    IF name IN ('admin', 'operator', 'viewer') THEN
        RAISE EXCEPTION USING ERRCODE = '42939', MESSAGE = format('role "%s" is built in', name),
            HINT = 'Only roles made by amp.define_role() can be dropped.';
    END IF;
    IF held IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('role "%s" does not exist', left(name, 64)),
            HINT = 'See amp.roles.';
    END IF;
    PERFORM amp.assert_holds(held, format('dropping role "%s"', name));
    SELECT count(*) INTO members FROM amp.members m WHERE m.tenant_id = tenant AND m.role = drop_role.name;
    IF members > 0 THEN
        RAISE EXCEPTION USING ERRCODE = '2BP01', MESSAGE = format('role "%s" has %s member(s)', name, members),
            HINT = 'Give them another one with amp.set_user_role() first.';
    END IF;
    DELETE FROM amp.roles r WHERE r.tenant_id = tenant AND r.name = drop_role.name;
    PERFORM amp.log_change('role.dropped', tenant, jsonb_build_object('name', name));
END
$$;
COMMENT ON FUNCTION amp.drop_role(text) IS
'users.manage: drops a role of the session''s tenant that no member has. Errors: TN001, TN004, 42939 built in, 42704 unknown, 2BP01 in use.';
