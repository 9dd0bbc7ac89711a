//! API keys: `amp.api_keys` holds of each its id and the SHA-256 of the whole key.
//!
//! A key is 190 random bits, so a fast hash is enough: there is nothing to guess from. It is looked up by its id, which is no
//! secret, and compared in constant time, also when there is no such key.

use super::authenticate::Refusal;
use super::credential::PREFIX;
use super::proof::{By, NEVER, Name, Proof};
use super::{Identity, default_tenant, expiry};
use crate::context::catalog::{self, API_KEYS, REVOKED_API_KEYS};
use crate::error::Error;
use crate::id::{self, Id};
use crate::tenants::membership;
use crate::tenants::permissions::Held;
use pgrx::datum::TimestampWithTimeZone;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A row of `amp.api_keys`.
struct ApiKey {
    hash: Vec<u8>,
    user: Option<Id>,
    tenant: Option<Id>,
    account: Option<Id>,
    operator: bool,
    cap: Option<Held>,
    expires: i64,
    created: i64,
}

impl ApiKey {
    /// True where its user has left since it was made, and has come back: what he had in his pocket opens nothing. Who is not there at all is
    /// refused where he wants to enter.
    fn has_outlived_its_membership(&self) -> Result<bool, Error> {
        Ok(match (&self.user, &self.tenant, &self.account) {
            (Some(user), Some(tenant), _) => membership::was_in_tenant(tenant, user, self.created)? == Some(false),
            (Some(user), None, Some(account)) => {
                membership::in_account_since(account, user)?.is_none_or(|since| self.created < since)
            }
            _ => false,
        })
    }
}

fn find(key: &str) -> Result<Option<ApiKey>, Error> {
    catalog::row(&API_KEYS, &[key], |row| ApiKey {
        hash: row.get(2).unwrap_or_default(),
        user: row.get::<String>(3).and_then(|user| Id::parse(user.as_bytes())),
        tenant: row.get::<String>(4).and_then(|tenant| Id::parse(tenant.as_bytes())),
        account: row.get::<String>(12).and_then(|account| Id::parse(account.as_bytes())),
        operator: row.get(5).unwrap_or(false),
        cap: row.get::<Vec<String>>(6).map(|names| names.into_iter().collect()),
        expires: row.get::<TimestampWithTimeZone>(7).map_or(NEVER, TimestampWithTimeZone::into_inner),
        created: row.get::<TimestampWithTimeZone>(10).map_or(0, TimestampWithTimeZone::into_inner),
    })
}

fn is_revoked(key: &str) -> Result<bool, Error> {
    Ok(catalog::row(&REVOKED_API_KEYS, &[key], |_| ())?.is_some())
}

/// Verifies the key `text`, whose id is `key`.
pub(super) fn verify(key: &str, text: &str) -> Result<Identity, Refusal> {
    let found = find(key)?;
    let expected = found.as_ref().map_or(&[0; 32][..], |found| &found.hash);
    let equal: bool = Sha256::digest(text).ct_eq(expected).into();
    let Some(found) = found.filter(|_| equal) else {
        return Err(Refusal::Invalid("the API key is unknown"));
    };
    if is_revoked(key)? {
        return Err(Refusal::Invalid("the API key is revoked"));
    }
    if found.has_outlived_its_membership()? {
        return Err(Refusal::Invalid("the API key is older than its user's membership"));
    }
    // A row says exactly one of the two: who, or that it is an operator's.
    if found.user.is_none() != found.operator {
        return Err(Refusal::Invalid("the API key belongs to nobody"));
    }
    let mut start = match &found.user {
        None => None,
        // A member of the tenant is a user.
        Some(_) if found.tenant.is_some() => found.tenant,
        Some(user) => default_tenant(user)?.ok_or(Refusal::Invalid("the API key's user is unknown"))?,
    };
    // The user's default tenant need not be one of the account that the key is for.
    if let (Some(account), Some(tenant)) = (found.account, start)
        && membership::account_of(&tenant)? != Some(account)
    {
        start = None;
    }
    if expiry::is_past(found.expires) {
        return Err(Refusal::Expired);
    }
    let credential = Name::parse(key).ok_or(Refusal::Invalid("the API key is unknown"))?;
    let ApiKey { user, tenant, account, expires, .. } = found;
    Ok(Identity {
        proof: Proof { by: By::ApiKey, credential, token: None, user, tenant, account, start, expires },
        cap: found.cap,
    })
}

/// The cap of an accepted key that still counts. Errors: TN007.
pub(super) fn confirm(proof: &Proof) -> Result<Option<Held>, Error> {
    let key = proof.credential.as_str();
    match find(key)? {
        Some(found)
            if !is_revoked(key)?
                && (found.user, found.tenant, found.account, found.expires)
                    == (proof.user, proof.tenant, proof.account, proof.expires)
                && !found.has_outlived_its_membership()? =>
        {
            Ok(found.cap)
        }
        _ => Err(super::revoked()),
    }
}

/// A new key: its id, the key itself, and what is stored of it.
pub(super) fn generate() -> (String, String, [u8; 32]) {
    let key = id::generate(&id::generate(&id::generate(PREFIX)));
    let id = format!("key_{}", &key[PREFIX.len()..PREFIX.len() + 16]);
    let hash = Sha256::digest(&key).into();
    (id, key, hash)
}

#[cfg(test)]
mod tests {
    use super::super::credential::{Credential, parse};
    use super::*;

    #[test]
    fn a_new_key_is_a_credential() {
        let (id, key, hash) = generate();
        assert_eq!(parse(&key), Ok(Credential::ApiKey(id)));
        assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(&key)));
        assert_ne!(generate().1, key);
    }
}
