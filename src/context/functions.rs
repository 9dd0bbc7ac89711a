//! The functions that SQL and the policies call: raw version-1 functions, declared in sql/context.sql.
//!
//! The ones in policies run once per row. Their fast path is a comparison: no guard, no allocation, no call. Everything else
//! goes through `guarded`, which turns an error into PostgreSQL's after Rust has cleaned up.

use super::{parallel, resolve, session, settings, transaction};
use crate::backend::{self, Local};
use crate::error::{Code, Error, guarded};
use crate::function::{plain_text, raw_function, return_text, text};
use crate::id::{self, Id};
use crate::identity::{self, proof::By};
use crate::tenants::{membership, permissions};
use pgrx::pg_sys::{Datum, FunctionCallInfo};
use pgrx::{FromDatum, IntoDatum, JsonB, pg_sys};
use std::cell::Cell;

raw_function! {
    /// `amp.tenant_id() → text`
    amp_tenant_id, pg_finfo_amp_tenant_id, |_fcinfo| match resolve::tenant_text() {
        Some(text) => text,
        // SAFETY: this frame owns nothing.
        None => unsafe { resolve_tenant() },
    }
}

/// # Safety
/// As `guarded`. Cold: once a transaction, and after every change.
#[cold]
unsafe fn resolve_tenant() -> Datum {
    // SAFETY: the caller's promise is ours.
    unsafe { guarded(|| Key::Text.of(&*resolve::current()?)) }
}

raw_function! {
    /// `amp.tenant_uuid() → uuid`
    amp_tenant_uuid, pg_finfo_amp_tenant_uuid, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe { tenant_key(fcinfo, Key::Uuid) }
    }
}

raw_function! {
    /// `amp.tenant_bigint() → bigint`
    amp_tenant_bigint, pg_finfo_amp_tenant_bigint, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe { tenant_key(fcinfo, Key::Bigint) }
    }
}

/// # Safety
/// `fcinfo` is the function manager's; the function has no arguments.
#[inline(always)]
unsafe fn tenant_key(fcinfo: FunctionCallInfo, key: Key) -> Datum {
    // SAFETY: by the contract above; this frame owns nothing.
    unsafe {
        match remembered(fcinfo) {
            Some(Some(known)) => known,
            _ => make_key(fcinfo, key),
        }
    }
}

/// # Safety
/// As [`tenant_key`]. Cold: once a statement.
#[cold]
#[inline(never)]
unsafe fn make_key(fcinfo: FunctionCallInfo, key: Key) -> Datum {
    // SAFETY: by the contract above; this frame owns nothing.
    unsafe {
        let generation = transaction::generation();
        let made = guarded(|| key.of(&*resolve::current()?));
        remember(fcinfo, Remembered { generation, answer: Some(made) });
        made
    }
}

/// The type of a table's tenant column.
#[derive(Clone, Copy)]
enum Key {
    Text,
    Uuid,
    Bigint,
}

impl Key {
    /// The tenant as a value of this type. Errors: 22P02.
    fn of(self, current: &resolve::Current) -> Result<Datum, Error> {
        let pin = transaction::pinned().unwrap_or_else(|| transaction::pin(current.tenant));
        match self {
            Key::Text => Ok(pin.text()),
            Key::Uuid => pin.uuid().ok_or_else(|| wrong_key(pin.tenant, "uuid")),
            Key::Bigint => pin.bigint().ok_or_else(|| wrong_key(pin.tenant, "bigint")),
        }
    }
}

fn wrong_key(tenant: id::Id, key: &str) -> Error {
    Error::new(Code::InvalidKey, format!("tenant \"{}\" is not the canonical text of a {key}", tenant.as_str()))
        .detail(format!("A table of this query is keyed by {key}: only tenants whose id is one can have rows in it."))
        .hint(format!("Create the tenant with an id of that form: amp.create_tenant(..., id => '<{key}>')."))
}

