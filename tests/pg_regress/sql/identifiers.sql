-- Any identifier works: quotes, spaces, semicolons, unicode, 63 bytes, reserved words.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_owner
CREATE SCHEMA "Sch""ema; DROP TABLE app.notes; --";
GRANT USAGE ON SCHEMA "Sch""ema; DROP TABLE app.notes; --" TO PUBLIC;
SET search_path = "Sch""ema; DROP TABLE app.notes; --";
ALTER DEFAULT PRIVILEGES IN SCHEMA "Sch""ema; DROP TABLE app.notes; --" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO PUBLIC;

CREATE TABLE "Ta""ble '; --" ("Ten""ant '; --" text, "i""d" int PRIMARY KEY, "va'lue" text UNIQUE);
CREATE TABLE "select" ("table" text, "primary key" int PRIMARY KEY, "references" int CONSTRAINT "on delete"";" REFERENCES "Ta""ble '; --" ON DELETE SET NULL);
CREATE TABLE "租户 表" ("租户" text, "编号" int PRIMARY KEY);
CREATE TABLE "ŧĥïš_ñåmé_ḧäš_šïẍţÿ-ŧĥŕéé_ḃýţê" ("%s %I %L" text, "{}" int, "$1" int);
CREATE TABLE xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx (ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt text, id int PRIMARY KEY);
CREATE UNIQUE INDEX "ind""ex '; --" ON "Ta""ble '; --" (lower("va'lue"));

SELECT status, object, what FROM amp.protect('"Ta""ble ''; --"', 'Ten"ant ''; --', fix => true) WHERE object NOT LIKE 'policy%';
SELECT status, object, what FROM amp.protect('"select"', 'table', fix => true) WHERE object NOT LIKE 'policy%';
SELECT status, object FROM amp.protect('"Ta""ble ''; --"', 'Ten"ant ''; --', fix => true) WHERE status <> 'kept';
SELECT count(*) > 0 AS protected FROM amp.protect('"租户 表"', '租户', fix => true);
SELECT count(*) > 0 AS protected FROM amp.protect('"ŧĥïš_ñåmé_ḧäš_šïẍţÿ-ŧĥŕéé_ḃýţê"', '%s %I %L', fix => true);
SELECT count(*) > 0 AS protected FROM amp.protect('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', 'ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt', fix => true);
SELECT amp.meter('"Ta""ble ''; --"', 'identifiers_test');
SELECT relname, relrowsecurity AND relforcerowsecurity AS forced, EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid AND polname = 'amp_tenant') AS floor
FROM pg_class c WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname LIKE 'Sch"ema%') AND relkind = 'r' ORDER BY relname COLLATE "C";
SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = (SELECT oid FROM pg_namespace WHERE nspname LIKE 'Sch"ema%') AND contype IN ('p', 'u', 'f') ORDER BY conrelid::regclass::text COLLATE "C", conname;
SELECT pg_get_indexdef('"ind""ex ''; --"'::regclass);

-- They isolate as any other.
\connect - regress_service
SET search_path = "Sch""ema; DROP TABLE app.notes; --";
SET amp.tenant_id = 'alpha';
INSERT INTO "Ta""ble '; --" ("i""d", "va'lue") VALUES (1, 'one');
INSERT INTO "select" ("primary key", "references") VALUES (1, 1);
INSERT INTO "租户 表" ("编号") VALUES (1);
INSERT INTO xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx (id) VALUES (1);
SET amp.tenant_id = 'beta';
INSERT INTO "Ta""ble '; --" ("i""d", "va'lue") VALUES (1, 'ONE');
INSERT INTO "select" ("primary key", "references") VALUES (1, 2);
\echo :SQLSTATE
SELECT * FROM "Ta""ble '; --";
SELECT (SELECT count(*) FROM "select"), (SELECT count(*) FROM "租户 表"), (SELECT count(*) FROM xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx);
SELECT amp.usage() #> '{usage,identifiers_test}' AS metered;

-- The registry and the way back know them, too; so does a schema as a whole.
\connect - regress_owner
SET search_path = "Sch""ema; DROP TABLE app.notes; --";
SELECT relation, tenant_column FROM amp.protected_tables WHERE relation::text ~ '[^a-z_.]' AND relation::text !~ '^[a-z]+\.' ORDER BY relation::text COLLATE "C";
SELECT count(*) > 0 AS unprotected FROM amp.unprotect('"Ta""ble ''; --"');
SELECT status, object, what, remedy FROM amp.protect_schema('Sch"ema; DROP TABLE app.notes; --', '租户') WHERE status = 'left' ORDER BY object COLLATE "C";
SELECT schema, tenant_column FROM amp.protected_schemas WHERE schema LIKE 'Sch%';
SELECT amp.share_table('"Ta""ble ''; --"');
-- A trap on the search_path is not stepped into: functions and operators are looked up by amp, not by the caller.
CREATE FUNCTION tenant_id() RETURNS text LANGUAGE sql AS $$ SELECT 'beta' $$;
CREATE FUNCTION format(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'SELECT 1' $$;
CREATE FUNCTION always(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = always);
BEGIN;
CREATE TABLE trap (tenant_id text, id int);
SET search_path = "Sch""ema; DROP TABLE app.notes; --", pg_catalog;
SELECT pg_catalog.count(*) > 0 AS protected FROM amp.protect('trap');
RESET search_path;
COMMIT;
SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid WHERE c.relname = 'trap';
SELECT with_check FROM pg_policies WHERE tablename = 'trap' AND policyname = 'amp_tenant';
SELECT count(*) FROM pg_class WHERE oid = 'app.notes'::regclass;
