-- The platform team's work. Run by amp_platform, a login role in amp_operator.
-- AMP had these tenants before the extension, so it gives their ids; without one, create_tenant makes it.
-- Northwind Agency looks after two clients, and each of them is a tenant of its own.
SELECT amp.create_tenant('Northwind Bakery', 'northwind-bakery', id => 'tnt_northwind_bakery');
SELECT amp.create_tenant('Northwind Cycles', 'northwind-cycles', id => 'tnt_northwind_cycles');
SELECT amp.create_tenant('Orbit Labs', 'orbit-labs', id => 'tnt_orbit');

-- Alice, of the agency, is admin for both clients and helps out in the start-up.
SELECT amp.invite_user('alice@northwind.example', 'admin', 'tnt_northwind_bakery');
SELECT amp.invite_user('bob@northwind.example', 'operator', 'tnt_northwind_bakery');
SELECT amp.invite_user('vera@bakery.example', 'viewer', 'tnt_northwind_bakery');
SELECT amp.invite_user('alice@northwind.example', 'admin', 'tnt_northwind_cycles');
SELECT amp.invite_user('carol@cycles.example', 'operator', 'tnt_northwind_cycles');
SELECT amp.invite_user('sam@orbit.example', 'admin', 'tnt_orbit');
SELECT amp.invite_user('alice@northwind.example', 'operator', 'tnt_orbit');
