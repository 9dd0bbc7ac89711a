-- Proving who one is: API keys, signed tokens, bound roles, the locked context, and the audit log of it all.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\pset null NULL
\connect - postgres
SELECT clock_timestamp() AS began \gset
CREATE ROLE regress_person LOGIN;
CREATE ROLE regress_token LOGIN IN ROLE amp_service;
ALTER ROLE regress_token SET amp.require_token = on;
INSERT INTO amp.app_users (id, email) VALUES ('user_ida', 'ida@ident.example'), ('user_ian', 'ian@ident.example'), ('user_ivy', 'ivy@ident.example');
\connect - regress_operator
SELECT amp.create_tenant('Ident One', 'ident-one', id => 'ident1') ->> 'id' AS id;
SELECT amp.create_tenant('Ident Two', 'ident-two', id => 'ident2') ->> 'id' AS id;
SELECT amp.invite_user('ida@ident.example', 'admin', 'ident1') ->> 'role' AS role;
SELECT amp.invite_user('ida@ident.example', 'viewer', 'ident2') ->> 'role' AS role;
SELECT amp.invite_user('ivy@ident.example', 'viewer', 'ident1') ->> 'role' AS role;
\connect - regress_service
SET amp.tenant_id = 'ident1';
SET amp.user_id = 'user_ida';
SELECT amp.define_role('people-desk', '{users.manage,content.view}');
SELECT amp.invite_user('ian@ident.example', 'people-desk') ->> 'role' AS role;

-- An API key, made by an operator: for one tenant, or for all of the user's.
\connect - regress_operator
SELECT d ->> 'key' AS key, d ->> 'id' AS key_id, d ->> 'key' ~ '^amp_sk_[A-Za-z0-9]{48}$' AS well_formed,
    'key_' || substr(d ->> 'key', 8, 16) = d ->> 'id' AS named_after_it, d - 'id' - 'key' AS document
FROM amp.create_api_key('user_ida', 'ident1', ' nightly export ', '2099-12-31 23:59:59+02') d \gset
\echo :well_formed :named_after_it :document
SELECT d ->> 'key' AS every_key, d ->> 'id' AS every_id FROM amp.create_api_key('user_ida', name => 'every tenant') d \gset
SELECT amp.create_api_key('user_ida', name => 'x') ->> 'expires_at' AS expires_at;
-- It needs a name, a time to come, a user, and a tenant of his.
SELECT amp.create_api_key('user_ida', 'ident1');
\echo :SQLSTATE
SELECT amp.create_api_key('user_ida', 'ident1', '  ');
\echo :SQLSTATE
SELECT amp.create_api_key('user_ida', 'ident1', repeat('n', 201));
\echo :SQLSTATE
SET timezone = 'UTC';
SELECT amp.create_api_key('user_ida', 'ident1', 'old', '2020-01-01');
\echo :SQLSTATE
SELECT amp.create_api_key('user_ida', 'ident1', 'endless', 'infinity');
\echo :SQLSTATE
SELECT amp.create_api_key('user_nobody', name => 'x');
\echo :SQLSTATE
SELECT amp.create_api_key(NULL, name => 'x');
\echo :SQLSTATE
SELECT amp.create_api_key('user_bob', 'ident1', 'x');
\echo :SQLSTATE
SELECT amp.create_api_key('user_ida', 'nowhere', 'x');
\echo :SQLSTATE

-- Made by a member who manages users: for his tenant, capped by what he holds.
\connect - regress_service
SET amp.tenant_id = 'ident1';
SET amp.user_id = 'user_ida';
SELECT d ->> 'key' AS capped_key, d ->> 'id' AS capped_id, d - 'id' - 'key' AS document FROM amp.create_api_key('user_ian', name => 'desk') d \gset
\echo :document
SELECT amp.create_api_key('user_ida', 'ident2', 'x');
\echo :SQLSTATE
SELECT amp.create_api_key('user_bob', name => 'x');
\echo :SQLSTATE
SELECT amp.create_api_key('user_ian', name => NULL);
\echo :SQLSTATE
-- He sees his tenant's keys and his own, without the keys.
SELECT name, user_id, tenant_id, operator, permissions, created_by, expires_at AT TIME ZONE 'UTC' AS expires_at, revoked_at FROM amp.api_keys ORDER BY name;
SELECT hash FROM amp.stored_api_keys;
\echo :SQLSTATE
-- Nobody makes or revokes a key of who holds more, nor without users.manage.
SET amp.user_id = 'user_ian';
SELECT amp.create_api_key('user_ida', name => 'x');
\echo :SQLSTATE
SELECT amp.revoke_api_key(:'key_id');
\echo :SQLSTATE
SET amp.user_id = 'user_ivy';
SELECT amp.create_api_key('user_ivy', name => 'x');
\echo :SQLSTATE
SELECT amp.revoke_api_key(:'key_id');
\echo :SQLSTATE
SELECT count(*) FROM amp.api_keys;
RESET amp.user_id;
SELECT amp.create_api_key('user_ivy', name => 'x');
\echo :SQLSTATE
\connect - regress_client
SELECT amp.create_api_key('user_ivy', 'ident1', 'x');
\echo :SQLSTATE
SELECT amp.revoke_api_key('key_never');
\echo :SQLSTATE
SELECT amp.create_operator_key('x');
\echo :SQLSTATE

