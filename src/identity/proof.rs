//! An accepted credential, and the setting that holds it.
//!
//! `amp.identity` is a setting so that PostgreSQL ends it where it has to end: with the transaction if it was set in one, with a
//! savepoint that is rolled back, by RESET ALL and DISCARD ALL; and so that parallel workers have it. Its check hook refuses
//! every value that does not come from [`publish`] or, in a worker that is starting, from the leader. It holds no secret.

use crate::backend::Local;
use crate::compat;
use crate::context::private_setting::{self, PrivateSetting};
use crate::context::{settings, transaction};
use crate::error::{self, Code, Error};
use crate::id::Id;
use crate::isolation;
use pgrx::guc::{GucFlags, GucSetting};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};

static IDENTITY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// The proof of the setting's value now.
static HELD: Local<Cell<*const Held>> = Local::new(Cell::new(std::ptr::null()));

static SETTING: Local<PrivateSetting> = Local::new(PrivateSetting::new(c"amp.identity"));

/// A point in time that never comes (PostgreSQL's infinity).
pub(crate) const NEVER: i64 = i64::MAX;

/// What proved it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum By {
    ApiKey,
    Token,
    LoginRole,
}

impl By {
    pub(crate) fn name(self) -> &'static str {
        match self {
            By::ApiKey => "api_key",
            By::Token => "token",
            By::LoginRole => "login_role",
        }
    }
}

/// Printable ASCII without spaces, at most 255 characters, kept inline.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Name {
    len: u8,
    bytes: [u8; 255],
}