raw_function! {
    /// `amp.user_id() → text`
    amp_user_id, pg_finfo_amp_user_id, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe {
            return_text(fcinfo, || {
                resolve::listen();
                Ok(resolve::user()?.map(|user| user.as_str().to_owned()))
            })
        }
    }
}

raw_function! {
    /// `amp.role() → text`
    amp_role, pg_finfo_amp_role, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe {
            return_text(fcinfo, || {
                resolve::listen();
                Ok(resolve::current()?.verdict.role.clone())
            })
        }
    }
}

raw_function! {
    /// `amp.new_id(prefix text) → text`
    amp_new_id, pg_finfo_amp_new_id, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with one text argument.
        unsafe {
            return_text(fcinfo, || {
                let prefix = String::from_datum((*fcinfo).args.as_slice(1)[0].value, false).unwrap_or_default();
                Ok(Some(id::generate(&prefix)))
            })
        }
    }
}

raw_function! {
    /// `amp.is_operator() → boolean`
    amp_is_operator, pg_finfo_amp_is_operator, |_fcinfo| {
        // SAFETY: this frame owns nothing.
        unsafe {
            guarded(|| {
                resolve::listen();
                // What PostgreSQL runs on the side, such as a stranger's index expression in an operator's ANALYZE, is not him.
                let operator = session::current().operator || identity::proves_operator();
                Ok(Datum::from(operator && !pg_sys::InSecurityRestrictedOperation()))
            })
        }
    }
}

raw_function! {
    /// `amp.context() → jsonb`
    amp_context, pg_finfo_amp_context, |_fcinfo| {
        // SAFETY: this frame owns nothing.
        unsafe { guarded(|| Ok(JsonB(describe()?).into_datum().unwrap_or(Datum::null()))) }
    }
}

fn describe() -> Result<serde_json::Value, Error> {
    resolve::listen();
    let session = session::current();
    let current = if resolve::has_tenant()? { Some(resolve::current()?) } else { None };
    let identity = if parallel::is_worker() { None } else { identity::current()? };
    let kind = match session {
        session::Session { bypasses: true, .. } => "bypasses row security",
        session::Session { service: true, .. } => "service",
        session::Session { operator: true, .. } => "operator",
        _ => "client",
    };
    Ok(serde_json::json!({
        "session": kind,
        "scope": match settings::scope() {
            settings::ContextScope::Session => "session",
            settings::ContextScope::Transaction => "transaction",
        },
        "tenant_id": current.as_ref().map(|current| current.tenant.as_str()),
        "user_id": resolve::user()?.as_ref().map(id::Id::as_str),
        "role": current.as_ref().and_then(|current| current.verdict.role.as_deref()),
        "permissions": current.as_ref().map(|current| current.verdict.held.names()),
        "proof": identity.map(|identity| serde_json::json!({
            "by": identity.proof.by.name(),
            "id": (identity.proof.by != By::LoginRole).then(|| identity.proof.credential.as_str()),
            "operator": identity.proof.user.is_none(),
            "expires_at": identity::iso(identity.proof.expires),
        })),
    }))
}

/// A call site's answer, kept in `fn_extra`; null is an answer, too.
#[derive(Clone, Copy)]
struct Remembered {
    generation: u64,
    answer: Option<Datum>,
}

raw_function! {
    /// `amp.tenant_id(permission text) → text`
    amp_tenant_id_if, pg_finfo_amp_tenant_id_if, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe { tenant_if(fcinfo, Key::Text) }
    }
}

raw_function! {
    /// `amp.tenant_uuid(permission text) → uuid`
    amp_tenant_uuid_if, pg_finfo_amp_tenant_uuid_if, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe { tenant_if(fcinfo, Key::Uuid) }
    }
}

raw_function! {
    /// `amp.tenant_bigint(permission text) → bigint`
    amp_tenant_bigint_if, pg_finfo_amp_tenant_bigint_if, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe { tenant_if(fcinfo, Key::Bigint) }
    }
}

