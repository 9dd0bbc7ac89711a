-- Permissions, the built-in roles, and the roles that tenants make.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_operator
SELECT amp.create_tenant('Permissions', 'permissions', id => 'perms') ->> 'id' AS id;
\connect - postgres
INSERT INTO amp.app_users (id, email) VALUES ('user_padmin', 'padmin@p.example'), ('user_pop', 'pop@p.example'), ('user_pview', 'pview@p.example');
\connect - regress_operator
SELECT amp.invite_user('padmin@p.example', 'admin', 'perms') ->> 'role' AS role;
SELECT amp.invite_user('pop@p.example', 'operator', 'perms') ->> 'role' AS role;
SELECT amp.invite_user('pview@p.example', 'viewer', 'perms') ->> 'role' AS role;

-- The built-in permissions, complete.
SELECT name, management, description FROM amp.permissions WHERE built_in ORDER BY name;

-- What admin, operator, viewer and a service that acts as the tenant itself hold of them.
\connect - regress_service
PREPARE held AS SELECT coalesce(amp.role(), '(service)') AS role,
    string_agg(name, ' ' ORDER BY name) FILTER (WHERE amp.has_permission(name)) AS holds,
    string_agg(name, ' ' ORDER BY name) FILTER (WHERE NOT amp.has_permission(name)) AS lacks
FROM amp.permissions WHERE built_in;
SET amp.tenant_id = 'perms';
EXECUTE held;
SET amp.user_id = 'user_padmin';
EXECUTE held;
SET amp.user_id = 'user_pop';
EXECUTE held;
SET amp.user_id = 'user_pview';
EXECUTE held;
SELECT amp.context() ->> 'role' AS role, amp.context() -> 'permissions' @> '["content.view", "analytics.view"]' AS listed;

-- require_permission is true or an error that names role and permission.
SELECT amp.require_permission('content.view');
SELECT amp.require_permission('missions.create');
\echo :SQLSTATE
RESET amp.user_id;
SELECT amp.require_permission('missions.create');
SELECT amp.require_permission('users.manage');
\echo :SQLSTATE
-- A name that nobody registered is a mistake, not a "no".
SELECT amp.has_permission('content.veiw');
\echo :SQLSTATE
SELECT amp.require_permission('');
\echo :SQLSTATE
SELECT amp.has_permission('Content.View');
\echo :SQLSTATE
SELECT amp.has_permission(NULL) IS NULL AS unknown;

-- An operator registers an application's own permission, with the built-in roles that hold it; an admin always does.
\connect - regress_operator
SELECT amp.register_permission('perms.view', 'View invoices', '{admin,viewer}');
SELECT amp.register_permission('perms.pay', 'Pay invoices');
SELECT amp.register_permission('perms.read', 'Read over a shoulder', '{viewer}');
SELECT name, management, roles, description, built_in FROM amp.permissions WHERE name LIKE 'perms.%' ORDER BY name;
SELECT amp.register_permission('perms.view', 'Again');
\echo :SQLSTATE
SELECT amp.register_permission('content.view', 'Again');
\echo :SQLSTATE
SELECT amp.register_permission('invoices', 'No dot');
\echo :SQLSTATE
SELECT amp.register_permission(NULL, 'No name');
\echo :SQLSTATE
SELECT amp.register_permission('perms.x', NULL);
\echo :SQLSTATE
SELECT amp.register_permission('perms.x', ' ');
\echo :SQLSTATE
SELECT amp.register_permission('perms.x', 'Bad role', '{owner}');
\echo :SQLSTATE
SELECT amp.register_permission('perms.x', 'No roles', NULL);
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.register_permission('', 'x');
SELECT amp.register_permission('Perms.view', 'x');
SELECT amp.register_permission('perms.', 'x');
SELECT amp.register_permission('perms.vïew', 'x');
SELECT amp.register_permission('perms.' || repeat('x', 95), 'x');
SELECT amp.register_permission(E'perms.view\n', 'x');
SELECT amp.register_permission('perms.x', 'x', '{admin,NULL}');
\set VERBOSITY default
SELECT name FROM amp.permissions WHERE NOT built_in AND name LIKE 'perms.%' ORDER BY name;
-- It holds at once.
\connect - regress_service
SET amp.tenant_id = 'perms';
SET amp.user_id = 'user_pview';
SELECT amp.has_permission('perms.view'), amp.has_permission('perms.pay');
-- Nobody else registers.
SELECT amp.register_permission('perms.mine', 'Mine');
\echo :SQLSTATE

