-- Requests for approval: made, decided, read. What state one is in says src/approval/rules.rs. Reading computes it; whoever writes first
-- writes down what holds by then.

CREATE FUNCTION amp.approval_rules(tenant text) RETURNS jsonb
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'amp_approval_rules';
COMMENT ON FUNCTION amp.approval_rules(text) IS
'Internal: the approval section of a tenant''s configuration as it is now, {} if there is none.';

CREATE FUNCTION amp.approval_state(id text, rules jsonb) RETURNS jsonb
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'amp_approval_state';
COMMENT ON FUNCTION amp.approval_state(text, jsonb) IS
'Internal: a request''s state now, by these rules: {"status", "reason", "decided_at", "escalated", "waiting_for"}; times in microseconds since 2000. Errors: 42704, TN010.';

CREATE FUNCTION amp.approval_outcome(id text, rules jsonb, user_id text, decision text) RETURNS jsonb
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_approval_outcome';
COMMENT ON FUNCTION amp.approval_outcome(text, jsonb, text, text) IS
'Internal: the state that follows if the user decides approve or reject now, with the time of that, "at"; or "refused": repeated, final, own, decided or turn. Errors: 42704, TN010.';

CREATE FUNCTION amp.mark_request() RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_mark_request';
COMMENT ON FUNCTION amp.mark_request() IS 'Internal: this transaction has to commit within 10 minutes, and cannot be prepared.';

CREATE FUNCTION amp.mark_decision(tenant text, user_id text) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_mark_decision';
COMMENT ON FUNCTION amp.mark_decision(text, text) IS
'Internal: this transaction cannot be prepared, and commits only if the user still holds content.approve in the tenant then.';

CREATE FUNCTION amp.from_microseconds(microseconds jsonb) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT timestamptz '2000-01-01 00:00:00+00' + nullif(microseconds, 'null')::bigint * interval '1 microsecond'
$$;
COMMENT ON FUNCTION amp.from_microseconds(jsonb) IS 'Internal: a time in microseconds since 2000; NULL for null.';

CREATE FUNCTION amp.content_hash(content jsonb) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT sha256(convert_to(content::text, 'UTF8')) $$;
COMMENT ON FUNCTION amp.content_hash(jsonb) IS
'Internal: what an approval is of. The text of a jsonb is canonical: keys in one order, no white space of choice.';

-- Writing down what holds.

CREATE FUNCTION amp.settle_request(id text, rules jsonb) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    state jsonb := amp.approval_state(id, rules);
    tenant text;
BEGIN
    IF state ->> 'status' = 'pending' THEN
        RETURN false;
    END IF;
    UPDATE amp.approval_requests r
    SET status = state ->> 'status', reason = state ->> 'reason', decided_at = amp.from_microseconds(state -> 'decided_at')
    WHERE r.id = settle_request.id AND r.status = 'pending' RETURNING r.tenant_id INTO tenant;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM amp.log_change('approval.' || (state ->> 'status'), tenant, jsonb_build_object('id', id, 'reason', state -> 'reason'));
    RETURN true;
END
$$;
COMMENT ON FUNCTION amp.settle_request(text, jsonb) IS
'Internal: writes down that a request is not pending any more, if so, and nobody else has.';

