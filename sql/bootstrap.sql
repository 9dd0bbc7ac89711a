-- The ground that everything else stands on: a schema nobody else can write to, and the group roles of session kinds.

DO $$
DECLARE
    owner name;
    group_role name;
BEGIN
    -- Whoever owns the schema could put objects of his own beside ours. CREATE EXTENSION makes it, owned by a superuser;
    -- one that was here before has to be a superuser's too.
    SELECT r.rolname INTO STRICT owner
    FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
    WHERE n.nspname = 'amp';
    IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = owner) THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = pg_catalog.format('schema amp belongs to "%s", who is not a superuser', owner),
            HINT = 'Drop it or change its owner, then run CREATE EXTENSION amp_tenancy again.';
    END IF;

    -- Group roles belong to the cluster: another database may have made them already.
    FOREACH group_role IN ARRAY ARRAY['amp_operator', 'amp_service'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = group_role) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', group_role);
        ELSIF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = group_role AND (rolcanlogin OR rolsuper OR rolbypassrls)) THEN
            RAISE EXCEPTION USING ERRCODE = '42710',
                MESSAGE = pg_catalog.format('role "%s" exists and is more than a group', group_role),
                HINT = pg_catalog.format('ALTER ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS, or rename it.', group_role);
        END IF;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA amp TO PUBLIC;
COMMENT ON SCHEMA amp IS 'amp_tenancy: multi-tenancy enforced inside the database.';
COMMENT ON ROLE amp_operator IS 'amp_tenancy: runs the platform; has no view of tenants'' rows.';
COMMENT ON ROLE amp_service IS 'amp_tenancy: trusted application services, which name the tenant they act for.';
