//! Errors with amp's own SQLSTATEs, and the boundary across which they leave Rust.
//!
//! pgrx reports only PostgreSQL's own codes, and an error that crosses its guard loses its SQLSTATE, constraint and table
//! names. So: Rust code returns [`Error`]; [`guarded`] runs it, lets every destructor finish, and only then raises, from a
//! frame that owns nothing. Hooks call their successor outside of any guard, so foreign errors pass through untouched.

use pgrx::pg_sys;
use std::ffi::{CString, c_char, c_int};

/// What went wrong, in the classes that clients can act on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    /// TN001: no tenant is set.
    NoContext,
    /// TN002: the tenant is unknown or not active.
    TenantInactive,
    /// TN003: not a member, or not authenticated.
    NotAMember,
    /// TN004: the role lacks a permission.
    PermissionDenied,
    /// TN005: a spending limit is reached.
    LimitReached,
    /// TN006: the context cannot change now.
    ContextPinned,
    /// TN007: a proof is invalid or has expired.
    ProofExpired,
    /// TN008: a schema change that would open a hole.
    UnsafeSchemaChange,
    /// TN009: this session bypasses row security.
    BypassesRowSecurity,
    /// TN010: an invalid document.
    InvalidDocument,
    /// 22023: a malformed value.
    InvalidValue,
    /// 22003: a number beyond what its type holds.
    OutOfRange,
    /// 22P02: the tenant's id is no key of this type.
    InvalidKey,
    /// 42501: a privilege is missing.
    InsufficientPrivilege,
    /// 0A000: this cannot be done so.
    NotSupported,
    /// 42704: a name that nobody registered.
    UndefinedObject,
    /// 40001: what it rests on has changed; another transaction will do.
    Outdated,
    /// 55000: something that it takes is missing: the extension in this database, a key.
    NotReady,
    /// 55000: not in this state.
    WrongState,
    /// 54000: more than can be dealt with at once.
    TooMuch,
    /// 53400: there is room for no more.
    NoRoom,
    /// XX001: what is stored is not what was stored.
    DataCorrupted,
}

impl Code {
    /// The five characters of the SQLSTATE.
    pub(crate) fn sqlstate(self) -> &'static [u8; 5] {
        match self {
            Code::NoContext => b"TN001",
            Code::TenantInactive => b"TN002",
            Code::NotAMember => b"TN003",
            Code::PermissionDenied => b"TN004",
            Code::LimitReached => b"TN005",
            Code::ContextPinned => b"TN006",
            Code::ProofExpired => b"TN007",
            Code::UnsafeSchemaChange => b"TN008",
            Code::BypassesRowSecurity => b"TN009",
            Code::InvalidDocument => b"TN010",
            Code::InvalidValue => b"22023",
            Code::OutOfRange => b"22003",
            Code::InvalidKey => b"22P02",
            Code::InsufficientPrivilege => b"42501",
            Code::NotSupported => b"0A000",
            Code::UndefinedObject => b"42704",
            Code::Outdated => b"40001",
            Code::NotReady | Code::WrongState => b"55000",
            Code::TooMuch => b"54000",
            Code::NoRoom => b"53400",
            Code::DataCorrupted => b"XX001",
        }
    }

    /// PostgreSQL's MAKE_SQLSTATE: six bits a character.
    fn packed(self) -> c_int {
        self.sqlstate().iter().rev().fold(0, |code, &c| (code << 6) | ((c_int::from(c) - 0x30) & 0x3f))
    }
}

