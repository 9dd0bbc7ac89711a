//! The functions behind a tenant's configuration, declared in sql/tenants/config.sql.

use super::config::{self, Invalid};
use crate::context::catalog::{self, MEMBERS};
use crate::error::{Code, Error, guarded};
use crate::function::raw_function;
use pgrx::pg_sys::{Datum, FunctionCallInfo};
use pgrx::{FromDatum, IntoDatum, JsonB, pg_sys};
use serde_json::{Value, json};
use std::ffi::CStr;

raw_function! {
    /// `amp.patched_config(tenant text, config jsonb, patch jsonb) → jsonb`: `{"config", "changed"}`.
    amp_patched_config, pg_finfo_amp_patched_config, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with a text and two jsonb arguments.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(3);
            let (tenant, config, patch) = (arguments[0], arguments[1], arguments[2]);
            guarded(|| {
                let tenant = String::from_datum(tenant.value, false).unwrap_or_default();
                let patched = patched(&tenant, &document(config)?, &document(patch)?)?;
                Ok(JsonB(patched).into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}

/// A jsonb, as far as it is one that serde reads: PostgreSQL's may be nested without bounds.
///
/// # Safety
/// `argument` is a jsonb that is not null.
unsafe fn document(argument: pg_sys::NullableDatum) -> Result<Value, Error> {
    // SAFETY: by the contract above; PostgreSQL's own output function.
    let text = unsafe { pgrx::direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(argument.value)]) };
    serde_json::from_slice(text.unwrap_or_default().to_bytes()).map_err(|_| {
        Error::new(Code::InvalidDocument, "config is not valid")
            .detail("It is nested too deeply, or a number in it is out of range.")
            .hint("A document has at most 128 levels, and its text is UTF-8.")
    })
}

fn patched(tenant: &str, config: &Value, patch: &Value) -> Result<Value, Error> {
    let patched = config::patch(config, patch).map_err(refused)?;
    if let Some((path, _)) = patched.secrets.first() {
        return Err(Error::new(
            Code::NotInstalled,
            format!("config.{path} is a secret, and secrets cannot be stored yet"),
        )
        .detail("This version has no key to encrypt it with.")
        .hint("Leave it out."));
    }
    let approval = &patched.config.approval;
    let approvers = approval.approvers.iter().enumerate().map(|(at, user)| (format!("approval.approvers[{at}]"), user));
    let escalation = approval.escalation_to.iter().map(|user| ("approval.escalation_to".to_owned(), user));
    for (path, user) in approvers.chain(escalation) {
        // Who was a member when he was named and has left since does not stand in the way of other changes.
        let key = path.split('[').next().unwrap_or_default();
        if patched.changed.iter().any(|changed| key.starts_with(changed.as_str()))
            && catalog::row(&MEMBERS, &[tenant, &user.0], |_| ())?.is_none()
        {
            return Err(refused(Invalid::new(&path, &json!(user.0), "the id of a member of the tenant")));
        }
    }
    Ok(json!({"config": patched.document, "changed": patched.changed}))
}

fn refused(invalid: Invalid) -> Error {
    let error = Error::new(Code::InvalidDocument, format!("{} is not valid", invalid.path))
        .detail(format!("Given: {}. Allowed: {}.", invalid.given, invalid.allowed));
    match invalid.nearest {
        Some(nearest) => error.hint(format!("Did you mean \"{nearest}\"?")),
        None => error.hint("Nothing was changed."),
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
                let kind = String::from_datum(kind.value, false).unwrap_or_default();
                let patched = config::patch(&json!({}), &document(config)?).map_err(refused)?;
                let providers = config::providers(&patched.config.provider_routing, &kind).ok_or_else(|| {
                    let shown: String = kind.chars().take(20).collect();
                    Error::new(Code::InvalidValue, format!("invalid kind of provider \"{shown}\"")).hint("Choose llm or image.")
                })?;
                Ok(providers.into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}
