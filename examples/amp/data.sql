-- Some thousand rows that were there before the tables were protected; the same rows every time. Run by app_owner.
INSERT INTO app.channels VALUES
    ('blog', 'Blog'), ('instagram', 'Instagram'), ('linkedin', 'LinkedIn'), ('newsletter', 'Newsletter');

-- A number from 0 to `below` - 1 that looks random and depends on `seed` alone.
CREATE FUNCTION pg_temp.pick(seed text, below int) RETURNS int LANGUAGE sql
    RETURN (('x' || substr(md5('amp ' || seed), 1, 7))::bit(28)::int) % below;

INSERT INTO app.missions (tenant_id, name, status, created_at)
SELECT (ARRAY['tnt_northwind_bakery', 'tnt_northwind_cycles', 'tnt_orbit'])[1 + n % 3],
       (ARRAY['Spring', 'Summer', 'Autumn', 'Winter'])[1 + pg_temp.pick('season' || n, 4)] || ' '
           || (ARRAY['launch', 'sale', 'stories', 'newsletter', 'hiring'])[1 + pg_temp.pick('theme' || n, 5)] || ' ' || n,
       (ARRAY['active', 'active', 'active', 'draft', 'done'])[1 + pg_temp.pick('status' || n, 5)],
       '2024-01-01 00:00+00'::timestamptz + n * interval '7 hours'
FROM generate_series(1, 120) n;

INSERT INTO app.content (tenant_id, mission_id, channel, title, body, status, created_at)
SELECT m.tenant_id, m.id,
       (ARRAY['blog', 'instagram', 'linkedin', 'newsletter'])[1 + pg_temp.pick(format('channel %s %s', m.id, n), 4)],
       format('%s, part %s', m.name, n),
       repeat(md5(format('%s %s', m.id, n)) || ' ', 1 + pg_temp.pick(format('body %s %s', m.id, n), 8)),
       (ARRAY['draft', 'approved', 'published', 'published'])[1 + pg_temp.pick(format('state %s %s', m.id, n), 4)],
       m.created_at + n * interval '90 minutes'
FROM app.missions m, generate_series(1, 10 + pg_temp.pick('parts' || m.id, 30)) n
ORDER BY m.id, n;

INSERT INTO app.content_versions (tenant_id, content_id, version, body)
SELECT c.tenant_id, c.id, v, c.body
FROM app.content c, generate_series(1, 1 + pg_temp.pick('versions' || c.id, 3)) v
ORDER BY c.id, v;
