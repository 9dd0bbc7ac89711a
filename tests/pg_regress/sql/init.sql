-- What the other tests stand on: the extension, login roles of every kind, two tenants with their people, one protected table.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off

-- The extension makes its schema and the two group roles; nobody can log in as a group.
CREATE EXTENSION amp_tenancy;
SELECT extname, extnamespace::regnamespace, extrelocatable FROM pg_extension WHERE extname = 'amp_tenancy';
SELECT rolname, rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb
FROM pg_roles WHERE rolname IN ('amp_operator', 'amp_service') ORDER BY rolname;

-- Everybody may look names up in the schema; nobody may put objects there.
SELECT privilege_type, grantee = 0 AS public FROM pg_namespace, aclexplode(nspacl)
WHERE nspname = 'amp' AND grantee <> nspowner ORDER BY 1;

-- Login roles: one of each session kind, and services whom an administrator has bound to a stricter context.
CREATE ROLE regress_operator LOGIN IN ROLE amp_operator;
CREATE ROLE regress_service LOGIN IN ROLE amp_service;
CREATE ROLE regress_pooled LOGIN IN ROLE amp_service;
ALTER ROLE regress_pooled SET amp.context_scope = 'transaction';
CREATE ROLE regress_strict LOGIN IN ROLE amp_service;
ALTER ROLE regress_strict SET amp.require_user = on;
CREATE ROLE regress_client LOGIN;
CREATE ROLE regress_bypass LOGIN BYPASSRLS IN ROLE amp_service;
CREATE ROLE regress_owner LOGIN;
CREATE ROLE regress_stranger LOGIN;
CREATE EXTENSION btree_gist;
SELECT format('GRANT CREATE ON DATABASE %I TO regress_owner', current_database()) \gexec

-- People, here with ids that can be read in messages; an invitation finds them by their e-mail address.
INSERT INTO amp.app_users (id, email) VALUES
    ('user_ann', 'ann@alpha.example'), ('user_olga', 'olga@alpha.example'), ('user_vic', 'vic@alpha.example'),
    ('user_bob', 'bob@beta.example');

\connect - regress_operator
SELECT amp.create_tenant('Alpha Inc', 'alpha-inc', id => 'alpha') ->> 'id' AS id;
SELECT amp.create_tenant('Beta Ltd', 'beta-ltd', id => 'beta') ->> 'id' AS id;
SELECT amp.invite_user('ann@alpha.example', 'admin', 'alpha');
SELECT amp.invite_user('olga@alpha.example', 'operator', 'alpha');
SELECT amp.invite_user('vic@alpha.example', 'viewer', 'alpha');
SELECT amp.invite_user('bob@beta.example', 'admin', 'beta');

-- One protected table, empty.
\connect - regress_owner
CREATE SCHEMA app;
CREATE TABLE app.notes (tenant_id text COLLATE "C", id int, body text, PRIMARY KEY (tenant_id, id));
SELECT count(*) > 0 AS protected FROM amp.protect('app.notes');
GRANT USAGE ON SCHEMA app TO PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON app.notes TO PUBLIC;
