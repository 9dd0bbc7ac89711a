-- The gate: rows of a table that demands it enter the states that it names with the approval of exactly their content, and do not change
-- in them without. A row trigger, so it holds for every way in: COPY, ON CONFLICT, MERGE, another partition, another key. It comes AFTER,
-- so that no other trigger changes what was approved.

CREATE FUNCTION amp.row_subject(document jsonb, key_columns name[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN bool_and(document ->> k.name IS NOT NULL) THEN string_agg(document ->> k.name, ',' ORDER BY k.position) END
    FROM unnest(key_columns) WITH ORDINALITY k(name, position)
$$;
COMMENT ON FUNCTION amp.row_subject(jsonb, name[]) IS 'Internal: the subject_id of a row, its key''s values with a comma between them.';

CREATE FUNCTION amp.row_content(document jsonb, gate amp.approval_gates) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Of more than one column, a key's text is not unambiguous: so they are part of what is approved.
    columns name[] := gate.content_columns || CASE WHEN cardinality(gate.key_columns) > 1 THEN gate.key_columns ELSE '{}' END;
    missing name;
BEGIN
    SELECT u INTO missing FROM unnest(gate.content_columns || gate.key_columns || gate.gated_column) u WHERE NOT document ? u LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('table %s has no column %I any more, which its approval is about', gate.relation, missing),
            HINT = 'The table''s owner calls amp.require_approval() again.';
    END IF;
    IF gate.content_columns IS NULL THEN
        -- A virtual column has no value in a trigger; what it is computed from is there.
        RETURN document - gate.gated_column::text
            - ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = gate.relation AND a.attgenerated = 'v');
    END IF;
    RETURN (SELECT jsonb_object_agg(d.key, d.value) FROM jsonb_each(document) d WHERE d.key = ANY (columns));
END
$$;
COMMENT ON FUNCTION amp.row_content(jsonb, amp.approval_gates) IS
'Internal: what is approved of a row. Errors: 55000 a column was renamed or dropped.';

-- A row's JSON depends on these settings, which are the client's: otherwise he would choose what a hash is of.
CREATE FUNCTION amp.content_of("table" regclass, subject_id text) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres'
    SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C' SET quote_all_identifiers = off AS $$
DECLARE
    gate amp.approval_gates;
    key record;
    filter text := 'amp.row_subject(to_jsonb(t.*), $2) = $1';
    present record;
BEGIN
    SELECT g.* INTO gate FROM amp.approval_gates g WHERE g.relation = "table";
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s demands no approval', coalesce("table"::text, 'NULL')),
            HINT = 'See amp.approval_gates; its owner calls amp.require_approval().';
    END IF;
    -- By the index of the key, where it is one column of a type that everybody knows.
    SELECT a.attname, format_type(a.atttypid, NULL) AS type INTO key
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = "table" AND ARRAY[a.attname] = gate.key_columns AND t.typnamespace = 'pg_catalog'::regnamespace;
    IF FOUND THEN
        filter := format('t.%I = $1::%s AND %s', key.attname, key.type, filter);
    END IF;
    -- Its own column may be called t, but not t.*.
    FOR present IN
        EXECUTE format('SELECT t.tableoid::regclass AS relation, to_jsonb(t.*) AS document FROM %s t WHERE %s',
                       amp.qualified("table"), filter)
        USING subject_id, gate.key_columns
    LOOP
        IF present.relation <> "table" THEN
            -- An inheritance child has columns of its own.
            IF NOT (SELECT c.relispartition FROM pg_class c WHERE c.oid = present.relation) THEN
                RETURN amp.content_of(present.relation, subject_id);
            END IF;
            SELECT g.* INTO STRICT gate FROM amp.approval_gates g WHERE g.relation = present.relation;
        END IF;
        RETURN amp.row_content(present.document, gate);
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION amp.content_of(regclass, text) IS
'What amp.require_approval() wants approved of a row, for amp.request_approval(); NULL if you see no such row. subject_id is its primary key''s value without the tenant, of several with a comma between them. Errors: 55000 the table demands no approval, 42501 no privilege to read it, 22P02 not a value of the key.';

CREATE FUNCTION amp.is_approved(subject_type text, subject_id text, content_hash bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text := amp.own_tenant(NULL);
    rules jsonb := amp.approval_rules(tenant);
    request record;
    state jsonb;
BEGIN
    IF rules -> 'require_approval' IS DISTINCT FROM 'true' THEN
        RETURN true;
    END IF;
    -- The last word counts.
    FOR request IN
        SELECT r.id, r.status FROM amp.approval_requests r
        WHERE r.tenant_id = tenant AND r.subject_type = is_approved.subject_type AND r.subject_id = is_approved.subject_id
          AND r.content_hash = is_approved.content_hash
        ORDER BY r.requested_at DESC, r.id DESC
    LOOP
        state := amp.approval_state(request.id, rules);
        IF request.status = 'pending' AND state ->> 'status' <> 'pending' THEN
            -- What was rejected in time, by who has not committed yet, is not published by time: he is waited for.
            PERFORM FROM amp.approval_requests r WHERE r.id = request.id FOR UPDATE;
            PERFORM amp.settle_request(request.id, rules);
            state := amp.approval_state(request.id, rules);
        END IF;
        IF state ->> 'status' = 'rejected' THEN
            RETURN false;
        END IF;
        -- What nobody had to look at when it was requested does not count now that somebody has to.
        IF state ->> 'status' = 'approved' AND state ->> 'reason' <> 'not_required' THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;
COMMENT ON FUNCTION amp.is_approved(text, text, bytea) IS
'Internal: whether the session''s tenant requires no approval, or has approved this content of this subject. Errors: as tenant_id().';

-- With the rights of whoever writes, for it touches the table's own columns and types.
CREATE FUNCTION amp.gate_approval() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres'
    SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C' SET quote_all_identifiers = off AS $$
DECLARE
    gate amp.approval_gates;
    document jsonb;
    before jsonb;
    content jsonb;
    subject text;
BEGIN
    IF NOT row_security_active(TG_RELID) THEN
        RETURN NULL; -- a superuser, or a restore
    END IF;
    SELECT g.* INTO gate FROM amp.approval_gates g WHERE g.relation = TG_RELID;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s demands approval, but is not registered', TG_RELID::regclass),
            HINT = 'Use amp.require_approval(); drop triggers that were made by hand.';
    END IF;
    document := to_jsonb(NEW);
    content := amp.row_content(document, gate);
    subject := amp.row_subject(document, gate.key_columns);
    IF TG_OP = 'UPDATE' THEN
        before := to_jsonb(OLD);
        IF before -> gate.gated_column = document -> gate.gated_column
           AND amp.row_content(before, gate)::text = content::text -- not =, to which 1.0 is 1.00
           AND amp.row_subject(before, gate.key_columns) = subject THEN
            RETURN NULL;
        END IF;
    END IF;
    IF amp.is_approved(gate.subject_type, subject, amp.content_hash(content)) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'TN004',
        MESSAGE = format('row %s of table %s is not approved to be %s', subject, TG_RELID::regclass, document ->> gate.gated_column),
        DETAIL = 'This content of it is not approved: neither to enter that state with it, nor to change to it there.',
        HINT = format('Save it in another state, SELECT amp.request_approval(%L, %L, amp.content_of(%L, %L)), '
                      'and try again when that is approved.',
                      gate.subject_type, subject, amp.qualified(TG_RELID), subject);
END
$$;
COMMENT ON FUNCTION amp.gate_approval() IS 'Trigger of amp.require_approval(). Errors: TN004 not approved.';

-- Making one.

CREATE FUNCTION amp.register_gate(gate amp.approval_gates) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_table(gate.relation, amp.caller());
    IF gate.parent IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_inherits i WHERE i.inhrelid = gate.relation AND i.inhparent = gate.parent)
    THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('table %s is no part of %s', gate.relation, gate.parent),
            HINT = 'Use amp.require_approval().';
    END IF;
    DELETE FROM amp.approval_gates g WHERE g.relation = gate.relation;
    INSERT INTO amp.approval_gates SELECT gate.*;
    PERFORM amp.log_change('gate.made', NULL, jsonb_build_object(
        'table', amp.qualified(gate.relation), 'column', gate.gated_column,
            'states', to_jsonb(gate.states), 'subject_type', gate.subject_type));
END
$$;
COMMENT ON FUNCTION amp.register_gate(amp.approval_gates) IS 'Internal: notes a table that demands approval, for its owner.';

CREATE FUNCTION amp.forget_gate(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_owner(relation, amp.caller());
    DELETE FROM amp.approval_gates g WHERE g.relation = forget_gate.relation;
    IF FOUND THEN
        PERFORM amp.log_change('gate.dropped', NULL, jsonb_build_object('table', amp.qualified(relation)));
    END IF;
END
$$;
COMMENT ON FUNCTION amp.forget_gate(regclass) IS 'Internal: forgets that a table demands approval, for its owner.';

CREATE FUNCTION amp.make_gate(gate amp.approval_gates) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A partition has its parent's, which PostgreSQL makes.
    IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = gate.relation AND t.tgname = 'amp_approval' AND t.tgparentid <> 0) THEN
        -- Replaced, not dropped and made: a drop would take the registration along (forget_dropped()).
        -- In the column's own collation: what readers take for that state is that state.
        EXECUTE format('CREATE OR REPLACE TRIGGER amp_approval AFTER INSERT OR UPDATE ON %s FOR EACH ROW WHEN (NEW.%I::text = ANY (%L::text[])) '
                       'EXECUTE FUNCTION amp.gate_approval()', amp.qualified(gate.relation), gate.gated_column, gate.states);
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER amp_approval', amp.qualified(gate.relation));
END
$$;
COMMENT ON FUNCTION amp.make_gate(amp.approval_gates) IS 'Internal: makes the trigger of a table that demands approval.';

CREATE FUNCTION amp.gate_part(relation regclass, parent regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gate amp.approval_gates;
BEGIN
    SELECT g.* INTO STRICT gate FROM amp.approval_gates g WHERE g.relation = gate_part.parent;
    gate.relation := gate_part.relation;
    gate.parent := (SELECT i.inhparent FROM pg_inherits i JOIN amp.approval_gates g ON g.relation = i.inhparent
                    WHERE i.inhrelid = gate_part.relation ORDER BY 1 LIMIT 1);
    -- Noted first, or the event trigger would take it for a new part again.
    PERFORM amp.mark_caller();
    PERFORM amp.register_gate(gate);
    PERFORM amp.make_gate(gate);
END
$$;
COMMENT ON FUNCTION amp.gate_part(regclass, regclass) IS
'Internal: a new part of a table demands approval like its parent, or one that has left it like before.';

CREATE FUNCTION amp.require_approval(
        "table" regclass, "column" name, states text[], subject_type text DEFAULT NULL, content_columns name[] DEFAULT NULL)
    RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gate amp.approval_gates;
    parts regclass[];
    part regclass;
    own_tenant_column name;
    wrong name;
    is_json boolean;
BEGIN
    PERFORM amp.assert_table("table");
    SELECT p.tenant_column INTO own_tenant_column FROM amp.protected_tables p WHERE p.relation = "table";
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is not protected', "table"),
            HINT = format('Run SELECT * FROM amp.protect(%L) first.', "table");
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', amp.qualified("table"));
    IF EXISTS (SELECT FROM pg_inherits i JOIN amp.approval_gates g ON g.relation = i.inhparent WHERE i.inhrelid = "table") THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is a part of a table that demands approval', "table"),
            HINT = 'Call it for the parent.';
    END IF;

    PERFORM amp.state_type("table", "column", states, 'which states demand approval?');

    gate := ROW("table", "column", states, subject_type, NULL, content_columns, NULL);
    SELECT array_agg(a.attname ORDER BY k.position) INTO gate.key_columns
    FROM pg_index i, unnest(i.indkey::int[]) WITH ORDINALITY k(attnum, position), pg_attribute a
    WHERE i.indrelid = "table" AND i.indisprimary AND a.attrelid = "table" AND a.attnum = k.attnum;
    IF gate.key_columns IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s has no primary key', "table"),
            HINT = 'An approval is of one row: it needs a key to be called by.';
    END IF;
    IF gate.key_columns <> ARRAY[own_tenant_column] THEN
        gate.key_columns := array_remove(gate.key_columns, own_tenant_column);
    END IF;
    IF "column" = ANY (gate.key_columns) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('column %I is part of the primary key of table %s', "column", "table"),
            HINT = 'A row that changes its state has to stay the same row.';
    END IF;
    IF cardinality(content_columns) = 0 OR array_position(content_columns, NULL) IS NOT NULL OR "column" = ANY (content_columns) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'the content is one or more columns, without the one that says the state',
            HINT = 'Leave content_columns out for all others.';
    END IF;
    SELECT u INTO wrong FROM unnest(content_columns) u
    WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = "table" AND a.attname = u AND a.attnum > 0 AND NOT a.attisdropped
                                                   AND a.attgenerated <> 'v') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42703', MESSAGE = format('table %s has no stored column %I', "table", wrong),
            HINT = 'Name the columns that approvers are to see.';
    END IF;

    parts := ARRAY(SELECT d.relation FROM amp.descendants("table") d);
    -- Two texts of json can be one jsonb, and the approved one need not be the one that is read.
    WITH RECURSIVE part(relation, "column", oid) AS (
        SELECT a.attrelid::regclass, a.attname, a.atttypid FROM pg_attribute a
        WHERE a.attrelid = ANY (parts) AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> "column"
          AND (content_columns IS NULL OR a.attname = ANY (content_columns))
        UNION
        SELECT p.relation, p."column", inner_type.oid
        FROM part p JOIN pg_type t ON t.oid = p.oid,
             LATERAL (SELECT t.typelem UNION ALL SELECT t.typbasetype
                      UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
             ) inner_type(oid)
        WHERE inner_type.oid <> 0
    )
    SELECT p."column", p.oid = 'json'::regtype INTO wrong, is_json FROM part p
    WHERE p.oid = 'json'::regtype
       OR p.oid >= 16384 AND EXISTS (SELECT FROM pg_cast c WHERE c.castsource = p.oid AND c.castfunc <> 0
                                                            AND c.casttarget IN ('json'::regtype, 'jsonb'::regtype)) LIMIT 1;
    IF FOUND AND NOT is_json THEN
        RAISE EXCEPTION USING ERRCODE = '42804', MESSAGE = format('column %I of table %s has a type with a cast to json', wrong, "table"),
            DETAIL = 'What was approved would be what that cast makes of it, which may leave something out.',
            HINT = 'Leave it out of content_columns, or drop the cast.';
    END IF;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42804', MESSAGE = format('column %I of table %s holds json', wrong, "table"),
            DETAIL = 'Readers may take two equal keys in it differently: what they see need not be what was approved.',
            HINT = format('ALTER TABLE %s ALTER COLUMN %I TYPE jsonb, or leave it out of content_columns.', "table", wrong);
    END IF;

    IF subject_type IS NULL THEN
        SELECT c.relname INTO STRICT gate.subject_type FROM pg_class c WHERE c.oid = "table";
        IF EXISTS (SELECT FROM amp.approval_gates g WHERE g.subject_type = gate.subject_type AND NOT g.relation = ANY (parts))
           AND NOT EXISTS (SELECT FROM amp.approval_gates g WHERE g.subject_type = gate.subject_type AND g.relation = "table") THEN
            RAISE EXCEPTION USING ERRCODE = '23505', MESSAGE = format('subjects of type "%s" are another table''s', gate.subject_type),
                DETAIL = 'An approval for the one would hold for the other.',
                HINT = format('Pass subject_type => %L, for example.', amp.qualified("table"));
        END IF;
    ELSIF length(subject_type) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a subject type has 1 to 200 characters', HINT = 'The table''s name is one.';
    END IF;

    FOREACH part IN ARRAY parts LOOP
        gate.relation := part;
        PERFORM amp.make_gate(gate);
    END LOOP;
    FOREACH part IN ARRAY parts LOOP
        gate.relation := part;
        gate.parent := (SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = part AND i.inhparent = ANY (parts) ORDER BY 1 LIMIT 1);
        PERFORM amp.mark_caller();
        PERFORM amp.register_gate(gate);
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.require_approval(regclass, name, text[], text, name[]) IS
'Table owner: from now on a row of this protected table, its partitions and children enters these states of the column, and changes in them, only with an approval (amp.request_approval) of the session''s tenant: of this subject_type (default: the table''s name), of the primary key without the tenant as subject_id (several with a comma between), and of exactly its content (amp.content_of): all columns but the state, or content_columns. Rows that are in them stay. Tenants whose rules require none are let pass, and so are sessions past row security. Called again, it is as called last. Errors: 42501 not the owner, 42809 42703 42804 table and columns, 22023 states, 23505 the subject type is another table''s, 55000 not protected, no primary key, or a part of another.';

CREATE FUNCTION amp.drop_approval_requirement("table" regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part regclass;
BEGIN
    PERFORM amp.assert_owner("table");
    IF NOT EXISTS (SELECT FROM amp.approval_gates g WHERE g.relation = "table") THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s demands no approval', "table"),
            HINT = 'See amp.approval_gates.';
    END IF;
    IF EXISTS (SELECT FROM pg_inherits i JOIN amp.approval_gates g ON g.relation = i.inhparent WHERE i.inhrelid = "table") THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is a part of a table that demands approval', "table"),
            HINT = 'Call it for the parent.';
    END IF;
    FOR part IN SELECT d.relation FROM amp.descendants("table") d LOOP
        IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = part AND t.tgfoid = 'amp.gate_approval()'::regprocedure
            AND t.tgname = 'amp_approval') THEN
            EXECUTE format('DROP TRIGGER amp_approval ON %s', amp.qualified(part));
        END IF;
        PERFORM amp.mark_caller();
        PERFORM amp.forget_gate(part);
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.drop_approval_requirement(regclass) IS
'Table owner: the opposite of require_approval(). Errors: 42501 not the owner, 55000 the table demands no approval, or is a part of another.';
