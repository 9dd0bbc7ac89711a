-- The context: which tenant and user a session acts for, where it may come from, how long it lasts.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_service

-- No context is an error, not an empty result; also on a table without rows.
SELECT amp.tenant_id();
\echo :SQLSTATE
SELECT * FROM app.notes;
\echo :SQLSTATE
INSERT INTO app.notes VALUES ('alpha', 1);
\echo :SQLSTATE
UPDATE app.notes SET body = '';
\echo :SQLSTATE
DELETE FROM app.notes;
\echo :SQLSTATE
SELECT amp.tenant_uuid();
\echo :SQLSTATE
SELECT amp.tenant_bigint();
\echo :SQLSTATE
SELECT amp.role();
\echo :SQLSTATE
SELECT amp.has_permission('content.view');
\echo :SQLSTATE
-- Whoever only looks gets an answer.
SELECT amp.user_id() IS NULL AS no_user;
SELECT amp.context();

-- A malformed id is refused at the SET.
SET amp.tenant_id = 'a b';
\echo :SQLSTATE
SET amp.tenant_id = 'ä';
\echo :SQLSTATE
SET amp.tenant_id = 'alpha''; DROP TABLE app.notes; --';
\echo :SQLSTATE
SELECT set_config('amp.tenant_id', repeat('x', 65), false);
\echo :SQLSTATE
SET amp.user_id = 'user ann';
\echo :SQLSTATE
-- Empty is none.
SET amp.tenant_id = '';
SELECT amp.tenant_id();
\echo :SQLSTATE

-- An unknown, a suspended and a deleted tenant are refused at the SET, in the same words.
\connect - regress_operator
SELECT amp.create_tenant('Sleepy', 'context-sleepy', id => 'sleepy') ->> 'status' AS status;
SELECT amp.create_tenant('Gone', 'context-gone', id => 'gone') ->> 'status' AS status;
SELECT amp.suspend_tenant('sleepy') ->> 'status' AS status, amp.delete_tenant('gone') ->> 'status' AS status;
\connect - regress_service
SET amp.tenant_id = 'nowhere';
\echo :SQLSTATE
SET amp.tenant_id = 'sleepy';
\echo :SQLSTATE
SET amp.tenant_id = 'gone';
\echo :SQLSTATE
SELECT set_config('amp.tenant_id', repeat('x', 64), false);
\echo :SQLSTATE
-- What was refused leaves what was there.
SET amp.tenant_id = 'alpha';
SET amp.tenant_id = 'nowhere';
\echo :SQLSTATE
SELECT amp.tenant_id();

-- A service that names no user acts as the tenant itself.
SELECT amp.tenant_id(), amp.role() IS NULL AS no_role, amp.user_id() IS NULL AS no_user;
SELECT amp.context() - 'permissions' AS context;
-- With a user it has the role that the database knows.
SET amp.user_id = 'user_vic';
SELECT amp.tenant_id(), amp.user_id(), amp.role();
SELECT amp.context() - 'permissions' AS context;

-- An unknown user, one who is no member, and a tenant that the user does not belong to.
SET amp.user_id = 'user_nobody';
\echo :SQLSTATE
SET amp.user_id = 'user_bob';
\echo :SQLSTATE
SET amp.tenant_id = 'beta';
\echo :SQLSTATE
SELECT amp.tenant_id(), amp.user_id();
-- A user without a tenant: known or not.
RESET amp.tenant_id;
RESET amp.user_id;
SET amp.user_id = 'user_nobody';
\echo :SQLSTATE
SET amp.user_id = 'user_bob';
SELECT amp.user_id();
SELECT amp.context();
SELECT amp.tenant_id();
\echo :SQLSTATE
RESET amp.user_id;

-- A tenant keyed by uuid or bigint is one whose id is the canonical text of it.
SET amp.tenant_id = 'alpha';
SELECT amp.tenant_uuid();
\echo :SQLSTATE
SELECT amp.tenant_bigint();
\echo :SQLSTATE

-- RESET and DISCARD ALL end in no context.
RESET amp.tenant_id;
SELECT amp.tenant_id();
\echo :SQLSTATE
SET amp.tenant_id = 'alpha';
SET amp.user_id = 'user_vic';
DISCARD ALL;
SELECT amp.tenant_id();
\echo :SQLSTATE
SELECT amp.user_id() IS NULL AS no_user;
SET amp.tenant_id = 'alpha';
RESET ALL;
SELECT amp.tenant_id();
\echo :SQLSTATE
SET amp.tenant_id = 'alpha';
SET amp.tenant_id TO DEFAULT;
SELECT amp.tenant_id();
\echo :SQLSTATE

-- SET LOCAL lasts to the end of the transaction, and a rollback undoes a SET.
BEGIN;
SET LOCAL amp.tenant_id = 'alpha';
SELECT amp.tenant_id();
COMMIT;
SELECT amp.tenant_id();
\echo :SQLSTATE
BEGIN;
SET amp.tenant_id = 'alpha';
ROLLBACK;
SELECT amp.tenant_id();
\echo :SQLSTATE

