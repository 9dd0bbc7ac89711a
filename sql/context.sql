-- What the session acts for. The functions are in src/context/functions.rs; they take no table privileges and write nothing.

CREATE FUNCTION amp.tenant_id() RETURNS text
    LANGUAGE c STABLE LEAKPROOF PARALLEL SAFE COST 1 AS 'MODULE_PATHNAME', 'amp_tenant_id';
COMMENT ON FUNCTION amp.tenant_id() IS
'The tenant this session acts for. The first use pins it for the transaction. Errors: TN001 none is set, TN002 unknown or not active, TN003 not a member or not entitled to choose, TN006 another tenant is pinned, TN009 the session bypasses row security.';

CREATE FUNCTION amp.tenant_id(permission text) RETURNS text
    LANGUAGE c STABLE LEAKPROOF PARALLEL SAFE COST 1 AS 'MODULE_PATHNAME', 'amp_tenant_id_if';
COMMENT ON FUNCTION amp.tenant_id(text) IS
'amp.tenant_id() if the session holds the permission, else NULL: in a policy, all of the tenant''s rows or none. Errors: as tenant_id().';

CREATE FUNCTION amp.tenant_uuid() RETURNS uuid
    LANGUAGE c STABLE LEAKPROOF PARALLEL SAFE COST 1 AS 'MODULE_PATHNAME', 'amp_tenant_uuid';
COMMENT ON FUNCTION amp.tenant_uuid() IS
'amp.tenant_id() for tables keyed by uuid. Errors: as tenant_id(), and 22P02 if the id is not a uuid in canonical form.';

CREATE FUNCTION amp.tenant_uuid(permission text) RETURNS uuid
    LANGUAGE c STABLE LEAKPROOF PARALLEL SAFE COST 1 AS 'MODULE_PATHNAME', 'amp_tenant_uuid_if';
COMMENT ON FUNCTION amp.tenant_uuid(text) IS
'amp.tenant_uuid() if the session holds the permission, else NULL: in a policy, all of the tenant''s rows or none. Errors: as tenant_uuid().';

CREATE FUNCTION amp.tenant_bigint() RETURNS bigint
    LANGUAGE c STABLE LEAKPROOF PARALLEL SAFE COST 1 AS 'MODULE_PATHNAME', 'amp_tenant_bigint';
COMMENT ON FUNCTION amp.tenant_bigint() IS
'amp.tenant_id() for tables keyed by bigint. Errors: as tenant_id(), and 22P02 if the id is not a canonical decimal number.';

CREATE FUNCTION amp.tenant_bigint(permission text) RETURNS bigint
    LANGUAGE c STABLE LEAKPROOF PARALLEL SAFE COST 1 AS 'MODULE_PATHNAME', 'amp_tenant_bigint_if';
COMMENT ON FUNCTION amp.tenant_bigint(text) IS
'amp.tenant_bigint() if the session holds the permission, else NULL: in a policy, all of the tenant''s rows or none. Errors: as tenant_bigint().';

CREATE FUNCTION amp.user_id() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'amp_user_id';
COMMENT ON FUNCTION amp.user_id() IS
'The user this session acts as; NULL when a service acts as the tenant itself. Errors: as tenant_id() when a tenant is set, TN003 unknown user.';

CREATE FUNCTION amp.role() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'amp_role';
COMMENT ON FUNCTION amp.role() IS
'The user''s role in the tenant, read from the database; NULL when a service acts as the tenant itself. Errors: as tenant_id().';

CREATE FUNCTION amp.context() RETURNS jsonb
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'amp_context';
COMMENT ON FUNCTION amp.context() IS
'Session kind, scope, tenant, user, role, permissions and proof as one document, for looking at; nulls where nothing is set. Errors: as tenant_id() when a tenant is set.';

-- The cost puts it behind the tenant's comparison in a filter: it is asked only about the tenant's own rows.
CREATE FUNCTION amp.has_permission(permission text) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'amp_has_permission';
COMMENT ON FUNCTION amp.has_permission(text) IS
'Whether the session holds a permission in its tenant. Errors: as tenant_id(), 42704 the permission is not registered.';

CREATE FUNCTION amp.require_permission(permission text) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'amp_require_permission';
COMMENT ON FUNCTION amp.require_permission(text) IS
'True, or error TN004 naming role and permission. Errors: as tenant_id(), 42704 the permission is not registered.';

CREATE FUNCTION amp.context_holds() RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'amp_context_holds';
COMMENT ON FUNCTION amp.context_holds() IS
'True, or the error of tenant_id(). In the policies that ask for no permission to change rows: a row that waited for a lock is checked again.';

CREATE FUNCTION amp.only_tenant() RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'amp_only_tenant';
COMMENT ON FUNCTION amp.only_tenant() IS
'The only tenant that the session''s credential opens; NULL if it opens all of its user''s, or if there is none. Errors: TN007.';

CREATE FUNCTION amp.only_account() RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'amp_only_account';
COMMENT ON FUNCTION amp.only_account() IS
'The account whose tenants the session''s credential opens, and no others; NULL if there is no such bound. Errors: TN007.';

CREATE FUNCTION amp.account_role(account text) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'amp_account_role';
COMMENT ON FUNCTION amp.account_role(text) IS
'The role of the session''s user in an account; NULL if he has none, or if his credential does not open the account. Errors: as user_id().';

CREATE FUNCTION amp.is_operator() RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'amp_is_operator';
COMMENT ON FUNCTION amp.is_operator() IS
'Whether the session may run the platform: its login role (session_user) is a member of amp_operator or a superuser, or it has passed an operator''s key to amp.authenticate().';

CREATE FUNCTION amp.new_id(prefix text) RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'amp_new_id';
COMMENT ON FUNCTION amp.new_id(text) IS
'The prefix and 16 base62 characters (95 bits) from the operating system''s random generator.';

CREATE FUNCTION amp.invalidate() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'amp_invalidate';
COMMENT ON FUNCTION amp.invalidate() IS
'Trigger: tells every backend, when the transaction commits, to forget what it knows of this table.';

CREATE FUNCTION amp.mark_uncommitted() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'amp_mark_uncommitted';
COMMENT ON FUNCTION amp.mark_uncommitted() IS
'Trigger: what this transaction resolves is not kept beyond its end, for its own new rows may be rolled back.';

CREATE FUNCTION amp.mark_caller() RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_mark_caller';
COMMENT ON FUNCTION amp.mark_caller() IS
'Internal: notes the effective role, for the registry function that is called next. A stranger''s code notes itself.';

CREATE FUNCTION amp.caller() RETURNS oid
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_caller';
COMMENT ON FUNCTION amp.caller() IS
'Internal: the role that mark_caller() noted, once; NULL if none. Inside a SECURITY DEFINER function there is no other way to know.';
