-- Login roles of people whom PostgreSQL itself has authenticated.

CREATE FUNCTION amp.store_binding(role name, user_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bound regrole;
    privileged boolean;
    trusted boolean;
BEGIN
    PERFORM amp.assert_called_by_operator();
    SELECT r.oid, r.rolreplication OR r.rolcreaterole OR EXISTS (
               SELECT FROM pg_roles b WHERE (b.rolsuper OR b.rolbypassrls) AND pg_has_role(r.oid, b.oid, 'MEMBER')),
           pg_has_role(r.oid, 'amp_service', 'USAGE') OR pg_has_role(r.oid, 'amp_operator', 'USAGE')
    INTO bound, privileged, trusted
    FROM pg_roles r WHERE r.rolname = store_binding.role AND r.rolcanlogin;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('login role %s does not exist', coalesce(quote_literal(role), 'NULL')),
            HINT = 'CREATE ROLE ... LOGIN first.';
    END IF;
    IF privileged OR trusted THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('login role "%s" cannot be bound to a user', role),
            DETAIL = CASE WHEN privileged THEN 'It is, or can become, a superuser or a role with BYPASSRLS, or it has CREATEROLE or REPLICATION.'
                     ELSE 'It is a service or an operator: its group says what it may do.' END,
            HINT = 'Make a role of its own for the person.';
    END IF;
    PERFORM FROM amp.app_users u WHERE u.id = store_binding.user_id FOR KEY SHARE; -- against a purge that would delete him now
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003',
            MESSAGE = format('user %s is unknown', coalesce(quote_literal(left(user_id, 64)), 'NULL')),
            HINT = 'Pass the id that amp.invite_user() returned.';
    END IF;
    INSERT INTO amp.bound_roles AS b (role_name, role, user_id) VALUES (store_binding.role, bound, store_binding.user_id)
    ON CONFLICT ON CONSTRAINT bound_roles_pkey DO UPDATE SET role = excluded.role, user_id = excluded.user_id;
    PERFORM amp.log_change('role.bound', NULL, jsonb_build_object('role', role, 'user_id', user_id));
END
$$;
COMMENT ON FUNCTION amp.store_binding(name, text) IS 'The work of bind_role(), for operators.';

CREATE FUNCTION amp.bind_role(role name, user_id text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.store_binding(role, user_id);
END
$$;
COMMENT ON FUNCTION amp.bind_role(name, text) IS
'Operator: whoever logs in as this role is this user, from the next statement on; for a role that is bound already, instead of the former. Errors: TN003 unknown user, TN004, 42501 the role is privileged, a service or an operator, 42704 no such login role.';

CREATE FUNCTION amp.remove_binding(role name) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    DELETE FROM amp.bound_roles b WHERE b.role_name = remove_binding.role;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('role %s is not bound', coalesce(quote_literal(role), 'NULL')),
            HINT = 'See amp.bound_roles.';
    END IF;
    PERFORM amp.log_change('role.unbound', NULL, jsonb_build_object('role', role));
END
$$;
COMMENT ON FUNCTION amp.remove_binding(name) IS 'The work of unbind_role(), for operators.';

CREATE FUNCTION amp.unbind_role(role name) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.remove_binding(role);
END
$$;
COMMENT ON FUNCTION amp.unbind_role(name) IS
'Operator: this role is nobody any more, from its sessions'' next statement on. Also for a role that was dropped. Errors: TN004, 42704 not bound.';
