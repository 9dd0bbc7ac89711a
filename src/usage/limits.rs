//! A tenant's spending limits, and what has been alerted of already, kept per backend until any of it changes.
//!
//! Stored by amp.update_config() as typed columns (sql/usage/limits.sql). Every change sends a relcache invalidation of
//! amp.spending_limits, transactional and cluster-wide; the callback advances [`EPOCH`], and what was read in another epoch is read anew.
//! It is an epoch of its own: that somebody's limits change costs nobody his cached context.

use super::period::{Day, Period};
use super::rows;
use crate::backend::Local;
use crate::context::catalog::{self, ALERTS, SETTLED_LIMITS, SPENDING_LIMITS, SPENDING_WATCHES};
use crate::error::Error;
use crate::id::Id;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::{IntoDatum, pg_sys};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CString;

/// The most tenants whose limits a backend keeps; when full, it starts anew.
const CAPACITY: usize = 1024;

static KNOWN: Local<RefCell<Option<HashMap<Id, Limits>>>> = Local::new(RefCell::new(None));

/// Grows whenever somebody's limits change.
static EPOCH: Local<Cell<u64>> = Local::new(Cell::new(1));

/// The table whose invalidation counts; none before the first look-up.
static WATCHED: Local<Cell<pg_sys::Oid>> = Local::new(Cell::new(pg_sys::InvalidOid));

static OPEN_METRICS: GucSetting<bool> = GucSetting::<bool>::new(true);
static ALERT_CHANNEL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"amp_alerts"));

pub(super) fn init() {
    // SAFETY: from _PG_init; the callback is a plain function that stays loaded.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(on_invalidation), pg_sys::Datum::null()) };
    GucRegistry::define_bool_guc(
        c"amp.open_metrics",
        c"Usage of any metric can be recorded; off: only of those in amp.metrics.",
        c"",
        &OPEN_METRICS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"amp.alert_channel",
        c"The channel on which spending alerts are notified; empty: none.",
        c"Whoever may LISTEN in the database hears it: the payload names tenant, period and threshold, no amounts.",
        &ALERT_CHANNEL,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
}

/// A relation, or all of them, may have changed. Runs during invalidation: it must not fail, and calls nothing of PostgreSQL.
unsafe extern "C-unwind" fn on_invalidation(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || relation == WATCHED.get() {
        EPOCH.set(EPOCH.get() + 1);
    }
}

pub(super) fn metrics_are_open() -> bool {
    OPEN_METRICS.get()
}

pub(super) fn alert_channel() -> Option<CString> {
    ALERT_CHANNEL.get().filter(|channel| !channel.is_empty())
}

/// An amount at which somebody is told, once.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Threshold {
    pub(super) percent: i32,
    pub(super) cents: i64,
}

/// The limit of a day or a month.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Limit {
    pub(super) cents: Option<i64>,
    /// The lower threshold and the limit itself, as far as their alerts have not been raised in this period.
    pub(super) pending: [Option<Threshold>; 2],
    /// Whether slots may have passed their part of the lowest of these: everybody looks before he commits, then.
    pub(super) watched: bool,
}

/// What holds for a tenant on a day.
#[derive(Clone, Copy, Default)]
pub(super) struct Limits {
    epoch: u64,
    day: Option<Day>,
    pub(super) hard_stop: bool,
    version: i64,
    settled: bool,
    pub(super) daily: Limit,
    pub(super) monthly: Limit,
}

impl Limit {
    /// The lowest threshold that has not been passed.
    pub(super) fn next(&self) -> Option<Threshold> {
        self.pending.iter().flatten().copied().min_by_key(|threshold| threshold.cents)
    }

    /// The highest one.
    pub(super) fn last(&self) -> Option<Threshold> {
        self.pending.iter().flatten().copied().max_by_key(|threshold| threshold.cents)
    }
}

impl Limits {
    /// Whether slots may hold more than their part of the limits as they are now.
    pub(super) fn must_settle(&self) -> bool {
        self.hard_stop && !self.settled
    }

    pub(super) fn is_version_of(&self, other: &Limits) -> bool {
        self.version == other.version
    }

    /// Whether something has changed since they were read.
    pub(super) fn are_stale(&self) -> bool {
        self.epoch != EPOCH.get()
    }
}

/// A tenant's limits. Listen first: it hears of changes then.
pub(super) fn of(tenant: &Id, day: Day) -> Result<Limits, Error> {
    let epoch = EPOCH.get();
    let known = KNOWN.borrow().as_ref().and_then(|known| known.get(tenant).copied());
    if let Some(known) = known.filter(|known| known.epoch == epoch && known.day == Some(day)) {
        return Ok(known);
    }
    // Looked up before anything is read, and each time: the extension may have been dropped and made anew.
    WATCHED.set(catalog::heap_and_index(&SPENDING_LIMITS)?.0);
    let limits = Limits { epoch, ..read(tenant, day)? };
    if EPOCH.get() == epoch {
        let mut known = KNOWN.borrow_mut();
        let known = known.get_or_insert_default();
        if known.len() >= CAPACITY {
            known.clear();
        }
        known.insert(*tenant, limits);
    }
    Ok(limits)
}

