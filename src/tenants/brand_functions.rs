//! The functions behind a tenant's brand context, declared in sql/tenants/brand.sql.
//!
//! What is shared with a tenant is read at one moment that is newer than the statement's snapshot, so that a share that was revoked,
//! or whose source was suspended or moved to another account, is out of force at the next statement of a REPEATABLE READ transaction,
//! too. Of a source nothing is read but the elements that it shares, which have a table of their own: how long its document is shows
//! in no time.

use super::brand::{self, Share, Wrong};
use super::functions::{document_of, refused};
use super::stored_jsonb::{self, Part};
use crate::context::catalog::{self, BRAND_ELEMENTS, BRAND_SHARES, ENDED_BRAND_SHARES, Moment, Row, TENANTS};
use crate::error::{Code, Error, guarded};
use crate::function::{raw_function, return_text, text};
use crate::identity::{expiry, iso};
use pgrx::pg_sys::{Datum, FunctionCallInfo, NullableDatum};
use pgrx::{FromDatum, IntoDatum, JsonB, direct_function_call, pg_sys, varlena};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::ffi::CString;

/// The longest document, and the most that may be shared with a tenant in all, in bytes as they are stored. What is unpacked takes up to thirty
/// times as much, and how many share with a tenant has no bound.
const MAX_STORED: usize = 16 << 20;

/// The longest patch, in bytes of its text: it may name everything that there is, and bring as much.
const MAX_PATCH: usize = 2 * brand::MAX_LEN;

/// The longest list of elements that is looked at, in bytes.
const MAX_REQUEST: usize = 1 << 20;

/// # Safety
/// `jsonb` is a jsonb that is not null.
unsafe fn document(jsonb: NullableDatum) -> Result<Value, Error> {
    // SAFETY: by the contract above.
    unsafe { document_of("brand context", jsonb, MAX_STORED, usize::MAX) }
}

raw_function! {
    /// `amp.patched_brand(context jsonb, patch jsonb) → jsonb`: `{"context", "changed"}`.
    amp_patched_brand, pg_finfo_amp_patched_brand, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with two jsonb arguments.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(2);
            let (context, patch) = (arguments[0], arguments[1]);
            guarded(|| {
                let change = document_of("brand context", patch, MAX_STORED, MAX_PATCH)?;
                let kept = CString::new(change.to_string()).unwrap_or_default();
                let kept = direct_function_call::<Datum>(pg_sys::jsonb_in, &[Some(Datum::from(kept.as_ptr()))]);
                let exact = direct_function_call::<bool>(pg_sys::jsonb_eq, &[kept, Some(patch.value)]);
                if exact != Some(true) {
                    return Err(Error::new(Code::InvalidDocument, "brand context is not valid")
                        .detail("A number in it has more digits than can be kept.")
                        .hint("Write it as a text."));
                }
                let (context, changed) = brand::patch(&document(context)?, &change).map_err(refused)?;
                Ok(jsonb(json!({"context": context, "changed": changed})).unwrap_or(Datum::null()))
            })
        }
    }
}

raw_function! {
    /// `amp.merged_brand(tenant text, document jsonb) → jsonb`: the tenant's document, with what is shared with it. Where nothing is,
    /// what was given is returned as it was given, not even unpacked.
    amp_merged_brand, pg_finfo_amp_merged_brand, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with a text and a jsonb argument.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(2);
            let (tenant, own) = (arguments[0], arguments[1]);
            guarded(|| {
                let shares = shared_with(&text(tenant))?;
                if shares.is_empty() { Ok(own.value) } else { merged(own.value, shares) }
            })
        }
    }
}

/// # Safety
/// `own` is a jsonb.
unsafe fn merged(own: Datum, shares: Vec<Share>) -> Result<Datum, Error> {
    // SAFETY: by the contract above; PostgreSQL's own functions, which return null where there is no such key.
    unsafe {
        let own = Datum::from(pg_sys::pg_detoast_datum(own.cast_mut_ptr()));
        let Some(context) = field(own, "context") else { return Err(unreadable()) };
        // Of the own document, only the sections that something is shared for are read.
        let mut concerned = Map::new();
        for share in &shares {
            let section = share.element.split('.').next().unwrap_or_default();
            if !concerned.contains_key(section)
                && let Some(value) = field(context, section)
            {
                concerned.insert(section.to_owned(), document(NullableDatum { value, isnull: false })?);
            }
        }
        let (sections, origins) = brand::merge(&Value::Object(concerned), shares);
        let shared: Vec<Value> = origins
            .into_iter()
            .map(|origin| {
                json!({"element": origin.element, "source_tenant": origin.source, "expires_at": iso(origin.expires),
                       "overridden": origin.overridden})
            })
            .collect();
        let Value::Object(sections) = sections else { return Err(unreadable()) };
        let sections: Vec<(String, Datum)> =
            sections.into_iter().filter_map(|(section, value)| Some((section, jsonb(value)?))).collect();
        let changes: Option<Vec<(&str, Part)>> = sections
            .iter()
            .map(|(section, value)| Some((section.as_str(), stored_jsonb::whole(stored(*value))?)))
            .collect();
        let context =
            changes.and_then(|changes| stored_jsonb::with(stored(context), &changes)).ok_or_else(unreadable)?;
        let shared = jsonb(Value::Array(shared)).unwrap_or(Datum::null());
        let merged = stored_jsonb::whole(&context)
            .zip(stored_jsonb::whole(stored(shared)))
            .and_then(|(context, shared)| stored_jsonb::with(stored(own), &[("context", context), ("shared", shared)]))
            .ok_or_else(unreadable)?;
        // A jsonb is stored as a bytea is: its length, and its bytes.
        Ok(merged.into_datum().unwrap_or(Datum::null()))
    }
}

