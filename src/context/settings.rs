//! The settings by which a session claims a context, and the superuser's settings that govern claims.
//!
//! A value is accepted from SQL in the session only. The check hook parses it and, in a transaction, decides it at once, so
//! that the error comes at the SET; the assign hook publishes it. What was parsed travels with the value as the setting's
//! `extra`: PostgreSQL brings the right one back when a savepoint or a transaction rolls back, and the number of the
//! transaction that set it is in there too. With `amp.context_scope = 'transaction'` a value counts only in that transaction,
//! so neither ROLLBACK, COMMIT AND CHAIN nor a pooler can bring an old one back to life (P3, P5).

use super::{resolve, transaction};
use crate::backend::Local;
use crate::compat;
use crate::error::{self, Code, Error};
use crate::id::{Id, MAX_LEN};
use crate::isolation;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// How long a claim counts.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum ContextScope {
    /// Until it is changed or the session ends.
    #[name = c"session"]
    Session,
    /// Until the transaction that set it ends: what a transaction pooler needs.
    #[name = c"transaction"]
    Transaction,
}

static TENANT_SETTING: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static USER_SETTING: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static SCOPE_SETTING: GucSetting<ContextScope> = GucSetting::<ContextScope>::new(ContextScope::Session);
static REQUIRE_USER_SETTING: GucSetting<bool> = GucSetting::<bool>::new(false);
static REQUIRE_TOKEN_SETTING: GucSetting<bool> = GucSetting::<bool>::new(false);

/// What a check hook parsed; PostgreSQL owns it while the value is current or stacked.
#[repr(C)]
struct Claim {
    transaction: u64,
    id: Id,
}

/// True while the settings are being defined: a value that comes then was set before the library was loaded.
static DEFINING: Local<Cell<bool>> = Local::new(Cell::new(false));

static TENANT: Local<Cell<*const Claim>> = Local::new(Cell::new(std::ptr::null()));
static USER: Local<Cell<*const Claim>> = Local::new(Cell::new(std::ptr::null()));

/// What the session claims of one setting.
#[derive(Clone, Copy)]
pub(crate) enum Claimed {
    Nothing,
    /// Set by an earlier transaction or before the library was loaded, and the scope is the transaction.
    Expired,
    Id(Id),
}

impl Claimed {
    pub(crate) fn id(self) -> Option<Id> {
        match self {
            Claimed::Id(id) => Some(id),
            Claimed::Nothing | Claimed::Expired => None,
        }
    }
}

pub(super) fn init() {
    let flags = GucFlags::NOT_WHILE_SEC_REST
        | GucFlags::DISALLOW_IN_FILE
        | GucFlags::DISALLOW_IN_AUTO_FILE
        | GucFlags::NO_SHOW_ALL;
    DEFINING.set(true);
    // SAFETY: from _PG_init.
    let late = unsafe { !pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::InitializingParallelWorker };
    let claimed = RULES.map(|(name, _)| late && is_set(name));
    // SAFETY: from _PG_init; hooks and statics stay loaded with the library.
    unsafe {
        GucRegistry::define_enum_guc_with_hooks(
            c"amp.context_scope",
            c"How long a context lasts: session, or the transaction that set it.",
            c"Behind a transaction pooler, set it to transaction: ALTER ROLE app SET amp.context_scope = 'transaction'.",
            &SCOPE_SETTING,
            GucContext::Suset,
            GucFlags::default(),
            None,
            Some(assign_scope),
            None,
        );
        GucRegistry::define_bool_guc_with_hooks(
            c"amp.require_user",
            c"Whether a service has to name a user, too.",
            c"When on, a service session without amp.user_id has no context.",
            &REQUIRE_USER_SETTING,
            GucContext::Suset,
            GucFlags::default(),
            None,
            Some(assign_requirement),
            None,
        );
        GucRegistry::define_bool_guc_with_hooks(
            c"amp.require_token",
            c"Whether a service has to prove every context by a credential.",
            c"When on, a service session may only do what amp.authenticate() was given a credential for.",
            &REQUIRE_TOKEN_SETTING,
            GucContext::Suset,
            GucFlags::default(),
            None,
            Some(assign_requirement),
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"amp.tenant_id",
            c"The tenant that this session acts for.",
            c"Set by a service session; every access to a protected table stays inside this tenant.",
            &TENANT_SETTING,
            GucContext::Userset,
            flags,
            Some(check_tenant),
            Some(assign_tenant),
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"amp.user_id",
            c"The user that this session acts as.",
            c"Set by a service session; the user's role in the tenant is read from the database.",
            &USER_SETTING,
            GucContext::Userset,
            flags,
            Some(check_user),
            Some(assign_user),
            None,
        );
    }
    for ((name, strict), claimed) in RULES.into_iter().zip(claimed) {
        if claimed {
            strengthen(name, strict);
        }
    }
    DEFINING.set(false);
}

/// The superuser's rules for services, and the stricter value of each.
const RULES: [(&CStr, &CStr); 3] =
    [(c"amp.context_scope", c"transaction"), (c"amp.require_user", c"on"), (c"amp.require_token", c"on")];

/// True if there is a value of that name, whoever set it.
fn is_set(name: &CStr) -> bool {
    // SAFETY: a NUL-terminated name; null where nobody knows it.
    unsafe { !pg_sys::GetConfigOption(name.as_ptr(), true, false).is_null() }
}

