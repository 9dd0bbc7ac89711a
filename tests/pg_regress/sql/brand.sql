-- Brand context: one document a tenant, changed by merge patches; elements of it shared live within an account, merged, taken back.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - postgres
INSERT INTO amp.app_users (id, email) VALUES ('user_zoe', 'zoe@brand.example');
\connect - regress_operator
SELECT amp.create_tenant('Corporate Brand', 'brand-corporate', id => 'corporate') ->> 'id' AS id;
SELECT amp.create_tenant('Product Line A', 'brand-product-a', id => 'product_a') ->> 'id' AS id;
SELECT amp.create_tenant('Regional (EMEA)', 'brand-emea', id => 'emea') ->> 'id' AS id;
SELECT count(amp.invite_user('zoe@brand.example', 'admin', t)) FROM unnest('{corporate,product_a,emea}'::text[]) t;
SELECT amp.invite_user('vic@alpha.example', 'viewer', 'product_a') ->> 'role' AS role;
\connect - postgres
INSERT INTO amp.accounts (id, kind, name) VALUES ('acc_brand', 'enterprise', 'Enterprise'), ('acc_other', 'agency', 'Another');
UPDATE amp.tenants SET account_id = 'acc_brand' WHERE id IN ('corporate', 'product_a', 'emea');
UPDATE amp.tenants SET account_id = 'acc_other' WHERE id = 'beta';

