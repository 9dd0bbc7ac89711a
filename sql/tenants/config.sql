-- A tenant's configuration. What may be in it says src/tenants/config.rs. A table of its own: whoever keeps a change of it open does
-- not hold the tenant's row, and so does not put off a suspension.

CREATE FUNCTION amp.patched_config(tenant text, config jsonb, patch jsonb) RETURNS jsonb
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_patched_config';
COMMENT ON FUNCTION amp.patched_config(text, jsonb, jsonb) IS
'Internal: what a merge patch makes of a configuration, checked whole: {"config", "changed": paths, "sealed": {path: {"key_id", "sealed"}}, "gone": paths}. Errors: TN010 where it is wrong, 55000 a secret, and no key.';

CREATE FUNCTION amp.store_config(tenant text, patched jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE amp.tenant_configs c SET config = patched -> 'config', updated_at = now() WHERE c.tenant_id = tenant;
    PERFORM amp.store_limits(tenant, patched #> '{config,cost_limits}', EXISTS (
        SELECT FROM amp.tenants t WHERE t.id = tenant AND amp.is_own_change(t.xmin)
          AND NOT EXISTS (SELECT FROM amp.spending_limits s WHERE s.tenant_id = tenant)));
    DELETE FROM amp.secrets s WHERE s.tenant_id = tenant AND patched -> 'gone' ? s.path;
    INSERT INTO amp.secrets (tenant_id, path, key_id, sealed)
    SELECT tenant, e.key, e.value ->> 'key_id', decode(e.value ->> 'sealed', 'hex') FROM jsonb_each(patched -> 'sealed') e
    ON CONFLICT ON CONSTRAINT secrets_pkey DO UPDATE SET key_id = excluded.key_id, sealed = excluded.sealed, updated_at = now();
END
$$;
COMMENT ON FUNCTION amp.store_config(text, jsonb) IS 'Internal: stores what patched_config() made, for whoever holds the row of the configuration.';