/// An error on its way to the client: what, why, and the next step.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    pub(crate) code: Code,
    message: String,
    detail: Option<String>,
    log_detail: Option<String>,
    hint: Option<String>,
    hides_statement: bool,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), detail: None, log_detail: None, hint: None, hides_statement: false }
    }

    /// What went wrong, in one line.
    pub(crate) fn message(&self) -> &str {
        self.log_detail.as_deref().unwrap_or(&self.message)
    }

    /// A detail for the server's log alone.
    pub(crate) fn log_detail(mut self, detail: impl Into<String>) -> Error {
        self.log_detail = Some(detail.into());
        self
    }

    /// Keeps the statement, and the functions that it came through, out of the server's log: they hold a credential.
    pub(crate) fn without_statement(mut self) -> Error {
        self.hides_statement = true;
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Error {
        self.detail = Some(detail.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Hands the error to the setting machinery, which raises it at the level that the setting's source asks for.
    ///
    /// # Safety
    /// Only inside a setting's check hook that then returns false.
    pub(crate) unsafe fn refuse_setting(self) {
        // SAFETY: a check hook runs on the backend's thread; the strings live in ErrorContext, which is where
        // PostgreSQL's own GUC_check_errmsg() puts them and what it resets after reporting.
        unsafe {
            pg_sys::GUC_check_errcode(self.code.packed());
            pg_sys::GUC_check_errmsg_string = server_string(pg_sys::ErrorContext, &self.message);
            pg_sys::GUC_check_errdetail_string = optional(pg_sys::ErrorContext, self.detail.as_deref());
            pg_sys::GUC_check_errhint_string = optional(pg_sys::ErrorContext, self.hint.as_deref());
        }
    }
}

/// An error whose texts PostgreSQL owns, so that raising it leaves nothing of Rust behind.
#[derive(Clone, Copy)]
struct Report {
    code: c_int,
    message: *mut c_char,
    detail: *mut c_char,
    log_detail: *mut c_char,
    hint: *mut c_char,
    hides_statement: bool,
}

/// Copies a text into one of PostgreSQL's memory contexts.
///
/// # Safety
/// `context` is a live memory context.
unsafe fn server_string(context: pg_sys::MemoryContext, text: &str) -> *mut c_char {
    let text = CString::new(text.replace('\0', "")).unwrap_or_default();
    // SAFETY: by the contract above; the text ends in a NUL byte.
    unsafe { pg_sys::MemoryContextStrdup(context, text.as_ptr()) }
}

/// # Safety
/// As [`server_string`].
unsafe fn optional(context: pg_sys::MemoryContext, text: Option<&str>) -> *mut c_char {
    // SAFETY: the caller's promise is ours.
    text.map_or(std::ptr::null_mut(), |text| unsafe { server_string(context, text) })
}

unsafe extern "C-unwind" {
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errcode(sqlstate: c_int) -> c_int;
    fn errmsg(format: *const c_char, ...) -> c_int;
    fn errdetail(format: *const c_char, ...) -> c_int;
    fn errdetail_log(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
    fn errhidestmt(hide: bool) -> c_int;
    fn errhidecontext(hide: bool) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

/// Runs `body`; an [`Error`] becomes PostgreSQL's, a panic an internal error, and nothing unwinds out of it.
///
/// # Safety
/// On the backend's thread. When it raises, control leaves by longjmp: the caller must own nothing that needs dropping.
pub(crate) unsafe fn guarded<T: Copy>(body: impl FnOnce() -> Result<T, Error>) -> T {
    let body = std::panic::AssertUnwindSafe(body);
    // SAFETY: pgrx turns a panic inside into an ereport after everything in `body` has been dropped.
    let outcome: Result<T, Report> = unsafe {
        pg_sys::submodules::panic::pgrx_extern_c_guard(move || {
            let std::panic::AssertUnwindSafe(body) = body;
            body().map_err(|error| {
                let context = pg_sys::CurrentMemoryContext;
                Report {
                    code: error.code.packed(),
                    message: server_string(context, &error.message),
                    detail: optional(context, error.detail.as_deref()),
                    log_detail: optional(context, error.log_detail.as_deref()),
                    hint: optional(context, error.hint.as_deref()),
                    hides_statement: error.hides_statement,
                }
            })
        })
    };
    match outcome {
        Ok(value) => value,
        // SAFETY: this frame holds only plain values now.
        Err(report) => unsafe { raise(report) },
    }
}

/// # Safety
/// As [`guarded`]; the texts of `report` are PostgreSQL's.
unsafe fn raise(report: Report) -> ! {
    // SAFETY: the sequence of PostgreSQL's ereport() macro; every text goes through "%s".
    unsafe {
        errstart(pgrx::PgLogLevel::ERROR as c_int, std::ptr::null());
        errcode(report.code);
        errmsg(c"%s".as_ptr(), report.message);
        if !report.detail.is_null() {
            errdetail(c"%s".as_ptr(), report.detail);
        }
        if !report.log_detail.is_null() {
            errdetail_log(c"%s".as_ptr(), report.log_detail);
        }
        errhidestmt(report.hides_statement);
        errhidecontext(report.hides_statement);
        if !report.hint.is_null() {
            errhint(c"%s".as_ptr(), report.hint);
        }
        errfinish(c"amp_tenancy".as_ptr(), 0, c"amp_tenancy".as_ptr());
        // errfinish() does not return from an ERROR.
        std::hint::unreachable_unchecked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_pack_as_postgresql_packs_them() {
        // 22023 is ERRCODE_INVALID_PARAMETER_VALUE: the same bits as the server's own constant.
        assert_eq!(Code::InvalidValue.packed(), pgrx::PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE as c_int);
        assert_eq!(Code::UndefinedObject.packed(), pgrx::PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT as c_int);
        assert_eq!(Code::InvalidKey.packed(), pgrx::PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION as c_int);
    }
}
