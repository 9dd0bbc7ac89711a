-- Tenants, users, members, roles, permissions. src/context/catalog.rs reads the leading columns by number: append only.
-- Nobody has privileges to write here; the functions of this folder do, after their own checks. No foreign keys between these
-- tables: pg_restore -j loads them in any order, and nothing but those functions writes; tenants are never deleted, people only with
-- a purged tenant (lifecycle.sql), which waits for whoever has locked a person's row to name him elsewhere.

CREATE TABLE amp.tenants (
    id text COLLATE "C" CONSTRAINT tenants_pkey PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    status text COLLATE "C" NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'deleted')),
    name text NOT NULL,
    slug text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    account_id text COLLATE "C",
    purged_at timestamptz
);
CREATE INDEX tenants_account_id_idx ON amp.tenants (account_id) WHERE account_id IS NOT NULL;
-- A deleted tenant's row stays, so that its id is never given again; its slug is free.
CREATE UNIQUE INDEX tenants_slug_key ON amp.tenants (slug) WHERE status <> 'deleted';
COMMENT ON TABLE amp.tenants IS 'Isolated organisations. A session sees its own tenant''s row; an operator sees all.';
COMMENT ON COLUMN amp.tenants.purged_at IS 'When its rows were gone, of a deleted tenant.';

