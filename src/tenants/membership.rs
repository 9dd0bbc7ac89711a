//! What a tenant and a user amount to: a verdict, read from the tables, never from the client.

use super::permissions::{self, Held};
use crate::context::catalog::{self, MEMBERS, TENANTS, USERS};
use crate::error::{Code, Error};
use crate::id::Id;

/// Who acts in a tenant, and what he may do there.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// None when a service acts as the tenant itself.
    pub(crate) role: Option<String>,
    pub(crate) held: Held,
}

/// Decides whether `user` (or a service as the tenant itself) may act in `tenant`.
/// Errors: TN002 the tenant is unknown or not active, TN003 the user is no member of it.
pub(crate) fn in_tenant(tenant: &Id, user: Option<&Id>) -> Result<Verdict, Error> {
    // Membership first: who is no member learns nothing of the tenant, not even that it is there.
    let role = match user {
        None => None,
        Some(user) => {
            match catalog::row(&MEMBERS, &[tenant.as_str(), user.as_str()], |row| row.get::<String>(3))?.flatten() {
                Some(role) => Some(role),
                None => return Err(not_a_member(tenant, user)),
            }
        }
    };
    let status = catalog::row(&TENANTS, &[tenant.as_str()], |row| row.get::<String>(2))?.flatten();
    if status.as_deref() != Some("active") {
        // The same words for a tenant that never was and one that is suspended: a message confirms nothing.
        return Err(Error::new(
            Code::TenantInactive,
            format!("tenant \"{}\" is unknown or not active", tenant.as_str()),
        )
        .hint("Check the id, or ask an operator: only an active tenant can be entered."));
    }
    let held = match &role {
        None => permissions::of_service()?,
        Some(role) => permissions::of_role(tenant.as_str(), role)?,
    };
    Ok(Verdict { role, held })
}

fn not_a_member(tenant: &Id, user: &Id) -> Error {
    Error::new(
        Code::NotAMember,
        format!("user \"{}\" is not a member of tenant \"{}\"", user.as_str(), tenant.as_str()),
    )
    .hint("Invite him with amp.invite_user(). To change both tenant and user, RESET amp.user_id first.")
}

/// Checks that a user exists. Errors: TN003.
pub(crate) fn check_user(user: &Id) -> Result<(), Error> {
    match catalog::row(&USERS, &[user.as_str()], |_| ())? {
        Some(()) => Ok(()),
        None => Err(Error::new(Code::NotAMember, format!("user \"{}\" is unknown", user.as_str()))
            .hint("Users come into being by amp.invite_user(); it returns their id.")),
    }
}
