//! amp_tenancy: multi-tenancy enforced inside PostgreSQL.
//!
//! A session *claims* a context by two settings, `amp.tenant_id` and `amp.user_id`. Every protected table has row-security
//! policies that call `amp.tenant_id()` and the permission functions. Those resolve the claim against amp's own tables: is the
//! tenant active, is the user a member, which permissions does his role hold. The answer is cached in the backend and dropped
//! when anything behind it changes; the first use pins the tenant until the transaction ends.
//!
//! What runs once per row or per statement is Rust, in `src/`. What an administrator calls a few times a day (creating tenants,
//! protecting tables) is SQL, in `sql/`, where `\sf` shows it and a reader can check its permissions. The files there are
//! listed below in load order.
//!
//! | module | promises |
//! |---|---|
//! | [`context`] | what the session acts for: settings, resolution, pin, invalidation, parallel workers |
//! | [`identity`] | who the session has proved to be: API keys, signed tokens, bound login roles |
//! | [`audit`] | what was refused, told to the audit log from where a rollback does not reach |
//! | [`secrets`] | tenants' secrets, encrypted under a key that is not in the database |
//! | [`tenants`] | membership and permissions, as decisions read them |
//! | [`usage`] | counters, idempotency keys, spending limits and their alerts; what each tenant's statements cost |
//! | [`isolation`] | statements that tell of other tenants' rows, hold them up, or leave something in a pooled session |
//! | [`approval`] | requests to publish, and the state that rules, people and time put them in |
//! | [`error`] | SQLSTATEs of class TN, and the way an error leaves Rust |
//! | [`id`] | syntax, canonical keys, new ids |
//! | [`inline`], [`worker`] | texts for shared memory; what background workers have in common |
//! | [`spi`], [`utility`] | SQL whose errors keep every field; PostgreSQL's hook for utility statements |
//! | [`compat`] | what differs between PostgreSQL 15 and 18 |

use pgrx::prelude::*;

mod approval;
mod audit;
mod backend;
mod compat;
mod context;
mod error;
mod function;
mod id;
mod identity;
mod inline;
mod isolation;
mod secrets;
mod spi;
mod tenants;
mod usage;
mod utility;
mod worker;

pgrx::pg_module_magic!(name = c"amp_tenancy", version = c"0.1.0");

extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
extension_sql_file!("../sql/context.sql", name = "context", requires = ["bootstrap"]);
extension_sql_file!("../sql/tenants/tables.sql", name = "tenant_tables", requires = ["context"]);
extension_sql_file!("../sql/audit.sql", name = "audit", requires = ["tenant_tables"]);
extension_sql_file!("../sql/identity/tables.sql", name = "identity_tables", requires = ["audit"]);
extension_sql_file!("../sql/identity/authenticate.sql", name = "authenticate", requires = ["identity_tables"]);
extension_sql_file!("../sql/tenants/permissions.sql", name = "permissions", requires = ["authenticate"]);
extension_sql_file!("../sql/secrets.sql", name = "secrets", requires = ["permissions"]);
extension_sql_file!("../sql/tenants/tenants.sql", name = "tenants", requires = ["secrets"]);
extension_sql_file!("../sql/tenants/config.sql", name = "config", requires = ["tenants"]);
extension_sql_file!("../sql/tenants/users.sql", name = "users", requires = ["config"]);
extension_sql_file!("../sql/tenants/accounts.sql", name = "accounts", requires = ["users"]);
extension_sql_file!("../sql/tenants/requests.sql", name = "requests", requires = ["accounts"]);
extension_sql_file!("../sql/tenants/brand.sql", name = "brand", requires = ["requests"]);
extension_sql_file!("../sql/identity/api_keys.sql", name = "api_keys", requires = ["brand"]);
extension_sql_file!("../sql/identity/signing_keys.sql", name = "signing_keys", requires = ["api_keys"]);
extension_sql_file!("../sql/identity/bound_roles.sql", name = "bound_roles", requires = ["signing_keys"]);
extension_sql_file!("../sql/usage/tables.sql", name = "usage_tables", requires = ["bound_roles"]);
extension_sql_file!("../sql/usage/usage.sql", name = "usage", requires = ["usage_tables"]);
extension_sql_file!("../sql/usage/limits.sql", name = "limits", requires = ["usage"]);
extension_sql_file!("../sql/usage/corrections.sql", name = "corrections", requires = ["limits"]);
extension_sql_file!("../sql/usage/compaction.sql", name = "compaction", requires = ["corrections"]);
extension_sql_file!("../sql/usage/statistics.sql", name = "statistics", requires = ["compaction"]);
extension_sql_file!("../sql/usage/review.sql", name = "review", requires = ["statistics"]);
extension_sql_file!("../sql/usage/report.sql", name = "report", requires = ["review"]);
extension_sql_file!("../sql/isolation/tables.sql", name = "isolation_tables", requires = ["report"]);
extension_sql_file!("../sql/isolation/registry.sql", name = "registry", requires = ["isolation_tables"]);
extension_sql_file!("../sql/isolation/policies.sql", name = "policies", requires = ["registry"]);
extension_sql_file!("../sql/isolation/foreign_keys.sql", name = "foreign_keys", requires = ["policies"]);
extension_sql_file!("../sql/isolation/indexes.sql", name = "indexes", requires = ["foreign_keys"]);
extension_sql_file!("../sql/isolation/protect.sql", name = "protect", requires = ["indexes"]);
extension_sql_file!("../sql/isolation/schemas.sql", name = "schemas", requires = ["protect"]);
extension_sql_file!("../sql/isolation/harden.sql", name = "harden", requires = ["schemas"]);
extension_sql_file!("../sql/isolation/own_session.sql", name = "own_session", requires = ["harden"]);
extension_sql_file!("../sql/approval/tables.sql", name = "approval_tables", requires = ["own_session"]);
extension_sql_file!("../sql/isolation/descendants.sql", name = "descendants", requires = ["approval_tables"]);
extension_sql_file!("../sql/isolation/doctor/tables.sql", name = "doctor_tables", requires = ["descendants"]);
extension_sql_file!("../sql/isolation/doctor/functions.sql", name = "doctor_functions", requires = ["doctor_tables"]);
extension_sql_file!("../sql/isolation/doctor/roles.sql", name = "doctor_roles", requires = ["doctor_functions"]);
extension_sql_file!("../sql/isolation/doctor/grants.sql", name = "doctor_grants", requires = ["doctor_roles"]);
extension_sql_file!("../sql/isolation/doctor/views.sql", name = "doctor_views", requires = ["doctor_grants"]);
extension_sql_file!("../sql/isolation/doctor/replication.sql", name = "replication", requires = ["doctor_views"]);
extension_sql_file!("../sql/isolation/doctor/server.sql", name = "doctor_server", requires = ["replication"]);
extension_sql_file!("../sql/isolation/doctor/tenants.sql", name = "doctor_tenants", requires = ["doctor_server"]);
extension_sql_file!("../sql/isolation/doctor/doctor.sql", name = "doctor", requires = ["doctor_tenants"]);
extension_sql_file!("../sql/usage/meter.sql", name = "meter", requires = ["doctor"]);
extension_sql_file!("../sql/approval/requests.sql", name = "approval_requests", requires = ["meter"]);
extension_sql_file!("../sql/approval/gate.sql", name = "approval_gate", requires = ["approval_requests"]);
extension_sql_file!("../sql/tenants/lifecycle.sql", name = "lifecycle", requires = ["approval_gate"]);
extension_sql_file!("../sql/isolation/ddl_guard.sql", name = "ddl_guard", requires = ["lifecycle"]);
extension_sql_file!("../sql/isolation/renames.sql", name = "renames", requires = ["ddl_guard"]);
extension_sql_file!("../sql/grants.sql", name = "grants", finalize);

/// Registers settings, callbacks and hooks; nothing else happens at load.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    backend::init();
    context::init();
    identity::init();
    secrets::init();
    audit::init();
    approval::init();
    usage::init();
    isolation::init();
    utility::init();
    context::settings::reserve_prefix();
}

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn the_library_reserves_its_prefix() {
        let refused = PgTryBuilder::new(|| {
            Spi::run("SET amp.no_such_setting = 1").unwrap();
            false
        })
        .catch_others(|_| true)
        .execute();
        assert!(refused);
    }

    #[pg_test]
    fn a_new_id_has_its_prefix() {
        let id = Spi::get_one::<String>("SELECT amp.new_id('tnt_')").unwrap().unwrap();
        assert!(id.starts_with("tnt_") && id.len() == 20, "{id}");
    }
}

/// What `cargo pgrx test` asks for.
#[cfg(test)]
pub mod pg_test {
    /// Nothing to set up.
    pub fn setup(_options: Vec<&str>) {}

    /// The library is preloaded, as in production.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'amp_tenancy'"]
    }
}