CREATE TABLE amp.tenant_configs (
    tenant_id text COLLATE "C" CONSTRAINT tenant_configs_pkey PRIMARY KEY,
    config jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE amp.tenant_configs IS 'Tenants'' configuration. A session sees its own tenant''s; an operator sees all.';

CREATE TABLE amp.tenant_locks (
    tenant_id text COLLATE "C" CONSTRAINT tenant_locks_pkey PRIMARY KEY,
    taken integer NOT NULL DEFAULT 1
);
COMMENT ON TABLE amp.tenant_locks IS 'Internal: serializes changes to a tenant''s people, apart from its own row: a suspension waits for nobody.';

CREATE TABLE amp.app_users (
    id text COLLATE "C" CONSTRAINT app_users_pkey PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    email text NOT NULL,
    default_tenant_id text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX app_users_email_key ON amp.app_users (lower(email));
COMMENT ON TABLE amp.app_users IS 'People. A session sees the members of its own tenant.';

-- By the clock, as that of a key: a key that is older than its user's membership is one of an earlier membership.
CREATE TABLE amp.members (
    tenant_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT members_pkey PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX members_user_id_idx ON amp.members (user_id);
COMMENT ON TABLE amp.members IS 'Who belongs to which tenant, with which role. A session sees its own tenant''s members.';

CREATE TABLE amp.accounts (
    id text COLLATE "C" CONSTRAINT accounts_pkey PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('agency', 'enterprise')),
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE amp.accounts IS 'Agencies and enterprises, which own several tenants. Operators see them; see amp.my_accounts().';

CREATE TABLE amp.account_members (
    account_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL CHECK (role IN ('admin', 'operator', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT account_members_pkey PRIMARY KEY (account_id, user_id)
);
CREATE INDEX account_members_user_id_idx ON amp.account_members (user_id);
COMMENT ON TABLE amp.account_members IS 'Who belongs to which account, with a role that he has in all of its tenants. Operators see them.';

-- With the reader's rights: who may read everything (pg_read_all_data) reads by it no more than by the tables.
CREATE VIEW amp.memberships WITH (security_invoker) AS
    SELECT m.tenant_id, m.user_id, m.role, NULL::text COLLATE "C" AS account_id, m.created_at FROM amp.members m
    UNION ALL
    SELECT t.id, a.user_id, a.role, a.account_id, greatest(a.created_at, t.created_at)
    FROM amp.account_members a JOIN amp.tenants t ON t.account_id = a.account_id;
COMMENT ON VIEW amp.memberships IS
'Internal: who is in which tenant, as its member (account_id is NULL) or through its account; who is both has what either role holds.';

CREATE TABLE amp.roles (
    tenant_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    permissions text[] COLLATE "C" NOT NULL,
    CONSTRAINT roles_pkey PRIMARY KEY (tenant_id, name)
);
COMMENT ON TABLE amp.roles IS 'The roles that tenants define, beside admin, operator and viewer that all have.';

CREATE TABLE amp.permissions (
    name text COLLATE "C" CONSTRAINT permissions_pkey PRIMARY KEY
        CHECK (name ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$' AND length(name) <= 100),
    management boolean NOT NULL DEFAULT false,
    roles text[] COLLATE "C" NOT NULL CHECK (roles <@ ARRAY['admin', 'operator', 'viewer']),
    description text NOT NULL,
    built_in boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE amp.permissions IS 'What can be permitted, and which of admin, operator and viewer hold it.';
COMMENT ON COLUMN amp.permissions.management IS 'Manages the tenant itself: a service has it only through a named user.';

INSERT INTO amp.permissions (name, management, roles, description, built_in) VALUES
    ('content.view', false, '{admin,operator,viewer}', 'View content', true),
    ('missions.create', false, '{admin,operator}', 'Create missions', true),
    ('content.approve', false, '{admin,operator}', 'Approve content', true),
    ('analytics.view', false, '{admin,operator,viewer}', 'View analytics', true),
    ('integrations.manage', true, '{admin}', 'Manage integrations', true),
    ('users.manage', true, '{admin}', 'Manage users', true),
    ('billing.configure', true, '{admin}', 'Configure billing', true);

-- Every change that can make a cached answer untrue tells the backends; ALWAYS, so that replication's apply does too. New
-- rows need none, where only positive answers are kept: except permissions and members of accounts, which add to what is held. But
-- the transaction that makes new rows must not keep answers that rest on them: it may roll back.
CREATE TRIGGER amp_invalidate AFTER DELETE OR UPDATE OF id, status, account_id ON amp.tenants
    FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.tenants EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate AFTER DELETE OR UPDATE OF id ON amp.app_users
    FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.app_users EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate AFTER DELETE OR UPDATE ON amp.members
    FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.members EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate AFTER INSERT OR DELETE OR UPDATE ON amp.account_members
    FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.account_members EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate AFTER DELETE OR UPDATE ON amp.roles
    FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.roles EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate AFTER INSERT OR DELETE OR UPDATE ON amp.permissions
    FOR EACH ROW EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_invalidate_all AFTER TRUNCATE ON amp.permissions EXECUTE FUNCTION amp.invalidate();
CREATE TRIGGER amp_uncommitted AFTER INSERT ON amp.tenants EXECUTE FUNCTION amp.mark_uncommitted();
CREATE TRIGGER amp_uncommitted AFTER INSERT ON amp.app_users EXECUTE FUNCTION amp.mark_uncommitted();
CREATE TRIGGER amp_uncommitted AFTER INSERT ON amp.members EXECUTE FUNCTION amp.mark_uncommitted();
CREATE TRIGGER amp_uncommitted AFTER INSERT ON amp.roles EXECUTE FUNCTION amp.mark_uncommitted();
ALTER TABLE amp.tenants ENABLE ALWAYS TRIGGER amp_uncommitted;
ALTER TABLE amp.app_users ENABLE ALWAYS TRIGGER amp_uncommitted;
ALTER TABLE amp.members ENABLE ALWAYS TRIGGER amp_uncommitted;
ALTER TABLE amp.roles ENABLE ALWAYS TRIGGER amp_uncommitted;
ALTER TABLE amp.tenants ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all;
ALTER TABLE amp.app_users ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all;
ALTER TABLE amp.members ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all;
ALTER TABLE amp.account_members ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all;
ALTER TABLE amp.roles ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all;
ALTER TABLE amp.permissions ENABLE ALWAYS TRIGGER amp_invalidate, ENABLE ALWAYS TRIGGER amp_invalidate_all;

-- A tenant sees itself; an operator sees all (the constant folds the comparison away, so he needs no context).
ALTER TABLE amp.tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.tenants FOR SELECT USING (id = amp.tenant_id());
CREATE POLICY operator ON amp.tenants FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.tenant_configs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.tenant_configs FOR SELECT USING (tenant_id = amp.tenant_id());
CREATE POLICY operator ON amp.tenant_configs FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.members ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.members FOR SELECT USING (tenant_id = amp.tenant_id());
CREATE POLICY operator ON amp.members FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.accounts ENABLE ROW LEVEL SECURITY;
CREATE POLICY operator ON amp.accounts FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.account_members ENABLE ROW LEVEL SECURITY;
CREATE POLICY operator ON amp.account_members FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.app_users ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.app_users FOR SELECT USING (EXISTS (
    SELECT FROM amp.members m WHERE m.tenant_id = amp.tenant_id() AND m.user_id = app_users.id));
CREATE POLICY operator ON amp.app_users FOR SELECT TO amp_operator USING (true);
ALTER TABLE amp.roles ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON amp.roles FOR SELECT USING (tenant_id = amp.tenant_id());
CREATE POLICY operator ON amp.roles FOR SELECT TO amp_operator USING (true);

-- Everybody may read these; row security is for who may write everything (pg_write_all_data).
ALTER TABLE amp.permissions ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON amp.permissions FOR SELECT USING (true);
ALTER TABLE amp.tenant_locks ENABLE ROW LEVEL SECURITY;

GRANT SELECT ON amp.tenants, amp.tenant_configs, amp.members, amp.roles, amp.permissions TO PUBLIC;
-- Not default_tenant_id, which may name a tenant that the reader has nothing to do with; and not created_at, which would tell
-- whether somebody just invited was on the platform before.
GRANT SELECT (id, email) ON amp.app_users TO PUBLIC;
GRANT SELECT ON amp.accounts, amp.account_members TO amp_operator;

SELECT pg_catalog.pg_extension_config_dump('amp.tenants', '');
SELECT pg_catalog.pg_extension_config_dump('amp.tenant_configs', '');
SELECT pg_catalog.pg_extension_config_dump('amp.app_users', '');
SELECT pg_catalog.pg_extension_config_dump('amp.members', '');
SELECT pg_catalog.pg_extension_config_dump('amp.accounts', '');
SELECT pg_catalog.pg_extension_config_dump('amp.account_members', '');
SELECT pg_catalog.pg_extension_config_dump('amp.roles', '');
SELECT pg_catalog.pg_extension_config_dump('amp.permissions', 'WHERE NOT built_in');
