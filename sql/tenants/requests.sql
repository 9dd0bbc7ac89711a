-- The same functions by the body of a request, as it is: see docs/rest.md.

CREATE FUNCTION amp.assert_body(body jsonb, keys jsonb) RETURNS void
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'amp_assert_body';
COMMENT ON FUNCTION amp.assert_body(jsonb, jsonb) IS
'Internal: raises TN010 unless a request''s body has these keys and no others; keys says the kind of each value, and has a ? after a key that may be absent.';

CREATE FUNCTION amp.create_tenant(body jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_body(coalesce(body, 'null'),
        '{"name": "a text", "slug": "a text", "config?": "an object", "id?": "a text", "account_id?": "a text"}');
    RETURN amp.create_tenant(body ->> 'name', body ->> 'slug', coalesce(nullif(body -> 'config', 'null'), '{}'),
                             body ->> 'id', body ->> 'account_id');
END
$$;
COMMENT ON FUNCTION amp.create_tenant(jsonb) IS
'create_tenant() by a request''s body: {"name", "slug"[, "config"][, "id"][, "account_id"]}. Errors: as that, TN010 what is wrong in the body.';

CREATE FUNCTION amp.invite_user(body jsonb, tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_body(coalesce(body, 'null'), '{"email": "a text", "role": "a text"}');
    RETURN amp.invite_user(body ->> 'email', body ->> 'role', tenant_id);
END
$$;
COMMENT ON FUNCTION amp.invite_user(jsonb, text) IS
'invite_user() by a request''s body: {"email", "role"}. Errors: as that, TN010 what is wrong in the body.';

CREATE FUNCTION amp.set_user_role(user_id text, body jsonb, tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_body(coalesce(body, 'null'), '{"role": "a text"}');
    RETURN amp.set_user_role(user_id, body ->> 'role', tenant_id);
END
$$;
COMMENT ON FUNCTION amp.set_user_role(text, jsonb, text) IS
'set_user_role() by a request''s body: {"role"}. Errors: as that, TN010 what is wrong in the body.';

CREATE FUNCTION amp.set_default_tenant(body jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_body(coalesce(body, 'null'), '{"default_tenant_id": "a text"}');
    RETURN amp.set_default_tenant(body ->> 'default_tenant_id');
END
$$;
COMMENT ON FUNCTION amp.set_default_tenant(jsonb) IS
'set_default_tenant() by a request''s body: {"default_tenant_id"}. Errors: as that, TN010 what is wrong in the body.';
