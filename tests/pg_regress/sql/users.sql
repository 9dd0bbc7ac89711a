-- Users and members: invited, promoted and removed by who may manage users, never beyond what he holds himself.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_operator
SELECT amp.create_tenant('Users One', 'users-one', id => 'users1') ->> 'id' AS id;
SELECT amp.create_tenant('Users Two', 'users-two', id => 'users2') ->> 'id' AS id;
SELECT amp.create_tenant('Users Three', 'users-three', id => 'users3') ->> 'id' AS id;
\connect - postgres
INSERT INTO amp.app_users (id, email) VALUES ('user_ada', 'Ada@Users.example'), ('user_ben', 'ben@users.example'),
    ('user_cal', 'cal@users.example');

-- An operator names the tenant; his own it is not.
\connect - regress_operator
SELECT amp.invite_user('ada@users.example', 'admin', 'users1');
SELECT amp.invite_user('ada@users.example', 'admin');
\echo :SQLSTATE
SELECT amp.invite_user('ada@users.example', 'admin', 'nowhere');
\echo :SQLSTATE
-- A new person gets an id of his own.
SELECT d ->> 'id' ~ '^user_[A-Za-z0-9]{16}$' AS well_formed, d - 'id' AS document
FROM amp.invite_user('new@users.example', 'viewer', 'users2') d;

-- An admin manages his own tenant, and no other.
\connect - regress_service
SET amp.tenant_id = 'users1';
SET amp.user_id = 'user_ada';
SELECT amp.invite_user('ben@users.example', 'operator');
SELECT amp.invite_user('cal@users.example', 'viewer', 'users1');
SELECT amp.invite_user('ben@users.example', 'viewer', 'users2');
\echo :SQLSTATE
SELECT amp.invite_user('ben@users.example', 'viewer', 'nowhere');
\echo :SQLSTATE
SELECT amp.users('users2');
\echo :SQLSTATE
SELECT jsonb_pretty(amp.users());

-- Once a member, whatever the case of the address.
SELECT amp.invite_user('ben@users.example', 'viewer');
\echo :SQLSTATE
SELECT amp.invite_user('  BEN@Users.Example ', 'viewer');
\echo :SQLSTATE

-- An e-mail address that is none; a role that is none.
SELECT amp.invite_user(NULL, 'viewer');
\echo :SQLSTATE
SELECT amp.invite_user('', 'viewer');
\echo :SQLSTATE
SELECT amp.invite_user('no-at-sign.example', 'viewer');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.invite_user('@users.example', 'viewer');
SELECT amp.invite_user('dan@', 'viewer');
SELECT amp.invite_user('dan@one@two', 'viewer');
SELECT amp.invite_user('dan smith@users.example', 'viewer');
SELECT amp.invite_user(E'dan@users.example\nBcc: eve@users.example', 'viewer');
SELECT amp.invite_user(repeat('d', 250) || '@users.example', 'viewer');
\set VERBOSITY default
SELECT amp.invite_user('dan@users.example', NULL);
\echo :SQLSTATE
SELECT amp.invite_user('dan@users.example', 'owner');
\echo :SQLSTATE
SELECT amp.invite_user('dan@users.example', '');
\echo :SQLSTATE
SELECT amp.set_user_role('user_ben', 'Admin');
\echo :SQLSTATE
SELECT jsonb_array_length(amp.users() -> 'data') AS members;

-- A role changes, and holds at the next statement.
SELECT amp.set_user_role('user_cal', 'operator');
SELECT amp.set_user_role('user_cal', 'viewer', 'users1');
-- Whoever is no member: a person of another tenant and nobody at all are the same.
SELECT amp.set_user_role('user_bob', 'viewer');
\echo :SQLSTATE
SELECT amp.set_user_role('user_nobody', 'viewer');
\echo :SQLSTATE
SELECT amp.remove_user('user_bob');
\echo :SQLSTATE
SELECT amp.remove_user(NULL);
\echo :SQLSTATE
SELECT amp.set_user_role('user_ben', 'viewer', 'beta');
\echo :SQLSTATE
SELECT amp.remove_user('user_bob', 'beta');
\echo :SQLSTATE

-- The last admin stays: neither he nor an operator can remove or demote him.
SELECT amp.remove_user('user_ada');
\echo :SQLSTATE
SELECT amp.set_user_role('user_ada', 'viewer');
\echo :SQLSTATE
SELECT amp.set_user_role('user_ada', 'admin') ->> 'role' AS role;
\connect - regress_operator
SELECT amp.remove_user('user_ada', 'users1');
\echo :SQLSTATE
SELECT amp.set_user_role('user_ada', 'operator', 'users1');
\echo :SQLSTATE

-- Managing users takes users.manage: operator and viewer are refused, and so is a service that names no user.
\connect - regress_service
SET amp.tenant_id = 'users1';
SELECT amp.invite_user('dan@users.example', 'viewer');
\echo :SQLSTATE
SET amp.user_id = 'user_ben';
SELECT amp.invite_user('dan@users.example', 'viewer');
\echo :SQLSTATE
SELECT amp.set_user_role('user_ben', 'admin');
\echo :SQLSTATE
SELECT amp.remove_user('user_cal');
\echo :SQLSTATE
SET amp.user_id = 'user_cal';
SELECT amp.remove_user('user_ben');
\echo :SQLSTATE
-- Every member may see who is in.
SELECT jsonb_path_query_array(amp.users(), '$.data[*].role') AS roles;