/// The tenant's key if the session holds the permission, else null: for a policy, every row or none, by one comparison that
/// an index serves. An unregistered permission is one that nobody holds: being leakproof, it must not tell its argument.
///
/// # Safety
/// `fcinfo` is the function manager's; the function has one text argument.
#[inline(always)]
unsafe fn tenant_if(fcinfo: FunctionCallInfo, key: Key) -> Datum {
    // SAFETY: by the contract above; this frame owns nothing.
    unsafe {
        let answer = match remembered(fcinfo) {
            Some(answer) => answer,
            None => ask_tenant(fcinfo, key),
        };
        (*fcinfo).isnull = answer.is_none();
        answer.unwrap_or(Datum::null())
    }
}

/// # Safety
/// As [`tenant_if`]. Once a statement, and at each of the planner's estimates: so what is known already is told without a guard.
#[cold]
#[inline(never)]
unsafe fn ask_tenant(fcinfo: FunctionCallInfo, key: Key) -> Option<Datum> {
    // SAFETY: by the contract above; this frame owns nothing.
    unsafe {
        let generation = transaction::generation();
        let permission = (*fcinfo).args.as_slice(1)[0];
        let answer = match (key, resolve::tenant_text(), plain_text(permission)) {
            (Key::Text, Some(text), Some(permission)) if resolve::holds(permission) => {
                if asks_a_constant((*fcinfo).flinfo) {
                    resolve::note_read(permission);
                }
                Some(text)
            }
            (Key::Text, Some(_), Some(_)) => None,
            _ => guarded(|| {
                let current = resolve::current()?;
                match short_text(permission) {
                    Some(permission) if current.verdict.held.contains(permission.as_bytes()) => {
                        if asks_a_constant((*fcinfo).flinfo) {
                            resolve::note_read(permission.as_bytes());
                        }
                        key.of(&current).map(Some)
                    }
                    _ => Ok(None),
                }
            }),
        };
        remember(fcinfo, Remembered { generation, answer });
        answer
    }
}

raw_function! {
    /// `amp.has_permission(permission text) → boolean`
    amp_has_permission, pg_finfo_amp_has_permission, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe {
            // An expression of PL/pgSQL is evaluated without the executor, which listens at every statement.
            AcceptInvalidationMessages();
            match remembered(fcinfo) {
                Some(Some(granted)) => granted,
                _ => ask_permission(fcinfo, false),
            }
        }
    }
}

unsafe extern "C-unwind" {
    // Not through pgrx's guards, for they are called from frames that own nothing, and often.
    fn AcceptInvalidationMessages();
    fn MemoryContextAlloc(context: pg_sys::MemoryContext, size: usize) -> *mut std::ffi::c_void;
}

raw_function! {
    /// `amp.require_permission(permission text) → boolean`
    amp_require_permission, pg_finfo_amp_require_permission, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe {
            // A row that was locked may have waited for the very transaction that suspended the tenant: listen before
            // answering from memory, so that the re-check after the wait sees it (attack K1).
            AcceptInvalidationMessages();
            match remembered(fcinfo) {
                Some(Some(granted)) => granted,
                _ => ask_permission(fcinfo, true),
            }
        }
    }
}

raw_function! {
    /// `amp.context_holds() → boolean`: true, or the error of `tenant_id()`; listens first, as `require_permission` does.
    amp_context_holds, pg_finfo_amp_context_holds, |_fcinfo| {
        // SAFETY: this frame owns nothing.
        unsafe {
            AcceptInvalidationMessages();
            if resolve::tenant_text().is_none() {
                guarded(|| resolve::current().map(|_| ()));
            }
            Datum::from(true)
        }
    }
}

/// The answer that this call site gave before, if nothing has changed since.
///
/// # Safety
/// `fcinfo` is the function manager's.
#[inline(always)]
unsafe fn remembered(fcinfo: FunctionCallInfo) -> Option<Option<Datum>> {
    // SAFETY: fn_extra is ours alone: null, or what `remember` put there, in a context that lives as long as flinfo.
    unsafe {
        let remembered = (*(*fcinfo).flinfo).fn_extra.cast::<Remembered>().as_ref()?;
        (remembered.generation == transaction::generation()).then_some(remembered.answer)
    }
}

