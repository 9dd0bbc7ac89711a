-- The extension as a whole: version, comment, what it refuses to be installed into, and what is left when it goes.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - postgres
SELECT e.extversion = a.default_version AS newest, obj_description(e.oid, 'pg_extension') AS comment
FROM pg_extension e JOIN pg_available_extensions a ON a.name = e.extname WHERE e.extname = 'amp_tenancy';
SELECT superuser, trusted, relocatable, schema FROM pg_available_extension_versions WHERE name = 'amp_tenancy' AND installed;
-- Every table that holds what people entered is dumped.
SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'amp'::regnamespace AND c.relkind = 'r'
    AND NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'amp_tenancy' AND c.oid = ANY (e.extconfig));
-- It cannot be moved.
ALTER EXTENSION amp_tenancy SET SCHEMA public;
\echo :SQLSTATE

-- Only a superuser installs it, in a schema that is a superuser's, with groups that are no more than groups.
CREATE DATABASE regress_extension OWNER regress_owner;
\connect regress_extension regress_owner
CREATE EXTENSION amp_tenancy;
\echo :SQLSTATE
CREATE SCHEMA amp;
\connect - postgres
CREATE EXTENSION amp_tenancy;
\echo :SQLSTATE
DROP SCHEMA amp;
ALTER ROLE amp_service LOGIN;
CREATE EXTENSION amp_tenancy;
\echo :SQLSTATE
ALTER ROLE amp_service NOLOGIN;
SELECT count(*) FROM pg_extension WHERE extname = 'amp_tenancy';

-- Not installed: the settings are there, and say so.
\connect - regress_service
SET amp.tenant_id = 'alpha';
\echo :SQLSTATE

-- A second database has its own tenants; the groups are the cluster's.
\connect - postgres
CREATE EXTENSION amp_tenancy;
SELECT count(*) FROM amp.tenants;
\connect - regress_operator
SELECT amp.create_tenant('Alpha', 'alpha-inc', id => 'alpha') ->> 'id' AS id;
\connect - regress_owner
CREATE TABLE public.notes (tenant_id text, id int);
CREATE TABLE public.free (tenant_id text, id int) PARTITION BY RANGE (id);
CREATE TABLE public.free_1 PARTITION OF public.free FOR VALUES FROM (0) TO (10);
SELECT count(*) > 0 AS protected FROM amp.protect('public.notes');
SELECT count(*) > 0 AS protected FROM amp.protect('public.free');
GRANT SELECT, INSERT, DELETE, TRUNCATE ON public.notes, public.free, public.free_1 TO PUBLIC;
\connect - regress_service
SET amp.tenant_id = 'alpha';
INSERT INTO public.notes (id) VALUES (1);
INSERT INTO public.free (id) VALUES (1);

-- Dropping it has to be meant; what it protected is then closed, not open.
\connect - postgres
\set VERBOSITY terse
DROP EXTENSION amp_tenancy;
\echo :SQLSTATE
\set VERBOSITY default
SET client_min_messages = warning;
DROP EXTENSION amp_tenancy CASCADE;
RESET client_min_messages;
SELECT count(*) FROM pg_class WHERE relnamespace = 'amp'::regnamespace;
SELECT count(*) FROM pg_event_trigger;
SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname IN ('notes', 'free', 'free_1') ORDER BY relname;
SELECT count(*) FROM pg_policies WHERE permissive = 'PERMISSIVE';
\connect - regress_service
SELECT count(*) FROM public.notes;
SELECT count(*) FROM public.free_1;
INSERT INTO public.notes VALUES ('alpha', 2);
\echo :SQLSTATE
DELETE FROM public.notes;
\connect - regress_owner
SELECT count(*) FROM public.notes;
\connect - postgres
SELECT (SELECT count(*) FROM public.notes), (SELECT count(*) FROM public.free);

-- Installed and protected again, the rows are back.
CREATE EXTENSION amp_tenancy;
\connect - regress_operator
SELECT amp.create_tenant('Alpha', 'alpha-inc', id => 'alpha') ->> 'id' AS id;
\connect - regress_owner
SELECT count(*) > 0 AS protected FROM amp.protect('public.notes');
\connect - regress_service
SET amp.tenant_id = 'alpha';
SELECT * FROM public.notes;
\connect regress postgres
DROP DATABASE regress_extension;
