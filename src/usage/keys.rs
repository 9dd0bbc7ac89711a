//! Idempotency keys: what a key stands for is counted once, whoever commits first.
//!
//! A key is a row beside the counter, in the same transaction. Who brings one that somebody else has under way waits for him: it counts once,
//! whichever commits; and where he rolls back, the key is free. A lock keeps two from adding the same key at once, and is let go when
//! the row is there: a transaction with ten thousand keys holds no ten thousand locks.

use super::slots::{Kind, Locks};
use super::{immediate, limits};
use crate::context::catalog::{self, USAGE_KEYS};
use crate::error::{Code, Error};
use crate::id::Id;
use pgrx::{FromDatum, pg_sys};
use std::cell::Cell;

/// How a key was found.
enum Found {
    Nothing,
    /// It counted so much of a metric.
    Counted(String, i64),
    /// It counts so much of a metric if this transaction commits.
    Own(String, i64),
    /// That transaction is about to count it.
    UnderWay(pg_sys::TransactionId),
}

/// How noting a key without waiting ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    Now,
    Before,
    /// It was used for something else.
    Otherwise,
    /// Somebody has it under way.
    Busy,
}

/// Notes what a key counts. False if it has counted just that before. Errors: 22023 it was used for something else.
pub(super) fn note(tenant: &Id, key: &str, metric: &str, amount: i64) -> Result<bool, Error> {
    let locks = Locks::of_key(tenant, key);
    loop {
        locks.exclude(Kind::Key, 0);
        let pending = immediate::pending_key(tenant, key);
        let found = pending.map_or_else(|| find(tenant, key), |(metric, amount)| Ok(Found::Counted(metric, amount)))?;
        if let Found::Nothing = found {
            insert(tenant, key, metric, amount)?;
        }
        locks.stop_excluding(Kind::Key, 0);
        match found {
            Found::Nothing => return Ok(true),
            Found::Counted(known, of) | Found::Own(known, of) => {
                return if (known.as_str(), of) == (metric, amount) {
                    Ok(false)
                } else {
                    Err(used(key, &known, of, metric, amount))
                };
            }
            Found::UnderWay(transaction) => wait_for(transaction),
        }
    }
}

/// Runs `act` while nobody else begins to use the key; it can ask what the key has counted. Waits for a transaction that has the key
/// under way. Errors: 55000 this transaction has.
pub(super) fn alone<T>(
    tenant: &Id,
    key: &str,
    mut act: impl FnMut(&dyn Fn() -> Result<Option<(String, i64)>, Error>) -> Result<T, Error>,
) -> Result<T, Error> {
    let locks = Locks::of_key(tenant, key);
    loop {
        locks.exclude(Kind::Key, 0);
        let under_way = Cell::new(None);
        let acted = act(&|| match find(tenant, key)? {
            Found::Nothing => Ok(None),
            Found::Counted(known, of) => Ok(Some((known, of))),
            Found::UnderWay(transaction) => {
                under_way.set(Some(transaction));
                Err(Error::new(Code::WrongState, "the key is under way"))
            }
            Found::Own(..) => Err(Error::new(Code::WrongState, "this transaction counts this idempotency key")
                .hint("Use a key with one durability only.")),
        });
        locks.stop_excluding(Kind::Key, 0);
        match under_way.get() {
            Some(transaction) => wait_for(transaction),
            None => return acted,
        }
    }
}

/// Waits until a transaction, or the savepoint that it is, has ended.
fn wait_for(transaction: pg_sys::TransactionId) {
    // SAFETY: in a transaction; it is another one.
    unsafe {
        pg_sys::XactLockTableWait(
            transaction,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            pg_sys::XLTW_Oper::XLTW_None,
        );
    }
}

/// Notes what a key counts, waiting for nobody.
pub(super) fn try_note(tenant: &Id, key: &str, metric: &str, amount: i64) -> Result<Noted, Error> {
    let locks = Locks::of_key(tenant, key);
    if locks.try_slot(Kind::Key, 0).is_none() {
        return Ok(Noted::Busy);
    }
    let noted = match find(tenant, key)? {
        Found::Nothing => {
            insert(tenant, key, metric, amount)?;
            Noted::Now
        }
        Found::UnderWay(_) => Noted::Busy,
        Found::Counted(known, of) | Found::Own(known, of) if (known.as_str(), of) == (metric, amount) => Noted::Before,
        Found::Counted(..) | Found::Own(..) => Noted::Otherwise,
    };
    locks.stop_excluding(Kind::Key, 0);
    Ok(noted)
}

/// 22023: a key was used for something else.
pub(super) fn used(key: &str, known: &str, of: i64, metric: &str, amount: i64) -> Error {
    let shown = key.replace('\'', "''");
    Error::new(Code::InvalidValue, format!("idempotency key '{shown}' was used for something else"))
        .detail(format!("It counted {of} of {known}; now asked for {amount} of {metric}."))
        .hint("Use a new key for every new event.")
}

/// Looks for a key, among what others have not committed yet, too.
fn find(tenant: &Id, key: &str) -> Result<Found, Error> {
    let (heap, index) = catalog::heap_and_index(&USAGE_KEYS)?;
    let mut found = Found::Nothing;
    // SAFETY: the sequence of a look-up by index; a dirty snapshot is a plain value that the look-up fills in (InitDirtySnapshot). An
    // error on the way is cleaned up by the transaction's abort.
    unsafe {
        let mut dirty =
            pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
        let mut keys: [pg_sys::ScanKeyData; 2] = [Default::default(); 2];
        for (position, text) in [tenant.as_str(), key].into_iter().enumerate() {
            pg_sys::ScanKeyInit(
                &mut keys[position],
                position as i16 + 1,
                pg_sys::BTEqualStrategyNumber as _,
                pg_sys::Oid::from(pg_sys::F_TEXTEQ),
                limits::text(text),
            );
        }
        let relation = pg_sys::table_open(heap, pg_sys::AccessShareLock as _);
        let scan = pg_sys::systable_beginscan(relation, index, true, &mut dirty, 2, keys.as_mut_ptr());
        let tuple = pg_sys::systable_getnext(scan);
        if !tuple.is_null() {
            let column = |number| {
                let mut null = false;
                (pg_sys::heap_getattr(tuple, number, (*relation).rd_att, &mut null), null)
            };
            let ((metric, no_metric), (amount, no_amount)) = (column(3), column(4));
            // Nobody deletes a key whose counting is under way; a purge's deletion counts when it is committed.
            found = if dirty.xmin != pg_sys::InvalidTransactionId {
                Found::UnderWay(dirty.xmin)
            } else {
                let metric = String::from_datum(metric, no_metric).unwrap_or_default();
                let amount = i64::from_datum(amount, no_amount).unwrap_or_default();
                if pg_sys::TransactionIdIsCurrentTransactionId((*(*tuple).t_data).t_choice.t_heap.t_xmin) {
                    Found::Own(metric, amount)
                } else {
                    Found::Counted(metric, amount)
                }
            };
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
    }
    Ok(found)
}

fn insert(tenant: &Id, key: &str, metric: &str, amount: i64) -> Result<(), Error> {
    // SAFETY: reads the transaction's state.
    let at = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
    let mut values = [limits::text(tenant.as_str()), limits::text(key), limits::text(metric), amount.into(), at.into()];
    super::rows::insert(&USAGE_KEYS, &mut values)
}