-- An admin makes roles of what he holds.
SET amp.user_id = 'user_padmin';
SELECT amp.define_role('editor', '{missions.create,content.view,content.view}');
SELECT name, permissions FROM amp.roles;
SELECT amp.define_role('editor', '{content.view,content.approve}');
SELECT name, permissions FROM amp.roles;
SELECT amp.define_role('nothing', '{}');
SELECT amp.define_role('admin', '{content.view}');
\echo :SQLSTATE
SELECT amp.define_role('viewer', '{users.manage}');
\echo :SQLSTATE
SELECT amp.define_role(NULL, '{content.view}');
\echo :SQLSTATE
SELECT amp.define_role('Chief Editor', '{content.view}');
\echo :SQLSTATE
SELECT amp.define_role('chief', NULL);
\echo :SQLSTATE
SELECT amp.define_role('chief', '{content.view,NULL}');
\echo :SQLSTATE
SELECT amp.define_role('chief', '{content.veiw}');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.define_role('', '{content.view}');
SELECT amp.define_role('1st', '{content.view}');
SELECT amp.define_role('chïef', '{content.view}');
SELECT amp.define_role(repeat('r', 64), '{content.view}');
SELECT amp.define_role(E'chief\n', '{content.view}');
\set VERBOSITY default
SELECT amp.define_role('chief', '{perms.pay}');
SELECT amp.define_role('chief', '{perms.pay,perms.read}');
-- Whoever does not manage users makes none.
SELECT amp.set_user_role('user_pop', 'editor') ->> 'role' AS role;
SET amp.user_id = 'user_pop';
SELECT amp.define_role('mine', '{content.view}');
\echo :SQLSTATE
SELECT amp.drop_role('nothing');
\echo :SQLSTATE
-- The role holds what it lists, and what it lists later.
SELECT amp.role(), amp.has_permission('content.approve'), amp.has_permission('missions.create');
SET amp.user_id = 'user_padmin';
SELECT amp.define_role('editor', '{missions.create}');
SET amp.user_id = 'user_pop';
SELECT amp.role(), amp.has_permission('content.approve'), amp.has_permission('missions.create');

-- A role that somebody has is not dropped; nor a built-in one, nor one that is not there.
SET amp.user_id = 'user_padmin';
SELECT amp.drop_role('editor');
\echo :SQLSTATE
SELECT amp.drop_role('admin');
\echo :SQLSTATE
SELECT amp.drop_role('missing');
\echo :SQLSTATE
SELECT amp.set_user_role('user_pop', 'viewer') ->> 'role' AS role;
SELECT amp.drop_role('editor');
SELECT amp.drop_role('nothing');
SELECT amp.drop_role('chief');
SELECT count(*) FROM amp.roles;
-- A role belongs to its tenant alone.
SELECT amp.define_role('local', '{content.view}');
\connect - regress_service
SET amp.tenant_id = 'alpha';
SET amp.user_id = 'user_ann';
SELECT amp.invite_user('pview@p.example', 'local');
\echo :SQLSTATE
SELECT amp.drop_role('local');
\echo :SQLSTATE

-- In a loop each question has its own answer.
SET amp.user_id = 'user_vic';
DO $$
DECLARE
    asked text;
    answers text;
BEGIN
    FOREACH asked IN ARRAY ARRAY['content.view', 'users.manage', 'analytics.view', 'missions.create'] LOOP
        answers := concat_ws(', ', answers, asked || ' ' || amp.has_permission(asked));
    END LOOP;
    RAISE NOTICE '%', answers;
    FOREACH asked IN ARRAY ARRAY['content.view', 'users.manage'] LOOP
        PERFORM amp.require_permission(asked);
    END LOOP;
END
$$;
\echo :SQLSTATE
