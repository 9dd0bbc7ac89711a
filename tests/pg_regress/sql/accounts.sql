-- Accounts: an agency's people in all of its tenants, a client's own users beside them, and nobody in another account's.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\pset null NULL
\connect - postgres
INSERT INTO amp.app_users (id, email) VALUES ('user_ag', 'ag@agency.example'), ('user_ali', 'ali@agency.example'),
    ('user_amy', 'amy@agency.example'), ('user_eve', 'eve@rival.example'), ('user_mkt', 'marketing@acme.example');

-- An operator makes the account and its first admin.
\connect - regress_operator
SELECT d - 'created_at' AS account FROM amp.create_account('The Agency', 'agency', 'acc_agency') d;
SELECT d ->> 'id' ~ '^acc_[A-Za-z0-9]{16}$' AS new_id FROM amp.create_account('Somebody', 'enterprise') d;
SELECT amp.create_account('Rival', 'agency', 'acc_rival') ->> 'id' AS id;
SELECT amp.add_account_member('acc_agency', 'ag@agency.example', 'admin');
SELECT amp.add_account_member('acc_agency', 'Ali@Agency.example', 'viewer');
SELECT amp.add_account_member('acc_rival', 'eve@rival.example', 'admin') ->> 'role' AS role;
SELECT amp.create_account(' ', 'agency');
\echo :SQLSTATE
SELECT amp.create_account('x', 'club');
\echo :SQLSTATE
SELECT amp.create_account('x', 'agency', 'a b');
\echo :SQLSTATE
SELECT amp.create_account('x', 'agency', 'acc_agency');
\echo :SQLSTATE
SELECT amp.add_account_member('acc_nowhere', 'x@y.example', 'admin');
\echo :SQLSTATE
SELECT amp.add_account_member('acc_agency', 'no address', 'admin');
\echo :SQLSTATE
SELECT amp.add_account_member('acc_agency', 'x@y.example', 'editor');
\echo :SQLSTATE
SELECT d ->> 'key' AS agency_key FROM amp.create_api_key('user_ag', name => 'agency', account_id => 'acc_agency') d \gset
SELECT d ->> 'key' AS ali_key FROM amp.create_api_key('user_ali', name => 'ali') d \gset
SELECT d ->> 'key' AS eve_key FROM amp.create_api_key('user_eve', name => 'eve') d \gset
SELECT amp.create_api_key('user_eve', name => 'x', account_id => 'acc_agency');
\echo :SQLSTATE
SELECT amp.create_api_key('user_ag', 'beta', 'x', account_id => 'acc_agency');
\echo :SQLSTATE

-- The agency's key creates tenants in its account; it need not name it. The first one is where it starts.
\connect - regress_client
SELECT amp.authenticate(:'agency_key') ->> 'tenant_id' AS starts_in;
SELECT amp.my_accounts();
SELECT d ->> 'id' AS acme, d ->> 'slug' AS slug FROM amp.create_tenant('Acme Corp', 'agency-acme') d \gset
\echo :slug
SELECT d ->> 'id' AS umbrella FROM amp.create_tenant('Umbrella', 'agency-umbrella', account_id => 'acc_agency') d \gset
SELECT amp.create_tenant('x', 'agency-x', account_id => 'acc_rival');
\echo :SQLSTATE
SELECT amp.create_tenant('x', 'agency-x', account_id => 'acc_nowhere');
\echo :SQLSTATE
SELECT amp.create_tenant('x', 'agency-x', id => 'chosen');
\echo :SQLSTATE
SELECT amp.authenticate(:'agency_key') ->> 'tenant_id' = :'acme' AS starts_in_the_first;
SELECT t ->> 'name' AS name, t ->> 'role' AS role, t ->> 'is_default' AS is_default FROM jsonb_array_elements(amp.my_tenants() -> 'data') t;

-- He is an admin in each of them, and the client gets a user of his own.
SET amp.tenant_id = :'acme';
SELECT amp.role(), amp.has_permission('users.manage');
SELECT amp.invite_user('marketing@acme.example', 'viewer') - 'tenant_id' AS invited;
INSERT INTO app.notes (id, body) VALUES (1, 'by the agency');
SELECT amp.users();
\set VERBOSITY sqlstate
SELECT amp.set_user_role('user_ag', 'viewer');
SELECT amp.remove_user('user_ag');
\set VERBOSITY default
-- His key opens the account's tenants only, also where he is a member himself.
\connect - regress_operator
SELECT amp.create_tenant('Elsewhere', 'agency-elsewhere', id => 'elsewhere') ->> 'id' AS id;
SELECT amp.invite_user('ag@agency.example', 'admin', 'elsewhere') ->> 'role' AS role;
\connect - regress_client
SELECT amp.authenticate(:'agency_key') IS NOT NULL AS accepted;
SET amp.tenant_id = 'elsewhere';
\echo :SQLSTATE
SELECT count(*) FROM jsonb_array_elements(amp.my_tenants() -> 'data') t WHERE t ->> 'id' = 'elsewhere';
SELECT amp.set_default_tenant(:'umbrella');
\echo :SQLSTATE
SELECT count(*) FROM amp.api_keys;