/// The bytes of a jsonb.
///
/// # Safety
/// `value` is a jsonb that is neither compressed nor stored elsewhere, and lives as long as the result.
unsafe fn stored<'a>(value: Datum) -> &'a [u8] {
    // SAFETY: by the contract above; the header says how long it is.
    unsafe {
        let value = value.cast_mut_ptr::<pg_sys::varlena>();
        std::slice::from_raw_parts(varlena::vardata_any(value).cast::<u8>(), varlena::varsize_any_exhdr(value))
    }
}

fn unreadable() -> Error {
    Error::new(Code::InvalidDocument, "brand context is not valid")
        .detail("It was not stored by amp.set_brand_context().")
        .hint("Change it with amp.set_brand_context().")
}

fn too_much() -> Error {
    Error::new(Code::TooMuch, "more is shared with this tenant than can be read")
        .detail("The elements that are shared with it may take 16 MB, as they are stored.")
        .hint("See amp.brand_shares(), and end some of it with amp.unshare_brand().")
}

raw_function! {
    /// `amp.brand_element(context jsonb, element text) → jsonb`: null if there is none. Lists are not walked into.
    amp_brand_element, pg_finfo_amp_brand_element, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with a jsonb and a text argument.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(2);
            let (context, element) = (arguments[0], arguments[1]);
            let found = guarded(|| {
                let element = text(element);
                Ok(element.split('.').try_fold(context.value, |value, key| field(value, key)))
            });
            (*fcinfo).isnull = found.is_none();
            found.unwrap_or(Datum::null())
        }
    }
}

raw_function! {
    /// `amp.own_brand_elements(tenant text, context jsonb, elements text[]) → text[]`: each once, if the tenant has them all.
    amp_own_brand_elements, pg_finfo_amp_own_brand_elements, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with arguments of these types.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(3);
            let (tenant, context, elements) = (arguments[0], arguments[1], arguments[2]);
            guarded(|| {
                assert_short(elements)?;
                let tenant = text(tenant);
                let given = Vec::<Option<String>>::from_datum(elements.value, false).unwrap_or_default();
                match brand::elements(&document(context)?, given) {
                    Ok(elements) => Ok(elements.into_datum().unwrap_or(Datum::null())),
                    Err(wrong) => Err(wrong_elements(&tenant, wrong)?),
                }
            })
        }
    }
}

/// Nothing is unpacked that is longer than any list of elements has to be.
///
/// # Safety
/// `argument` is a varlena that is not null.
unsafe fn assert_short(argument: NullableDatum) -> Result<(), Error> {
    // SAFETY: by the contract above; reads its header.
    if unsafe { pg_sys::toast_raw_datum_size(argument.value) } > MAX_REQUEST {
        return Err(
            Error::new(Code::InvalidValue, "a list of elements cannot be that long").hint("Pass 1 to 100 of them.")
        );
    }
    Ok(())
}

fn wrong_elements(tenant: &str, wrong: Wrong) -> Result<Error, Error> {
    let (element, nearest) = match wrong {
        Wrong::Count(count) => {
            return Ok(Error::new(Code::InvalidValue, format!("{count} elements cannot be shared at once"))
                .hint("Pass 1 to 100 of them, such as ARRAY['visual_identity', 'voice.personality']."));
        }
        Wrong::Syntax(element) => {
            return Ok(Error::new(Code::InvalidValue, format!("invalid element {element}")).hint(
                "Use 1 to 8 keys of A-Z, a-z, 0-9, _ and -, each of at most 63 characters, with a dot between them.",
            ));
        }
        Wrong::Unknown(element, nearest) => (element, nearest),
    };
    let shares = shared_with(tenant)?;
    let (shared, _) = brand::merge(&json!({}), shares);
    let by_others = shared.pointer(&format!("/{}", element.replace('.', "/"))).is_some();
    let error = Error::new(
        Code::UndefinedObject,
        format!("the brand context of tenant \"{tenant}\" has no element \"{element}\" of its own"),
    );
    Ok(match nearest {
        _ if by_others => error
            .detail(
                "It is shared with this tenant by another one; what is shared with a tenant is not its own to share.",
            )
            .hint("Have the tenant that it is from share it."),
        Some(nearest) => error.hint(format!("Did you mean \"{nearest}\"?")),
        None => error.hint("Set it with amp.set_brand_context() first."),
    })
}

