//! Parallel workers give the leader's answer.
//!
//! A worker has the leader's settings, but not its login history, transaction number or pin. So the leader writes what it
//! found into a private setting, which travels with the others and which nobody else can write.

use super::private_setting::PrivateSetting;
use super::resolve::Current;
use crate::backend::Local;
use crate::error::{self, Code, Error};
use crate::id::Id;
use crate::tenants::membership::Verdict;
use pgrx::guc::{GucFlags, GucSetting};
use pgrx::pg_sys;
use std::ffi::{CString, c_char, c_void};
use std::rc::Rc;

static CARRIED: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

static SETTING: Local<PrivateSetting> = Local::new(PrivateSetting::new(c"amp.parallel_context"));

pub(super) fn init() {
    // SAFETY: from _PG_init; hook and static stay loaded with the library.
    unsafe {
        SETTING.define(
            c"What a parallel query's leader found the context to be.",
            &CARRIED,
            Some(check),
            None,
            GucFlags::empty(),
        )
    };
}

/// True in a parallel worker.
#[inline(always)]
pub(super) fn is_worker() -> bool {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// What the leader found, in a worker.
pub(super) fn carried() -> Option<Current> {
    decode(CARRIED.get()?.to_str().ok()?)
}

/// The user that the leader acts as, in a worker, also where there is no tenant.
pub(super) fn carried_user() -> Option<Id> {
    Id::parse(CARRIED.get()?.to_str().ok()?.split('\n').nth(1)?.as_bytes())
}

/// Makes `current` what this transaction's workers will answer; without one, who the user is.
pub(super) fn publish(current: Option<&Current>, user: Option<Id>) {
    let user_alone = || user.map(|user| format!("\n{}", user.as_str())).unwrap_or_default();
    let text = CString::new(current.map_or_else(user_alone, encode)).unwrap_or_default();
    if CARRIED.get().unwrap_or_default() != text {
        SETTING.write(&text, pg_sys::GucAction::GUC_ACTION_LOCAL);
    }
}

unsafe extern "C-unwind" fn check(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: a check hook's arguments; the frame owns nothing when it raises.
    unsafe {
        let empty = (*value).is_null() || **value == 0;
        if empty || SETTING.is_ours() {
            return true;
        }
        error::guarded(|| {
            Error::new(Code::ContextPinned, "amp.parallel_context cannot be set").refuse_setting();
            Ok(false)
        })
    }
}

/// One item a line: tenant, user, role, expiry, permissions. None of them can hold a line break; an empty line is none.
fn encode(current: &Current) -> String {
    let expires = current.expires.to_string();
    let mut lines = vec![
        current.tenant.as_str(),
        current.user.as_ref().map_or("", Id::as_str),
        current.verdict.role.as_deref().unwrap_or(""),
        &expires,
    ];
    lines.extend(current.verdict.held.names().iter().map(String::as_str));
    lines.join("\n")
}

fn decode(text: &str) -> Option<Current> {
    let mut lines = text.split('\n');
    let tenant = Id::parse(lines.next()?.as_bytes())?;
    let user = Id::parse(lines.next()?.as_bytes());
    let role = lines.next().filter(|role| !role.is_empty()).map(str::to_owned);
    let expires = lines.next()?.parse().ok()?;
    let verdict = Rc::new(Verdict { role, held: lines.map(str::to_owned).collect(), account: None }); // asked by the leader only
    Some(Current { tenant, user, verdict, capped_by: None, expires, epoch: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_reads_what_the_leader_wrote() {
        for (user, role, held) in [
            (Some("user_1"), Some("viewer"), vec!["analytics.view", "content.view"]),
            (None, None, vec!["content.view"]),
            (Some("-"), Some("empty"), vec![]),
        ] {
            let written = Current {
                tenant: Id::parse(b"-1").unwrap(),
                user: user.and_then(|user| Id::parse(user.as_bytes())),
                verdict: Rc::new(Verdict {
                    role: role.map(str::to_owned),
                    held: held.iter().map(|name| name.to_string()).collect(),
                    account: None,
                }),
                capped_by: None,
                expires: 42,
                epoch: 7,
            };
            let read = decode(&encode(&written)).unwrap();
            assert!(read.tenant == written.tenant && read.user == written.user && read.expires == written.expires);
            assert_eq!(read.verdict.role, written.verdict.role);
            assert_eq!(read.verdict.held, written.verdict.held);
        }
    }

    #[test]
    fn nothing_published_is_no_context() {
        assert!(decode("").is_none());
        assert!(decode("\nuser_1").is_none());
        assert!(decode("not an id!\n\n").is_none());
    }
}
