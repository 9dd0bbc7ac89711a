//! The functions behind a tenant's configuration, declared in sql/tenants/config.sql.

use super::body;
use super::config::{self, Invalid};
use super::membership;
use crate::error::{Code, Error, guarded};
use crate::function::{raw_function, text};
use crate::id::Id;
use crate::secrets;
use pgrx::pg_sys::{Datum, FunctionCallInfo};
use pgrx::{IntoDatum, JsonB, pg_sys};
use serde_json::{Map, Value, json};
use std::ffi::CStr;

raw_function! {
    /// `amp.patched_config(tenant text, config jsonb, patch jsonb) → jsonb`: `{"config", "changed", "sealed", "gone"}`.
    amp_patched_config, pg_finfo_amp_patched_config, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with a text and two jsonb arguments.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(3);
            let (tenant, config, patch) = (arguments[0], arguments[1], arguments[2]);
            guarded(|| {
                let tenant = text(tenant);
                // The statement that brought them may hold secrets.
                let patched = (|| patched(&tenant, &document("config", config)?, &document("config", patch)?))().map_err(Error::without_statement)?;
                Ok(JsonB(patched).into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}

/// A jsonb, as far as it is one that serde reads: PostgreSQL's may be nested without bounds.
///
/// # Safety
/// `argument` is a jsonb that is not null.
pub(super) unsafe fn document(what: &str, argument: pg_sys::NullableDatum) -> Result<Value, Error> {
    // SAFETY: by the contract above.
    unsafe { document_of(what, argument, 4 << 20, usize::MAX) }
}

/// A jsonb of at most `most` bytes as it is stored, which is up to eight times what it is as text, and `most_text` of that: nothing longer is
/// unpacked.
///
/// # Safety
/// As [`document`].
pub(super) unsafe fn document_of(
    what: &str,
    argument: pg_sys::NullableDatum,
    most: usize,
    most_text: usize,
) -> Result<Value, Error> {
    let too_long = || {
        Error::new(Code::InvalidDocument, format!("{what} is not valid"))
            .detail("It is too long.")
            .hint("Nothing was changed.")
    };
    // SAFETY: by the contract above; reads its header.
    if unsafe { pg_sys::toast_raw_datum_size(argument.value) } > most {
        return Err(too_long());
    }
    // SAFETY: by the contract above; PostgreSQL's own output function.
    let text = unsafe { pgrx::direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(argument.value)]) };
    let text = text.unwrap_or_default().to_bytes();
    if text.len() > most_text {
        return Err(too_long());
    }
    serde_json::from_slice(text).map_err(|_| {
        Error::new(Code::InvalidDocument, format!("{what} is not valid"))
            .detail("It is nested too deeply, or a number in it is out of range.")
            .hint("A document has at most 128 levels, and its text is UTF-8.")
    })
}

fn is_in_tenant(tenant: &str, user: &str) -> Result<bool, Error> {
    match (Id::parse(tenant.as_bytes()), Id::parse(user.as_bytes())) {
        (Some(tenant), Some(user)) => membership::is_in_tenant(&tenant, &user),
        _ => Ok(false),
    }
}

fn patched(tenant: &str, config: &Value, patch: &Value) -> Result<Value, Error> {
    let patched = config::patch(config, patch).map_err(refused)?;
    let approval = &patched.config.approval;
    let approvers = approval.approvers.iter().enumerate().map(|(at, user)| (format!("approval.approvers[{at}]"), user));
    let escalation = approval.escalation_to.iter().map(|user| ("approval.escalation_to".to_owned(), user));
    for (path, user) in approvers.chain(escalation) {
        // Who was a member when he was named and has left since does not stand in the way of other changes.
        let key = path.split('[').next().unwrap_or_default();
        if patched.changed.iter().any(|changed| key.starts_with(changed.as_str())) && !is_in_tenant(tenant, &user.0)? {
            return Err(refused(Invalid::new(&path, &json!(user.0), "the id of a member of the tenant")));
        }
    }
    let mut sealed = Map::new();
    if !patched.secrets.is_empty() {
        for secret in secrets::seal(tenant, &patched.secrets)? {
            let stored = json!({"key_id": secret.key_id, "sealed": hex::encode(secret.ciphertext)});
            sealed.insert(secret.path.to_owned(), stored);
        }
    }
    Ok(json!({"config": patched.document, "changed": patched.changed, "sealed": sealed, "gone": patched.gone}))
}

pub(super) fn refused(invalid: Invalid) -> Error {
    let error = Error::new(Code::InvalidDocument, format!("{} is not valid", invalid.path))
        .detail(format!("Given: {}. Allowed: {}.", invalid.given, invalid.allowed));
    match invalid.nearest {
        Some(nearest) => error.hint(format!("Did you mean \"{nearest}\"?")),
        None => error.hint("Nothing was changed."),
    }
}

raw_function! {
    /// `amp.assert_body(body jsonb, keys jsonb) → void`
    amp_assert_body, pg_finfo_amp_assert_body, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with two jsonb arguments.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(2);
            let (given, keys) = (arguments[0], arguments[1]);
            guarded(|| {
                let keys = document("the body", keys)?;
                // The statement may hold secrets.
                let checked = document("the body", given)
                    .and_then(|body| body::check(&body, keys.as_object().unwrap_or(&Map::new())).map_err(refused));
                checked.map_err(Error::without_statement)?;
                Ok(Datum::null())
            })
        }
    }
}

raw_function! {
    /// `amp.providers_of(config jsonb, kind text) → text[]`
    amp_providers_of, pg_finfo_amp_providers_of, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with a jsonb and a text argument.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(2);
            let (config, kind) = (arguments[0], arguments[1]);
            guarded(|| {
                let kind = text(kind);
                let config = config::check(&document("config", config)?).map_err(refused)?;
                let providers = config::providers(&config.provider_routing, &kind).ok_or_else(|| {
                    let shown: String = kind.chars().take(20).collect();
                    Error::new(Code::InvalidValue, format!("invalid kind of provider \"{shown}\"")).hint("Choose llm or image.")
                })?;
                Ok(providers.into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}
