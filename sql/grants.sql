-- Who may call what. Everything is revoked first; each function checks again by itself.

-- The functions in policies stay as they were made, executable by everybody: reading an explicit access list costs a query a
-- thousand instructions for each of them.
DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN
        SELECT p.oid FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'amp'::pg_catalog.regnamespace
          AND p.proname NOT IN ('tenant_id', 'tenant_uuid', 'tenant_bigint', 'has_permission', 'require_permission', 'context_holds',
                                'require_spending')
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', function);
    END LOOP;
END
$$;

-- What a session may ask about itself.
GRANT EXECUTE ON FUNCTION
    amp.user_id(), amp.role(), amp.context(), amp.is_operator(), amp.authenticate(text), amp.lock_context(), amp.only_tenant(),
    amp.only_account(), amp.account_role(text), amp.my_tenants(), amp.required_user(), amp.set_default_tenant(text)
    TO PUBLIC;

-- Members and operators: what they call, and what looks at who called.
GRANT EXECUTE ON FUNCTION
    amp.invite_user(text, text, text), amp.set_user_role(text, text, text), amp.remove_user(text, text), amp.users(text),
    amp.add_member_for_caller(text, text, text), amp.change_member_for_caller(text, text, text),
    amp.drop_member_for_caller(text, text), amp.members_document_for_caller(text),
    amp.define_role(text, text[]), amp.drop_role(text),
    amp.create_api_key(text, text, text, timestamptz, text), amp.add_api_key_for_caller(text, text, text, timestamptz, text),
    amp.revoke_api_key(text), amp.revoke_api_key_for_caller(text)
    TO PUBLIC;

-- Accounts: their members, their admins, and operators.
GRANT EXECUTE ON FUNCTION
    amp.my_accounts(), amp.account(text), amp.account_document_for_caller(text),
    amp.add_account_member(text, text, text), amp.put_account_member_for_caller(text, text, text),
    amp.remove_account_member(text, text), amp.drop_account_member_for_caller(text, text),
    amp.create_tenant(text, text, jsonb, text, text), amp.add_tenant_for_caller(text, text, jsonb, text, text)
    TO PUBLIC;

-- Requests' bodies.
GRANT EXECUTE ON FUNCTION
    amp.assert_body(jsonb, jsonb), amp.create_tenant(jsonb), amp.invite_user(jsonb, text), amp.set_user_role(text, jsonb, text),
    amp.set_default_tenant(jsonb)
    TO PUBLIC;

-- A tenant's document and configuration.
GRANT EXECUTE ON FUNCTION
    amp.tenant(text), amp.tenant_document_for_caller(text), amp.update_config(jsonb, text), amp.change_config_for_caller(jsonb, text),
    amp.providers(text), amp.own_config(), amp.providers_of(jsonb, text), amp.secret(text),
    amp.mark_confidential()
    TO PUBLIC;

-- Everything of a tenant; run with the caller's rights, which the tables' policies look at.
GRANT EXECUTE ON FUNCTION
    amp.export_tenant(text), amp.assert_reads_plainly(regclass), amp.exported_tenant_for_caller(text), amp.own_rows_for_caller(text), amp.own_tables(),
    amp.tenant_tables(), amp.tenant_condition(regclass, name, text), amp.exported_columns(regclass)
    TO PUBLIC;

-- Brand context: members of the tenant; operators have no view of it.
GRANT EXECUTE ON FUNCTION
    amp.brand_context(text), amp.set_brand_context(jsonb, text), amp.share_brand(text, text, text[], timestamptz), amp.share_brand(jsonb),
    amp.unshare_brand(text, text, text[]), amp.brand_shares()
    TO PUBLIC;

-- Usage of one's own tenant.
GRANT EXECUTE ON FUNCTION amp.record_usage(text, bigint, text, text), amp.charge(bigint, text), amp.generation_allowed(), amp.usage(text, text),
    amp.usage_document_for_caller(text, text) TO PUBLIC;
GRANT EXECUTE ON ROUTINE
    amp.register_metric(text, text), amp.add_metric(text, text),
    amp.correct_usage(text, text, bigint, text, date, text), amp.correct_usage_for_caller(text, text, bigint, text, date, text),
    amp.compact_usage(date, timestamptz, jsonb), amp.compactable_tenants(date), amp.compact_tenant_for_caller(text, date),
    amp.forget_usage_keys(timestamptz, integer) TO PUBLIC;

-- Statistics: each looks at whose rights are in force.
GRANT EXECUTE ON FUNCTION amp.stat_tenants_data(), amp.stat_tenants_evicted() TO PUBLIC;

-- The review of all tenants, for operators, or of an account's, for its admins: who called is checked.
GRANT EXECUTE ON FUNCTION
    amp.usage_review(text, text), amp.usage_review_for_caller(text, text),
    amp.usage_report(text, text), amp.usage_report_for_caller(text, text)
    TO PUBLIC;

