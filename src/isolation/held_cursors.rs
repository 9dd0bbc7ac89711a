//! The rows of a WITH HOLD cursor are stored when its transaction commits, and FETCH runs no query that could ask whose they are. So
//! such a cursor is remembered with the context that it was filled in: FETCH resolves that again, and as soon as the session claims
//! another one, the cursor is closed (a client can also fetch by a message of the protocol, which no hook sees).

use crate::backend::Local;
use crate::context::{resolve, settings, transaction};
use crate::error::{Code, Error};
use crate::id::Id;
use crate::identity::proof::{self, Proof};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};

/// What the session claims: tenant, user, and the credential.
type Claims = (Option<Id>, Option<Id>, Option<Proof>);

struct Held {
    name: CString,
    /// When the portal was made: another may get its name.
    made: pg_sys::TimestampTz,
    /// The context that it was filled in; None until its transaction commits.
    filled: Option<(Claims, Option<Id>)>,
}

static CURSORS: Local<RefCell<Vec<Held>>> = Local::new(RefCell::new(Vec::new()));

pub(super) fn init() {
    // SAFETY: from _PG_init; the callback is a plain function that stays loaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_event), std::ptr::null_mut()) };
}

fn claims() -> Claims {
    (settings::tenant().id(), settings::user().id(), proof::current())
}

impl Held {
    /// The portal, if it is still this one.
    fn portal(&self) -> Option<*mut pg_sys::PortalData> {
        // SAFETY: a look-up in a table of the backend; null where there is none.
        unsafe {
            let portal = pg_sys::GetPortalByName(self.name.as_ptr());
            (!portal.is_null() && (*portal).creation_time == self.made).then_some(portal)
        }
    }
}

/// A cursor was declared WITH HOLD.
///
/// # Safety
/// Its name.
pub(super) unsafe fn declared(name: *const c_char) {
    // SAFETY: by the contract above; a look-up in a table of the backend.
    unsafe {
        let name = CStr::from_ptr(name).to_owned();
        let portal = pg_sys::GetPortalByName(name.as_ptr());
        if !portal.is_null() {
            let mut cursors = CURSORS.borrow_mut();
            cursors.retain(|held| held.portal().is_some());
            cursors.push(Held { name, made: (*portal).creation_time, filled: None });
        }
    }
}

/// The context in which a held cursor was filled has to be the session's still. Errors: as [`resolve::tenant`]; TN006 it is another.
///
/// # Safety
/// The cursor's name, or null.
pub(super) unsafe fn check_fetch(name: *const c_char) -> Result<(), Error> {
    if name.is_null() || CURSORS.borrow().is_empty() {
        return Ok(());
    }
    // SAFETY: by the contract above.
    let name = unsafe { CStr::from_ptr(name) };
    let filled = CURSORS
        .borrow()
        .iter()
        .find(|held| *held.name == *name && held.portal().is_some())
        .and_then(|held| held.filled);
    let Some((_, Some(tenant))) = filled else {
        return Ok(());
    };
    if resolve::tenant()? == tenant {
        return Ok(());
    }
    Err(Error::new(Code::ContextPinned, format!("cursor \"{}\" has rows of another tenant", name.to_string_lossy()))
        .hint("CLOSE it, and declare it again."))
}

/// The session claims something else now: what was filled under other claims is closed. Runs in assign hooks, also inside commit and abort: it
/// must not fail, and nothing here asks a catalog or runs code of a user.
pub(crate) fn close_strangers() {
    let Ok(mut cursors) = CURSORS.try_borrow_mut() else {
        return;
    };
    if cursors.is_empty() {
        return;
    }
    let now = claims();
    cursors.retain(|held| {
        let Some(portal) = held.portal() else {
            return false;
        };
        if held.filled.is_none_or(|(claims, _)| claims == now) {
            return true;
        }
        // SAFETY: a portal that holds stored rows and no query; PortalDrop() fails for pinned and running ones only.
        unsafe {
            if (*portal).portalPinned || (*portal).status == pg_sys::PortalStatus::PORTAL_ACTIVE {
                return true;
            }
            pg_sys::PortalDrop(portal, false);
        }
        false
    });
}

/// Cursors are filled before callbacks hear of a commit.
unsafe extern "C-unwind" fn at_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    if event != pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT {
        return;
    }
    let mut cursors = CURSORS.borrow_mut();
    if cursors.iter().any(|held| held.filled.is_none()) {
        let now = (claims(), transaction::tenant());
        cursors.retain(|held| held.portal().is_some());
        for held in cursors.iter_mut().filter(|held| held.filled.is_none()) {
            held.filled = Some(now);
        }
    }
}
