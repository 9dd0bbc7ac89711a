//! Which permissions a role holds.
//!
//! `admin`, `operator` and `viewer` hold what the permission's registration says; a role that a tenant defines holds what it
//! lists; a service that names no user acts as the tenant itself and holds every data permission, but none that manages the
//! tenant (users, integrations, billing): those need a person.

use crate::backend::Local;
use crate::context::catalog::{self, PERMISSIONS, ROLES};
use crate::context::resolve;
use crate::error::Error;
use std::cell::RefCell;
use std::rc::Rc;

/// The roles that every tenant has.
const BUILT_IN: [&str; 3] = ["admin", "operator", "viewer"];

/// The registered permissions, as of an epoch: every verdict needs them, and they change a few times a year.
static REGISTERED: Local<RefCell<Option<Registered>>> = Local::new(RefCell::new(None));

type Registered = (u64, Rc<[Permission]>);

/// One registered permission.
struct Permission {
    name: String,
    management: bool,
    roles: Vec<String>,
}

/// The names of the permissions that somebody holds, sorted.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Held(Vec<String>);

impl Held {
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        self.0.binary_search_by(|held| held.as_bytes().cmp(name)).is_ok()
    }

    /// What is in either.
    pub(crate) fn with(self, other: Held) -> Held {
        if self.0.is_empty() {
            return other;
        }
        let mut names: Vec<String> = self.0.into_iter().chain(other.0).collect();
        names.sort_unstable();
        names.dedup();
        Held(names)
    }

    /// What is in both.
    pub(crate) fn within(&self, cap: &Held) -> Held {
        Held(self.0.iter().filter(|name| cap.contains(name.as_bytes())).cloned().collect())
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }
}

impl FromIterator<String> for Held {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Held {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort_unstable();
        Held(names)
    }
}

/// What `role` holds in `tenant`; nothing for a role that does not exist.
pub(crate) fn of_role(tenant: &str, role: &str) -> Result<Held, Error> {
    if BUILT_IN.contains(&role) {
        return Ok(of_built_in(role, &registered()?));
    }
    let listed = catalog::row(&ROLES, &[tenant, role], |row| row.get::<Vec<String>>(3).unwrap_or_default())?;
    Ok(listed.unwrap_or_default().into_iter().collect())
}

/// What a service holds that acts as the tenant itself.
pub(crate) fn of_service() -> Result<Held, Error> {
    Ok(of_data(&registered()?))
}

/// True if somebody registered the permission.
pub(crate) fn is_registered(name: &str) -> Result<bool, Error> {
    Ok(catalog::row(&PERMISSIONS, &[name], |_| ())?.is_some())
}

fn registered() -> Result<Rc<[Permission]>, Error> {
    let epoch = resolve::epoch();
    if let Some((known, registered)) = REGISTERED.borrow().as_ref()
        && *known == epoch
    {
        return Ok(Rc::clone(registered));
    }
    let registered: Rc<[Permission]> = catalog::rows(&PERMISSIONS, &[], |row| Permission {
        name: row.get(1).unwrap_or_default(),
        management: row.get(2).unwrap_or(true),
        roles: row.get(3).unwrap_or_default(),
    })?
    .into();
    *REGISTERED.borrow_mut() = Some((epoch, Rc::clone(&registered)));
    Ok(registered)
}

fn of_built_in(role: &str, registered: &[Permission]) -> Held {
    let holds = |permission: &&Permission| permission.roles.iter().any(|holder| holder == role);
    registered.iter().filter(holds).map(|permission| permission.name.clone()).collect()
}

fn of_data(registered: &[Permission]) -> Held {
    registered.iter().filter(|permission| !permission.management).map(|permission| permission.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered() -> Vec<Permission> {
        let permission = |name: &str, management, roles: &[&str]| Permission {
            name: name.into(),
            management,
            roles: roles.iter().map(|role| role.to_string()).collect(),
        };
        vec![
            permission("users.manage", true, &["admin"]),
            permission("content.view", false, &["admin", "operator", "viewer"]),
            permission("missions.create", false, &["admin", "operator"]),
        ]
    }

    #[test]
    fn a_built_in_role_holds_what_the_registration_says() {
        assert_eq!(of_built_in("viewer", &registered()).names(), ["content.view"]);
        assert_eq!(of_built_in("admin", &registered()).names().len(), 3);
        assert!(of_built_in("nobody", &registered()).names().is_empty());
    }

    #[test]
    fn a_service_without_a_user_manages_nothing() {
        let held = of_data(&registered());
        assert!(held.contains(b"missions.create") && held.contains(b"content.view"));
        assert!(!held.contains(b"users.manage") && !held.contains(b"content"));
    }
}
