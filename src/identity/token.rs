//! Signed tokens: a JWT of one of `amp.signing_keys`, for a user and perhaps a tenant.

use super::authenticate::Refusal;
use super::claims::{self, Claims, Refused};
use super::credential::Token;
use super::proof::{By, Name, Proof};
use super::{Identity, default_tenant, once, signing_key};
use crate::id::Id;
use jsonwebtoken::{DecodingKey, Validation, decode};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use std::time::{SystemTime, UNIX_EPOCH};

/// How far an issuer's clock may differ from ours, in seconds.
static LEEWAY: GucSetting<i32> = GucSetting::<i32>::new(10);

/// The most that a superuser can allow.
const MAX_LEEWAY: i32 = 300;

pub(super) fn init() {
    GucRegistry::define_int_guc(
        c"amp.token_leeway",
        c"How far the clock of who signs tokens may differ from the server's.",
        c"Counts for a token's exp, nbf and iat.",
        &LEEWAY,
        0,
        MAX_LEEWAY,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
}

/// Verifies a token.
pub(super) fn verify(token: &Token) -> Result<Identity, Refusal> {
    let Some(kid) = Name::parse(&token.kid) else {
        return Err(Refusal::Invalid("the token's kid is no name of a signing key"));
    };
    let Some(key) = signing_key::find(&token.kid)? else {
        return Err(Refusal::Invalid("the token's signing key (kid) is unknown or retired"));
    };
    if key.algorithm != token.algorithm {
        return Err(Refusal::Invalid("the token's algorithm is not its signing key's"));
    }
    let claims = signed_claims(token, &key.key)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let leeway = f64::from(LEEWAY.get());
    let user = Id::parse(claims.sub.as_bytes()).ok_or(Refusal::Invalid("the token's sub is no user's id"))?;
    let tenant = match &claims.tid {
        None => None,
        Some(tid) => Some(Id::parse(tid.as_bytes()).ok_or(Refusal::Invalid("the token's tid is no tenant's id"))?),
    };
    let jti = match &claims.jti {
        None => None,
        Some(jti) => {
            Some(Name::parse(jti).ok_or(Refusal::Invalid("the token's jti is not 1 to 255 printable characters"))?)
        }
    };
    let start = match tenant {
        Some(_) => tenant, // a member of it is a user
        None => default_tenant(&user)?.ok_or(Refusal::Invalid("the token's user (sub) is unknown"))?,
    };
    match claims::check(&claims, &key.rules, now, leeway) {
        Ok(()) => {}
        Err(Refused::Expired) => return Err(Refusal::Expired),
        Err(Refused::Invalid(why)) => return Err(Refusal::Invalid(why)),
    }
    let expires = microseconds(claims.exp + leeway);
    if key.rules.single_use
        && let (Some(jti), Some(iat)) = (&jti, claims.iat)
    {
        // Remembered as long as any session could still accept it, whatever its leeway.
        once::consume(&kid, jti, microseconds(iat - leeway), microseconds(claims.exp + f64::from(MAX_LEEWAY)))?;
    }
    let (by, user, account) = (By::Token, Some(user), None);
    let proof = Proof { by, credential: kid, token: jti, user, tenant, account, start, expires };
    Ok(Identity { proof, cap: None })
}

/// The claims, if the key signed them. What they say is decided by `claims::check`, which looks at the time last.
fn signed_claims(token: &Token, key: &DecodingKey) -> Result<Claims, Refusal> {
    let mut validation = Validation::new(token.algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    match decode::<Claims>(token.text, key, &validation) {
        Ok(data) => Ok(data.claims),
        Err(error) => Err(Refusal::Invalid(match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => "the token's signature is not its signing key's",
            _ => "the token's claims are malformed",
        })),
    }
}

/// PostgreSQL's time for one in seconds since 1970, within the years that `claims::check` accepts.
fn microseconds(time: f64) -> i64 {
    let epochs = (pg_sys::POSTGRES_EPOCH_JDATE - pg_sys::UNIX_EPOCH_JDATE) as f64 * 86_400.0;
    ((time - epochs) * 1e6) as i64
}
