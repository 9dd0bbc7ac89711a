//! Tenants, their members and their roles, as decisions read them. The verbs that change them are in sql/tenants/.

mod config;
mod functions;
pub(crate) mod membership;
pub(crate) mod permissions;