/// Keeps an answer for this call site, if it is asked the same at every call.
///
/// # Safety
/// `fcinfo` is the function manager's.
unsafe fn remember(fcinfo: FunctionCallInfo, answer: Remembered) {
    // SAFETY: by the contract above; fn_extra is ours alone.
    unsafe {
        let flinfo = (*fcinfo).flinfo;
        if (*fcinfo).nargs > 0 && !asks_a_constant(flinfo) {
            return;
        }
        if (*flinfo).fn_extra.is_null() {
            (*flinfo).fn_extra = MemoryContextAlloc((*flinfo).fn_mcxt, size_of::<Remembered>());
        }
        (*flinfo).fn_extra.cast::<Remembered>().write(answer);
    }
}

/// A text that can be a permission's name; None for null, and for one too long to be unpacked for nothing.
///
/// # Safety
/// `text` is an argument of type text.
unsafe fn short_text(text: pg_sys::NullableDatum) -> Option<String> {
    // SAFETY: by the contract above; as bytes, for in a database of another encoding they may be any.
    unsafe {
        if text.isnull || pg_sys::toast_raw_datum_size(text.value) > 1024 {
            return None;
        }
        String::from_utf8(<&[u8]>::from_datum(text.value, false)?.to_vec()).ok()
    }
}

/// Answers, and remembers a yes: a no is rare. With `required`, a no is the error TN004.
///
/// # Safety
/// `fcinfo` is the function manager's; the function is STRICT with one text argument. Cold: once a statement.
#[cold]
#[inline(never)]
unsafe fn ask_permission(fcinfo: FunctionCallInfo, required: bool) -> Datum {
    // SAFETY: by the contract above; this frame owns nothing.
    unsafe {
        let generation = transaction::generation();
        let granted = guarded(|| {
            let permission = short_text((*fcinfo).args.as_slice(1)[0]).ok_or_else(|| {
                Error::new(Code::UndefinedObject, "no permission has a name like that").hint("See amp.permissions.")
            })?;
            let permission = permission.as_str();
            let current = resolve::current()?;
            let granted = current.verdict.held.contains(permission.as_bytes());
            if !granted && !permissions::is_registered(permission)? {
                return Err(Error::new(
                    Code::UndefinedObject,
                    format!("permission \"{permission}\" is not registered"),
                )
                .hint("See amp.permissions for those that are; an operator adds one with amp.register_permission()."));
            }
            if !granted && required {
                return Err(denied(current.verdict.role.as_deref(), permission));
            }
            Ok(granted)
        });
        if granted {
            remember(fcinfo, Remembered { generation, answer: Some(Datum::from(true)) });
        }
        Datum::from(granted)
    }
}

/// True if the call's argument is a constant. PostgreSQL's get_fn_expr_arg_stable() would not do: it takes a PL/pgSQL variable
/// for stable, too, and a loop over permissions would get the first one's answer for all.
///
/// # Safety
/// `flinfo` is the function manager's.
unsafe fn asks_a_constant(flinfo: *const pg_sys::FmgrInfo) -> bool {
    // SAFETY: fn_expr is null or the node of the call, whose tag says which it is.
    unsafe {
        let call = (*flinfo).fn_expr;
        if call.is_null() || (*call).type_ != pg_sys::NodeTag::T_FuncExpr {
            return false;
        }
        let arguments = (*call.cast::<pg_sys::FuncExpr>()).args;
        !arguments.is_null()
            && (*(*(*arguments).elements).ptr_value.cast::<pg_sys::Node>()).type_ == pg_sys::NodeTag::T_Const
    }
}

fn denied(role: Option<&str>, permission: &str) -> Error {
    let who = role.map_or("a service that names no user".to_owned(), |role| format!("role \"{role}\""));
    Error::new(Code::PermissionDenied, format!("{who} lacks permission \"{permission}\""))
        .detail("Roles and their permissions are read from the database, at every statement.")
        .hint("Act as a user whose role holds it, or have an admin change the role with amp.set_user_role().")
}

