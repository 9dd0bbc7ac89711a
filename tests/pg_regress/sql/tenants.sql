-- Tenants: created, suspended, activated and deleted by operators only.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_operator

-- The document: the seed's keys, times in UTC.
SELECT jsonb_pretty(amp.create_tenant('  Acme Corporation ', 'acme-corp', id => 'acme', config =>
    '{"cost_limits": {"monthly_limit_cents": 500000, "alert_threshold_percent": 80}}') - '{created_at,updated_at}'::text[]);
SELECT key, value ~ '^"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"$' AS iso_8601_utc
FROM (SELECT key, value::text FROM jsonb_each(amp.activate_tenant('acme'))) d WHERE key LIKE '%\_at' ORDER BY key;

-- The id is given, or tnt_ and 16 base62 characters, each time another.
SELECT amp.create_tenant('Generated', 'tenants-g1') ->> 'id' AS one, amp.create_tenant('Generated', 'tenants-g2') ->> 'id' AS two \gset
SELECT :'one' ~ '^tnt_[A-Za-z0-9]{16}$' AS well_formed, :'one' <> :'two' AS different;
SELECT amp.create_tenant('By uuid', 'tenants-uuid', id => 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11') ->> 'id' AS id;
SELECT amp.create_tenant('By number', 'tenants-number', id => '42') ->> 'id' AS id;
SELECT amp.create_tenant(repeat('é', 200), repeat('s', 63), id => repeat('x', 64)) ->> 'status' AS status;
SELECT amp.create_tenant('Shortest', 'sss', id => '-') ->> 'status' AS status;

-- A name has 1 to 200 characters.
SELECT amp.create_tenant(NULL, 'tenants-bad');
\echo :SQLSTATE
SELECT amp.create_tenant('', 'tenants-bad');
\echo :SQLSTATE
SELECT amp.create_tenant('   ', 'tenants-bad');
\echo :SQLSTATE
SELECT amp.create_tenant(repeat('n', 201), 'tenants-bad');
\echo :SQLSTATE

-- A slug has 3 to 63 characters of a-z, 0-9 and -.
SELECT amp.create_tenant('Bad', NULL);
\echo :SQLSTATE
SELECT amp.create_tenant('Bad', '');
\echo :SQLSTATE
SELECT amp.create_tenant('Bad', 'Upper-Case');
\echo :SQLSTATE
SELECT amp.create_tenant('Bad', 'süß');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.create_tenant('Bad', 'ab');
SELECT amp.create_tenant('Bad', repeat('s', 64));
SELECT amp.create_tenant('Bad', '-dash');
SELECT amp.create_tenant('Bad', 'dash-');
SELECT amp.create_tenant('Bad', 'under_score');
SELECT amp.create_tenant('Bad', E'new\nline');
SELECT amp.create_tenant('Bad', E'newline\n');
\set VERBOSITY default

-- A given id has 1 to 64 characters of A-Z, a-z, 0-9, _ and -.
SELECT amp.create_tenant('Bad', 'tenants-bad', id => '');
\echo :SQLSTATE
SELECT amp.create_tenant('Bad', 'tenants-bad', id => 'ä');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT amp.create_tenant('Bad', 'tenants-bad', id => 'a b');
SELECT amp.create_tenant('Bad', 'tenants-bad', id => 'a''b');
SELECT amp.create_tenant('Bad', 'tenants-bad', id => E'a\n');
SELECT amp.create_tenant('Bad', 'tenants-bad', id => repeat('x', 65));
\set VERBOSITY default

-- The configuration is a JSON object.
SELECT amp.create_tenant('Bad', 'tenants-bad', config => NULL);
\echo :SQLSTATE
SELECT amp.create_tenant('Bad', 'tenants-bad', config => '[]');
\echo :SQLSTATE
SELECT amp.create_tenant('Bad', 'tenants-bad', config => 'null');
\echo :SQLSTATE

-- Ids and slugs are unique.
SELECT amp.create_tenant('Twin', 'tenants-bad', id => 'acme');
\echo :SQLSTATE
SELECT amp.create_tenant('Twin', 'acme-corp');
\echo :SQLSTATE

-- Nothing of all that was stored.
SELECT count(*) FROM amp.tenants WHERE slug = 'tenants-bad' OR name IN ('Bad', 'Twin');

-- Suspended and active again, as often as one likes.
SELECT amp.suspend_tenant('acme') ->> 'status' AS status;
SELECT amp.suspend_tenant('acme') ->> 'status' AS status;
SELECT amp.activate_tenant('acme') ->> 'status' AS status;
SELECT amp.activate_tenant('acme') ->> 'status' AS status;

-- A suspended tenant cannot be entered.
\connect - regress_service
SET amp.tenant_id = 'acme';
SELECT amp.tenant_id();
\connect - regress_operator
SELECT amp.suspend_tenant('acme') ->> 'status' AS status;
\connect - regress_service
SET amp.tenant_id = 'acme';
\echo :SQLSTATE
\connect - regress_operator

-- Deleted is for good: the id is never given again, the slug is free.
SELECT amp.delete_tenant('acme') ->> 'status' AS status;
SELECT amp.activate_tenant('acme');
\echo :SQLSTATE
SELECT amp.suspend_tenant('acme');
\echo :SQLSTATE
SELECT amp.delete_tenant('acme');
\echo :SQLSTATE
SELECT amp.create_tenant('Acme again', 'acme-2', id => 'acme');
\echo :SQLSTATE
SELECT amp.create_tenant('Acme again', 'acme-corp', id => 'acme2') ->> 'slug' AS slug;
SELECT id, status FROM amp.tenants WHERE slug = 'acme-corp' ORDER BY id;

-- Unknown tenants.
SELECT amp.suspend_tenant('nowhere');
\echo :SQLSTATE
SELECT amp.activate_tenant(NULL);
\echo :SQLSTATE
SELECT amp.delete_tenant('');
\echo :SQLSTATE

-- Nobody but an operator: no privilege, not even for a service or a table owner.
\connect - regress_service
\set VERBOSITY sqlstate
SET amp.tenant_id = 'alpha';
SET amp.user_id = 'user_ann';
SELECT amp.create_tenant('Mine', 'mine-mine');
SELECT amp.suspend_tenant('beta');
SELECT amp.activate_tenant('beta');
SELECT amp.delete_tenant('beta');
SELECT amp.set_tenant_status('beta', 'deleted');
\connect - regress_client
SELECT amp.create_tenant('Mine', 'mine-mine');
SELECT amp.delete_tenant('beta');
\connect - regress_owner
SELECT amp.delete_tenant('beta');
