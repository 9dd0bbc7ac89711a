-- Two tenants, ant with 3 missions and bee with 5, in a protected table that the service may read and write. ada is an admin
-- of both, vic a viewer of ant.

SELECT amp.create_tenant('Ant', 'ant', id => 'ant'), amp.create_tenant('Bee', 'bee', id => 'bee');
INSERT INTO amp.app_users (id, email) VALUES ('ada', 'ada@example.com'), ('vic', 'vic@example.com');
INSERT INTO amp.members VALUES ('ant', 'ada', 'admin'), ('bee', 'ada', 'admin'), ('ant', 'vic', 'viewer');

CREATE SCHEMA app AUTHORIZATION amp_owner;
GRANT USAGE ON SCHEMA app TO amp_svc;
CREATE TABLE app.missions (tenant_id text COLLATE "C", id int, name text, PRIMARY KEY (tenant_id, id));
INSERT INTO app.missions
SELECT t, n, t || ' ' || n FROM (VALUES ('ant', 3), ('bee', 5)) AS v(t, most), generate_series(1, most) n;
ALTER TABLE app.missions OWNER TO amp_owner;
GRANT SELECT, INSERT, UPDATE, DELETE ON app.missions TO amp_svc;
SELECT * FROM amp.protect('app.missions');