-- A client proves who he is: until then he has nothing.
SELECT amp.tenant_id();
\echo :SQLSTATE
SELECT amp.user_id(), amp.context();
SET amp.tenant_id = 'ident1';
\echo :SQLSTATE
SET amp.user_id = 'user_ida';
\echo :SQLSTATE
SELECT amp.authenticate(:'key');
SELECT amp.tenant_id(), amp.user_id(), amp.role(), amp.is_operator();
SELECT jsonb_pretty(amp.context() #- '{proof,id}' #- '{permissions}') AS context;
SELECT amp.context() #>> '{proof,id}' = :'key_id' AS names_the_key;
-- The credential says who he is, and opens one tenant.
SET amp.user_id = 'user_ian';
\echo :SQLSTATE
SET amp.tenant_id = 'ident2';
\echo :SQLSTATE
SET amp.tenant_id = 'ident1';
-- One for all of his tenants: he starts in the default one, and chooses.
SELECT amp.authenticate(:'every_key');
SELECT amp.tenant_id(), amp.role();
SET amp.tenant_id = 'ident2';
SELECT amp.tenant_id(), amp.role();
-- One that is capped: what both its user's role and its maker hold.
SELECT amp.authenticate(:'capped_key') ->> 'user_id' AS user_id;
SELECT amp.role(), amp.context() -> 'permissions' AS permissions;
-- RESET ALL gives it up.
RESET ALL;
SELECT amp.user_id(), amp.is_operator();
-- In a transaction it lasts as long as that.
BEGIN;
SELECT amp.authenticate(:'key') ->> 'user_id' AS user_id;
SELECT amp.tenant_id();
COMMIT;
SELECT amp.user_id();

-- What is no credential, or a wrong one, is refused in the same words; what is right and over, is told so.
SELECT amp.authenticate('hello');
\echo :SQLSTATE
SELECT amp.authenticate(NULL);
\echo :SQLSTATE
SELECT amp.authenticate('amp_sk_' || repeat('x', 48));
\echo :SQLSTATE
SELECT amp.authenticate(reverse(:'key'));
\echo :SQLSTATE
\connect - postgres
UPDATE amp.stored_api_keys SET expires_at = '2020-01-01' WHERE id = :'every_id';
\connect - regress_client
SELECT amp.authenticate(:'every_key');
\echo :SQLSTATE
-- Nobody writes the setting that holds the proof.
SET amp.identity = 'x';
\echo :SQLSTATE
SELECT set_config('amp.identity', 'x', false);
\echo :SQLSTATE
\connect - postgres
SET amp.identity = 'x';
\echo :SQLSTATE
-- Who bypasses row security, or is an operator by his login role, has nothing to prove.
SELECT amp.authenticate(:'key');
\echo :SQLSTATE
\connect - regress_operator
SELECT amp.authenticate(:'key');
\echo :SQLSTATE

-- Revoked: refused from then on, and out at the next statement. Again is no error.
\connect - regress_client
SELECT amp.authenticate(:'capped_key') ->> 'user_id' AS user_id;
SELECT amp.revoke_api_key(:'capped_id');
SELECT amp.tenant_id();
\echo :SQLSTATE
SELECT amp.user_id();
\echo :SQLSTATE
SELECT amp.authenticate(:'capped_key');
\echo :SQLSTATE
\connect - regress_operator
SELECT amp.revoke_api_key(:'capped_id');
SELECT amp.revoke_api_key('key_never');
\echo :SQLSTATE
SELECT amp.revoke_api_key(NULL);
\echo :SQLSTATE
SELECT name, revoked_at IS NOT NULL AS revoked FROM amp.api_keys WHERE user_id LIKE 'user_i%' ORDER BY name;

-- An operator's key: the operators' functions, and nothing else.
SELECT d ->> 'key' AS operators_key, d ->> 'id' AS operators_id, d - 'id' - 'key' AS document FROM amp.create_operator_key('deploy', '2099-01-01Z') d \gset
\echo :document
SELECT amp.create_operator_key(NULL);
\echo :SQLSTATE
SELECT amp.create_operator_key('old', '2020-01-01');
\echo :SQLSTATE
\connect - regress_client
SELECT amp.suspend_tenant('ident2');
\echo :SQLSTATE
SELECT amp.authenticate(:'operators_key');
SELECT amp.is_operator(), amp.user_id();
SELECT amp.suspend_tenant('ident2') ->> 'status' AS status;
SELECT amp.activate_tenant('ident2') ->> 'status' AS status;
SELECT jsonb_path_query_array(amp.users('ident1'), '$.data[*].id') AS users;
SELECT amp.context() #- '{proof,id}' AS context;
SELECT * FROM app.notes;
\echo :SQLSTATE
SELECT id FROM amp.tenants;
\echo :SQLSTATE
SET amp.tenant_id = 'ident1';
\echo :SQLSTATE
SELECT amp.my_tenants();
\echo :SQLSTATE

-- Keys that sign tokens: an operator's to add, each for one algorithm that it fits.
\connect - regress_operator
SELECT amp.add_signing_key('regress-hs', 'HS256', 'the secret of the regression tests, 32 bytes or more');
SELECT amp.add_signing_key('regress-ed', 'EdDSA', '-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----', issuer => 'https://issuer.example', audience => 'amp', single_use => true);
SELECT amp.add_signing_key('regress-ec', 'ES256', '-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----');
SELECT amp.add_signing_key('regress-rs', 'RS256', '-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAwTaLRayvLRFnBt/Y2aH3
JxuXQRZVtN6Uouc8lZmxuWfyrIsZYu4L96076NDWr8RUlAnqWiryCU/5vhUHV8l7
YLZHaKLC582R/giSxmT6N5dASjzwCkAi7rU0Odc2pI3UKz77Rg7jmBW+jOLdnWxH
M8NynrJHlsaoaYYUqlzy2N0grt6IMK5vZgxaqUJ0377m9BYlGv1+VMjWtY8ozt35
C5JvMG9qfbjoL72+RUhZiresNjk9253sHUo3D4vLh63uVAGlolosOd5ye5OZUbQT
/muNKLyTXMCqjbgmrwRTRLYg1ayNT3oGYhEy65ayuVZcmDiRMmn7i32dOy/7PRJ+
jQIDAQAB
-----END PUBLIC KEY-----');
SELECT amp.add_signing_key('regress-hs', 'HS256', repeat('x', 32));
\echo :SQLSTATE
SELECT amp.add_signing_key('short', 'HS256', repeat('x', 31));
\echo :SQLSTATE
SELECT amp.add_signing_key('public', 'HS256', '-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----');
\echo :SQLSTATE
SELECT amp.add_signing_key('private', 'EdDSA', '-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF
-----END PRIVATE KEY-----');
\echo :SQLSTATE
SELECT amp.add_signing_key('other', 'ES256', '-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----');
\echo :SQLSTATE
SELECT amp.add_signing_key('other', 'ES256', '-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEGe5vjqaCQcg3pNBIVKEpxYmb28Jrglu5
KT9sV+SwgagXmSHVpnp5+CkOfKXICndzWH5d+PBqWcGzadwXMk6sn4Hukk9ogHwZ
vSaOahmEHpWEGrAQ0ryY/7nu0EIzB1ob
-----END PUBLIC KEY-----');
\echo :SQLSTATE
SELECT amp.add_signing_key('other', 'EdDSA', '-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----');
\echo :SQLSTATE
SELECT amp.add_signing_key('other', 'RS256', '-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----');
\echo :SQLSTATE
SELECT amp.add_signing_key('weak', 'RS256', '-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCb/QUaaeh+kiijmsSo3AzUImHK
/XrOI4/mNqdSZpxjqNlTtUzyHaIZ/pNydd86V5XySiOliy0NLTgZbEA9NzhHq/ID
HYV9OKxTNogzUhZ38VsGBVtS0WF6+1wYUX/tA9K6hdhylDvONJtDKR7XGa4g3uwH
r/nTyy0uTT95nzvFwQIDAQAB
-----END PUBLIC KEY-----');
\echo :SQLSTATE
SELECT amp.add_signing_key('bare', 'EdDSA', 'MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=');
\echo :SQLSTATE
SELECT amp.add_signing_key('none', 'none', repeat('x', 32));
\echo :SQLSTATE
SELECT amp.add_signing_key('case', 'hs256', repeat('x', 32));
\echo :SQLSTATE
SELECT amp.add_signing_key('missing', NULL, repeat('x', 32));
\echo :SQLSTATE
SELECT amp.add_signing_key('missing', 'HS256', NULL);
\echo :SQLSTATE
SELECT amp.add_signing_key('missing', 'HS256', repeat('x', 32), single_use => NULL);
\echo :SQLSTATE
SELECT amp.add_signing_key('empty', 'HS256', repeat('x', 32), issuer => '');
\echo :SQLSTATE
SELECT amp.add_signing_key('empty', 'HS256', repeat('x', 32), audience => '');
\echo :SQLSTATE
SELECT amp.add_signing_key(NULL, 'HS256', repeat('x', 32));
\echo :SQLSTATE
SELECT amp.add_signing_key('', 'HS256', repeat('x', 32));
\echo :SQLSTATE
SELECT amp.add_signing_key('two words', 'HS256', repeat('x', 32));
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.add_signing_key(repeat('k', 256), 'HS256', repeat('x', 32));
SELECT amp.add_signing_key(E'k\n', 'HS256', repeat('x', 32));
SELECT amp.add_signing_key('schlüssel', 'HS256', repeat('x', 32));
\set VERBOSITY default
SELECT kid, algorithm, issuer, audience, single_use, retired_at FROM amp.signing_keys WHERE kid LIKE 'regress-%' ORDER BY kid;
SELECT key FROM amp.signing_keys;
\echo :SQLSTATE
\connect - regress_client
SELECT amp.add_signing_key('mine', 'HS256', repeat('x', 32));
\echo :SQLSTATE
SELECT amp.retire_signing_key('regress-hs');
\echo :SQLSTATE
SELECT kid FROM amp.signing_keys;
\echo :SQLSTATE

-- A token: who (sub), where (tid), until when (exp). These were signed by the key above, HS256, and end in 2100.
\set token 'eyJhbGciOiJIUzI1NiIsImtpZCI6InJlZ3Jlc3MtaHMiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiJ1c2VyX2lkYSIsInRpZCI6ImlkZW50MSIsImV4cCI6NDEwMjQ0NDgwMCwianRpIjoiZmlyc3QifQ.R2vwpocdm89TR1uMKUnA4OoGhul1seGNQVszHylzP_A'
\set everywhere 'eyJhbGciOiJIUzI1NiIsImtpZCI6InJlZ3Jlc3MtaHMiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiJ1c2VyX2lkYSIsImV4cCI6NDEwMjQ0NDgwMH0.7zcOR6gOYuDUk0PronrJZHWmdYusuMGeqkIdnVoISG4'
\set past 'eyJhbGciOiJIUzI1NiIsImtpZCI6InJlZ3Jlc3MtaHMiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiJ1c2VyX2lkYSIsInRpZCI6ImlkZW50MSIsImV4cCI6MTAwMDAwMDAwMH0.599QQM03LHWmdD-iI7ZfUdaoKlU8eV4KzehXW5XHfm0'
\set forged 'eyJhbGciOiJIUzI1NiIsImtpZCI6InJlZ3Jlc3MtaHMiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiJ1c2VyX2lkYSIsInRpZCI6ImlkZW50MSIsImV4cCI6NDEwMjQ0NDgwMH0.Xoc0H94wqI2oywVkg-aZTGXFiRgU8G9lKnAOeojPVUg'
\set unknown 'eyJhbGciOiJIUzI1NiIsImtpZCI6InJlZ3Jlc3MtaHMiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiJ1c2VyX25vYm9keSIsImV4cCI6NDEwMjQ0NDgwMH0.qJrBWHJszPiIW8fclsyWuZP5prqqpMID_xpsVO84RLM'
\set elsewhere 'eyJhbGciOiJIUzI1NiIsImtpZCI6InJlZ3Jlc3MtaHMiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiJ1c2VyX2lkYSIsInRpZCI6ImJldGEiLCJleHAiOjQxMDI0NDQ4MDB9.ZFZZlGwdfQ08p-JdLIWhPvB2ui5HJXYn9u6UWexfIGU'
\set nowhere 'eyJhbGciOiJIUzI1NiIsImtpZCI6InJlZ3Jlc3MtaHMiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiJ1c2VyX2lkYSIsInRpZCI6Im5vd2hlcmUiLCJleHAiOjQxMDI0NDQ4MDB9.nAZkoWLCHAaFYzBLUrQYIqt-yWgU1nAj7iQaYpu1-aM'
SELECT amp.authenticate(:'token');
SELECT amp.tenant_id(), amp.user_id(), amp.role(), amp.context() -> 'proof' AS proof;
SELECT amp.authenticate(:'everywhere');
SET amp.tenant_id = 'ident2';
SELECT amp.tenant_id(), amp.role();
SELECT amp.authenticate(:'past');
\echo :SQLSTATE
SELECT amp.authenticate(:'forged');
\echo :SQLSTATE
SELECT amp.authenticate(:'unknown');
\echo :SQLSTATE
SELECT amp.authenticate(:'elsewhere');
\echo :SQLSTATE
SELECT amp.authenticate(:'nowhere');
\echo :SQLSTATE
SELECT amp.authenticate(:'token' || '.');
\echo :SQLSTATE
-- He is who he was.
SELECT amp.tenant_id(), amp.user_id();
-- Retired: no token of this key any more, and who is in by one is out. Again is no error.
\connect - regress_client
SELECT amp.authenticate(:'token') ->> 'user_id' AS user_id;
BEGIN;
SELECT amp.authenticate(:'operators_key') ->> 'operator' AS operator;
SELECT amp.retire_signing_key('regress-hs');
SELECT amp.retire_signing_key('regress-hs');
COMMIT;
SELECT amp.tenant_id();
\echo :SQLSTATE
SELECT amp.authenticate(:'token');
\echo :SQLSTATE
\connect - regress_operator
SELECT kid, retired_at IS NOT NULL AS retired FROM amp.signing_keys WHERE kid = 'regress-hs';
SELECT amp.add_signing_key('regress-hs', 'HS256', repeat('x', 32));
\echo :SQLSTATE
SELECT amp.retire_signing_key('never');
\echo :SQLSTATE
SELECT amp.retire_signing_key(NULL);
\echo :SQLSTATE
\connect - postgres
SELECT key = '' AS secret_is_gone FROM amp.signing_keys WHERE kid = 'regress-hs';
-- How far clocks may differ is a superuser's to say.
SHOW amp.token_leeway;
\set VERBOSITY sqlstate
SET amp.token_leeway = 301;
SET amp.token_leeway = -1;
\set VERBOSITY default

-- A service that has to prove every context.
\connect - regress_token
SHOW amp.require_token;
SET amp.tenant_id = 'ident1';
\echo :SQLSTATE
SET amp.user_id = 'user_ida';
\echo :SQLSTATE
SELECT amp.tenant_id();
\echo :SQLSTATE
SELECT amp.authenticate(:'key') ->> 'user_id' AS user_id;
SELECT amp.tenant_id(), amp.context() ->> 'session' AS session;
SET amp.tenant_id = 'ident2';
\echo :SQLSTATE
SET amp.require_token = off;
\echo :SQLSTATE

-- A context that is locked stays until the transaction ends.
\connect - regress_service
SELECT amp.lock_context();
\echo :SQLSTATE
BEGIN;
SET LOCAL amp.tenant_id = 'ident2';
SAVEPOINT before_it;
SET LOCAL amp.tenant_id = 'ident1';
SET LOCAL amp.user_id = 'user_ida';
SELECT amp.lock_context();
SAVEPOINT a;
SET LOCAL amp.tenant_id = 'ident2';
\echo :SQLSTATE
ROLLBACK TO a;
SET LOCAL amp.user_id = 'user_ivy';
\echo :SQLSTATE
ROLLBACK TO a;
SELECT amp.authenticate(:'key');
\echo :SQLSTATE
ROLLBACK TO a;
SET LOCAL amp.tenant_id = 'ident1';
SELECT amp.tenant_id(), amp.user_id();
SAVEPOINT b;
RESET amp.user_id;
SELECT amp.tenant_id();
\echo :SQLSTATE
ROLLBACK TO before_it;
SELECT amp.tenant_id();
\echo :SQLSTATE
COMMIT;
SET amp.tenant_id = 'ident2';
SELECT amp.tenant_id();

-- Login roles that are a user.
\connect - regress_person
SELECT amp.tenant_id();
\echo :SQLSTATE
\connect - regress_operator
SELECT amp.bind_role('regress_person', 'user_ida');
SELECT * FROM amp.bound_roles;
SELECT amp.bind_role('regress_person', 'user_nobody');
\echo :SQLSTATE
SELECT amp.bind_role('regress_person', NULL);
\echo :SQLSTATE
SELECT amp.bind_role('regress_nobody', 'user_ida');
\echo :SQLSTATE
SELECT amp.bind_role(NULL, 'user_ida');
\echo :SQLSTATE
SELECT amp.bind_role('amp_service', 'user_ida');
\echo :SQLSTATE
SELECT amp.bind_role('regress_service', 'user_ida');
\echo :SQLSTATE
SELECT amp.bind_role('regress_operator', 'user_ida');
\echo :SQLSTATE
SELECT amp.bind_role('regress_bypass', 'user_ida');
\echo :SQLSTATE
SELECT amp.bind_role('postgres', 'user_ida');
\echo :SQLSTATE
\connect - regress_person
SELECT amp.tenant_id(), amp.user_id(), amp.role(), amp.context() -> 'proof' AS proof;
SET amp.user_id = 'user_ivy';
\echo :SQLSTATE
SET amp.tenant_id = 'ident2';
SELECT amp.tenant_id(), amp.role();
SELECT amp.bind_role('regress_person', 'user_ivy');
\echo :SQLSTATE
SELECT amp.unbind_role('regress_person');
\echo :SQLSTATE
SELECT * FROM amp.bound_roles;
\echo :SQLSTATE
\connect - regress_operator
SELECT amp.bind_role('regress_person', 'user_ivy');
SELECT * FROM amp.bound_roles;
SELECT amp.unbind_role('regress_person');
SELECT amp.unbind_role('regress_person');
\echo :SQLSTATE
SELECT amp.unbind_role(NULL);
\echo :SQLSTATE

-- All of this is in the audit log.
SELECT action, tenant_id, login_role, user_id, detail - 'id' - 'permissions' AS detail FROM amp.audit_log
WHERE at > :'began' AND (action LIKE 'api_key.%' AND detail ->> 'name' IS DISTINCT FROM 'x' OR action LIKE 'signing_key.%' OR action LIKE 'role.%bound')
ORDER BY at;
SELECT key_id = :'operators_id' AS by_the_operators_key, action FROM amp.audit_log WHERE at > :'began' AND key_id IS NOT NULL AND action LIKE 'tenant.%' ORDER BY at;
DELETE FROM amp.audit_log;
\echo :SQLSTATE
INSERT INTO amp.audit_log (action) VALUES ('forged');
\echo :SQLSTATE
-- Who manages users reads what happened in his tenant; the others nothing.
\connect - regress_service
SET amp.tenant_id = 'ident1';
SET amp.user_id = 'user_ida';
SELECT action, login_role, user_id, count(*) FROM amp.audit_log GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT count(*) FROM amp.audit_log WHERE tenant_id <> 'ident1' OR tenant_id IS NULL;
SET amp.user_id = 'user_ivy';
SELECT count(*) FROM amp.audit_log;
\connect - regress_client
SELECT count(*) FROM amp.audit_log;
\echo :SQLSTATE
-- It is append-only, for superusers, too.
\connect - postgres
UPDATE amp.audit_log SET user_id = 'user_bob';
\echo :SQLSTATE
DELETE FROM amp.audit_log WHERE false;
\echo :SQLSTATE
TRUNCATE amp.audit_log;
\echo :SQLSTATE

-- A member who is removed takes his keys for that tenant along.
\connect - regress_operator
SELECT d ->> 'key' AS ivys_key FROM amp.create_api_key('user_ivy', 'ident1', 'ivy') d \gset
SELECT amp.remove_user('user_ivy', 'ident1');
SELECT amp.invite_user('ivy@ident.example', 'viewer', 'ident1') ->> 'role' AS role;
SELECT revoked_at IS NOT NULL AS revoked FROM amp.api_keys WHERE name = 'ivy';
\connect - regress_client
SELECT amp.authenticate(:'ivys_key');
\echo :SQLSTATE
\connect - postgres
DROP ROLE regress_person, regress_token;