raw_function! {
    /// `amp.invalidate() → trigger`: after a change of a row that answers rest on.
    amp_invalidate, pg_finfo_amp_invalidate, |fcinfo| {
        // SAFETY: this frame owns nothing; the context is checked to be a trigger's before it is read as one.
        unsafe {
            guarded(|| {
                let context = (*fcinfo).context;
                if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                    return Err(Error::new(Code::InvalidValue, "amp.invalidate() can only be called as a trigger"));
                }
                let trigger = &*context.cast::<pg_sys::TriggerData>();
                pg_sys::CacheInvalidateRelcacheByRelid((*trigger.tg_relation).rd_id);
                Ok(Datum::null())
            })
        }
    }
}

raw_function! {
    /// `amp.mark_uncommitted() → trigger`: after a new row that answers may rest on before it is committed.
    amp_mark_uncommitted, pg_finfo_amp_mark_uncommitted, |_fcinfo| {
        resolve::keep_nothing();
        Datum::null()
    }
}

/// The role that said `mark_caller()` last, in the client's statement of that time; taken by the first who asks.
static CALLER: Local<Cell<Option<(pg_sys::TimestampTz, pg_sys::Oid)>>> = Local::new(Cell::new(None));

/// The client's statement in which `called_by_operator()` has last found that the session itself called.
static BY_SESSION: Local<Cell<Option<pg_sys::TimestampTz>>> = Local::new(Cell::new(None));

/// Takes the mark, if this statement made it.
fn take_caller() -> Option<pg_sys::Oid> {
    // SAFETY: reads a variable of the backend.
    let now = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    CALLER.take().filter(|(made, _)| *made == now).map(|(_, role)| role)
}

/// True while a statement of the client's runs, and not what a commit, a cursor or a trigger sets off: a stranger's function could
/// leave a deferred trigger or a cursor behind, whose code would then run with the rights of the session.
fn in_plain_statement() -> bool {
    // SAFETY: reads variables of the backend, one of them by PostgreSQL's own function; the portal is the one that runs now.
    unsafe {
        let trigger_depth = pgrx::direct_function_call::<i32>(pg_sys::pg_trigger_depth, &[]).unwrap_or(0);
        if trigger_depth > 0 || pg_sys::InSecurityRestrictedOperation() {
            return false;
        }
        let portal = pg_sys::ActivePortal.as_ref();
        portal.is_some_and(|portal| {
            let declared = portal.visible && *portal.name != 0;
            !declared && portal.cursorOptions & pg_sys::CURSOR_OPT_HOLD as i32 == 0
        })
    }
}

raw_function! {
    /// `amp.mark_caller() → void`: notes whose rights the next registry function is to look at: the effective role's.
    amp_mark_caller, pg_finfo_amp_mark_caller, |_fcinfo| {
        // SAFETY: reads a variable of the backend.
        CALLER.set(Some(unsafe { (pg_sys::GetCurrentStatementStartTimestamp(), pg_sys::GetUserId()) }));
        Datum::null()
    }
}

raw_function! {
    /// `amp.called_by_operator() → boolean`: whether who said `mark_caller()` may run the platform. A login role that is an
    /// operator may where its own rights, or those of a role that it chose, are in force; a credential, only in what the session
    /// itself calls, not in a stranger's function that it happens to run.
    amp_called_by_operator, pg_finfo_amp_called_by_operator, |_fcinfo| {
        let caller = take_caller();
        // SAFETY: this frame owns nothing.
        unsafe {
            guarded(|| {
                resolve::listen();
                let by_session = caller == Some(session::chosen_role()) && in_plain_statement();
                BY_SESSION.set(by_session.then(|| pg_sys::GetCurrentStatementStartTimestamp()));
                let operator = caller.is_some_and(|role| {
                    session::current().operator && session::is_operator(role)
                        || role == session::chosen_role() && identity::proves_operator()
                });
                if operator && !in_plain_statement() {
                    return Err(Error::new(
                        Code::PermissionDenied,
                        "an operator's function cannot be called in a cursor, a trigger, at commit or by code that the server runs on the side",
                    )
                    .detail("A stranger's function could have left it there, to run with the rights of an operator.")
                    .hint("Call it in a statement of its own; in psql without FETCH_COUNT, in PL/pgSQL not in the query of a FOR loop."));
                }
                Ok(Datum::from(operator))
            })
        }
    }
}

