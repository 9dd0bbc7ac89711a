//! Spending within limits: the algorithm, and why nobody passes a limit.
//!
//! **State.** A tenant's spending of a day, and of a month, is the sum of slots; a limit of `L` cents is the sum of 64 fixed parts
//! ([`share`]), one a slot. Who writes a slot holds its lock until he commits or rolls back ([`slots`](super::slots)).
//!
//! **Rule.** Where a limit is hard, a slot's amount never exceeds its part. So their sum never exceeds the limit, whatever commits, whatever
//! rolls back, and in which order: each slot is changed by one transaction at a time, who saw it committed before he changed it.
//! No session has to know the sum, or what the others have under way.
//!
//! **Charging** an amount takes a slot with so much room that nobody holds; mostly the one that this backend used last. Is there none,
//! the amount is divided over the room that is free. Only if that is not enough, and others hold slots with room, is one of them
//! waited for, and then all is looked at again; while waiting, nothing that this call took is held. If nobody holds a slot with room and it is still not enough,
//! then the room of *all* slots was seen at once, and it is what is left of the limit: the refusal is exact. Hence: never over the limit,
//! never refused while enough is left and nobody is in flight, and nobody waits while there is room in slots that are free.
//! Those who wait queue up at a turnstile, which is left before the transaction goes on, unless they have spent before in this transaction: others
//! may be waiting for them. Two transactions that each have spent, and each need what the other one holds, are a deadlock;
//! PostgreSQL ends one with 40P01 after deadlock_timeout, and the other goes on. Daily and monthly limits have slots of their own, so that
//! room is never lost where one slot has it for the day and another one for the month.
//!
//! **Without a hard limit** any free slot takes it all, and there are 1,024. Those beyond 64 are used in the shared mode of the tenant's gate.
//!
//! **When limits change**, slots may hold more than their part of the new one. The first charge after that takes the gate and all slots for
//! itself, which waits for those in flight, and moves amounts between slots (never the sum) until each is within its part, or all are
//! full. Raising a limit only makes parts larger: nothing to be settled. A charge reads the limits again after it has its locks: settling
//! sends an invalidation, which arrives before the locks that it was done under are free.
//!
//! **Thresholds** never make anybody wait: see [`alerts`](super::alerts).
//!
//! Corrections take amounts out of slots (sql/usage/corrections.sql): that makes room where they are written.

use super::alerts;
use super::limits::{self, Limit, Limits, Threshold};
use super::period::{Day, Period};
use super::rows::{COST, Row, Series};
use super::slots::{ALL, CAPPED, Kind, Locks, Taken};
use crate::context::resolve;
use crate::error::{Code, Error};
use crate::id::Id;

/// A slot's part of a limit. The parts add up to the limit.
pub(super) fn share(limit: i64, slot: u16) -> i64 {
    let parts = i64::from(CAPPED);
    match i64::from(slot) {
        slot if slot < parts => limit / parts + i64::from(slot < limit % parts),
        _ => 0,
    }
}

/// One of the two periods that a charge counts in.
struct Account<'a> {
    tenant: &'a Id,
    locks: Locks,
    kind: Kind,
    period: Period,
    series: Series<'a>,
    limit: Limit,
    hard_stop: bool,
}

/// What a charge has found room in; the slots are held.
struct Found<'a> {
    account: &'a Account<'a>,
    parts: Vec<(Row, i64)>,
    /// The slots that were taken for it.
    taken: Vec<u16>,
    /// Whether all of it is within the slots' parts of the next threshold.
    quiet: bool,
}

/// How looking for room ended.
enum Search<'a> {
    Found(Found<'a>),
    /// Somebody holds a slot that may have room.
    Busy(u16),
    Full,
}

impl<'a> Account<'a> {
    fn hard_limit(&self) -> Option<i64> {
        self.limit.cents.filter(|_| self.hard_stop)
    }

    /// Up to where slots are filled, in turn: short of the next threshold, so that nobody has to know their sum; short of the last one,
    /// so that the next one is not missed later; to the hard limit.
    fn bounds(&self) -> impl Iterator<Item = i64> {
        let short_of = |threshold: Threshold| threshold.cents - 1;
        let next = self.limit.next().filter(|_| !self.limit.watched).map(short_of);
        let last = self.limit.last().map(short_of).filter(|last| next != Some(*last));
        next.into_iter().chain(last).chain(self.hard_limit())
    }