raw_function! {
    /// `amp.common_account(one text, other text) → text`: the account that two active tenants are in; null if there is none.
    amp_common_account, pg_finfo_amp_common_account, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with two text arguments.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(2);
            let (one, other) = (arguments[0], arguments[1]);
            return_text(fcinfo, || {
                let (one, other) = (text(one), text(other));
                catalog::at_one_moment(|moment| {
                    let account = account_of(moment, &one)?;
                    let other = account_of(moment, &other)?;
                    Ok(account.filter(|account| other.as_ref() == Some(account)))
                })
            })
        }
    }
}

/// The account of a tenant that is active.
fn account_of(moment: &Moment, tenant: &str) -> Result<Option<String>, Error> {
    let found = moment.row(&TENANTS, &[tenant], |row| (row.get::<String>(2), row.get::<String>(7)))?;
    Ok(found.filter(|(status, _)| status.as_deref() == Some("active")).and_then(|(_, account)| account))
}

/// What is shared with a tenant now: not ended, not expired, and made in the account that both tenants are in, active.
fn shared_with(tenant: &str) -> Result<Vec<Share>, Error> {
    catalog::at_one_moment(|moment| {
        let recorded = moment.rows(&BRAND_SHARES, &[tenant], recorded)?;
        if recorded.is_empty() {
            return Ok(Vec::new());
        }
        let Some(account) = account_of(moment, tenant)? else { return Ok(Vec::new()) };
        let mut sources: HashMap<String, Source> = HashMap::new();
        let (mut shares, mut stored) = (Vec::new(), 0);
        for Recorded { made_in, at, share } in recorded.into_iter().flatten() {
            if made_in != account || expiry::is_past(share.expires) {
                continue;
            }
            if !sources.contains_key(&share.source) {
                let account = account_of(moment, &share.source)?;
                let ended =
                    moment.rows(&ENDED_BRAND_SHARES, &[tenant, &share.source], |row| (row.get(3), row.get(4)))?;
                sources.insert(share.source.clone(), Source { account, ended });
            }
            let Some(source) = sources.get(&share.source) else { continue };
            if source.account.as_ref() != Some(&account) || source.has_ended(&share.element, at) {
                continue;
            }
            let value = moment.row(&BRAND_ELEMENTS, &[&share.source, &share.element], |row| {
                let value = row.get::<Datum>(3)?;
                // SAFETY: the column is a jsonb; reads its header.
                stored += unsafe { pg_sys::toast_raw_datum_size(value) };
                if stored > MAX_STORED {
                    return Some(Err(too_much()));
                }
                // SAFETY: the column is a jsonb; the scan holds the row.
                Some(unsafe { document(NullableDatum { value, isnull: false }) })
            })?;
            if let Some(value) = value.flatten() {
                shares.push(Share { value: value?, ..share });
            }
        }
        Ok(shares)
    })
}

/// A share as it is stored, without the value.
struct Recorded {
    /// The account that both tenants were in.
    made_in: String,
    at: i64,
    share: Share,
}

fn recorded(row: &Row) -> Option<Recorded> {
    let share = Share {
        source: row.get(2)?,
        element: row.get(3)?,
        expires: row.get(5).unwrap_or(expiry::NEVER),
        since: row.get(6)?,
        value: Value::Null,
    };
    Some(Recorded { made_in: row.get(4)?, at: row.get(7)?, share })
}

/// A tenant that shares.
struct Source {
    account: Option<String>,
    /// What it has shared of an element (None: of any) up to a time has ended.
    ended: Vec<(Option<String>, Option<i64>)>,
}

impl Source {
    fn has_ended(&self, element: &str, shared_at: i64) -> bool {
        let covers = |of: &Option<String>| of.as_deref().is_none_or(|of| of == element);
        self.ended.iter().any(|(of, at)| covers(of) && at.is_none_or(|at| at >= shared_at))
    }
}

/// # Safety
/// `object` is a jsonb, or null.
unsafe fn field(object: Datum, key: &str) -> Option<Datum> {
    // SAFETY: by the contract above; PostgreSQL's own function.
    unsafe { direct_function_call::<Datum>(pg_sys::jsonb_object_field, &[Some(object), key.into_datum()]) }
}

fn jsonb(value: Value) -> Option<Datum> {
    JsonB(value).into_datum()
}