-- The first use pins the tenant: another one in that transaction is an error when it is used, across savepoints, too.
BEGIN;
SET LOCAL amp.tenant_id = 'beta';
SET LOCAL amp.tenant_id = 'alpha';
SELECT amp.tenant_id();
SAVEPOINT s;
SET LOCAL amp.tenant_id = 'beta';
SELECT amp.tenant_id();
\echo :SQLSTATE
ROLLBACK TO s;
SELECT amp.tenant_id();
SET LOCAL amp.tenant_id = 'beta';
SELECT count(*) FROM app.notes;
\echo :SQLSTATE
ROLLBACK;
-- A savepoint that is rolled back does not unpin: what was read has been read.
BEGIN;
SAVEPOINT s;
SET LOCAL amp.tenant_id = 'alpha';
SELECT amp.tenant_id();
ROLLBACK TO s;
SET LOCAL amp.tenant_id = 'beta';
SELECT amp.tenant_id();
\echo :SQLSTATE
ROLLBACK;
-- Nor is there a way inside one statement.
SET amp.tenant_id = 'alpha';
SELECT amp.tenant_id(), set_config('amp.tenant_id', 'beta', false), amp.tenant_id();
\echo :SQLSTATE
SELECT amp.tenant_id();
-- No tenant after a tenant is no context.
BEGIN;
SELECT amp.tenant_id();
SET LOCAL amp.tenant_id = '';
SELECT amp.tenant_id();
\echo :SQLSTATE
ROLLBACK;
-- The next transaction may choose another one; inside one tenant the user may change.
BEGIN;
SET LOCAL amp.tenant_id = 'beta';
SELECT amp.tenant_id();
COMMIT;
BEGIN;
SET LOCAL amp.user_id = 'user_vic';
SELECT amp.role();
SET LOCAL amp.user_id = 'user_ann';
SELECT amp.role();
COMMIT;
RESET amp.tenant_id;

-- Other settings are a superuser's, and nobody invents new ones.
SET amp.context_scope = 'transaction';
\echo :SQLSTATE
SET amp.require_user = on;
\echo :SQLSTATE
SET amp.tenant = 'alpha';
\echo :SQLSTATE
SHOW amp.context_scope;
SHOW amp.require_user;

-- A value comes from SQL in the session only: not from a role, a database, a function or ALTER SYSTEM.
CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql SET amp.tenant_id = 'alpha' AS 'SELECT amp.tenant_id()';
\echo :SQLSTATE
SET amp.tenant_id = 'alpha';
CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql SET amp.tenant_id FROM CURRENT AS 'SELECT amp.tenant_id()';
\echo :SQLSTATE
\connect - postgres
ALTER ROLE regress_service SET amp.tenant_id = 'alpha';
\echo :SQLSTATE
ALTER ROLE regress_service SET amp.user_id = 'user_ann';
\echo :SQLSTATE
ALTER DATABASE regress SET amp.tenant_id = 'alpha';
\echo :SQLSTATE
ALTER ROLE ALL SET amp.tenant_id = 'alpha';
\echo :SQLSTATE
ALTER SYSTEM SET amp.tenant_id = 'alpha';
\echo :SQLSTATE

-- A session that bypasses row security is told so at the SET.
SET amp.tenant_id = 'alpha';
\echo :SQLSTATE
SELECT amp.tenant_id();
\echo :SQLSTATE
\connect - regress_bypass
SET amp.tenant_id = 'alpha';
\echo :SQLSTATE
SELECT amp.context();

-- A client has to prove who it is; naming a tenant is no proof, whether it exists or not. Neither is naming a user.
\connect - regress_client
SET amp.tenant_id = 'alpha';
\echo :SQLSTATE
SET amp.tenant_id = 'nowhere';
\echo :SQLSTATE
SET amp.user_id = 'user_ann';
\echo :SQLSTATE
SELECT count(*) FROM app.notes;
\echo :SQLSTATE
SELECT amp.context();
-- An operator runs the platform and has no view of tenants' rows.
\connect - regress_operator
SET amp.tenant_id = 'alpha';
\echo :SQLSTATE
SELECT count(*) FROM app.notes;
\echo :SQLSTATE
SELECT amp.context();

-- context_scope = transaction: what was set in one transaction is nothing in the next, however it was set.
\connect - regress_pooled
SHOW amp.context_scope;
BEGIN;
SET amp.tenant_id = 'alpha';
SELECT amp.tenant_id();
COMMIT;
SELECT amp.tenant_id();
\echo :SQLSTATE
SELECT count(*) FROM app.notes;
\echo :SQLSTATE
SELECT amp.context();
BEGIN;
SET LOCAL amp.tenant_id = 'beta';
SELECT amp.tenant_id();
COMMIT AND CHAIN;
SELECT amp.tenant_id();
\echo :SQLSTATE
ROLLBACK;

-- require_user = on: a service has to name a user, too.
\connect - regress_strict
SET amp.tenant_id = 'alpha';
SELECT amp.tenant_id();
\echo :SQLSTATE
SELECT count(*) FROM app.notes;
\echo :SQLSTATE
SET amp.user_id = 'user_vic';
SELECT amp.tenant_id(), amp.role();
