//! What a tenant and a user amount to: a verdict, read from the tables, never from the client.

use super::permissions::{self, Held};
use crate::context::catalog::{self, ACCOUNT_MEMBERS, MEMBERS, Row, TENANTS, USERS};
use crate::error::{Code, Error};
use crate::id::Id;
use pgrx::datum::TimestampWithTimeZone;

/// Who acts in a tenant, and what he may do there.
pub(crate) struct Verdict {
    /// None when a service acts as the tenant itself.
    pub(crate) role: Option<String>,
    pub(crate) held: Held,
    /// The account that owns the tenant.
    pub(crate) account: Option<Id>,
}

/// Decides whether `user` (or a service as the tenant itself) may act in `tenant`: as its member, as a member of the account that owns
/// it, or both.
/// Errors: TN002 the tenant is unknown or not active, TN003 the user is no member of it.
pub(crate) fn in_tenant(tenant: &Id, user: Option<&Id>) -> Result<Verdict, Error> {
    let (status, account) =
        catalog::row(&TENANTS, &[tenant.as_str()], |row| (row.get::<String>(2), owner(row)))?.unwrap_or_default();
    let (role, held) = match user {
        None => (None, None),
        Some(user) => {
            // Membership first: who is no member learns nothing of the tenant, not even that it is there.
            let (role, held) = as_member(tenant, account.as_ref(), user)?.ok_or_else(|| not_a_member(tenant, user))?;
            (Some(role), Some(held))
        }
    };
    if status.as_deref() != Some("active") {
        // The same words for a tenant that never was and one that is suspended: a message confirms nothing.
        return Err(Error::new(
            Code::TenantInactive,
            format!("tenant \"{}\" is unknown or not active", tenant.as_str()),
        )
        .hint("Check the id, or ask an operator: only an active tenant can be entered."));
    }
    let held = match held {
        Some(held) => held,
        None => permissions::of_service()?,
    };
    Ok(Verdict { role, held, account })
}

/// The account that owns a tenant.
pub(crate) fn account_of(tenant: &Id) -> Result<Option<Id>, Error> {
    Ok(catalog::row(&TENANTS, &[tenant.as_str()], owner)?.flatten())
}

fn owner(tenant: &Row) -> Option<Id> {
    tenant.get::<String>(7).and_then(|account| Id::parse(account.as_bytes()))
}

/// The role of a user in an account.
pub(crate) fn in_account(account: &Id, user: &Id) -> Result<Option<String>, Error> {
    let role = catalog::row(&ACCOUNT_MEMBERS, &[account.as_str(), user.as_str()], |row| row.get::<String>(3))?;
    Ok(role.flatten())
}

/// The role that a user goes by in a tenant, which belongs to that account, and what he holds there. None if he is not in it.
fn as_member(tenant: &Id, account: Option<&Id>, user: &Id) -> Result<Option<(String, Held)>, Error> {
    let own = catalog::row(&MEMBERS, &[tenant.as_str(), user.as_str()], |row| row.get::<String>(3))?.flatten();
    let by_account = match account {
        Some(account) => in_account(account, user)?,
        None => None,
    };
    let mut held = Held::default();
    for role in own.iter().chain(&by_account) {
        held = held.with(permissions::of_role(tenant.as_str(), role)?);
    }
    Ok(leading(own, by_account).map(|role| (role, held)))
}

/// True if the user is in the tenant, active or not, as its member or through its account.
pub(crate) fn is_in_tenant(tenant: &Id, user: &Id) -> Result<bool, Error> {
    Ok(was_in_tenant(tenant, user, i64::MAX)?.is_some())
}

/// Whether somebody who is in a tenant, as its member or through its account, was so at a time, in PostgreSQL's microseconds, and has
/// not left since. None if he is not in it.
pub(crate) fn was_in_tenant(tenant: &Id, user: &Id, at: i64) -> Result<Option<bool>, Error> {
    let own = catalog::row(&MEMBERS, &[tenant.as_str(), user.as_str()], joined)?.flatten();
    if own.is_some_and(|since| since <= at) {
        return Ok(Some(true)); // most are: no need to look further
    }
    let by_account = match account_of(tenant)? {
        Some(account) => in_account_since(&account, user)?,
        None => None,
    };
    Ok(own.into_iter().chain(by_account).min().map(|since| since <= at))
}

/// Since when somebody has been in an account.
pub(crate) fn in_account_since(account: &Id, user: &Id) -> Result<Option<i64>, Error> {
    Ok(catalog::row(&ACCOUNT_MEMBERS, &[account.as_str(), user.as_str()], joined)?.flatten())
}

fn joined(member: &Row) -> Option<i64> {
    member.get::<TimestampWithTimeZone>(4).map(TimestampWithTimeZone::into_inner)
}

/// True if the user is in the tenant, active or not, with a role that holds the permission.
pub(crate) fn holds(tenant: &Id, user: &Id, permission: &str) -> Result<bool, Error> {
    let member = as_member(tenant, account_of(tenant)?.as_ref(), user)?;
    Ok(member.is_some_and(|(_, held)| held.contains(permission.as_bytes())))
}

/// The role that somebody goes by: his own in the tenant, unless the one that he has through its account is higher. What he may do is
/// what either of them holds. SQL's amp.leading_role() says the same.
fn leading(own: Option<String>, by_account: Option<String>) -> Option<String> {
    match (own.as_deref(), by_account.as_deref()) {
        (None, _) | (_, Some("admin")) | (Some("viewer"), Some("operator")) => by_account,
        _ => own,
    }
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

#[cfg(test)]
mod tests {
    use super::leading;

    #[test]
    fn the_higher_role_leads() {
        for (own, by_account, leads) in [
            (None, None, None),
            (Some("editor"), None, Some("editor")),
            (None, Some("viewer"), Some("viewer")),
            (Some("viewer"), Some("admin"), Some("admin")),
            (Some("editor"), Some("admin"), Some("admin")),
            (Some("viewer"), Some("operator"), Some("operator")),
            (Some("editor"), Some("operator"), Some("editor")),
            (Some("admin"), Some("viewer"), Some("admin")),
        ] {
            assert_eq!(leading(own.map(str::to_owned), by_account.map(str::to_owned)).as_deref(), leads);
        }
    }
}
