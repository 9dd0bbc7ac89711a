-- A tenant's brand context, and the elements of it that it shares with other tenants of its account. How they are merged says
-- src/tenants/brand.rs. src/context/catalog.rs reads the leading columns of the sharing tables by number: append only.
--
-- Sharing waits for changes of the source's document, never for the target's. Ending a share only adds a row, so that nobody puts it
-- off by keeping a transaction open, on either side; a share's row is removed by the source's next sharing.

CREATE TABLE amp.brand_contexts (
    tenant_id text COLLATE "C" CONSTRAINT brand_contexts_pkey PRIMARY KEY,
    document jsonb NOT NULL CHECK (jsonb_typeof(document -> 'context') = 'object'),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE amp.brand_contexts IS
'Tenants'' own brand contexts. A session with content.view sees its own tenant''s; with what is shared with it, see amp.brand_context().';
COMMENT ON COLUMN amp.brand_contexts.document IS
'As brand_context() returns it where nothing is shared: that costs no more than to read this row.';

CREATE TABLE amp.stored_brand_shares (
    target_tenant text COLLATE "C" NOT NULL,
    source_tenant text COLLATE "C" NOT NULL,
    element text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    expires_at timestamptz,
    since timestamptz NOT NULL DEFAULT now(),
    shared_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT stored_brand_shares_pkey PRIMARY KEY (target_tenant, source_tenant, element)
);
CREATE INDEX stored_brand_shares_source_idx ON amp.stored_brand_shares (source_tenant);
COMMENT ON TABLE amp.stored_brand_shares IS 'Internal: which element was shared by whom with whom. See amp.brand_shares().';
COMMENT ON COLUMN amp.stored_brand_shares.account_id IS 'The account that both were in; the share counts for nothing in another one.';
COMMENT ON COLUMN amp.stored_brand_shares.since IS 'Since when without a break: sharing again changes the expiry alone.';
COMMENT ON COLUMN amp.stored_brand_shares.shared_at IS 'When it was shared last.';

-- Only added, and no unique key. It also ends what was shared before and is committed after: who was removed and has kept such a transaction
-- open comes too late.
CREATE TABLE amp.ended_brand_shares (
    target_tenant text COLLATE "C" NOT NULL,
    source_tenant text COLLATE "C" NOT NULL,
    element text COLLATE "C",
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ended_brand_shares_tenants_idx ON amp.ended_brand_shares (target_tenant, source_tenant);
CREATE INDEX ended_brand_shares_source_idx ON amp.ended_brand_shares (source_tenant);
COMMENT ON TABLE amp.ended_brand_shares IS 'Internal: until when shares count no more.';
COMMENT ON COLUMN amp.ended_brand_shares.element IS 'NULL for all.';

CREATE TABLE amp.brand_elements (
    source_tenant text COLLATE "C" NOT NULL,
    element text COLLATE "C" NOT NULL,
    value jsonb,
    CONSTRAINT brand_elements_pkey PRIMARY KEY (source_tenant, element)
);
COMMENT ON TABLE amp.brand_elements IS
'Internal: the present value of every element that is shared, NULL for none: of a tenant''s document nobody else reads more, nor how long it is.';

CREATE VIEW amp.open_brand_shares WITH (security_invoker) AS
    SELECT s.* FROM amp.stored_brand_shares s
    WHERE (s.expires_at IS NULL OR s.expires_at > clock_timestamp())
      AND NOT EXISTS (SELECT FROM amp.ended_brand_shares e
                      WHERE e.target_tenant = s.target_tenant AND e.source_tenant = s.source_tenant
                        AND (e.element IS NULL OR e.element = s.element) AND e.ended_at >= s.shared_at);
COMMENT ON VIEW amp.open_brand_shares IS 'Internal: the shares that have neither ended nor expired.';

ALTER TABLE amp.brand_contexts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.brand_contexts FOR SELECT USING (tenant_id = amp.tenant_id('content.view'));
ALTER TABLE amp.stored_brand_shares ENABLE ROW LEVEL SECURITY;
ALTER TABLE amp.ended_brand_shares ENABLE ROW LEVEL SECURITY;
ALTER TABLE amp.brand_elements ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON amp.brand_contexts TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('amp.brand_contexts', '');
SELECT pg_catalog.pg_extension_config_dump('amp.stored_brand_shares', '');
SELECT pg_catalog.pg_extension_config_dump('amp.ended_brand_shares', '');
SELECT pg_catalog.pg_extension_config_dump('amp.brand_elements', '');

CREATE FUNCTION amp.patched_brand(context jsonb, patch jsonb) RETURNS jsonb
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'amp_patched_brand';
COMMENT ON FUNCTION amp.patched_brand(jsonb, jsonb) IS
'Internal: what a merge patch makes of a brand context: {"context", "changed": paths}. Errors: TN010.';

CREATE FUNCTION amp.merged_brand(tenant text, document jsonb) RETURNS jsonb
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_merged_brand';
COMMENT ON FUNCTION amp.merged_brand(text, jsonb) IS 'Internal: a tenant''s stored document, with what is shared with the tenant.';

CREATE FUNCTION amp.brand_element(context jsonb, element text) RETURNS jsonb
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'amp_brand_element';
COMMENT ON FUNCTION amp.brand_element(jsonb, text) IS 'Internal: the value at a dotted path of keys; NULL if there is none.';

CREATE FUNCTION amp.own_brand_elements(tenant text, context jsonb, elements text[]) RETURNS text[]
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_own_brand_elements';
COMMENT ON FUNCTION amp.own_brand_elements(text, jsonb, text[]) IS
'Internal: the elements, each once, if the context has all of them. Errors: 22023 no element, or too many, 42704 it has none such.';

CREATE FUNCTION amp.common_account(one text, other text) RETURNS text
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_common_account';
COMMENT ON FUNCTION amp.common_account(text, text) IS 'Internal: the account that both tenants are in, active; NULL if there is none.';

CREATE FUNCTION amp.brand_document(tenant text, context jsonb DEFAULT '{}', updated_at timestamptz DEFAULT NULL) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('tenant_id', tenant, 'context', context, 'shared', '[]'::jsonb, 'updated_at', amp.utc(updated_at))
$$;
COMMENT ON FUNCTION amp.brand_document(text, jsonb, timestamptz) IS 'Internal: a brand context''s document, with nothing shared.';

-- Reading.

CREATE FUNCTION amp.brand_context(tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := amp.own_tenant(brand_context.tenant_id);
BEGIN
    PERFORM amp.require_permission('content.view');
    -- Not by way of a variable, which would unpack it.
    RETURN amp.merged_brand(tenant, coalesce(
        (SELECT b.document FROM amp.brand_contexts b WHERE b.tenant_id = tenant), amp.brand_document(tenant)));
END
$$;
COMMENT ON FUNCTION amp.brand_context(text) IS
'content.view: the brand context of the session''s tenant, with what is shared with it: {"tenant_id", "context", "shared": [{"element", "source_tenant", "expires_at", "overridden": paths where the tenant''s own value stands}], "updated_at"}; ISO 8601 times in UTC, updated_at of the tenant''s own part. See docs/brand.md for what takes precedence. Errors: TN001, TN002, TN003 another tenant, TN004, 54000 more is shared than can be read.';

-- Changing.

CREATE FUNCTION amp.set_brand_context(patch jsonb, tenant_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := amp.own_tenant(set_brand_context.tenant_id);
    present jsonb;
    patched jsonb;
BEGIN
    PERFORM amp.require_permission('integrations.manage'), amp.require_permission('content.view');
    IF patch IS NULL OR jsonb_typeof(patch) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'TN010', MESSAGE = 'brand context is not valid',
            DETAIL = format('Given: %s. Allowed: an object, a JSON merge patch (RFC 7396).', coalesce(jsonb_typeof(patch), 'NULL')),
            HINT = 'Pass {"voice": {"personality": "warm"}}, for example.';
    END IF;
    IF patch = '{}' THEN -- nobody waits for whoever changes nothing
        RETURN amp.brand_context(tenant);
    END IF;
    -- The next one patches what this one made: none is lost. Under REPEATABLE READ it fails and is run again.
    INSERT INTO amp.brand_contexts (tenant_id, document) VALUES (tenant, amp.brand_document(tenant))
    ON CONFLICT ON CONSTRAINT brand_contexts_pkey DO NOTHING;
    SELECT b.document -> 'context' INTO present FROM amp.brand_contexts b WHERE b.tenant_id = tenant FOR UPDATE;
    -- Whom we waited for may have taken it away.
    PERFORM amp.require_permission('integrations.manage'), amp.require_permission('content.view');
    patched := amp.patched_brand(present, patch);
    IF patched -> 'changed' <> '[]' THEN
        UPDATE amp.brand_contexts b SET document = amp.brand_document(tenant, patched -> 'context', now()), updated_at = now()
        WHERE b.tenant_id = tenant;
        UPDATE amp.brand_elements e SET value = amp.brand_element(patched -> 'context', e.element)
        WHERE e.source_tenant = tenant AND e.value IS DISTINCT FROM amp.brand_element(patched -> 'context', e.element);
        PERFORM amp.log_change('brand.changed', tenant, jsonb_build_object('paths', patched -> 'changed'));
    END IF;
    RETURN amp.brand_context(tenant);
END
$$;
COMMENT ON FUNCTION amp.set_brand_context(jsonb, text) IS
'integrations.manage and content.view: changes the own brand context of the session''s tenant by a JSON merge patch (RFC 7396), up to 2 MB as JSON; what it shares changes with it. Returns as brand_context(). Errors: as that, TN010 no object, too long, too deep, or a number of too many digits.';

-- Sharing.

CREATE FUNCTION amp.log_brand(action text, tenant text, source text, target text, elements jsonb, expires_at timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    detail jsonb := jsonb_build_object('source_tenant', source, 'target_tenant', target, 'elements', elements,
                                       'expires_at', amp.utc(log_brand.expires_at));
BEGIN
    PERFORM amp.log_change(log_brand.action, tenant, detail);
    -- Who it was, and from where, is for his own tenant and operators.
    INSERT INTO amp.audit_log (action, tenant_id, detail, login_role, client_address)
    VALUES (log_brand.action, CASE tenant WHEN source THEN target ELSE source END,
            jsonb_strip_nulls(detail || jsonb_build_object('by_tenant', tenant)), '(another tenant''s)', NULL);
END
$$;
COMMENT ON FUNCTION amp.log_brand(text, text, text, text, jsonb, timestamptz) IS
'Internal: writes to the audit logs of both tenants; to that of the other one without who it was.';

CREATE FUNCTION amp.share_brand(source_tenant text, target_tenant text, elements text[], expires_at timestamptz DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source text := amp.own_tenant(share_brand.source_tenant);
    target text := share_brand.target_tenant;
    ends timestamptz := share_brand.expires_at;
    account text;
    own jsonb;
    chosen text[];
BEGIN
    PERFORM amp.require_permission('integrations.manage'), amp.require_permission('content.view');
    IF ends <= clock_timestamp() OR NOT isfinite(ends) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('a share cannot expire at %s', ends),
            HINT = 'Pass a time to come, such as now() + interval ''90 days'', or leave it out for a share that does not expire.';
    END IF;
    -- One at a time: an update, for under REPEATABLE READ the second of two has to fail.
    UPDATE amp.brand_contexts b SET updated_at = b.updated_at WHERE b.tenant_id = source RETURNING b.document -> 'context' INTO own;
    -- Whom we waited for may have taken it away.
    PERFORM amp.require_permission('integrations.manage'), amp.require_permission('content.view');
    account := amp.common_account(source, target);
    IF account IS NULL OR target = source THEN
        -- The same words for a tenant that never was, one that is suspended and one of another account.
        RAISE EXCEPTION USING ERRCODE = 'TN002',
            MESSAGE = format('tenant %s is not another one of the account''s', coalesce('"' || left(target, 64) || '"', 'NULL')),
            HINT = 'Brand context is shared between active tenants of one account.';
    END IF;
    chosen := amp.own_brand_elements(source, coalesce(own, '{}'), coalesce(share_brand.elements, '{}'));

    -- What has ended is of no more use, and neither is what ended it: nobody else shares anything of the source now.
    DELETE FROM amp.stored_brand_shares s WHERE s.source_tenant = source AND NOT EXISTS (
        SELECT FROM amp.open_brand_shares o
        WHERE o.target_tenant = s.target_tenant AND o.source_tenant = source AND o.element = s.element);
    DELETE FROM amp.ended_brand_shares e WHERE e.ctid IN (
        SELECT d.ctid FROM amp.ended_brand_shares d WHERE d.source_tenant = source FOR UPDATE SKIP LOCKED);
    DELETE FROM amp.brand_elements e WHERE e.source_tenant = source AND NOT EXISTS (
        SELECT FROM amp.stored_brand_shares s WHERE s.source_tenant = source AND s.element = e.element);

    INSERT INTO amp.stored_brand_shares AS s (target_tenant, source_tenant, element, account_id, expires_at)
    SELECT target, source, c.element, account, ends FROM unnest(chosen) c(element)
    ON CONFLICT ON CONSTRAINT stored_brand_shares_pkey DO UPDATE
        SET account_id = account, expires_at = ends, shared_at = clock_timestamp(),
            since = CASE s.account_id WHEN account THEN s.since ELSE now() END;
    IF (SELECT count(*) FROM amp.open_brand_shares o WHERE o.source_tenant = source AND o.target_tenant = target) > 1000 THEN
        RAISE EXCEPTION USING ERRCODE = '54000', MESSAGE = format('more than 1000 elements would be shared with tenant "%s"', target),
            HINT = 'Share what they are part of.';
    END IF;
    INSERT INTO amp.brand_elements (source_tenant, element, value)
    SELECT source, c.element, amp.brand_element(own, c.element) FROM unnest(chosen) c(element)
    ON CONFLICT ON CONSTRAINT brand_elements_pkey DO NOTHING;
    PERFORM amp.log_brand('brand.shared', source, source, target, to_jsonb(chosen), ends);
    RETURN jsonb_build_object('source_tenant', source, 'target_tenant', target, 'elements', chosen, 'expires_at', amp.utc(ends));
END
$$;
COMMENT ON FUNCTION amp.share_brand(text, text, text[], timestamptz) IS
'integrations.manage and content.view in the source, which is the session''s tenant: shows elements of its own brand context (dotted paths, 1 to 100) to another active tenant of its account, live, until they expire, if ever, or are taken back by unshare_brand(). Sharing again changes the expiry. Returns {"source_tenant", "target_tenant", "elements", "expires_at"}. Errors: TN001, TN002 not another active tenant of the account, TN003 another source, TN004, 22023 bad element or expiry, 42704 the source has no such element of its own, 54000 more than 1000.';

CREATE FUNCTION amp.share_brand(body jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_body(coalesce(body, 'null'),
        '{"source_tenant?": "a text", "target_tenant": "a text", "elements": "a list of texts", "expires_at?": "a text"}');
    IF body ->> 'expires_at' !~ '^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)$' THEN
        RAISE EXCEPTION USING ERRCODE = 'TN010', MESSAGE = 'expires_at is not valid',
            DETAIL = format('Given: %s. Allowed: a time with its zone, such as "2030-01-01T00:00:00Z", or null.', left((body -> 'expires_at')::text, 80)),
            HINT = 'Nothing was changed.';
    END IF;
    RETURN amp.share_brand(body ->> 'source_tenant', body ->> 'target_tenant',
                           ARRAY(SELECT jsonb_array_elements_text(body -> 'elements')), (body ->> 'expires_at')::timestamptz);
END
$$;
COMMENT ON FUNCTION amp.share_brand(jsonb) IS
'share_brand() with the body of a request: {"source_tenant", "target_tenant", "elements"[, "expires_at"]}. Errors: as there, TN010 a wrong key or type.';

CREATE FUNCTION amp.unshare_brand(source_tenant text, target_tenant text, elements text[] DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own text := amp.own_tenant(NULL);
    source text := unshare_brand.source_tenant;
    target text := unshare_brand.target_tenant;
    ended text[];
    unknown text;
BEGIN
    PERFORM amp.require_permission('integrations.manage');
    IF (own = source OR own = target) IS NOT TRUE OR source = target OR target IS NULL OR source IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003', MESSAGE = format('this session acts for tenant "%s", not for one of these two', own),
            HINT = 'Name it and the other one, or set the context to the source or the target in another transaction.';
    END IF;
    ended := ARRAY(
        SELECT o.element FROM amp.open_brand_shares o
        WHERE o.source_tenant = source AND o.target_tenant = target
          AND (unshare_brand.elements IS NULL OR o.element = ANY (unshare_brand.elements)) ORDER BY 1);
    SELECT e INTO unknown FROM unnest(unshare_brand.elements) e WHERE (e = ANY (ended)) IS NOT TRUE LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = format('no element %s is shared by tenant "%s" with tenant "%s"',
                             coalesce('"' || left(unknown, 80) || '"', 'NULL'), left(source, 64), left(target, 64)),
            HINT = 'See amp.brand_shares(); nothing was changed.';
    END IF;
    -- All: also what is being shared at this moment. For a tenant that is none, too: a transaction that wrote nothing would tell.
    INSERT INTO amp.ended_brand_shares (target_tenant, source_tenant, element)
    SELECT target, source, e.element FROM unnest(CASE WHEN unshare_brand.elements IS NULL THEN ARRAY[NULL] ELSE ended END) e(element)
    WHERE source || target ~ '^[A-Za-z0-9_-]{1,128}$';
    -- What this covers; under the other isolation levels it could fail.
    DELETE FROM amp.ended_brand_shares e WHERE current_setting('transaction_isolation') = 'read committed' AND e.ctid IN (
        SELECT d.ctid FROM amp.ended_brand_shares d
        WHERE d.target_tenant = target AND d.source_tenant = source AND EXISTS (
            SELECT FROM amp.ended_brand_shares n
            WHERE n.target_tenant = target AND n.source_tenant = source AND n.ended_at > d.ended_at
              AND (n.element IS NULL OR n.element = d.element))
        FOR UPDATE OF d SKIP LOCKED);
    IF ended <> '{}' THEN
        PERFORM amp.log_brand('brand.unshared', own, source, target, to_jsonb(ended), NULL);
    END IF;
    RETURN jsonb_build_object('source_tenant', source, 'target_tenant', target, 'elements', ended);
END
$$;
COMMENT ON FUNCTION amp.unshare_brand(text, text, text[]) IS
'integrations.manage in the source or the target, one of which is the session''s tenant: ends the sharing of these elements, NULL for all, from the next statement of every session on; waits for nobody. Returns {"source_tenant", "target_tenant", "elements": those that were shared}. Errors: TN001, TN002, TN003 neither is the session''s, TN004, 42704 not shared.';

CREATE FUNCTION amp.brand_shares() RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own text := amp.own_tenant(NULL);
BEGIN
    PERFORM amp.require_permission('integrations.manage');
    RETURN jsonb_build_object('data', coalesce((
        SELECT jsonb_agg(jsonb_build_object('source_tenant', o.source_tenant, 'target_tenant', o.target_tenant, 'element', o.element,
                                            'shared_at', amp.utc(o.since), 'expires_at', amp.utc(o.expires_at))
                         ORDER BY o.source_tenant <> own, o.source_tenant, o.target_tenant, o.element)
        FROM amp.open_brand_shares o WHERE o.source_tenant = own OR o.target_tenant = own), '[]'));
END
$$;
COMMENT ON FUNCTION amp.brand_shares() IS
'integrations.manage: what the session''s tenant shares, and then what is shared with it, but for what has ended or expired: {"data": [{"source_tenant", "target_tenant", "element", "shared_at", "expires_at"}]}. Whether it counts now, brand_context() of the target tells. Errors: TN001, TN002, TN004.';