-- A viewer of the account reads in all of its tenants, and administers nothing. Beside it he may have a role of his own in one.
SELECT amp.authenticate(:'ali_key') IS NOT NULL AS accepted;
SET amp.tenant_id = :'acme';
SELECT amp.role(), body FROM app.notes;
INSERT INTO app.notes (id, body) VALUES (2, 'by a viewer');
\echo :SQLSTATE
SELECT amp.create_tenant('x', 'agency-x');
\echo :SQLSTATE
SELECT amp.account('acc_agency');
\echo :SQLSTATE
SELECT amp.add_account_member('acc_agency', 'ali@agency.example', 'admin');
\echo :SQLSTATE
\connect - regress_operator
SELECT amp.invite_user('ali@agency.example', 'operator', :'acme') ->> 'role' AS role;
\connect - regress_client
SELECT amp.authenticate(:'ali_key') IS NOT NULL AS accepted;
SET amp.tenant_id = :'acme';
SELECT amp.role(), amp.has_permission('missions.create');
SET amp.tenant_id = :'umbrella';
SELECT amp.role(), amp.has_permission('missions.create');

-- Another account's admin finds nothing of it.
SELECT amp.authenticate(:'eve_key') IS NOT NULL AS accepted;
\set VERBOSITY sqlstate
SET amp.tenant_id = :'acme';
\set VERBOSITY default
SELECT amp.account('acc_agency');
\echo :SQLSTATE
SELECT amp.add_account_member('acc_agency', 'eve@rival.example', 'admin');
\echo :SQLSTATE
SELECT amp.remove_account_member('acc_agency', 'user_ag');
\echo :SQLSTATE
SELECT amp.create_api_key('user_ag', name => 'x', account_id => 'acc_agency');
\echo :SQLSTATE
SELECT amp.create_api_key('user_ag', name => 'x', account_id => 'acc_rival');
\echo :SQLSTATE
SELECT amp.set_tenant_account(:'acme', 'acc_rival');
\echo :SQLSTATE
SELECT amp.account() -> 'tenants' AS tenants;
SELECT count(*) FROM amp.accounts;
\echo :SQLSTATE

-- An admin of the account sees it, changes its people, and never leaves it without an admin.
SELECT amp.authenticate(:'agency_key') IS NOT NULL AS accepted;
SELECT a ->> 'name' AS name, jsonb_array_length(a -> 'tenants') AS tenants, a -> 'members' AS members FROM amp.account() a;
SELECT amp.remove_account_member('acc_agency', 'user_ag');
\echo :SQLSTATE
SELECT amp.add_account_member('acc_agency', 'ag@agency.example', 'viewer');
\echo :SQLSTATE
SELECT amp.add_account_member('acc_agency', 'amy@agency.example', 'admin');
SELECT amp.remove_account_member('acc_agency', 'user_nobody');
\echo :SQLSTATE
SELECT d ->> 'key' AS amy_key, d ->> 'account_id' AS account FROM amp.create_api_key('user_amy', name => 'amy', account_id => 'acc_agency') d \gset
\echo :account

-- Leaving the account ends it, and the keys for the account for good.
SELECT amp.remove_account_member('acc_agency', 'user_amy');
SELECT amp.authenticate(:'amy_key');
\echo :SQLSTATE
SELECT amp.remove_account_member('acc_agency', 'user_ali');
SELECT amp.authenticate(:'ali_key') IS NOT NULL AS accepted;
-- By himself he is in Acme still.
SET amp.tenant_id = :'acme';
SELECT amp.role();
\set VERBOSITY sqlstate
SET amp.tenant_id = :'umbrella';
\set VERBOSITY default

-- A tenant that an operator moves is its new account's at once.
\connect - regress_operator
SELECT amp.set_tenant_account(:'umbrella', 'acc_rival');
SELECT amp.set_tenant_account(:'umbrella', 'acc_nowhere');
\echo :SQLSTATE
SELECT amp.set_tenant_account('nowhere', 'acc_rival');
\echo :SQLSTATE
\connect - regress_client
SELECT amp.authenticate(:'agency_key') IS NOT NULL AS accepted;
\set VERBOSITY sqlstate
SET amp.tenant_id = :'umbrella';
\set VERBOSITY default
SELECT amp.authenticate(:'eve_key') IS NOT NULL AS accepted;
SET amp.tenant_id = :'umbrella';
SELECT amp.role(), t ->> 'role' AS listed FROM jsonb_array_elements(amp.my_tenants() -> 'data') t;

-- Who is nobody, or no admin of one account, names none.
\connect - regress_client
SELECT amp.my_accounts();
\echo :SQLSTATE
SELECT amp.create_tenant('x', 'agency-x');
\echo :SQLSTATE
\connect - regress_operator
SELECT amp.add_account_member('acc_rival', 'ag@agency.example', 'admin') ->> 'role' AS role;
SELECT d ->> 'key' AS ag_key FROM amp.create_api_key('user_ag', name => 'all of his') d \gset
\connect - regress_client
SELECT amp.authenticate(:'ag_key') IS NOT NULL AS accepted;
SELECT amp.create_tenant('x', 'agency-x');
\echo :SQLSTATE
SELECT amp.create_tenant('x', 'agency-x', account_id => 'acc_rival') ->> 'status' AS status;
SELECT a ->> 'id' AS id, a ->> 'role' AS role FROM jsonb_array_elements(amp.my_accounts() -> 'data') a;

-- All of it is in the audit log.
\connect - regress_operator
SELECT action, detail - 'id' AS detail FROM amp.audit_log
WHERE action LIKE 'account.%' AND detail ->> 'account_id' = 'acc_agency' OR action = 'tenant.moved' ORDER BY at;