impl Name {
    /// None unless `text` is 1 to 255 characters of printable ASCII.
    pub(crate) fn parse(text: &str) -> Option<Name> {
        if text.is_empty() || text.len() > 255 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut bytes = [0; 255];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Name { len: text.len() as u8, bytes })
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

/// What an accepted credential says.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
pub(crate) struct Proof {
    pub(crate) by: By,
    /// The API key's id, or the `kid` of the key that signed the token; `-` for a login role.
    pub(crate) credential: Name,
    /// The token's `jti`.
    pub(crate) token: Option<Name>,
    /// The user; None for an operator's credential.
    pub(crate) user: Option<Id>,
    /// The only tenant that it opens; None for all of the user's.
    pub(crate) tenant: Option<Id>,
    /// The account whose tenants it opens, and no others; None for all of the user's.
    pub(crate) account: Option<Id>,
    /// The tenant in which the session starts.
    pub(crate) start: Option<Id>,
    /// When it ends, in PostgreSQL's microseconds.
    pub(crate) expires: i64,
}

/// What the check hook parsed; PostgreSQL owns it while the value is current or stacked.
#[repr(C)]
struct Held {
    transaction: u64,
    proof: Proof,
}

pub(super) fn init() {
    // SAFETY: from _PG_init; hooks and static stay loaded with the library.
    unsafe {
        SETTING.define(c"What amp.authenticate() accepted.", &IDENTITY, Some(check), Some(assign), GucFlags::empty())
    };
}

/// True if a credential was accepted in this session and has not been given up, expired or not.
#[inline(always)]
pub(crate) fn any() -> bool {
    !HELD.get().is_null()
}

/// The proof that counts now: in transaction scope only in the transaction in which it was accepted.
pub(crate) fn current() -> Option<Proof> {
    // SAFETY: null, or the extra of the setting's current value: PostgreSQL calls the assign hook before it frees one.
    let held = unsafe { HELD.get().as_ref() }?;
    let counts = settings::scope() == settings::ContextScope::Session || held.transaction == transaction::serial();
    counts.then_some(held.proof)
}

/// Makes `proof` the session's, or the transaction's if one is open, and gives up the tenant and user that were set before.
///
/// # Errors
/// PostgreSQL's own, as a panic of pgrx.
pub(super) fn publish(proof: &Proof) {
    let text = CString::new(encode(proof)).unwrap_or_default();
    // SAFETY: reads the state of the transaction.
    let action = if unsafe { pg_sys::IsTransactionBlock() || pg_sys::IsSubTransaction() } {
        pg_sys::GucAction::GUC_ACTION_LOCAL
    } else {
        pg_sys::GucAction::GUC_ACTION_SET
    };
    private_setting::set(c"amp.tenant_id", c"", action);
    private_setting::set(c"amp.user_id", c"", action);
    SETTING.write(&text, action);
}

unsafe extern "C-unwind" fn check(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: a check hook's arguments; the frame owns nothing when it raises.
    unsafe {
        if (*value).is_null() || **value == 0 {
            return true;
        }
        error::guarded(|| {
            let proof = CStr::from_ptr(*value).to_str().ok().filter(|_| SETTING.is_ours()).and_then(decode);
            let Some(proof) = proof else {
                Error::new(Code::ContextPinned, "amp.identity cannot be set")
                    .hint("Pass a credential to amp.authenticate().")
                    .refuse_setting();
                return Ok(false);
            };
            let held = compat::setting_memory(size_of::<Held>()).cast::<Held>();
            if held.is_null() {
                return Ok(false);
            }
            held.write(Held { transaction: transaction::serial(), proof });
            *extra = held.cast();
            Ok(true)
        })
    }
}

unsafe extern "C-unwind" fn assign(_value: *const c_char, extra: *mut c_void) {
    HELD.set(extra.cast());
    transaction::advance();
    isolation::close_strangers();
}

/// One item a line, an empty line for none; none of them can hold a line break.
fn encode(proof: &Proof) -> String {
    let id = |id: &Option<Id>| id.as_ref().map_or(String::new(), |id| id.as_str().to_owned());
    [
        proof.by.name().to_owned(),
        proof.credential.as_str().to_owned(),
        proof.token.as_ref().map_or(String::new(), |token| token.as_str().to_owned()),
        id(&proof.user),
        id(&proof.tenant),
        id(&proof.account),
        id(&proof.start),
        proof.expires.to_string(),
    ]
    .join("\n")
}

fn decode(text: &str) -> Option<Proof> {
    let items: Vec<&str> = text.split('\n').collect();
    let [by, credential, token, user, tenant, account, start, expires] = items[..] else {
        return None;
    };
    let id = |text: &str| if text.is_empty() { Some(None) } else { Id::parse(text.as_bytes()).map(Some) };
    Some(Proof {
        by: [By::ApiKey, By::Token].into_iter().find(|known| known.name() == by)?,
        credential: Name::parse(credential)?,
        token: if token.is_empty() { None } else { Some(Name::parse(token)?) },
        user: id(user)?,
        tenant: id(tenant)?,
        account: id(account)?,
        start: id(start)?,
        expires: expires.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let id = |text: &str| Id::parse(text.as_bytes());
        for proof in [
            Proof {
                by: By::ApiKey,
                credential: Name::parse("key_1").unwrap(),
                token: None,
                user: None,
                tenant: None,
                account: None,
                start: None,
                expires: NEVER,
            },
            Proof {
                by: By::Token,
                credential: Name::parse("2026-11/a:b").unwrap(),
                token: Name::parse("jti\"1"),
                user: id("user_1"),
                tenant: id("tnt_1"),
                account: id("acc_1"),
                start: id("tnt_1"),
                expires: -5,
            },
        ] {
            assert!(decode(&encode(&proof)) == Some(proof));
        }
    }

    #[test]
    fn nothing_else_is_read() {
        for text in [
            "",
            "api_key",
            "login_role\n-\n\nu\n\n\n\n1",
            "api_key\nk\n\na b\n\n\n\n1",
            "api_key\nk\n\nu\n\n\n\nx",
            "a\nk\n\nu\n\n\n\n1",
            "api_key\nk\n\nu\n\n\n1",
        ] {
            assert!(decode(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_name_is_printable_ascii() {
        assert!(Name::parse(&"x".repeat(255)).is_some());
        for bad in ["", "a b", "a\n", "é", &"x".repeat(256)] {
            assert!(Name::parse(bad).is_none());
        }
    }
}