-- Approval in one's own tenant.
GRANT EXECUTE ON FUNCTION
    amp.request_approval(text, text, jsonb), amp.approve(text, text), amp.reject(text, text), amp.approval(text),
    amp.approvals(text, integer, text), amp.settle_approvals(), amp.settle_approvals_for_caller(), amp.content_of(regclass, text),
    amp.gate_approval(), amp.is_approved(text, text, bytea), amp.content_hash(jsonb), amp.row_content(jsonb, amp.approval_gates),
    amp.row_subject(jsonb, name[])
    TO PUBLIC;

-- Table owners: these run with the caller's own rights; the registering ones check that he owns the table.
GRANT EXECUTE ON FUNCTION
    amp.protect(regclass, name, text, text, text, text, text, boolean, boolean), amp.unprotect(regclass),
    amp.share_table(regclass), amp.protect_schema(name, name, text, text, boolean), amp.meter(regclass, text, name, text[]),
    amp.unmeter(regclass, text), amp.meter_part(regclass, text, name, text[]), amp.make_meter(amp.meters),
    amp.drop_meter_triggers(regclass, text), amp.forget_meter(regclass, text), amp.assert_whole(regclass, text),
    amp.state_type(regclass, name, text[], text),
    amp.mark_caller(), amp.await_related(regclass), amp.register_protection(regclass, name, text, text, text, text, boolean), amp.forget_table(regclass), amp.register_shared(regclass),
    amp.register_schema(name, name), amp.register_meter(regclass, text, name, text[]),
    amp.require_approval(regclass, name, text[], text, name[]), amp.drop_approval_requirement(regclass),
    amp.make_gate(amp.approval_gates), amp.gate_part(regclass, regclass), amp.register_gate(amp.approval_gates), amp.forget_gate(regclass),
    amp.assert_owner(regclass, oid), amp.assert_table(regclass, oid), amp.assert_metric(text), amp.assert_permissions(text[]), amp.tenant_function(regclass, name),
    amp.qualified(regclass), amp.descendants(regclass), amp.policies(regclass, name, text, text, text, text, text, boolean),
    amp.plain_foreign_keys(regclass), amp.tells_apart(oid, oid),
    amp.compose_foreign_key(name, regclass, regclass, name, name, name[], name[], text, boolean),
    amp.foreign_indexes(regclass, name), amp.has_tenant_index(regclass, name), amp.rebuild_indexes(regclass, name, boolean),
    amp.refuse_truncate(), amp.count_inserted(), amp.meter_row(text, text, regclass), amp.meter_row(text, uuid, regclass),
    amp.meter_row(text, bigint, regclass), amp.meter_moved(text, record)
    TO PUBLIC;

-- What is left open: the catalogs are everybody's.
GRANT EXECUTE ON FUNCTION
    amp.doctor(), amp.relatives(oid[]), amp.named_function(oid), amp.table_findings(oid[], oid[]), amp.grant_findings(oid[]), amp.default_grant_findings(),
    amp.access_findings(), amp.dependent_findings(oid[]), amp.function_findings(oid[]), amp.role_findings(), amp.replication_findings(),
    amp.setting_findings(), amp.hardening_findings(), amp.server_findings(), amp.is_preloaded(), amp.tenant_findings_for_caller()
    TO PUBLIC;

-- Hardening: for superusers, with whose own rights it runs, and who others are told so; what is open is everybody's to know.
GRANT EXECUTE ON FUNCTION amp.harden(), amp.unharden(), amp.assert_hardener(), amp.hardening_targets(), amp.hardening_gaps() TO PUBLIC;
GRANT EXECUTE ON FUNCTION amp.advisory_xact_lock(bigint), amp.try_advisory_xact_lock(bigint), amp.own_activity(), amp.own_locks() TO PUBLIC;

-- Operators of the platform, by their login role or by a credential: each function checks which of them called.
GRANT EXECUTE ON FUNCTION
    amp.list_tenants(), amp.tenant_documents(),
    amp.create_account(text, text, text), amp.add_account(text, text, text),
    amp.set_tenant_account(text, text), amp.move_tenant(text, text),
    amp.suspend_tenant(text), amp.activate_tenant(text), amp.set_tenant_status(text, text),
    amp.delete_tenant(text, boolean), amp.purge_deleted_for_caller(text), amp.begin_purge_for_caller(text),
    amp.await_purge_for_caller(text, boolean), amp.purge_batch_for_caller(text, integer),
    amp.register_permission(text, text, text[]), amp.add_permission(text, text, text[]),
    amp.rotate_secret_key(), amp.reseal_secrets(),
    amp.reset_stat_tenants(), amp.clear_stat_tenants_for_caller(),
    amp.create_operator_key(text, timestamptz), amp.add_operator_key(text, timestamptz),
    amp.add_signing_key(text, text, text, text, text, boolean), amp.store_signing_key(text, text, text, text, text, boolean),
    amp.retire_signing_key(text), amp.retire_stored_signing_key(text),
    amp.bind_role(name, text), amp.store_binding(name, text), amp.unbind_role(name), amp.remove_binding(name)
    TO PUBLIC;
GRANT EXECUTE ON PROCEDURE amp.purge_tenant(text, integer, interval, jsonb) TO PUBLIC;
