-- What the doctor finds in logical replication, which sends and writes rows past row security. A row filter is none: it says what a subscriber
-- gets, and every subscriber may subscribe to every publication.

CREATE FUNCTION amp.replication_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'warning', 'publication', format('publication %I', o.pubname),
           format('It sends every tenant''s rows of %s to its subscribers.', amp.qualified(p.relation)),
           format('ALTER PUBLICATION %I DROP TABLE %s', o.pubname, amp.qualified(p.relation))
    FROM amp.protected_tables p JOIN pg_publication_rel r ON r.prrelid = p.relation JOIN pg_publication o ON o.oid = r.prpubid
    UNION ALL
    SELECT 'warning', 'publication', format('publication %I', o.pubname),
           format('It sends every tenant''s rows of the protected tables in schema %I to its subscribers.', n.nspname),
           format('ALTER PUBLICATION %I DROP TABLES IN SCHEMA %I', o.pubname, n.nspname)
    FROM pg_publication_namespace s JOIN pg_publication o ON o.oid = s.pnpubid JOIN pg_namespace n ON n.oid = s.pnnspid
    WHERE EXISTS (SELECT FROM amp.protected_tables p JOIN pg_class c ON c.oid = p.relation WHERE c.relnamespace = n.oid)
    UNION ALL
    SELECT 'warning', 'publication', format('publication %I', o.pubname), 'It sends every tenant''s rows of every protected table to its subscribers.',
           format('DROP PUBLICATION %I', o.pubname)
    FROM pg_publication o WHERE o.puballtables AND EXISTS (SELECT FROM amp.protected_tables)
    UNION ALL
    SELECT DISTINCT 'warning', 'subscription', format('subscription %I', s.subname),
           'It writes rows into protected tables for whichever tenant the other server says.', format('ALTER SUBSCRIPTION %I DISABLE', s.subname)
    FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid JOIN amp.protected_tables p ON p.relation = r.srrelid
    WHERE s.subenabled
$$;
COMMENT ON FUNCTION amp.replication_findings() IS 'Internal: what doctor() finds in publications and subscriptions.';