raw_function! {
    /// `amp.assert_called_by_session() → void`: after `called_by_operator()`, for what reaches beyond one tenant: TN004 where a stranger's
    /// code called (a SECURITY DEFINER function, a trigger, an index expression), which happens to run in the session of who may do it.
    amp_assert_called_by_session, pg_finfo_amp_assert_called_by_session, |_fcinfo| {
        // SAFETY: reads a variable of the backend; this frame owns nothing.
        unsafe {
            let now = pg_sys::GetCurrentStatementStartTimestamp();
            guarded(|| {
                resolve::check_unlocked()?;
                if BY_SESSION.take() == Some(now) {
                    return Ok(Datum::null());
                }
                Err(Error::new(Code::PermissionDenied, "an account is administered by what the session itself calls")
                    .detail("A stranger's function, a trigger, a cursor or code that the server runs on the side has none of its user's rights there.")
                    .hint("Call it in a statement of its own; in psql without FETCH_COUNT, in PL/pgSQL not in the query of a FOR loop."))
            })
        }
    }
}

raw_function! {
    /// `amp.only_tenant() → text`: the only tenant that the session's credential opens; null if it opens all of its user's.
    amp_only_tenant, pg_finfo_amp_only_tenant, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe {
            return_text(fcinfo, || {
                let only = identity::current()?.and_then(|identity| identity.proof.tenant);
                Ok(only.map(|tenant| tenant.as_str().to_owned()))
            })
        }
    }
}

raw_function! {
    /// `amp.is_preloaded() → boolean`
    amp_is_preloaded, pg_finfo_amp_is_preloaded, |_fcinfo| Datum::from(backend::is_preloaded())
}

raw_function! {
    /// `amp.only_account() → text`: the account whose tenants the session's credential opens, and no others; null if there is none.
    amp_only_account, pg_finfo_amp_only_account, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe {
            return_text(fcinfo, || {
                let only = identity::current()?.and_then(|identity| identity.proof.account);
                Ok(only.map(|account| account.as_str().to_owned()))
            })
        }
    }
}

raw_function! {
    /// `amp.account_role(account text) → text`: the role of the session's user in an account; null if he has none, or if his
    /// credential does not open that account. Read anew, whatever the isolation level.
    amp_account_role, pg_finfo_amp_account_role, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with one text argument.
        unsafe {
            let account = (*fcinfo).args.as_slice(1)[0];
            return_text(fcinfo, || {
                resolve::listen();
                let account = Id::parse(text(account).as_bytes());
                let proof = if session::current().bypasses { None } else { identity::current()? }.map(|identity| identity.proof);
                let narrow = proof.is_some_and(|proof| proof.tenant.is_some() || proof.account.is_some() && proof.account != account);
                match (account, resolve::user()?) {
                    (Some(account), Some(user)) if !narrow => membership::in_account(&account, &user),
                    _ => Ok(None),
                }
            })
        }
    }
}

raw_function! {
    /// `amp.lock_context() → void`: nobody changes tenant or user until the transaction ends.
    amp_lock_context, pg_finfo_amp_lock_context, |_fcinfo| {
        // SAFETY: this frame owns nothing.
        unsafe { guarded(|| resolve::lock().map(|()| Datum::null())) }
    }
}

raw_function! {
    /// `amp.caller() → oid`: who said `mark_caller()`; null if nobody did since it was asked last.
    amp_caller, pg_finfo_amp_caller, |fcinfo| {
        let caller = take_caller();
        // SAFETY: fcinfo is the function manager's.
        unsafe { (*fcinfo).isnull = caller.is_none() };
        caller.map_or(Datum::null(), Datum::from)
    }
}
