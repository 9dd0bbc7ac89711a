-- From here on every session sees one tenant. Run by app_owner. Without `fix`, protect() leaves keys and indexes alone
-- and reports those that tell one tenant about another's rows; with it, it rewrites them.
SELECT amp.share_table('app.channels');
SELECT * FROM amp.protect('app.missions', fix => true);
SELECT * FROM amp.protect('app.content', fix => true);
SELECT * FROM amp.protect('app.content_versions', fix => true);

-- Each new piece of content counts as generated content.
SELECT amp.meter('app.content', 'content_generated');