CREATE FUNCTION amp.settle_tenant(tenant text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rules jsonb;
    request text;
    settled integer := 0;
BEGIN
    FOR request IN SELECT r.id FROM amp.approval_requests r WHERE r.tenant_id = tenant AND r.status = 'pending' ORDER BY r.id LOOP
        rules := coalesce(rules, amp.approval_rules(tenant));
        -- Only what is over is locked: nobody keeps those who decide waiting by looking.
        CONTINUE WHEN amp.approval_state(request, rules) ->> 'status' = 'pending';
        PERFORM FROM amp.approval_requests r WHERE r.id = request AND r.status = 'pending' FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        settled := settled + amp.settle_request(request, rules)::integer;
    END LOOP;
    RETURN settled;
END
$$;
COMMENT ON FUNCTION amp.settle_tenant(text) IS
'Internal: writes down which of a tenant''s requests are not pending any more; how many. Waits for nobody: passes over those that somebody holds.';

CREATE FUNCTION amp.settle_approvals_for_caller() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant text;
    settled integer := 0;
BEGIN
    IF NOT amp.called_by_operator() THEN
        tenant := amp.own_tenant(NULL);
        PERFORM amp.require_permission('content.view');
        RETURN amp.settle_tenant(tenant);
    END IF;
    FOR tenant IN SELECT DISTINCT r.tenant_id FROM amp.approval_requests r WHERE r.status = 'pending' LOOP
        settled := settled + amp.settle_tenant(tenant);
    END LOOP;
    RETURN settled;
END
$$;
COMMENT ON FUNCTION amp.settle_approvals_for_caller() IS 'settle_approvals(), by the rights of who called that.';

CREATE FUNCTION amp.settle_approvals() RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN amp.settle_approvals_for_caller();
END
$$;
COMMENT ON FUNCTION amp.settle_approvals() IS
'Writes down which requests of the session''s tenant, or of all for an operator, were approved or expired by time; how many. Nothing depends on it but the size of what has to be computed. Waits for nobody. Errors: as tenant_id(), TN004.';

-- Reading.

CREATE FUNCTION amp.approval_document(request amp.approval_requests, state jsonb) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'id', request.id, 'subject_type', request.subject_type, 'subject_id', request.subject_id, 'content', request.content,
        'content_hash', encode(request.content_hash, 'hex'), 'status', state -> 'status', 'reason', state -> 'reason',
        'requested_by', request.requested_by, 'requested_at', amp.utc(request.requested_at),
        'escalated', state -> 'escalated', 'waiting_for', state -> 'waiting_for',
        'decisions', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                          'user_id', d.user_id, 'decision', d.decision, 'comment', d.comment, 'at', amp.utc(d.at))
                          ORDER BY d.at, d.user_id), '[]')
                      FROM amp.approval_decisions d WHERE d.request_id = request.id),
        'decided_at', amp.utc(amp.from_microseconds(state -> 'decided_at')))
$$;
COMMENT ON FUNCTION amp.approval_document(amp.approval_requests, jsonb) IS 'Internal: a request as clients see it.';

