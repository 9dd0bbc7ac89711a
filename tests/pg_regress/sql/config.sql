-- Configuration: merge patches by members with the permission and by operators, checked whole; what is wrong is said where.
\set SHOW_CONTEXT never
\pset format unaligned
\pset footer off
\connect - regress_operator
SELECT amp.create_tenant('Config Inc', 'config-inc', id => 'config') ->> 'id' AS id;
SELECT amp.invite_user('ann@alpha.example', 'admin', 'config') ->> 'id' AS admin;
SELECT amp.invite_user('olga@alpha.example', 'operator', 'config') ->> 'id' AS operator;

-- What the product's description shows, in the request's form, as it is.
SELECT jsonb_pretty(amp.update_config('{
  "config": {
    "provider_routing": {
      "llm_preference": "claude",
      "llm_fallback": ["openai", "google"],
      "image_preference": "openai",
      "cost_optimization": true
    }
  }
}', 'config') -> 'config') AS config;
SELECT amp.update_config('{
  "config": {
    "cost_limits": {
      "monthly_limit_cents": 500000,
      "daily_limit_cents": 20000,
      "alert_threshold_percent": 80,
      "hard_stop_at_limit": true
    }
  }
}', 'config') #> '{config,cost_limits}' AS cost_limits;
SELECT amp.update_config('{
  "config": {
    "approval": {
      "require_approval": true,
      "auto_approve_after_hours": 24,
      "approvers": ["user_ann", "user_olga"],
      "approval_order": "any",
      "escalation_after_hours": 12,
      "escalation_to": "user_ann"
    }
  }
}', 'config') #> '{config,approval}' AS approval;
SELECT amp.update_config('{"config": {"cost_limits": {"monthly_limit_cents": 750000}}}', 'config') #> '{config,cost_limits}' AS cost_limits;
-- null takes a key away; a patch without the envelope is the same.
SELECT amp.update_config('{"cost_limits": {"daily_limit_cents": null}, "preferences": {"theme": {"dark": true}}}', 'config') -> 'config' -> 'cost_limits' AS cost_limits;
SELECT amp.update_config('{"preferences": null}', 'config') -> 'config' ? 'preferences' AS preferences;

-- The document: the keys of the product's description.
SELECT jsonb_pretty(amp.tenant('config') - 'config' #- '{created_at}' #- '{updated_at}') AS tenant;
SELECT ARRAY(SELECT jsonb_object_keys(amp.tenant('config')) ORDER BY 1) AS keys;
SELECT (amp.usage('config') #> '{limits,monthly_limit_cents}') AS monthly_limit_cents;
SELECT amp.tenant('nowhere');
\echo :SQLSTATE

-- What is wrong, where, and what is allowed. Nothing of it is stored.
SELECT amp.update_config('{"cost_limits": {"monthly_limit": 5}}', 'config');
\echo :SQLSTATE
SELECT amp.update_config('{"cost_limit": {"monthly_limit_cents": 5}}', 'config');
SELECT amp.update_config('{"zzz": 1}', 'config');
SELECT amp.update_config('{"cost_limits": {"monthly_limit_cents": "500"}}', 'config');
SELECT amp.update_config('{"cost_limits": {"monthly_limit_cents": -1}}', 'config');
SELECT amp.update_config('{"cost_limits": {"alert_threshold_percent": 101, "daily_limit_cents": 1}}', 'config');
SELECT amp.update_config('{"cost_limits": 5}', 'config');
SELECT amp.update_config('{"approval": {"approval_order": "some"}}', 'config');
SELECT amp.update_config('{"approval": {"approvers": ["user_ann", "user_bob"]}}', 'config');
SELECT amp.update_config('{"approval": {"escalation_to": "user_bob"}}', 'config');
SELECT amp.update_config('{"approval": {"approvers": ["a b"]}}', 'config');
SELECT amp.update_config('{"provider_routing": {"llm_preference": "Claude 3"}}', 'config');
SELECT amp.update_config('{"integrations": {"slack": "on"}}', 'config');
SELECT amp.update_config('{"metricool": {"token": "encrypted"}}', 'config');
SELECT amp.update_config('{"metricool": {"token": "t0p-secret"}}', 'config');
\echo :SQLSTATE
SELECT amp.update_config(format('{"preferences": {"deep": %s%s}}', repeat('[', 200), repeat(']', 200))::jsonb, 'config');
\echo :SQLSTATE
SELECT amp.update_config('[]', 'config');
SELECT amp.update_config('null', 'config');
SELECT amp.update_config(NULL, 'config');
\echo :SQLSTATE
SELECT amp.create_tenant('Bad', 'config-bad', '{"cost_limits": {"monthly_limit_cents": 1.5}}');
SELECT amp.create_tenant('Bad', 'config-bad', '{"approval": {"approvers": ["user_ann"]}}');
SELECT amp.tenant('config') #> '{config,cost_limits}' AS cost_limits;
SELECT count(*) FROM amp.tenants WHERE slug = 'config-bad';

-- An approver who leaves does not stand in the way of other changes, only of naming him again.
SELECT amp.remove_user('user_olga', 'config');
SELECT amp.update_config('{"cost_limits": {"daily_limit_cents": 20000}}', 'config') #> '{config,cost_limits,daily_limit_cents}' AS daily;
SELECT amp.update_config('{"approval": {"approvers": ["user_olga"]}}', 'config');
SELECT amp.invite_user('olga@alpha.example', 'operator', 'config') ->> 'id' AS operator;

-- A slug can be reserved.
SELECT amp.create_tenant('Admin', 'admin');
\echo :SQLSTATE

-- A member needs the permission: billing.configure for cost_limits, integrations.manage for the rest.
\connect - regress_service
SET amp.tenant_id = 'config';
SELECT amp.providers('llm') AS llm, amp.providers('image') AS image;
SELECT amp.providers('video');
\echo :SQLSTATE
SELECT amp.update_config('{"cost_limits": {"monthly_limit_cents": 1}}');
\echo :SQLSTATE
SET amp.user_id = 'user_olga';
SELECT amp.update_config('{"cost_limits": {"monthly_limit_cents": 1}}');
SELECT amp.update_config('{"preferences": {}}');
SET amp.user_id = 'user_ann';
SELECT amp.update_config('{"provider_routing": {"fallback_enabled": false}}') #> '{config,provider_routing,fallback_enabled}' AS fallback;
SELECT amp.providers('llm') AS llm;
SELECT amp.update_config('{"cost_limits": {"monthly_limit_cents": 1}}', 'alpha');
\echo :SQLSTATE
SELECT action, detail, user_id FROM amp.audit_log WHERE action = 'config.changed' ORDER BY at DESC LIMIT 2;
SELECT * FROM amp.tenant_configs WHERE tenant_id = 'alpha';
UPDATE amp.tenant_configs SET config = '{}';
SELECT amp.change_config_for_caller('{"cost_limits": {"monthly_limit_cents": 1}}', 'alpha');
\connect - regress_client
SELECT amp.tenant();
\echo :SQLSTATE
SELECT amp.update_config('{"cost_limits": {"monthly_limit_cents": 1}}', 'config');
\echo :SQLSTATE