-- A document, from nothing, by patches.
\connect - regress_service
SET amp.tenant_id = 'corporate';
SET amp.user_id = 'user_zoe';
SELECT amp.brand_context();
SELECT amp.set_brand_context('{
  "visual_identity": {"colors": {"primary": "#0a0", "accent": "#a00"}, "fonts": ["Inter", "Lora"], "logo": "corporate.svg"},
  "voice": {"personality": "warm", "tone": {"formal": 2, "playful": 3}},
  "secret plans": {"a.b": true, "": 1, "__proto__": {"x": null}}
}') - 'updated_at' AS document;
SELECT amp.set_brand_context('{"voice": {"tone": {"formal": null, "playful": 4}}, "secret plans": {"a.b": false}}') #> '{context,voice}' AS voice;
SELECT amp.set_brand_context('{}') ->> 'updated_at' = amp.brand_context() ->> 'updated_at' AS unchanged;
SELECT amp.set_brand_context('{"voice": {"tone": {"playful": 4}}}') #> '{context,voice}' AS voice;
SELECT action, detail, user_id FROM amp.audit_log WHERE action LIKE 'brand.%' ORDER BY at;
-- What is no document, too long, too deep, or cannot be kept as it is.
SELECT amp.set_brand_context(NULL);
\echo :SQLSTATE
SELECT amp.set_brand_context('[]');
\echo :SQLSTATE
SELECT amp.set_brand_context('null');
SELECT amp.set_brand_context(jsonb_build_object('a', repeat('x', 2097152)));
\echo :SQLSTATE
SELECT amp.set_brand_context(jsonb_build_object('a', repeat('x', 20000000)));
SELECT length((amp.set_brand_context(jsonb_build_object('long', repeat('x', 2000000))) #>> '{context,long}')) AS length;
SELECT amp.set_brand_context(jsonb_build_object('longer', repeat('x', 100000)));
\echo :SQLSTATE
SELECT amp.set_brand_context('{"long": null}') -> 'context' ? 'long' AS long;
SELECT amp.set_brand_context(format('{"deep": %s%s}', repeat('[', 200), repeat(']', 200))::jsonb);
\echo :SQLSTATE
SELECT amp.set_brand_context('{"n": 123456789012345678901234567890}');
\echo :SQLSTATE
SELECT amp.set_brand_context('{"n": {"whole": 9007199254740993, "fraction": 1.50, "big": 1e300, "small": -0.1}}') #> '{context,n}' AS n;
SELECT amp.set_brand_context('{"n": null}') -> 'context' ? 'n' AS n;

-- Sharing: the request of the product's description, as it is.
SELECT amp.share_brand('{
  "source_tenant": "corporate",
  "target_tenant": "product_a",
  "elements": ["visual_identity", "voice.personality"]
}');
SELECT action, detail, user_id FROM amp.audit_log WHERE action = 'brand.shared' ORDER BY at;
-- Another tenant of the account, or nobody: the same words for all.
SELECT amp.share_brand('corporate', 'beta', '{voice}');
\echo :SQLSTATE
SELECT amp.share_brand('corporate', 'nowhere', '{voice}');
SELECT amp.share_brand('corporate', 'corporate', '{voice}');
SELECT amp.share_brand('corporate', NULL, '{voice}');
SELECT amp.share_brand('product_a', 'emea', '{voice}');
\echo :SQLSTATE
-- Elements that are none, or that it has not.
SELECT amp.share_brand('corporate', 'product_a', '{voice.personalty}');
\echo :SQLSTATE
SELECT amp.share_brand('corporate', 'product_a', '{visual_identiti}');
SELECT amp.share_brand('corporate', 'product_a', '{voice,zzz}');
SELECT amp.share_brand('corporate', 'product_a', '{voice.personality.x}');
SELECT amp.share_brand('corporate', 'product_a', '{visual_identity.fonts.0}');
SELECT amp.share_brand('corporate', 'product_a', '{secret plans}');
\echo :SQLSTATE
SELECT amp.share_brand('corporate', 'product_a', '{voice..tone}');
SELECT amp.share_brand('corporate', 'product_a', ARRAY[NULL]);
SELECT amp.share_brand('corporate', 'product_a', NULL);
SELECT amp.share_brand('corporate', 'product_a', '{}');
SELECT amp.share_brand('corporate', 'product_a', array_fill('voice'::text, ARRAY[101]));
SELECT amp.share_brand('corporate', 'product_a', '{voice}', '2001-01-01');
\echo :SQLSTATE
SELECT amp.share_brand('corporate', 'product_a', '{voice}', 'infinity');
SELECT amp.share_brand('corporate', 'product_a', '{voice}', '-infinity');
-- Requests that are none.
SELECT amp.share_brand('{"source_tenant": "corporate", "target_tenent": "product_a", "elements": ["voice"]}');
\echo :SQLSTATE
SELECT amp.share_brand('{"target_tenant": "product_a", "elements": "voice"}');
SELECT amp.share_brand('{"target_tenant": "product_a"}');
SELECT amp.share_brand('{"target_tenant": "product_a", "elements": ["voice"], "expires_at": "tomorrow"}');
SELECT amp.share_brand('{"target_tenant": "product_a", "elements": ["voice"], "expires_at": "2001-01-01T00:00:00Z"}');
\echo :SQLSTATE
SELECT amp.share_brand('[]');
SELECT amp.share_brand(NULL::jsonb);
SELECT count(*) FROM jsonb_array_elements(amp.brand_shares() -> 'data');

-- The target reads one document, and who wins: what is its own; of what is shared, the longer path; of one element, the older share.
SET amp.user_id = '';
SET amp.tenant_id = 'product_a';
SELECT amp.brand_context();
SET amp.user_id = 'user_zoe';
SELECT jsonb_pretty(amp.set_brand_context('{"visual_identity": {"colors": {"primary": "#00f"}, "fonts": ["Own"]}, "voice": {"pace": "slow"}}') - 'updated_at') AS document;
SELECT document - 'updated_at' AS own FROM amp.brand_contexts;
SET amp.user_id = '';
SET amp.tenant_id = 'emea';
SET amp.user_id = 'user_zoe';
SELECT amp.set_brand_context('{"voice": {"personality": "dry", "tone": "short"}, "visual_identity": {"colors": {"accent": "#0aa"}}}') -> 'shared' AS shared;
SELECT amp.share_brand(NULL, 'product_a', '{visual_identity.colors,voice.personality,voice}', '2100-01-01 00:00+00');
SET amp.user_id = '';
SET amp.tenant_id = 'product_a';
SET amp.user_id = 'user_vic';
SELECT jsonb_pretty(amp.brand_context() - 'updated_at') AS document;
-- An own value above a shared element stands in its place.
SET amp.user_id = 'user_zoe';
SELECT amp.set_brand_context('{"voice": "own"}') -> 'shared' AS shared;
SELECT amp.brand_context() #> '{context,voice}' AS voice;
SELECT amp.set_brand_context('{"voice": null}') #> '{context,voice}' AS voice;
-- What is shared is not one's own: neither to share on, nor there without the share.
SELECT amp.share_brand('product_a', 'emea', '{voice.personality}');
\echo :SQLSTATE
SELECT amp.share_brand('product_a', 'emea', '{visual_identity.logo}');
SELECT amp.share_brand('product_a', 'emea', '{visual_identity}') -> 'elements' AS elements;
SET amp.user_id = '';
SET amp.tenant_id = 'emea';
SET amp.user_id = 'user_zoe';
SELECT amp.brand_context() - 'updated_at' AS document;

-- Live: what the source changes, and takes away.
SET amp.user_id = '';
SET amp.tenant_id = 'corporate';
SET amp.user_id = 'user_zoe';
SELECT amp.set_brand_context('{"voice": {"personality": null}, "visual_identity": {"logo": "new.svg"}}') -> 'shared' AS shared;
SET amp.user_id = '';
SET amp.tenant_id = 'product_a';
SET amp.user_id = 'user_zoe';
SELECT amp.brand_context() #> '{context,voice}' AS voice, amp.brand_context() #> '{context,visual_identity,logo}' AS logo;
-- Lists; sharing again changes the expiry.
SELECT jsonb_array_elements(amp.brand_shares() -> 'data') - 'shared_at' AS share;
SET amp.user_id = '';
SET amp.tenant_id = 'emea';
SET amp.user_id = 'user_zoe';
SELECT amp.share_brand('{"source_tenant": "emea", "target_tenant": "product_a", "elements": ["voice", "voice"], "expires_at": "2200-01-01T00:00:00+01:00"}');
SELECT jsonb_array_elements(amp.brand_shares() -> 'data') - 'shared_at' AS share;

-- Taking back: by the source and by the target; what was not shared is no typo that stays silent.
SELECT amp.unshare_brand('emea', 'product_a', '{voice.tone}');
\echo :SQLSTATE
SELECT amp.unshare_brand('emea', 'product_a', '{voice,NULL}');
SELECT amp.unshare_brand('corporate', 'product_a');
\echo :SQLSTATE
SELECT amp.unshare_brand('emea', 'emea');
SELECT amp.unshare_brand('emea', 'nowhere');
SELECT amp.unshare_brand('emea', 'product_a', '{voice}');
SET amp.user_id = '';
SET amp.tenant_id = 'product_a';
SET amp.user_id = 'user_zoe';
SELECT amp.unshare_brand('emea', 'product_a');
SELECT amp.brand_context() -> 'shared' AS shared;
SELECT action, detail, user_id, login_role FROM amp.audit_log WHERE action = 'brand.unshared' ORDER BY at;

-- A viewer reads, and manages nothing; a service without a user the same; an operator of the platform sees no brand context.
SET amp.user_id = 'user_vic';
SELECT amp.set_brand_context('{"a": 1}');
\echo :SQLSTATE
SELECT amp.share_brand('product_a', 'emea', '{visual_identity}');
SELECT amp.unshare_brand('corporate', 'product_a');
SELECT amp.brand_shares();
SET amp.user_id = '';
SELECT amp.set_brand_context('{"a": 1}');
SELECT amp.brand_context('emea');
\echo :SQLSTATE
SELECT amp.set_brand_context('{"a": 1}', 'emea');
\echo :SQLSTATE
\connect - regress_operator
SELECT amp.brand_context('corporate');
\echo :SQLSTATE
SELECT amp.set_brand_context('{"a": 1}', 'corporate');
\echo :SQLSTATE
SELECT count(*) FROM amp.brand_contexts;
\echo :SQLSTATE
SELECT count(*) FROM amp.brand_elements;
\echo :SQLSTATE

-- Suspended, deleted, moved: out of force at once.
SELECT amp.suspend_tenant('corporate') ->> 'status' AS status;
\connect - regress_service
SET amp.tenant_id = 'product_a';
SELECT amp.brand_context() -> 'shared' AS shared;
\connect - regress_operator
SELECT amp.activate_tenant('corporate') ->> 'status' AS status;
\connect - regress_service
SET amp.tenant_id = 'product_a';
SELECT amp.brand_context() #> '{shared,0,element}' AS element;
\connect - postgres
UPDATE amp.tenants SET account_id = 'acc_other' WHERE id = 'corporate';
\connect - regress_service
SET amp.tenant_id = 'product_a';
SELECT amp.brand_context() -> 'shared' AS shared;
\connect - postgres
-- Both in another account: what was shared in the former one is not shared there.
UPDATE amp.tenants SET account_id = 'acc_other' WHERE id = 'product_a';
\connect - regress_service
SET amp.tenant_id = 'product_a';
SELECT amp.brand_context() -> 'shared' AS shared;
SET amp.tenant_id = 'corporate';
SET amp.user_id = 'user_zoe';
SELECT amp.share_brand('corporate', 'product_a', '{visual_identity.logo}') -> 'elements' AS elements;
SET amp.user_id = '';
SET amp.tenant_id = 'product_a';
SELECT amp.brand_context() #> '{context,visual_identity,logo}' AS logo;
\connect - postgres
-- Ended shares are removed by their source's next sharing: corporate has none left, emea has shared nothing since.
SELECT target_tenant, source_tenant, element, account_id FROM amp.stored_brand_shares ORDER BY 1, 2, 3, 4;
SELECT target_tenant, source_tenant FROM amp.ended_brand_shares ORDER BY 1, 2;
SELECT * FROM amp.brand_elements WHERE source_tenant = 'corporate' ORDER BY 1, 2;
UPDATE amp.tenants SET account_id = NULL WHERE account_id IN ('acc_brand', 'acc_other');
DELETE FROM amp.accounts;