    /// Looks for room, waiting for nobody.
    fn search(&'a self, amount: i64) -> Result<Search<'a>, Error> {
        let is_quiet = |bound: i64| !self.limit.watched && self.limit.next().is_some_and(|next| bound < next.cents);
        let mut found = Found { account: self, parts: Vec::new(), taken: Vec::new(), quiet: false };
        // Without a limit the first one that is free, so that there are few.
        let first = self.bounds().next().map_or(0, |_| self.locks.last(self.kind));
        if let Some(row) = found.take(first)? {
            let bound = self.bounds().next();
            if bound.is_none_or(|bound| share(bound, first) - row.amount >= amount) {
                found.quiet = bound.is_some_and(is_quiet);
                found.parts.push((row, amount));
                return Ok(Search::Found(found));
            }
            found.give_back(first);
        }
        let mut amounts = [0; CAPPED as usize];
        if self.bounds().next().is_some() {
            for (slot, amount) in self.series.slots()? {
                if let Some(known) = usize::try_from(slot).ok().and_then(|slot| amounts.get_mut(slot)) {
                    *known = amount;
                }
            }
        }
        let mut in_the_way = None;
        for bound in self.bounds() {
            let (rest, busy) = found.divide(amount, bound, first, &amounts)?;
            if rest == 0 {
                found.quiet = is_quiet(bound);
                return Ok(Search::Found(found));
            }
            found.give_all_back();
            in_the_way = busy;
        }
        match self.hard_limit() {
            Some(_) => Ok(in_the_way.map_or(Search::Full, Search::Busy)),
            None => self.search_any(found, first, amount),
        }
    }

    /// Takes any slot that is free.
    fn search_any(&self, mut found: Found<'a>, first: u16, amount: i64) -> Result<Search<'a>, Error> {
        for slot in from(first) {
            if let Some(row) = found.take(slot)? {
                found.parts.push((row, amount));
                return Ok(Search::Found(found));
            }
        }
        // Whoever settles waits for these by the gate.
        self.locks.share(Kind::Gate, 0);
        for slot in CAPPED..ALL {
            if let Some(row) = found.take(slot)? {
                found.parts.push((row, amount));
                return Ok(Search::Found(found));
            }
        }
        Ok(Search::Busy(first))
    }

    /// TN005: what is left of the limit is less than what is asked.
    fn refuse(&self, amount: i64) -> Result<Error, Error> {
        let limit = self.limit.cents.unwrap_or_default();
        Ok(limit_reached(self.tenant, self.period, limit, self.series.sum()?, Some(amount)))
    }
}

/// The first 64 slots, from one on.
fn from(first: u16) -> impl Iterator<Item = u16> {
    (0..CAPPED).map(move |n| (first + n) % CAPPED)
}

impl Found<'_> {
    /// Takes a slot and reads its row, or None if another transaction holds it.
    fn take(&mut self, slot: u16) -> Result<Option<Row>, Error> {
        let Account { locks, kind, series, .. } = self.account;
        match locks.try_slot(*kind, slot) {
            None => return Ok(None),
            Some(Taken::Now) => self.taken.push(slot),
            Some(Taken::Before) => {}
        }
        Ok(Some(series.row(slot)?))
    }

    fn has(&self, slot: u16) -> bool {
        self.parts.iter().any(|(row, _)| row.slot == slot)
    }

    fn give_back(&mut self, slot: u16) {
        if let Some(position) = self.taken.iter().position(|taken| *taken == slot) {
            self.taken.swap_remove(position);
            self.account.locks.give_back(self.account.kind, slot);
        }
    }

    fn give_all_back(&mut self) {
        self.parts.clear();
        for slot in std::mem::take(&mut self.taken) {
            self.account.locks.give_back(self.account.kind, slot);
        }
    }

    /// Finds room for an amount below the slots' parts of a limit: in one slot, or in as few as can be. `amounts` are the slots' as of lately:
    /// those that are full stay so. Gives what found no room, and a slot with room that somebody holds.
    fn divide(&mut self, amount: i64, limit: i64, first: u16, amounts: &[i64]) -> Result<(i64, Option<u16>), Error> {
        let room = |slot: u16, amount: i64| share(limit, slot).saturating_sub(amount);
        let lately = |slot: u16| room(slot, amounts[slot as usize]);
        for slot in from(first).filter(|slot| lately(*slot) >= amount) {
            if let Some(row) = self.take(slot)? {
                if room(slot, row.amount) >= amount {
                    self.parts.push((row, amount));
                    return Ok((0, None));
                }
                self.give_back(slot);
            }
        }
        let mut with_room: Vec<u16> = from(first).filter(|slot| lately(*slot) > 0).collect();
        with_room.sort_by_key(|slot| std::cmp::Reverse(lately(*slot)));
        let (mut rest, mut busy) = (amount, None);
        for slot in with_room {
            let Some(row) = self.take(slot)? else {
                busy.get_or_insert(slot);
                continue;
            };
            match room(slot, row.amount) {
                room @ 1.. => {
                    let part = room.min(rest);
                    self.parts.push((row, part));
                    rest -= part;
                    if rest == 0 {
                        break;
                    }
                }
                _ => self.give_back(slot),
            }
        }
        Ok((rest, busy))
    }

    fn write(&self) -> Result<(), Error> {
        let Account { locks, kind, series, .. } = self.account;
        for (row, part) in &self.parts {
            series.add(row, *part)?;
            locks.set_last(*kind, row.slot % CAPPED);
        }
        Ok(())
    }
}

/// Charges a tenant for the day and month in which the transaction began.
/// Errors: TN005 a hard limit; 40P01 see above.
pub(super) fn charge(tenant: &Id, cents: i64) -> Result<(), Error> {
    let (locks, day) = (Locks::of(tenant), Day::of_transaction());
    let has_spent = locks.has_spent();
    // A slot that was waited for, and the turnstile in front of those of its kind.
    let mut awaited: Option<(Kind, u16)> = None;
    let mut turnstile: Option<Kind> = None;
    let charged = loop {
        resolve::listen();
        let limits = limits::of(tenant, day)?;
        if limits.must_settle() {
            settle(tenant, day, &limits)?;
            continue;
        }
        let accounts = accounts(tenant, day, &limits);
        let mut found = Vec::with_capacity(accounts.len());
        let mut ended = None;
        for account in &accounts {
            match account.search(cents)? {
                Search::Found(room) => found.push(room),
                search => {
                    ended = Some((account, search));
                    break;
                }
            }
        }
        resolve::listen();
        if limits.are_stale() {
            found.iter_mut().for_each(Found::give_all_back);
            continue;
        }
        match ended {
            None => {
                for room in &found {
                    room.write()?;
                }
                let of_use =
                    |(kind, slot): &(Kind, u16)| found.iter().any(|room| room.account.kind == *kind && room.has(*slot));
                if let Some((kind, slot)) = awaited.filter(|awaited| !of_use(awaited)) {
                    locks.give_back(kind, slot);
                }
                break Ok(found.iter().all(|room| room.quiet || room.account.limit.cents.is_none()));
            }
            Some((account, Search::Busy(slot))) => {
                found.iter_mut().for_each(Found::give_all_back);
                if let Some((kind, slot)) = awaited.take() {
                    locks.give_back(kind, slot);
                }
                if !has_spent && turnstile != Some(account.kind) {
                    if let Some(kind) = turnstile.replace(account.kind) {
                        locks.stop_excluding(Kind::Turnstile, kind as u16);
                    }
                    locks.exclude(Kind::Turnstile, account.kind as u16);
                } else {
                    locks.wait_for_slot(account.kind, slot);
                    awaited = Some((account.kind, slot));
                }
            }
            Some((account, _)) => break Err(account.refuse(cents)?),
        }
    };
    if let Some(kind) = turnstile {
        locks.stop_excluding(Kind::Turnstile, kind as u16);
    }
    let quiet = charged?;
    locks.set_spent();
    alerts::note(*tenant, day, quiet);
    Ok(())
}

fn accounts<'a>(tenant: &'a Id, day: Day, limits: &Limits) -> [Account<'a>; 2] {
    let (locks, month, hard_stop) = (Locks::of(tenant), day.month(), limits.hard_stop);
    [
        Account {
            tenant,
            locks,
            kind: Kind::Day,
            period: Period::Day(day),
            series: Series::of_day(tenant, COST, day),
            limit: limits.daily,
            hard_stop,
        },
        Account {
            tenant,
            locks,
            kind: Kind::Month,
            period: Period::Month(month),
            series: Series::of_month(tenant, COST, month),
            limit: limits.monthly,
            hard_stop,
        },
    ]
}