CREATE FUNCTION amp.providers_of(config jsonb, kind text) RETURNS text[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'amp_providers_of';
COMMENT ON FUNCTION amp.providers_of(jsonb, text) IS 'Internal: the work of providers().';

CREATE FUNCTION amp.assert_configures(change jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.require_permission(CASE section WHEN 'cost_limits' THEN 'billing.configure' ELSE 'integrations.manage' END)
    FROM jsonb_object_keys(change) section;
END
$$;
COMMENT ON FUNCTION amp.assert_configures(jsonb) IS 'Internal: raises TN004 unless the session may change every section of a patch.';

CREATE FUNCTION amp.change_config_for_caller(patch jsonb, tenant_id text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    operator boolean := amp.called_by_operator() AND tenant_id IS NOT NULL;
    tenant text := CASE WHEN operator THEN tenant_id ELSE amp.own_tenant(tenant_id) END;
    -- The body of a request: {"config": {...}}.
    change jsonb := CASE WHEN patch = jsonb_build_object('config', patch -> 'config') AND jsonb_typeof(patch -> 'config') = 'object'
                    THEN patch -> 'config' ELSE patch END;
    present jsonb;
    patched jsonb;
    rules_change boolean;
BEGIN
    IF change IS NULL OR jsonb_typeof(change) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'TN010', MESSAGE = 'config is not valid',
            DETAIL = format('Given: %s. Allowed: an object, a JSON merge patch (RFC 7396).', coalesce(jsonb_typeof(change), 'NULL')),
            HINT = 'Pass {"cost_limits": {"monthly_limit_cents": 750000}}, for example.';
    END IF;
    IF operator THEN
        PERFORM amp.assert_tenant(tenant);
    ELSE
        PERFORM amp.assert_configures(change);
    END IF;
    IF change = '{}' THEN -- nobody waits for whoever changes nothing
        RETURN amp.tenant_document(tenant);
    END IF;
    -- The next one patches what this one made: none is lost. Under REPEATABLE READ it fails and is run again.
    INSERT INTO amp.tenant_configs (tenant_id) VALUES (tenant) ON CONFLICT ON CONSTRAINT tenant_configs_pkey DO NOTHING;
    SELECT c.config INTO present FROM amp.tenant_configs c WHERE c.tenant_id = tenant FOR UPDATE;
    IF NOT operator THEN
        -- Whom we waited for may have taken it away.
        PERFORM amp.assert_configures(change);
    END IF;
    patched := amp.patched_config(tenant, present, change);
    IF patched -> 'changed' <> '[]' THEN
        rules_change := EXISTS (SELECT FROM jsonb_array_elements_text(patched -> 'changed') path WHERE path ~ '^approval([.]|$)');
        -- Other rules do not undo what time has decided by these. Waits for nobody: whoever holds a request would keep the rules as they are.
        PERFORM amp.settle_tenant(tenant) WHERE rules_change;
        PERFORM amp.store_config(tenant, patched);
        PERFORM amp.settle_tenant(tenant) WHERE rules_change;
        PERFORM amp.log_change('config.changed', tenant, jsonb_build_object(
            'paths', jsonb_path_query_array(patched -> 'changed', '$[0 to 99]'),
            'more_paths', nullif(greatest(jsonb_array_length(patched -> 'changed') - 100, 0), 0)));
    END IF;
    RETURN amp.tenant_document(tenant);
END
$$;
COMMENT ON FUNCTION amp.change_config_for_caller(jsonb, text) IS 'The work of update_config(), by the rights of who called that.';

CREATE FUNCTION amp.update_config(patch jsonb, tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_confidential();
    PERFORM amp.mark_caller();
    RETURN amp.change_config_for_caller(patch, tenant_id);
END
$$;
COMMENT ON FUNCTION amp.update_config(jsonb, text) IS
'Changes the configuration of the session''s tenant (billing.configure for cost_limits, integrations.manage for the rest), or of any for an operator, by a JSON merge patch (RFC 7396), also in the form {"config": patch}. Checked whole; nothing is stored if anything is wrong. Returns the tenant''s document. Errors: TN001, TN002, TN003 another tenant, TN004, TN010 what is wrong where, 55000 a secret, and no key to encrypt it with.';

CREATE FUNCTION amp.tenant_document_for_caller(tenant_id text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF amp.called_by_operator() AND tenant_id IS NOT NULL THEN
        PERFORM amp.assert_tenant(tenant_id);
        RETURN amp.tenant_document(tenant_id);
    END IF;
    RETURN amp.tenant_document(amp.own_tenant(tenant_id));
END
$$;
COMMENT ON FUNCTION amp.tenant_document_for_caller(text) IS 'tenant(), by the rights of who called that.';

CREATE FUNCTION amp.tenant(tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.tenant_document_for_caller(tenant_id);
END
$$;
COMMENT ON FUNCTION amp.tenant(text) IS
'The document of the session''s tenant, or of any for an operator: {"id", "name", "slug", "status", "config", "usage": {"current_month": {"missions_created", "content_generated", "api_calls", "cost_cents"}}, "created_at", "updated_at"}; cents, UTC months, ISO 8601 times in UTC. Errors: TN001, TN002, TN003 another tenant.';

CREATE FUNCTION amp.tenant_documents() RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    RETURN jsonb_build_object('data', coalesce((
        SELECT jsonb_agg(amp.tenant_document(t.id) ORDER BY t.created_at, t.id) FROM amp.tenants t WHERE t.status <> 'deleted'), '[]'));
END
$$;
COMMENT ON FUNCTION amp.tenant_documents() IS 'The work of list_tenants(), for operators.';

CREATE FUNCTION amp.list_tenants() RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.tenant_documents();
END
$$;
COMMENT ON FUNCTION amp.list_tenants() IS
'Operator: the documents of all tenants that are not deleted, with this month''s usage, oldest first: {"data": [document]}; see tenant(). Errors: TN004.';

CREATE FUNCTION amp.own_config() RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT c.config FROM amp.tenant_configs c WHERE c.tenant_id = amp.tenant_id() $$;
COMMENT ON FUNCTION amp.own_config() IS 'Internal: the configuration of the session''s tenant.';

CREATE FUNCTION amp.providers(kind text) RETURNS text[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT amp.providers_of(amp.own_config(), kind) $$;
COMMENT ON FUNCTION amp.providers(text) IS
'The providers to try for llm or image, in order: the preferred one, then the fall-backs unless fallback_enabled is false. Errors: as tenant_id(), 22023 another kind.';
