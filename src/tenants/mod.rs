//! Tenants, their members and their roles, as decisions read them. The verbs that change them are in sql/tenants/.

mod body;
mod brand;
mod brand_functions;
pub(crate) mod config;
mod functions;
pub(crate) mod membership;
pub(crate) mod permissions;
mod purge;
mod stored_jsonb;
