-- From here on every session sees one tenant. Run by app_owner, who owns the schema. Without `fix`, keys and indexes stay as
-- they are, and those that tell one tenant about another's rows are reported; with it, they are rewritten.
SELECT amp.share_table('app.channels');
SELECT status, object, what FROM amp.protect_schema('app', fix => true) WHERE status <> 'kept';

-- Each new piece of content counts as generated content.
SELECT amp.meter('app.content', 'content_generated');
