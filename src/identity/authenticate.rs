//! `amp.authenticate(credential)`, and the functions behind API keys and signing keys.
//!
//! Whatever is wrong with a credential, the client hears the same words after the same time: [`ANSWER_AFTER`] from the start of
//! the call, which is longer than any way to the answer. The server's log and the audit log have the reason. Only a credential that
//! is right in everything but its time is told so.

use super::credential::{self, Credential};
use super::proof::{self, NEVER, Proof};
use super::{Identity, api_key, expiry, signing_key, token};
use crate::audit;
use crate::context::{resolve, session};
use crate::error::{Code, Error, guarded};
use crate::function::{raw_function, return_text};
use crate::id::Id;
use pgrx::pg_sys::{Datum, FunctionCallInfo};
use pgrx::{FromDatum, IntoDatum, JsonB, pg_sys};
use std::time::Duration;

/// When a refusal is answered, in microseconds from the start of the call.
const ANSWER_AFTER: i64 = 20_000;

/// Why a credential is not accepted.
pub(super) enum Refusal {
    /// The reason is for the server's log only.
    Invalid(&'static str),
    /// Everything is right but the time.
    Expired,
    /// It could not be looked at.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Failed(error)
    }
}

raw_function! {
    /// `amp.authenticate(credential text) → jsonb`
    amp_authenticate, pg_finfo_amp_authenticate, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe {
            let argument = (*fcinfo).args.as_slice(1)[0];
            guarded(|| {
                // Not as a text: in a database without an encoding it may be any bytes, and nobody unpacks a gigabyte to refuse it.
                let too_long = !argument.isnull && pg_sys::toast_raw_datum_size(argument.value) > 2 * credential::MAX_LEN;
                let bytes = <&[u8]>::from_datum(argument.value, argument.isnull || too_long).unwrap_or_default();
                let document = authenticate(std::str::from_utf8(bytes).unwrap_or_default()).map_err(Error::without_statement)?;
                Ok(JsonB(document).into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}

fn authenticate(credential: &str) -> Result<serde_json::Value, Error> {
    let started = expiry::now();
    check_session()?;
    // What other sessions have committed counts here, too: a key that was just revoked.
    resolve::listen();
    let epoch = resolve::epoch();
    resolve::watch()?;
    let identity = match verify(credential) {
        Ok(identity) => identity,
        Err(Refusal::Failed(error)) => return Err(error),
        Err(refusal) => {
            let error = refused(&refusal);
            audit::refused(&error, None, None);
            wait_until(started + ANSWER_AFTER);
            return Err(error);
        }
    };
    let proof = identity.proof;
    if let (Some(user), Some(tenant)) = (proof.user, proof.tenant) {
        resolve::check_entry(tenant, user)?;
    }
    proof::publish(&proof);
    super::keep(epoch, identity);
    if proof.by == proof::By::ApiKey {
        audit::used(&proof);
    }
    Ok(describe(&proof))
}

/// Whether a credential can change anything in this session. Errors: TN003, TN006, TN009.
fn check_session() -> Result<(), Error> {
    resolve::check_bypass()?;
    let session = session::current();
    // SAFETY: reads a variable of the backend.
    if unsafe { pg_sys::InSecurityRestrictedOperation() } {
        return Err(Error::new(
            Code::ContextPinned,
            "amp.authenticate() cannot be called by code that the server runs on the side",
        )
        .hint("Call it in a statement of your own."));
    }
    if session.operator && !session.service {
        return Err(Error::new(
            Code::NotAMember,
            format!("login role \"{}\" is an operator already", session::login_name()),
        )
        .detail("An operator runs the platform and has no view of tenants' rows.")
        .hint("Connect as another role to act as a user."));
    }
    resolve::check_unlocked()
}

fn verify(text: &str) -> Result<Identity, Refusal> {
    match credential::parse(text).map_err(Refusal::Invalid)? {
        Credential::ApiKey(key) => api_key::verify(&key, text),
        Credential::Token(token) => token::verify(&token),
    }
}

fn refused(refusal: &Refusal) -> Error {
    match refusal {
        Refusal::Expired => super::expired(),
        Refusal::Invalid(why) => Error::new(Code::NotAMember, "the credential was not accepted").log_detail(*why),
        Refusal::Failed(error) => error.clone(),
    }
    .hint(
        "Pass an API key (amp_sk_...) or a signed token that is valid now. The server's log says why one was refused.",
    )
}

/// Waits, not to be cancelled: a cancelled statement is logged, and the credential with it.
fn wait_until(time: i64) {
    let left = time - expiry::now();
    std::thread::sleep(Duration::from_micros(left.clamp(0, ANSWER_AFTER) as u64));
}

fn describe(proof: &Proof) -> serde_json::Value {
    let text = |id: &Option<Id>| id.as_ref().map(|id| id.as_str().to_owned());
    serde_json::json!({
        "user_id": text(&proof.user),
        "tenant_id": text(&proof.start),
        "operator": proof.user.is_none(),
        "expires_at": iso(proof.expires),
    })
}

/// ISO 8601 in UTC, whole seconds; None for what never comes.
pub(crate) fn iso(time: i64) -> Option<String> {
    if time == NEVER {
        return None;
    }
    let (mut parts, mut fraction) = (pg_sys::pg_tm::default(), 0);
    // SAFETY: PostgreSQL's own calendar, which fills what it is given; without a time zone, in UTC.
    let known = unsafe {
        pg_sys::timestamp2tm(
            time,
            std::ptr::null_mut(),
            &mut parts,
            &mut fraction,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    let pg_sys::pg_tm { tm_year, tm_mon, tm_mday, tm_hour, tm_min, tm_sec, .. } = parts;
    (known == 0).then(|| format!("{tm_year:04}-{tm_mon:02}-{tm_mday:02}T{tm_hour:02}:{tm_min:02}:{tm_sec:02}Z"))
}

raw_function! {
    /// `amp.new_api_key() → text[]`: id, key, and the hash of it in hexadecimal.
    amp_new_api_key, pg_finfo_amp_new_api_key, |_fcinfo| {
        // SAFETY: this frame owns nothing.
        unsafe {
            guarded(|| {
                let (id, key, hash) = api_key::generate();
                let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                Ok(vec![id, key, hash].into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}

raw_function! {
    /// `amp.check_signing_key(algorithm text, key text) → void`
    amp_check_signing_key, pg_finfo_amp_check_signing_key, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with two text arguments.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(2);
            let (algorithm, key) = (arguments[0], arguments[1]);
            guarded(|| {
                let text = |argument: pg_sys::NullableDatum| String::from_datum(argument.value, false).unwrap_or_default();
                signing_key::check(&text(algorithm), &text(key)).map(|()| Datum::null())
            })
        }
    }
}

raw_function! {
    /// `amp.actor() → jsonb`: who acts, as far as known without asking whether he may. Never an error.
    amp_actor, pg_finfo_amp_actor, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe {
            return_text(fcinfo, || {
                let actor = audit::Actor::of_session();
                Ok(Some(
                    serde_json::json!({"user_id": actor.user, "key_id": actor.key, "token_id": actor.token}).to_string(),
                ))
            })
        }
    }
}