/// Brings the slots in line with the limits as they are now.
fn settle(tenant: &Id, day: Day, limits: &Limits) -> Result<(), Error> {
    let locks = Locks::of(tenant);
    locks.exclude(Kind::Gate, 0);
    for kind in [Kind::Day, Kind::Month] {
        for slot in 0..CAPPED {
            locks.wait_for_slot(kind, slot);
        }
    }
    resolve::listen();
    let now = limits::of(tenant, day)?;
    if !now.is_version_of(limits) || !now.must_settle() {
        return Ok(()); // somebody has, or they are others by now
    }
    for account in accounts(tenant, day, &now) {
        if let Some(limit) = account.hard_limit() {
            spread(&account.series, limit)?;
        }
    }
    limits::mark_settled(tenant, &now)
}

/// Moves amounts between slots, all of which the transaction holds, so that each is within its part; what is too much stays in the first.
fn spread(series: &Series, limit: i64) -> Result<(), Error> {
    let slots = series.slots()?;
    let within = |(slot, amount): &(i32, i64)| *amount <= u16::try_from(*slot).map_or(0, |slot| share(limit, slot));
    if slots.iter().all(within) {
        return Ok(());
    }
    let total = slots.iter().fold(0_i64, |total, (_, amount)| total.saturating_add(*amount));
    let mut rest = total;
    let mut wanted = Vec::with_capacity(CAPPED as usize);
    for slot in 0..CAPPED {
        let part = share(limit, slot).min(rest);
        wanted.push(part);
        rest -= part;
    }
    wanted[0] += rest;
    let beyond = slots.iter().filter_map(|(slot, _)| u16::try_from(*slot).ok()).filter(|slot| *slot >= CAPPED);
    for (slot, amount) in (0..CAPPED).zip(wanted).chain(beyond.map(|slot| (slot, 0))) {
        let row = series.row(slot)?;
        if row.amount != amount {
            series.write(&row, amount);
        }
    }
    Ok(())
}

