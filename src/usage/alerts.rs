//! One alert for each tenant, period and threshold, however many sessions cross it together, and nobody waits for an open transaction for it.
//!
//! A threshold is divided over the slots like a limit: as long as each slot is within its part of what is one cent less, their sum is
//! below it, and nobody needs to know the sum. Charges prefer slots with room below the next threshold. One that finds none free goes
//! beyond it; that one is not *quiet*, nor is one that was made while there was no threshold to be seen.
//!
//! Before a transaction that has spent commits, it takes the tenant's alert lock, and keeps it until it has committed: shared if all that it
//! spent was quiet, and nothing is watched; else exclusively. With the lock for itself it looks at the slots, those committed and its own.
//! Where their sum has reached a threshold, it writes the alert. And where a slot is beyond its part of the next one, it marks the period as
//! *watched*, and from then on nobody's charge is quiet; when no slot is any more, it takes the mark away.
//!
//! So, of the transactions that cross a threshold together, one is not quiet, or something is watched: else all slots were within their parts. Of
//! those that take the lock exclusively the last one sees the others. And a quiet one that shares it has either committed before somebody
//! else got the lock exclusively, and is seen; or gets it afterwards, and hears of the mark: its invalidation was sent before the lock
//! was let go. Changing limits marks, too (amp.store_limits()): what was within its part may not be any more.
//!
//! The lock is held while committing, never while a transaction waits for its client: nobody waits for an open transaction. A prepared one
//! does not look, but marks, if it was not quiet: who charges next looks. An alert that rolls back was none.

use super::limits::{self, Limit, Threshold};
use super::period::{Day, Period};
use super::rows::{self, COST, Series};
use super::slots::{Kind, Locks};
use super::spending::share;
use crate::backend::Local;
use crate::context::catalog::ALERTS;
use crate::context::{resolve, transaction};
use crate::error::{Error, guarded};
use crate::id::Id;
use pgrx::pg_sys;
use serde_json::json;
use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};

unsafe extern "C-unwind" {
    fn Async_Notify(channel: *const c_char, payload: *const c_char);
}

/// What a transaction has spent.
struct Spent {
    tenant: Id,
    day: Day,
    quiet: bool,
}

/// What the transaction of that number has spent.
static SPENT: Local<RefCell<(u64, Vec<Spent>)>> = Local::new(RefCell::new((0, Vec::new())));

pub(super) fn init() {
    // SAFETY: from _PG_init; the callback is a plain function that stays loaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_event), std::ptr::null_mut()) };
}

/// Notes that the transaction has spent a tenant's money. A savepoint's rollback leaves it: then there is nothing to be found.
pub(super) fn note(tenant: Id, day: Day, quiet: bool) {
    let mut spent = SPENT.borrow_mut();
    if spent.0 != transaction::serial() {
        *spent = (transaction::serial(), Vec::new());
    }
    match spent.1.iter_mut().find(|known| known.tenant == tenant && known.day == day) {
        Some(known) => known.quiet &= quiet,
        None => spent.1.push(Spent { tenant, day, quiet }),
    }
}

unsafe extern "C-unwind" fn at_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE};
    let look: fn(&Spent) -> Result<(), Error> = match event {
        XACT_EVENT_PRE_COMMIT => look,
        XACT_EVENT_PRE_PREPARE => mark,
        _ => return,
    };
    if SPENT.borrow().0 == transaction::serial() {
        // SAFETY: the transaction is still in progress, and may fail; this frame owns nothing.
        unsafe {
            guarded(|| {
                let (_, mut spent) = SPENT.take();
                // In one order, so that nobody waits in a circle who has spent for several (a superuser's load).
                spent.sort_by(|one, other| one.tenant.as_str().cmp(other.tenant.as_str()));
                spent.iter().try_for_each(look)
            });
        }
    }
}

/// Before committing.
fn look(spent: &Spent) -> Result<(), Error> {
    let Spent { tenant, day, quiet } = spent;
    let locks = Locks::of(tenant);
    loop {
        let limits = limits::of(tenant, *day)?;
        if limits.daily.next().is_none() && limits.monthly.next().is_none() {
            return Ok(());
        }
        if !quiet || limits.daily.watched || limits.monthly.watched {
            break;
        }
        locks.share(Kind::Alerts, 0);
        resolve::listen();
        if !limits.are_stale() {
            return Ok(());
        }
        locks.stop_sharing(Kind::Alerts, 0);
    }
    locks.exclude(Kind::Alerts, 0);
    resolve::listen();
    let limits = limits::of(tenant, *day)?;
    let month = day.month();
    examine(tenant, Period::Day(*day), &limits.daily, limits.hard_stop, &Series::of_day(tenant, COST, *day))?;
    examine(tenant, Period::Month(month), &limits.monthly, limits.hard_stop, &Series::of_month(tenant, COST, month))
}

/// Before being prepared: nobody looks when it commits.
fn mark(spent: &Spent) -> Result<(), Error> {
    let Spent { tenant, day, quiet } = spent;
    let limits = limits::of(tenant, *day)?;
    for (period, limit) in [(Period::Day(*day), limits.daily), (Period::Month(day.month()), limits.monthly)] {
        if let Some(next) = limit.next().filter(|_| !quiet) {
            limits::watch(tenant, period, next)?;
        }
    }
    Ok(())
}

/// Looks at the slots, with the lock for itself: writes the alerts that are due, and marks what is to be watched.
fn examine(tenant: &Id, period: Period, limit: &Limit, hard_stop: bool, series: &Series) -> Result<(), Error> {
    let Some((cents, _)) = limit.cents.zip(limit.next()) else {
        return Ok(());
    };
    let slots = series.slots()?;
    let spent = slots.iter().fold(0_i64, |sum, (_, amount)| sum.saturating_add(*amount));
    let due = |threshold: &&Threshold| threshold.cents <= spent;
    for threshold in limit.pending.iter().flatten().filter(due) {
        raise(tenant, period, *threshold, cents, spent, hard_stop)?;
    }
    let next =
        limit.pending.iter().flatten().filter(|threshold| !due(threshold)).min_by_key(|threshold| threshold.cents);
    let part = |slot: i32, of: &Threshold| u16::try_from(slot).map_or(0, |slot| share(of.cents - 1, slot));
    let beyond = next.filter(|next| slots.iter().any(|(slot, amount)| *amount > part(*slot, next)));
    match beyond {
        Some(next) if !(limit.watched && limit.next() == Some(*next)) => limits::watch(tenant, period, *next),
        None if limit.watched => limits::stop_watching(tenant, period),
        _ => Ok(()),
    }
}

fn raise(
    tenant: &Id,
    period: Period,
    threshold: Threshold,
    limit: i64,
    spent: i64,
    hard_stop: bool,
) -> Result<(), Error> {
    let name = period.name();
    // SAFETY: reads the transaction's state.
    let at = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
    let mut alert = [
        limits::text(tenant.as_str()),
        limits::text(&name),
        threshold.percent.into(),
        threshold.cents.into(),
        limit.into(),
        spent.into(),
        hard_stop.into(),
        at.into(),
    ];
    limits::invalidate()?;
    rows::insert(&ALERTS, &mut alert)?;
    if let Some(channel) = limits::alert_channel() {
        let payload = json!({"tenant_id": tenant.as_str(), "period": name, "threshold_percent": threshold.percent});
        // JSON has no NUL byte in it.
        let payload = CString::new(payload.to_string()).unwrap_or_default();
        // SAFETY: NUL-terminated texts, before the transaction's notifications are sent.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| Async_Notify(channel.as_ptr(), payload.as_ptr())) };
    }
    Ok(())
}