-- Nobody gives, changes or takes away what he does not hold: a role with users.manage alone is no way to admin.
SET amp.user_id = 'user_ada';
SELECT amp.define_role('people-desk', '{users.manage,content.view}');
SELECT amp.set_user_role('user_ben', 'people-desk') ->> 'role' AS role;
SET amp.user_id = 'user_ben';
SELECT amp.set_user_role('user_ben', 'admin');
\echo :SQLSTATE
SELECT amp.invite_user('ben2@users.example', 'operator');
\echo :SQLSTATE
SELECT amp.set_user_role('user_ada', 'people-desk');
\echo :SQLSTATE
SELECT amp.remove_user('user_ada');
\echo :SQLSTATE
SELECT amp.define_role('people-desk', '{users.manage,content.view,billing.configure}');
\echo :SQLSTATE
-- What he holds he can give.
SELECT amp.invite_user('ben2@users.example', 'people-desk') ->> 'role' AS role;

-- The last admin with a second one may go.
SET amp.user_id = 'user_ada';
SELECT amp.set_user_role('user_cal', 'admin') ->> 'role' AS role;
SELECT amp.remove_user('user_ada');
-- From then on he is out.
SELECT amp.role();
\echo :SQLSTATE
SELECT amp.users();
\echo :SQLSTATE

-- My tenants: the seed's shape, oldest membership first, active ones only, the first one the default.
\connect - postgres
INSERT INTO amp.app_users (id, email) VALUES ('user_multi', 'multi@users.example');
\connect - regress_operator
SELECT amp.invite_user('multi@users.example', 'admin', 'users1') ->> 'role' AS role;
SELECT amp.invite_user('multi@users.example', 'operator', 'users2') ->> 'role' AS role;
SELECT amp.invite_user('multi@users.example', 'viewer', 'users3') ->> 'role' AS role;
\connect - regress_service
SELECT amp.my_tenants();
\echo :SQLSTATE
SET amp.user_id = 'user_multi';
SELECT jsonb_pretty(amp.my_tenants());
-- A default is one of them.
SELECT amp.set_default_tenant('users2');
SELECT t ->> 'id' AS id, t ->> 'is_default' AS is_default FROM jsonb_array_elements(amp.my_tenants() -> 'data') t;
SELECT amp.set_default_tenant('alpha');
\echo :SQLSTATE
SELECT amp.set_default_tenant('nowhere');
\echo :SQLSTATE
SELECT amp.set_default_tenant(NULL);
\echo :SQLSTATE
-- A suspended tenant is none of mine, and no default.
\connect - regress_operator
SELECT amp.suspend_tenant('users2') ->> 'status' AS status;
\connect - regress_service
SET amp.user_id = 'user_multi';
SELECT t ->> 'id' AS id, t ->> 'is_default' AS is_default FROM jsonb_array_elements(amp.my_tenants() -> 'data') t;
SELECT amp.set_default_tenant('users2');
\echo :SQLSTATE
-- A lost membership takes the default with it.
\connect - regress_operator
SELECT amp.activate_tenant('users2') ->> 'status' AS status;
SELECT amp.remove_user('user_multi', 'users2');
\connect - regress_service
SET amp.user_id = 'user_multi';
SELECT t ->> 'id' AS id, t ->> 'is_default' AS is_default FROM jsonb_array_elements(amp.my_tenants() -> 'data') t;
-- A person without a tenant has none.
SET amp.user_id = 'user_ada';
SELECT amp.my_tenants();

-- A client without proof gets nothing, an operator without the tenant's name nothing either.
\connect - regress_client
SELECT amp.my_tenants();
\echo :SQLSTATE
SELECT amp.users();
\echo :SQLSTATE
SELECT amp.users('alpha');
\echo :SQLSTATE
SELECT amp.invite_user('eve@users.example', 'admin', 'alpha');
\echo :SQLSTATE
\connect - regress_operator
SELECT amp.users();
\echo :SQLSTATE
SELECT amp.users('nowhere');
\echo :SQLSTATE
SELECT amp.users('users3');

-- Who has left his default tenant gets the next one that invites him for his default.
\connect - regress_operator
SELECT amp.create_tenant('Left', 'users-left', id => 'users_left') ->> 'id' AS id;
SELECT amp.create_tenant('Next', 'users-next', id => 'users_next') ->> 'id' AS id;
SELECT amp.invite_user('moved@users.example', 'viewer', 'users_left') ->> 'id' AS moved \gset
SELECT amp.remove_user(:'moved', 'users_left');
SELECT amp.invite_user('moved@users.example', 'viewer', 'users_next') ->> 'role' AS role;
\connect - regress_service
SET amp.user_id = :'moved';
SELECT amp.my_tenants();