/// The period whose hard limit the tenant has used up, with the limit and what was spent.
fn used_up(tenant: &Id) -> Result<Option<(Period, i64, i64)>, Error> {
    let day = Day::of_transaction();
    for account in accounts(tenant, day, &limits::of(tenant, day)?) {
        if let Some(limit) = account.hard_limit() {
            let spent = account.series.sum()?;
            if spent >= limit {
                return Ok(Some((account.period, limit, spent)));
            }
        }
    }
    Ok(None)
}

/// Whether work that costs may go on: no hard limit is used up.
pub(super) fn is_allowed(tenant: &Id) -> Result<bool, Error> {
    Ok(used_up(tenant)?.is_none())
}

/// Errors: TN005 a hard limit is used up.
pub(super) fn check_allowed(tenant: &Id) -> Result<(), Error> {
    match used_up(tenant)? {
        None => Ok(()),
        Some((period, limit, spent)) => Err(limit_reached(tenant, period, limit, spent, None)),
    }
}

fn limit_reached(tenant: &Id, period: Period, limit: i64, spent: i64, asked: Option<i64>) -> Error {
    let (key, name) = match period {
        Period::Day(_) => ("daily_limit_cents", "daily"),
        Period::Month(_) => ("monthly_limit_cents", "monthly"),
    };
    let asked = asked.map_or(String::new(), |asked| format!(" Asked: {asked}."));
    Error::new(
        Code::LimitReached,
        format!("the {name} spending limit of tenant \"{}\" is reached for {}", tenant.as_str(), period.name()),
    )
    .detail(format!("Limit: {limit} cents. Spent: {spent}.{asked} The period ends at {}.", period.end()))
    .hint(format!("Wait for that, or have somebody with \"billing.configure\" raise config.cost_limits.{key}: amp.update_config()."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_limit_to_the_cent() {
        for limit in [0, 1, 2, 63, 64, 65, 127, 128, 20_000, 500_000, 999_999_999_999, i64::MAX] {
            assert_eq!((0..CAPPED).map(|slot| i128::from(share(limit, slot))).sum::<i128>(), i128::from(limit));
            assert_eq!(share(limit, CAPPED), 0);
        }
    }

    #[test]
    fn a_higher_limit_has_no_smaller_part() {
        for limit in 0..1000 {
            assert!((0..CAPPED).all(|slot| share(limit, slot) <= share(limit + 1, slot)));
        }
    }
}
