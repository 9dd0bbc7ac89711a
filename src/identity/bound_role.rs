//! Login roles that are bound to a user: PostgreSQL has authenticated who logs in.
//!
//! A binding names the role twice, by object id and by name, and counts only while both are the same role's: a role that was
//! dropped and made anew, or restored into another cluster under another's number, is bound to nobody.

use super::proof::{By, NEVER, Name, Proof};
use super::{Identity, default_tenant};
use crate::context::catalog::{self, BOUND_ROLES};
use crate::context::session;
use crate::error::Error;
use crate::id::Id;
use pgrx::pg_sys;

/// The identity of a login role, if it is bound to a user.
pub(super) fn identity(login_role: pg_sys::Oid) -> Result<Option<Identity>, Error> {
    let bound = catalog::row(&BOUND_ROLES, &[&session::login_name()], |row| {
        (row.get::<pg_sys::Oid>(2), row.get::<String>(3).and_then(|user| Id::parse(user.as_bytes())))
    })?;
    let Some((Some(role), Some(user))) = bound else {
        return Ok(None);
    };
    if role != login_role {
        return Ok(None);
    }
    let (Some(default), Some(credential)) = (default_tenant(&user)?, Name::parse("-")) else {
        return Ok(None);
    };
    let proof = Proof {
        by: By::LoginRole,
        credential,
        token: None,
        user: Some(user),
        tenant: None,
        account: None,
        start: default,
        expires: NEVER,
    };
    Ok(Some(Identity { proof, cap: None }))
}
