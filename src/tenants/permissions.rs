//! Which permissions a role holds.
//!
//! `admin`, `operator` and `viewer` hold what the permission's registration says; a role that a tenant defines holds what it
//! lists; a service that names no user acts as the tenant itself and holds every data permission, but none that manages the
//! tenant (users, integrations, billing): those need a person.

use crate::context::catalog::{self, PERMISSIONS, ROLES};
use crate::error::Error;

/// The roles that every tenant has.
const BUILT_IN: [&str; 3] = ["admin", "operator", "viewer"];

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
        return Ok(of_built_in(role, registered()?));
    }
    let listed = catalog::row(&ROLES, &[tenant, role], |row| row.get::<Vec<String>>(3).unwrap_or_default())?;
    Ok(listed.unwrap_or_default().into_iter().collect())
}

/// What a service holds that acts as the tenant itself.
pub(crate) fn of_service() -> Result<Held, Error> {
    Ok(of_data(registered()?))
}

/// True if somebody registered the permission.
pub(crate) fn is_registered(name: &str) -> Result<bool, Error> {
    Ok(catalog::row(&PERMISSIONS, &[name], |_| ())?.is_some())
}

fn registered() -> Result<Vec<Permission>, Error> {
    catalog::rows(&PERMISSIONS, &[], |row| Permission {
        name: row.get(1).unwrap_or_default(),
        management: row.get(2).unwrap_or(true),
        roles: row.get(3).unwrap_or_default(),
    })
}

fn of_built_in(role: &str, registered: Vec<Permission>) -> Held {
    registered.into_iter().filter(|p| p.roles.iter().any(|holder| holder == role)).map(|p| p.name).collect()
}

fn of_data(registered: Vec<Permission>) -> Held {
    registered.into_iter().filter(|p| !p.management).map(|p| p.name).collect()
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
        assert_eq!(of_built_in("viewer", registered()).names(), ["content.view"]);
        assert_eq!(of_built_in("admin", registered()).names().len(), 3);
        assert!(of_built_in("nobody", registered()).names().is_empty());
    }

    #[test]
    fn a_service_without_a_user_manages_nothing() {
        let held = of_data(registered());
        assert!(held.contains(b"missions.create") && held.contains(b"content.view"));
        assert!(!held.contains(b"users.manage") && !held.contains(b"content"));
    }
}
