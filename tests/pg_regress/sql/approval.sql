-- Approval: a request by the tenant's rules, its document, and the gate of a table that demands it.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_operator
SELECT amp.create_tenant('Approval', 'approval', id => 'approval') ->> 'id' AS id;
SELECT amp.create_tenant('Approval Two', 'approval-two', id => 'approval2') ->> 'id' AS id;
\connect - postgres
INSERT INTO amp.app_users (id, email) VALUES ('user_wes', 'wes@approval.example'), ('user_pia', 'pia@approval.example'),
    ('user_qin', 'qin@approval.example'), ('user_leo', 'leo@approval.example');
\connect - regress_operator
SELECT amp.invite_user(u || '@approval.example', 'operator', 'approval') ->> 'id' AS id FROM unnest(ARRAY['wes', 'pia', 'qin']) u;
SELECT amp.invite_user('leo@approval.example', 'viewer', 'approval') ->> 'id' AS id;
-- What each document has that differs from run to run.
\connect - postgres
CREATE FUNCTION public.stable(document jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT regexp_replace(regexp_replace(document::text, 'apr_\w{16}', 'apr_', 'g'), '\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', 'TIME', 'g')::jsonb
$$;

-- Where the rules require none, it is approved at once.
\connect - regress_service
SET amp.tenant_id = 'approval';
SET amp.user_id = 'user_wes';
SELECT jsonb_pretty(stable(amp.request_approval('posts', '1', '{"title": "Hello"}')));

\connect - regress_operator
SELECT amp.update_config('{"approval": {"require_approval": true, "approvers": ["user_pia", "user_qin"], "approval_order": "sequential"}}', 'approval')
    #> '{config,approval}' AS rules;
\connect - regress_service
SET amp.tenant_id = 'approval';
SET amp.user_id = 'user_wes';
SELECT amp.request_approval('posts', '1', '{"title": "Hello"}') ->> 'id' AS request \gset
SELECT jsonb_pretty(stable(amp.approval(:'request')));
-- The same again is the same; the hash is of the content's text.
SELECT amp.request_approval('posts', '1', '{"title":   "Hello"}') ->> 'id' = :'request' AS same,
       amp.approval(:'request') ->> 'content_hash' = encode(sha256('{"title": "Hello"}'), 'hex') AS hash;
-- Not his own, and not before his turn (the messages have the request's id).
\set VERBOSITY sqlstate
SELECT amp.approve(:'request');
SET amp.user_id = 'user_qin';
SELECT amp.approve(:'request');
SELECT amp.reject(:'request');
\set VERBOSITY default
SET amp.user_id = 'user_pia';
SELECT stable(amp.approve(:'request', 'fine') - 'content') AS approved;
SET amp.user_id = 'user_qin';
SELECT stable(amp.approve(:'request') - 'content' - 'content_hash') AS approved;
SELECT stable(amp.approve(:'request')) ->> 'status' AS again;
-- Other content takes its place; one rejection is enough.
SET amp.user_id = 'user_wes';
SELECT amp.request_approval('posts', '2', '"one"') ->> 'id' AS one \gset
SELECT amp.request_approval('posts', '2', '"two"') ->> 'id' AS two \gset
SELECT d ->> 'status' AS status, d ->> 'reason' AS reason FROM amp.approval(:'one') d;
SET amp.user_id = 'user_pia';
SELECT d ->> 'status' AS status, d #>> '{decisions,0,comment}' AS comment FROM amp.reject(:'two', 'no') d;
-- Newest first, without content.
SELECT d ->> 'subject_id' AS subject, d ->> 'status' AS status, d ->> 'reason' AS reason, d ? 'content' AS content
FROM jsonb_array_elements(amp.approvals() -> 'data') d;
SELECT d ->> 'subject_id' AS subject FROM jsonb_array_elements(amp.approvals('rejected') -> 'data') d;
SELECT d ->> 'subject_id' AS subject, d ->> 'reason' AS reason FROM jsonb_array_elements(amp.approvals(at_most => 1, before => :'one') -> 'data') d;
SELECT amp.approvals('done');
\echo :SQLSTATE
SELECT amp.approvals(at_most => 0);
\echo :SQLSTATE
SELECT amp.approval('apr_none');
\echo :SQLSTATE
SELECT amp.request_approval('', '1', '{}');
\echo :SQLSTATE
SELECT amp.request_approval('posts', '1', NULL);
\echo :SQLSTATE
SELECT amp.request_approval('posts', '1', to_jsonb(repeat('x', 1048575)));
\echo :SQLSTATE
-- A service without a user requests and reads; a person decides. A viewer reads.
RESET amp.user_id;
SELECT d -> 'requested_by' AS requested_by FROM amp.request_approval('posts', '3', '3') d;
SELECT amp.approve(:'one');
\echo :SQLSTATE
SET amp.user_id = 'user_leo';
SELECT amp.approval(:'one') ->> 'status' AS status;
SELECT amp.request_approval('posts', '4', '4');
\echo :SQLSTATE
SELECT amp.reject(:'one');
\echo :SQLSTATE

-- Time: as if 31 days had passed. Reading says so; settling writes it down.
\connect - postgres
UPDATE amp.approval_requests SET requested_at = requested_at - interval '31 days' WHERE tenant_id = 'approval' AND subject_id = '3';
\connect - regress_service
SET amp.tenant_id = 'approval';
SELECT d ->> 'status' AS status, d ->> 'reason' AS reason FROM jsonb_array_elements(amp.approvals('expired') -> 'data') d WHERE d ->> 'subject_id' = '3';
\connect - regress_operator
SELECT amp.settle_approvals();
SELECT amp.settle_approvals();
SELECT * FROM amp.approval_requests;
\connect - postgres
SELECT status, reason, decided_at - requested_at AS after FROM amp.approval_requests WHERE tenant_id = 'approval' AND subject_id = '3';
SELECT action, detail - 'id' AS detail, user_id FROM amp.audit_log WHERE action LIKE 'approval.%' AND tenant_id = 'approval' ORDER BY at;

-- The gate: who may make it, and of what.
\connect - regress_owner
CREATE SCHEMA desk;
CREATE SCHEMA desk2;
GRANT USAGE ON SCHEMA desk TO PUBLIC;
CREATE TYPE desk.state AS ENUM ('draft', 'live');
CREATE TABLE desk.posts (tenant_id text COLLATE "C", id int, title text, state desk.state NOT NULL DEFAULT 'draft', PRIMARY KEY (tenant_id, id));
CREATE TABLE desk2.posts (tenant_id text COLLATE "C", id int, title text, raw json[], state varchar(5), day date, PRIMARY KEY (tenant_id, id));
CREATE TABLE desk2.keyless (tenant_id text COLLATE "C", state text);
GRANT SELECT, INSERT, UPDATE, DELETE ON desk.posts TO PUBLIC;
SELECT amp.require_approval('desk.posts', 'state', '{live}');
\echo :SQLSTATE
SELECT count(*) > 0 AS protected FROM amp.protect('desk.posts');
SELECT count(*) > 0 AS protected FROM amp.protect('desk2.posts');
SELECT count(*) > 0 AS protected FROM amp.protect('desk2.keyless');
SELECT amp.require_approval('desk.posts', 'status', '{live}');
\echo :SQLSTATE
SELECT amp.require_approval('desk.posts', 'state', '{}');
\echo :SQLSTATE
SELECT amp.require_approval('desk.posts', 'state', '{published}');
\echo :SQLSTATE
SELECT amp.require_approval('desk2.posts', 'state', '{published}');
\echo :SQLSTATE
SELECT amp.require_approval('desk2.posts', 'day', '{2026-01-01}');
\echo :SQLSTATE
SELECT amp.require_approval('desk2.posts', 'state', '{live}');
\echo :SQLSTATE
SELECT amp.require_approval('desk2.posts', 'state', '{live}', content_columns => '{title,state}');
\echo :SQLSTATE
SELECT amp.require_approval('desk2.posts', 'state', '{live}', content_columns => '{titel}');
\echo :SQLSTATE
SELECT amp.require_approval('desk2.posts', 'id', '{1}', content_columns => '{title}');
\echo :SQLSTATE
SELECT amp.require_approval('desk2.keyless', 'state', '{live}');
\echo :SQLSTATE
SELECT amp.content_of('desk.posts', '1');
\echo :SQLSTATE
SELECT amp.require_approval('desk.posts', 'state', '{live}');
SELECT amp.require_approval('desk.posts', 'state', '{live}');
SELECT amp.require_approval('desk2.posts', 'state', '{live}', content_columns => '{title}');
\echo :SQLSTATE
SELECT amp.require_approval('desk2.posts', 'state', '{live}', 'desk2.posts', '{title}');
SELECT * FROM amp.approval_gates ORDER BY 1;
SELECT tgrelid::regclass, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'amp_approval' ORDER BY 1;
\connect - regress_stranger
SELECT amp.require_approval('desk.posts', 'state', '{draft}');
\echo :SQLSTATE
SELECT amp.drop_approval_requirement('desk.posts');
\echo :SQLSTATE

-- A row's way through it.
\connect - regress_service
SET amp.tenant_id = 'approval';
SET amp.user_id = 'user_wes';
INSERT INTO desk.posts VALUES ('approval', 1, 'Hello', 'live');
\echo :SQLSTATE
INSERT INTO desk.posts VALUES ('approval', 1, 'Hello');
SELECT amp.content_of('desk.posts', '1'), amp.content_of('desk.posts', '2') IS NULL AS none;
SELECT amp.request_approval('posts', '1', amp.content_of('desk.posts', '1')) ->> 'id' AS request \gset
UPDATE desk.posts SET state = 'live';
\echo :SQLSTATE
SET amp.user_id = 'user_pia';
SELECT amp.approve(:'request') ->> 'status' AS status;
SET amp.user_id = 'user_qin';
SELECT amp.approve(:'request') ->> 'status' AS status;
SET amp.user_id = 'user_wes';
UPDATE desk.posts SET state = 'live';
UPDATE desk.posts SET title = 'Swapped';
\echo :SQLSTATE
SELECT * FROM desk.posts;
-- Another tenant's rules require nothing; past row security nobody asks.
RESET amp.user_id;
SET amp.tenant_id = 'approval2';
INSERT INTO desk.posts VALUES ('approval2', 1, 'Theirs', 'live');
\connect - postgres
INSERT INTO desk.posts VALUES ('approval', 9, 'Restored', 'live');

-- A column that is gone; dropping and unprotecting.
\connect - regress_owner
ALTER TABLE desk2.posts RENAME COLUMN title TO headline;
\connect - postgres
GRANT USAGE ON SCHEMA desk2 TO regress_service;
GRANT INSERT ON desk2.posts TO regress_service;
\connect - regress_service
SET amp.tenant_id = 'approval';
INSERT INTO desk2.posts (id, state) VALUES (1, 'live');
\echo :SQLSTATE
\connect - regress_owner
SELECT amp.drop_approval_requirement('desk2.posts');
SELECT amp.drop_approval_requirement('desk2.posts');
\echo :SQLSTATE
SELECT object, what FROM amp.unprotect('desk.posts') WHERE object LIKE 'trigger%';
SELECT * FROM amp.approval_gates;
SET client_min_messages = warning;
DROP SCHEMA desk, desk2 CASCADE;
\connect - postgres
DROP FUNCTION public.stable;