/// A rule that was set before the library was loaded, and whose value is the weaker one now: a client's connection option may have
/// hidden the one that a superuser gave the role, and was then refused itself. Nobody can tell any more, so the rule holds.
fn strengthen(name: &CStr, strict: &CStr) {
    // SAFETY: settings of this library, with values that they take.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            strict.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// From here on nobody can create a setting under this prefix: the last step of `_PG_init`, after all of ours.
pub(crate) fn reserve_prefix() {
    // SAFETY: from _PG_init.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"amp".as_ptr()) };
}

/// The tenant that the session claims now.
pub(crate) fn tenant() -> Claimed {
    claimed(TENANT.get())
}

/// The user that the session claims now.
pub(crate) fn user() -> Claimed {
    claimed(USER.get())
}

/// True if either setting has a value, expired or not.
#[inline(always)]
pub(crate) fn any() -> bool {
    !(TENANT.get().is_null() && USER.get().is_null())
}

pub(crate) fn scope() -> ContextScope {
    SCOPE_SETTING.get()
}

pub(super) fn require_user() -> bool {
    REQUIRE_USER_SETTING.get()
}

pub(super) fn require_token() -> bool {
    REQUIRE_TOKEN_SETTING.get()
}

fn claimed(claim: *const Claim) -> Claimed {
    // SAFETY: null, or the extra of the setting's current value: PostgreSQL calls the assign hook before it frees one.
    match unsafe { claim.as_ref() } {
        None => Claimed::Nothing,
        Some(claim) if scope() == ContextScope::Transaction && claim.transaction != transaction::serial() => {
            Claimed::Expired
        }
        Some(claim) => Claimed::Id(claim.id),
    }
}

unsafe extern "C-unwind" fn check_tenant(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: a check hook's arguments; this frame owns nothing.
    unsafe { check("amp.tenant_id", value, extra, source, resolve::check_tenant) }
}

unsafe extern "C-unwind" fn check_user(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: a check hook's arguments; this frame owns nothing.
    unsafe { check("amp.user_id", value, extra, source, resolve::check_user) }
}

unsafe extern "C-unwind" fn assign_tenant(_value: *const c_char, extra: *mut c_void) {
    TENANT.set(extra.cast());
    transaction::advance();
    isolation::close_strangers();
}

unsafe extern "C-unwind" fn assign_user(_value: *const c_char, extra: *mut c_void) {
    USER.set(extra.cast());
    transaction::advance();
    isolation::close_strangers();
}

unsafe extern "C-unwind" fn assign_scope(_value: c_int, _extra: *mut c_void) {
    transaction::advance();
}

unsafe extern "C-unwind" fn assign_requirement(_value: bool, _extra: *mut c_void) {
    transaction::advance();
}

/// The check hook of both settings.
///
/// # Safety
/// Only as a check hook, with its arguments.
unsafe fn check(
    setting: &str,
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
    decide: impl FnOnce(Id) -> Result<(), Error>,
) -> bool {
    // SAFETY: the hook's arguments are valid; `guarded` returns or raises with nothing of Rust left on the stack.
    unsafe {
        error::guarded(|| {
            let text = if (*value).is_null() { &[] } else { CStr::from_ptr(*value).to_bytes() };
            if text.is_empty() {
                return Ok(true); // no value, no claim: RESET, and what applications write for "none"
            }
            match accept(setting, text, source, decide) {
                Ok(id) => {
                    let claim = compat::setting_memory(size_of::<Claim>()).cast::<Claim>();
                    if claim.is_null() {
                        return Ok(false);
                    }
                    // Nobody knows which transaction set what was there before the library.
                    let transaction = if DEFINING.get() { 0 } else { transaction::serial() };
                    claim.write(Claim { transaction, id });
                    *extra = claim.cast();
                    Ok(true)
                }
                Err(error) => {
                    error.refuse_setting();
                    Ok(false)
                }
            }
        })
    }
}

fn accept(
    setting: &str,
    text: &[u8],
    source: pg_sys::GucSource::Type,
    decide: impl FnOnce(Id) -> Result<(), Error>,
) -> Result<Id, Error> {
    let id = Id::parse(text).ok_or_else(|| {
        let shown: String = String::from_utf8_lossy(text).chars().take(MAX_LEN).collect();
        Error::new(Code::InvalidValue, format!("invalid value for {setting}: \"{shown}\""))
            .detail("An id is 1 to 64 characters of A-Z, a-z, 0-9, _ and -.")
            .hint("Pass the id that amp.create_tenant() or amp.invite_user() returned.")
    })?;
    // SAFETY: reads a variable of the backend.
    if unsafe { pg_sys::InitializingParallelWorker } {
        return Ok(id); // the leader's value; a worker answers from what the leader found
    }
    if source != pg_sys::GucSource::PGC_S_SESSION {
        return Err(Error::new(Code::ContextPinned, format!("{setting} can be set by SQL in the session only"))
            .detail("It is refused from a configuration file, ALTER SYSTEM, a database, a role, a function, the environment and connection options.")
            .hint(format!("Run SET {setting} = '...' or SET LOCAL {setting} = '...' after connecting.")));
    }
    // SAFETY: reads the state of the transaction.
    if unsafe { pg_sys::IsTransactionState() } {
        decide(id)?;
    }
    Ok(id)
}
