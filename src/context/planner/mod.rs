//! The policies come before what a statement asks.
//!
//! PostgreSQL evaluates a cheap "leakproof" condition of the statement before the policies, and takes a condition for leakproof
//! as soon as no leaky function *in it* is given a column: `CASE WHEN iban = 'DE99' THEN (SELECT 1/0) ...` raises its error for
//! rows that the policy would have hidden, and so tells that they exist. Where a query has row security, this is done about it:
//!
//! | module | |
//! |---|---|
//! | [`equations`] | nothing is derived from an equation that could stand for a policy, or come before one |
//! | [`access_paths`] | every filter asks the policies first; no index is asked in a way that tells what it has found |
//! | [`conflicts`] | ON CONFLICT DO UPDATE looks at a row only if the policies show it |
//! | [`harmless`] | which expressions can neither fail nor do anything |

mod access_paths;
mod conflicts;
mod equations;
mod harmless;

use pgrx::pg_sys;

pub(super) fn init() {
    equations::init();
    access_paths::init();
    conflicts::init();
}

/// # Safety
/// A live list, or null.
unsafe fn length(list: *const pg_sys::List) -> usize {
    // SAFETY: by the contract above.
    unsafe { list.as_ref().map_or(0, |list| list.length as usize) }
}

/// The pointers in a list.
///
/// # Safety
/// A live list of nodes, or null, that does not grow meanwhile.
unsafe fn cells(list: *mut pg_sys::List) -> impl Iterator<Item = *mut *mut pg_sys::Node> {
    // SAFETY: by the contract above; it is as long as it says.
    unsafe { (0..length(list)).map(move |position| (&raw mut (*(*list).elements.add(position)).ptr_value).cast()) }
}