fn read(tenant: &Id, day: Day) -> Result<Limits, Error> {
    let key = [tenant.as_str()];
    let limits = catalog::row(&SPENDING_LIMITS, &key, |row| {
        let percent = row.get::<i32>(4);
        (
            row.get::<i64>(2),
            row.get::<i64>(3),
            percent,
            row.get::<bool>(5).unwrap_or(false),
            row.get::<i64>(6).unwrap_or(0),
        )
    })?;
    let none = Limits { day: Some(day), ..Limits::default() };
    let Some((monthly, daily, percent, hard_stop, version)) = limits else {
        return Ok(none);
    };
    let settled = catalog::rows(&SETTLED_LIMITS, &key, |row| row.get::<i64>(2))?.contains(&Some(version));
    let limit = |cents: Option<i64>, period: Period| -> Result<Limit, Error> {
        let Some(limit) = cents else {
            return Ok(Limit::default());
        };
        let key = [tenant.as_str(), &period.name()];
        let raised = catalog::rows(&ALERTS, &key, |row| (row.get::<i32>(3), row.get::<i64>(4)))?;
        let pending = thresholds(limit, percent)
            .map(|threshold| threshold.filter(|t| !raised.contains(&(Some(t.percent), Some(t.cents)))));
        let limit = Limit { cents, pending, watched: false };
        let next = limit.next().map(|threshold| threshold.cents);
        let watched =
            next.is_some() && catalog::rows(&SPENDING_WATCHES, &key, |row| row.get::<i64>(3))?.contains(&next);
        Ok(Limit { watched, ..limit })
    };
    let (daily, monthly) = (limit(daily, Period::Day(day))?, limit(monthly, Period::Month(day.month()))?);
    Ok(Limits { hard_stop, version, settled, daily, monthly, ..none })
}

/// The amounts at which a limit is alerted of.
fn thresholds(limit: i64, percent: Option<i32>) -> [Option<Threshold>; 2] {
    let early = percent.filter(|percent| *percent < 100).map(|percent| {
        // Reached, not passed: 80 % of 99 cents is 80.
        let cents = (i128::from(limit) * i128::from(percent) + 99) / 100;
        Threshold { percent, cents: i64::try_from(cents).unwrap_or(i64::MAX).max(1) }
    });
    [early, Some(Threshold { percent: 100, cents: limit.max(1) })]
}

/// Has every backend read limits, watches and alerts anew when this transaction commits; this one with the next row that it writes.
pub(super) fn invalidate() -> Result<(), Error> {
    let (limits, _) = catalog::heap_and_index(&SPENDING_LIMITS)?;
    // SAFETY: in a transaction, of a table that is there.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(limits) };
    Ok(())
}

/// Notes that the slots have been brought in line with these limits.
pub(super) fn mark_settled(tenant: &Id, limits: &Limits) -> Result<(), Error> {
    invalidate()?;
    rows::insert(&SETTLED_LIMITS, &mut [text(tenant.as_str()), limits.version.into()])
}

/// Notes that slots may be beyond their part of a threshold.
pub(super) fn watch(tenant: &Id, period: Period, threshold: Threshold) -> Result<(), Error> {
    invalidate()?;
    rows::insert(&SPENDING_WATCHES, &mut [text(tenant.as_str()), text(&period.name()), threshold.cents.into()])
}

/// Notes that no slot is beyond its part of any threshold of a period.
pub(super) fn stop_watching(tenant: &Id, period: Period) -> Result<(), Error> {
    invalidate()?;
    rows::delete(&SPENDING_WATCHES, tenant, &period.name())
}

pub(super) fn text(text: &str) -> pg_sys::Datum {
    text.into_datum().unwrap_or(pg_sys::Datum::null())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_reached_not_passed() {
        let cents =
            |limit, percent| thresholds(limit, percent).map(|threshold| threshold.map(|t| (t.percent, t.cents)));
        assert_eq!(cents(500_000, Some(80)), [Some((80, 400_000)), Some((100, 500_000))]);
        assert_eq!(cents(99, Some(80)), [Some((80, 80)), Some((100, 99))]);
        assert_eq!(cents(1, Some(1)), [Some((1, 1)), Some((100, 1))]);
        assert_eq!(cents(100, Some(100)), [None, Some((100, 100))]);
        assert_eq!(cents(100, None), [None, Some((100, 100))]);
        assert_eq!(cents(0, Some(50)), [Some((50, 1)), Some((100, 1))]);
        assert_eq!(cents(i64::MAX, Some(99))[0].unwrap().0, 99);
    }

    #[test]
    fn the_lowest_pending_one_is_next() {
        let limit = |pending| Limit { cents: Some(100), pending, watched: false };
        let [early, last] = thresholds(100, Some(80));
        assert_eq!(limit([early, last]).next(), early);
        assert_eq!(limit([None, last]).next(), last);
        assert_eq!(limit([None, None]).next(), None);
    }
}