CREATE FUNCTION amp.own_approval(id text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    request amp.approval_requests;
BEGIN
    SELECT r.* INTO request FROM amp.approval_requests r WHERE r.tenant_id = amp.tenant_id() AND r.id = own_approval.id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = format('approval request %s is unknown', coalesce(quote_ident(left(id, 64)), 'NULL')), HINT = 'See amp.approvals().';
    END IF;
    IF NOT amp.has_permission('content.view') THEN
        request.content := 'null';
    END IF;
    RETURN amp.approval_document(request, amp.approval_state(id, amp.approval_rules(request.tenant_id)));
END
$$;
COMMENT ON FUNCTION amp.own_approval(text) IS
'Internal: a request of the session''s tenant; its content is null for who may decide but not read. Errors: 42704.';

CREATE FUNCTION amp.approval(id text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.own_tenant(NULL);
    PERFORM amp.require_permission('content.view');
    RETURN amp.own_approval(id);
END
$$;
COMMENT ON FUNCTION amp.approval(text) IS
'content.view: a request of the session''s tenant as it is now: {"id", "subject_type", "subject_id", "content", "content_hash", "status", "reason", "requested_by", "requested_at", "escalated", "waiting_for", "decisions": [{"user_id", "decision", "comment", "at"}], "decided_at"}; waiting_for lists who may decide now, null for anybody with content.approve; hash in hexadecimal, ISO 8601 times in UTC. Errors: as tenant_id(), TN004, 42704 unknown.';

CREATE FUNCTION amp.approvals(status text DEFAULT NULL, at_most integer DEFAULT 100, before text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    tenant text := amp.own_tenant(NULL);
    last_seen amp.approval_requests;
    rules jsonb;
    request amp.approval_requests;
    state jsonb;
    data jsonb[] := '{}';
BEGIN
    PERFORM amp.require_permission('content.view');
    IF $1 NOT IN ('pending', 'approved', 'rejected', 'expired') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid status %L', left($1, 20)),
            HINT = 'Choose pending, approved, rejected or expired, or leave it out for all.';
    END IF;
    IF at_most IS NULL OR at_most NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid number of requests %s', coalesce(at_most::text, 'NULL')),
            HINT = 'Pass 1 to 1000, and before => the last id of a page for the next one.';
    END IF;
    IF before IS NOT NULL THEN
        SELECT r.* INTO last_seen FROM amp.approval_requests r WHERE r.tenant_id = tenant AND r.id = before;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('approval request %s is unknown', quote_ident(left(before, 64))),
                HINT = 'See amp.approvals().';
        END IF;
    END IF;
    rules := amp.approval_rules(tenant);
    FOR request IN
        -- What is stored as pending may be anything by now; what is stored as approved, rejected beside that.
        SELECT r.* FROM amp.approval_requests r
        WHERE r.tenant_id = tenant AND ($1 IS NULL OR r.status IN ($1, 'pending') OR $1 = 'rejected' AND r.status = 'approved')
          AND (before IS NULL OR (r.requested_at, r.id) < (last_seen.requested_at, last_seen.id))
        ORDER BY r.requested_at DESC, r.id DESC
    LOOP
        state := amp.approval_state(request.id, rules);
        CONTINUE WHEN state ->> 'status' <> $1;
        request.content := 'null'; -- not even fetched
        data := data || (amp.approval_document(request, state) - 'content');
        EXIT WHEN cardinality(data) = at_most;
    END LOOP;
    RETURN jsonb_build_object('data', to_jsonb(data));
END
$$;
COMMENT ON FUNCTION amp.approvals(text, integer, text) IS
'content.view: the requests of the session''s tenant, newest first, without their content: {"data": [as approval()]}; of one status, as it is now, if given; at most so many, 1 to 1000, of those before the request with that id. Errors: as tenant_id(), TN004, 22023 bad status or number, 42704 unknown id.';

-- Requesting.

CREATE FUNCTION amp.request_approval(subject_type text, subject_id text, content jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    tenant text := amp.own_tenant(NULL);
    person text := amp.user_id();
    rules jsonb;
    hash bytea;
    present amp.approval_requests;
    request text;
BEGIN
    PERFORM amp.require_permission('missions.create');
    IF $1 IS NULL OR length($1) NOT BETWEEN 1 AND 200 OR $2 IS NULL OR length($2) NOT BETWEEN 1 AND 400 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a subject has a type of 1 to 200 characters and an id of 1 to 400',
            HINT = 'Pass what is to be approved, such as ''posts'' and its key.';
    END IF;
    IF $3 IS NULL OR octet_length($3::text) > 1048576 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'the content is JSON of at most 1 MB of text',
            DETAIL = format('Given: %s.', coalesce(octet_length($3::text) || ' bytes', 'NULL')),
            HINT = 'Pass what approvers are to see; of a row in a table, amp.content_of().';
    END IF;
    hash := amp.content_hash($3);
    PERFORM amp.mark_request();
    LOOP
        SELECT r.* INTO present FROM amp.approval_requests r
        WHERE r.tenant_id = tenant AND r.subject_type = $1 AND r.subject_id = $2 AND r.status = 'pending' FOR UPDATE;
        -- Whom we waited for may have taken it away.
        PERFORM amp.own_tenant(NULL), amp.require_permission('missions.create');
        rules := amp.approval_rules(tenant);
        IF present.id IS NOT NULL AND NOT amp.settle_request(present.id, rules) THEN
            -- The same again, by the same. A service that acts as nobody does not take the requester's place, who might
            -- approve his own then.
            IF present.content_hash = hash AND coalesce(person, present.requested_by) IS NOT DISTINCT FROM present.requested_by THEN
                RETURN amp.own_approval(present.id);
            END IF;
            UPDATE amp.approval_requests r SET status = 'expired', reason = 'superseded', decided_at = clock_timestamp()
            WHERE r.id = present.id;
            PERFORM amp.log_change('approval.expired', tenant, jsonb_build_object('id', present.id, 'reason', 'superseded'));
        END IF;
        request := amp.new_id('apr_');
        INSERT INTO amp.approval_requests AS r
            (id, tenant_id, status, reason, decided_at, requested_by, subject_type, subject_id, content_hash, content)
        SELECT request, tenant, s.status, s.reason, s.decided_at, person, $1, $2, hash, $3
        FROM (SELECT 'pending', NULL, NULL WHERE rules -> 'require_approval' = 'true' UNION ALL
              SELECT 'approved', 'not_required', clock_timestamp() WHERE rules -> 'require_approval' IS DISTINCT FROM 'true')
            s(status, reason, decided_at)
        ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND; -- else somebody has requested approval of the same meanwhile
    END LOOP;
    PERFORM amp.own_tenant(NULL), amp.require_permission('missions.create'); -- waited for there, too
    -- Operators read the log: nothing in it that could tell what a row holds.
    PERFORM amp.log_change('approval.requested', tenant, jsonb_build_object('id', request, 'subject_type', $1));
    RETURN amp.own_approval(request);
END
$$;
COMMENT ON FUNCTION amp.request_approval(text, text, jsonb) IS
'missions.create: requests approval of this content (at most 1 MB) of a subject by the tenant''s rules, in place of what is pending for it; where they require none, it is approved at once. The same again by the same user is the same request. Returns as approval(). The transaction has to commit within 10 minutes. Errors: as tenant_id(), TN004, 22023 bad subject or content, 40001 run it again.';

-- Deciding.

CREATE FUNCTION amp.decide(id text, decision text, comment text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    tenant text := amp.own_tenant(NULL);
    person text := amp.user_id();
    present amp.approval_requests;
    rules jsonb;
    outcome jsonb;
    held boolean;
BEGIN
    PERFORM amp.require_permission('content.approve');
    IF person IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TN003', MESSAGE = 'a person decides, and no user is set for this session',
            HINT = 'Pass a credential to amp.authenticate(), or run SET amp.user_id = ''...'' as a service.';
    END IF;
    IF length($3) > 10000 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a comment has at most 10000 characters', HINT = 'Shorten it.';
    END IF;
    -- A rejection waits for nobody: whoever holds the request could let the time pass after which it is approved. Whoever lets it go finds
    -- the decision, and so does whoever reads.
    SELECT r.* INTO present FROM amp.approval_requests r WHERE r.tenant_id = tenant AND r.id = $1 FOR UPDATE SKIP LOCKED;
    held := NOT FOUND;
    IF held AND $2 = 'approve' THEN
        SELECT r.* INTO present FROM amp.approval_requests r WHERE r.tenant_id = tenant AND r.id = $1 FOR UPDATE;
        held := NOT FOUND;
    END IF;
    IF held AND ($2 = 'approve' OR NOT EXISTS (SELECT FROM amp.approval_requests r WHERE r.tenant_id = tenant AND r.id = $1)) THEN
        RETURN amp.own_approval($1); -- its error
    END IF;
    -- Whom we waited for may have taken it away.
    PERFORM amp.own_tenant(NULL), amp.require_permission('content.approve');
    IF EXISTS (SELECT FROM amp.approval_decisions d WHERE d.request_id = $1 AND d.user_id = person AND d.decision = $2) THEN
        RETURN amp.own_approval($1);
    END IF;
    rules := amp.approval_rules(tenant);
    outcome := amp.approval_outcome($1, rules, person, $2);
    CASE outcome ->> 'refused'
        WHEN 'repeated' THEN -- by a transaction that ended after our snapshot
            RETURN amp.own_approval($1);
        WHEN 'final' THEN
            RAISE EXCEPTION USING ERRCODE = '55000',
                MESSAGE = format('approval request "%s" is %s already', $1, outcome ->> 'status'),
                DETAIL = format('Reason: %s, at %s.', outcome ->> 'reason', amp.utc(amp.from_microseconds(outcome -> 'decided_at'))),
                HINT = 'That is final. Request approval again with amp.request_approval().';
        WHEN 'own' THEN
            RAISE EXCEPTION USING ERRCODE = 'TN004', MESSAGE = format('approval request "%s" is your own', $1),
                DETAIL = 'Nobody decides about what he has requested himself.', HINT = 'Ask another approver.';
        WHEN 'decided' THEN
            RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('you have decided about approval request "%s" already', $1),
                HINT = 'That is final. Another approver can reject it, and another content supersedes it.';
        WHEN 'turn' THEN
            RAISE EXCEPTION USING ERRCODE = 'TN004',
                MESSAGE = format('approval request "%s" does not wait for you', $1),
                DETAIL = CASE
                    WHEN outcome -> 'waiting_for' = 'null' THEN 'It waits for anybody in the tenant with permission "content.approve".'
                         WHEN outcome -> 'waiting_for' = '[]' THEN 'None of those whom the rules name is able to decide.'
                         ELSE format('It waits for: %s.', (SELECT string_agg(u, ', ')
                             FROM jsonb_array_elements_text(outcome -> 'waiting_for') u)) END,
                HINT = 'The rules are in the tenant''s configuration, under "approval".';
        ELSE
    END CASE;
    PERFORM amp.mark_decision(tenant, person);
    INSERT INTO amp.approval_decisions (request_id, user_id, decision, at, comment)
    VALUES ($1, person, $2, amp.from_microseconds(outcome -> 'at'), $3);
    UPDATE amp.approval_requests r
    SET decisions = r.decisions + 1, status = outcome ->> 'status', reason = outcome ->> 'reason',
        decided_at = amp.from_microseconds(outcome -> 'decided_at')
    WHERE r.id = $1 AND NOT held;
    PERFORM amp.log_change('approval.decided', tenant, jsonb_build_object('id', $1, 'decision', $2));
    IF outcome ->> 'status' <> 'pending' THEN
        PERFORM amp.log_change('approval.' || (outcome ->> 'status'), tenant, jsonb_build_object('id', $1, 'reason', outcome -> 'reason'));
    END IF;
    RETURN amp.own_approval($1);
END
$$;
COMMENT ON FUNCTION amp.decide(text, text, text) IS 'Internal: the work of approve() and reject(), by the context alone.';

CREATE FUNCTION amp.approve(id text, comment text DEFAULT NULL) RETURNS jsonb
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT amp.decide(id, 'approve', comment) $$;
COMMENT ON FUNCTION amp.approve(text, text) IS
'content.approve: approves a request of the session''s tenant, if the rules let this user decide now. Returns as approval(); the same again changes nothing. Who does not hold content.approve any more when he commits has decided nothing. Errors: as tenant_id(), TN003 no user, TN004 not permitted, also at COMMIT, own request, or not his turn, 42704 unknown, 55000 decided already, 22023 comment too long.';

CREATE FUNCTION amp.reject(id text, comment text DEFAULT NULL) RETURNS jsonb
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT amp.decide(id, 'reject', comment) $$;
COMMENT ON FUNCTION amp.reject(text, text) IS
'content.approve: rejects a request of the session''s tenant, if the rules let this user decide now; one is enough. Returns as approval(); the same again changes nothing. Errors: as approve().';
