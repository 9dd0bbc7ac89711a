-- amp's own tables: a tenant sees itself in them, an operator sees all, nobody writes to them.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_service
SET amp.tenant_id = 'alpha';
SET amp.user_id = 'user_ann';
SELECT amp.define_role('own-alpha', '{content.view}');
SELECT amp.record_usage('api_calls', 3, 'own-alpha');
SET amp.user_id = '';
SET amp.tenant_id = 'beta';
SET amp.user_id = 'user_bob';
SELECT amp.define_role('own-beta', '{content.view}');
SELECT amp.record_usage('api_calls', 5, 'own-beta');
RESET amp.user_id;

-- Without a tenant: an error for each table that holds tenants' rows.
\connect - regress_service
SELECT count(*) FROM amp.tenants;
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT id FROM amp.app_users;
SELECT count(*) FROM amp.members;
SELECT count(*) FROM amp.roles;
SELECT count(*) FROM amp.usage_counters;
SELECT count(*) FROM amp.usage_keys;
\set VERBOSITY default

-- With one: its own rows, and no others, whatever is asked for.
SET amp.tenant_id = 'alpha';
SELECT id, status, name, slug FROM amp.tenants;
SELECT id, email FROM amp.app_users ORDER BY id;
SELECT tenant_id, user_id, role FROM amp.members ORDER BY user_id;
SELECT tenant_id, name FROM amp.roles WHERE name LIKE 'own-%';
SELECT tenant_id, metric, sum(amount) FROM amp.usage_counters WHERE metric = 'api_calls' GROUP BY 1, 2;
SELECT tenant_id, idempotency_key FROM amp.usage_keys WHERE idempotency_key LIKE 'own-%';
SELECT count(*) FROM amp.tenants WHERE id = 'beta' OR slug = 'beta-ltd';
SELECT count(*) FROM amp.app_users WHERE email = 'bob@beta.example';
-- Another role of the same tenant sees the same.
SET amp.user_id = 'user_vic';
SELECT id FROM amp.tenants;
SELECT count(*) FROM amp.members;
-- Permissions are the platform's, and protected tables everybody's to know.
SELECT count(*) FROM amp.permissions WHERE built_in;
SELECT relation, tenant_column FROM amp.protected_tables WHERE relation = 'app.notes'::regclass;

-- A person's default tenant may be one that the reader has nothing to do with.
SELECT default_tenant_id FROM amp.app_users;
\echo :SQLSTATE
SELECT * FROM amp.app_users;
\echo :SQLSTATE
SELECT count(*) FROM amp.app_users WHERE default_tenant_id = 'alpha';
\echo :SQLSTATE

-- An operator sees all, without a context.
\connect - regress_operator
SELECT id FROM amp.tenants WHERE id IN ('alpha', 'beta') ORDER BY id;
SELECT id FROM amp.app_users WHERE id IN ('user_ann', 'user_bob') ORDER BY id;
SELECT tenant_id, user_id FROM amp.members WHERE user_id IN ('user_ann', 'user_bob') ORDER BY 1;
SELECT tenant_id, name FROM amp.roles WHERE name LIKE 'own-%' ORDER BY 1;
SELECT tenant_id, idempotency_key, amount FROM amp.usage_keys WHERE idempotency_key LIKE 'own-%' ORDER BY 1;
SELECT tenant_id FROM amp.usage_counters WHERE tenant_id IN ('alpha', 'beta') GROUP BY 1 ORDER BY 1;
SELECT default_tenant_id FROM amp.app_users;
\echo :SQLSTATE

-- A client without proof sees nothing of any tenant.
\connect - regress_client
SELECT count(*) FROM amp.tenants;
\echo :SQLSTATE
SELECT count(*) FROM amp.members;
\echo :SQLSTATE

-- Nobody writes: every kind of session, every table, every verb. Listed is what got through: nothing.
\connect - postgres
CREATE FUNCTION app.refused(table_name text, column_name text, OUT relation text, OUT written text) LANGUAGE plpgsql AS $$
DECLARE
    verb text;
BEGIN
    relation := table_name;
    FOREACH verb IN ARRAY ARRAY['INSERT INTO %s DEFAULT VALUES', 'UPDATE %s SET %s = DEFAULT', 'DELETE FROM %s', 'TRUNCATE %s',
        'SELECT 1 FROM %s FOR UPDATE', 'LOCK TABLE %s IN ROW EXCLUSIVE MODE', 'COPY %s FROM PROGRAM ''true''', 'DROP TABLE %s',
        'ALTER TABLE %s DISABLE ROW LEVEL SECURITY', 'CREATE POLICY everything ON %s USING (true)',
        'CREATE TRIGGER mine AFTER INSERT ON %s EXECUTE FUNCTION amp.refuse_truncate()'] LOOP
        BEGIN
            EXECUTE format(verb, 'amp.' || quote_ident(table_name), column_name);
            written := concat_ws(', ', written, verb);
        EXCEPTION
            WHEN insufficient_privilege OR SQLSTATE 'TN001' THEN NULL;
            WHEN OTHERS THEN written := concat_ws(', ', written, verb || ': ' || SQLSTATE);
        END;
    END LOOP;
END
$$;
CREATE VIEW app.own_tables AS SELECT r.* FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1, app.refused(c.relname, a.attname) r
    WHERE c.relnamespace = 'amp'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY c.relname;
GRANT SELECT ON app.own_tables TO PUBLIC;
\connect - regress_service
SET amp.tenant_id = 'alpha';
SET amp.user_id = 'user_ann';
SELECT * FROM app.own_tables;
\connect - regress_operator
SELECT * FROM app.own_tables WHERE written <> '';
\connect - regress_client
SELECT * FROM app.own_tables WHERE written <> '';
\connect - regress_owner
SELECT * FROM app.own_tables WHERE written <> '';
