//! The rows behind counters: read by a fresh snapshot, written by whoever holds their slot.

use super::period::{Day, Month};
use crate::context::catalog::{self, MONTHLY_SPENDING, Table, USAGE_COUNTERS};
use crate::error::{Code, Error};
use crate::id::Id;
use pgrx::pg_sys::{self, Datum};
use pgrx::{FromDatum, IntoDatum};

/// The metric that limits are for.
pub(super) const COST: &str = "cost_cents";

/// The rows of one counter, which differ by their slot.
#[derive(Clone, Copy)]
pub(super) struct Series<'a> {
    tenant: &'a Id,
    /// None for the spending of a month, which is kept beside that of its days.
    metric: Option<&'a str>,
    date: i32,
}

/// One slot of a counter, there or not yet.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) slot: u16,
    pub(super) amount: i64,
    /// As it was read, in the memory of the caller; null if there is none.
    tuple: pg_sys::HeapTuple,
}

impl<'a> Series<'a> {
    pub(super) fn of_day(tenant: &'a Id, metric: &'a str, day: Day) -> Series<'a> {
        Series { tenant, metric: Some(metric), date: day.0 }
    }

    pub(super) fn of_month(tenant: &'a Id, month: Month) -> Series<'a> {
        Series { tenant, metric: None, date: month.0 }
    }

    fn table(&self) -> &'static Table {
        if self.metric.is_some() { &USAGE_COUNTERS } else { &MONTHLY_SPENDING }
    }

    /// The values of the columns before the slot.
    fn prefix(&self) -> Vec<Datum> {
        let text = |text: &str| text.into_datum().unwrap_or(Datum::null());
        let mut values = vec![text(self.tenant.as_str())];
        values.extend(self.metric.map(text));
        values.push(Datum::from(self.date));
        values
    }

    /// The row of a slot.
    pub(super) fn row(&self, slot: u16) -> Result<Row, Error> {
        let mut found = Row { slot, amount: 0, tuple: std::ptr::null_mut() };
        self.scan(Some(slot), |amount, _, tuple| {
            // SAFETY: the scan stands on the tuple; the copy is the caller's.
            found = Row { slot, amount, tuple: unsafe { pg_sys::heap_copytuple(tuple) } };
        })?;
        Ok(found)
    }

    /// Every slot with its amount.
    pub(super) fn slots(&self) -> Result<Vec<(i32, i64)>, Error> {
        let mut slots = Vec::new();
        self.scan(None, |amount, slot, _| slots.push((slot, amount)))?;
        Ok(slots)
    }

    /// What the counter stands at.
    pub(super) fn sum(&self) -> Result<i64, Error> {
        let mut sum: i64 = 0;
        self.scan(None, |amount, _, _| sum = sum.saturating_add(amount))?;
        Ok(sum)
    }

    fn scan(&self, slot: Option<u16>, mut see: impl FnMut(i64, i32, pg_sys::HeapTuple)) -> Result<(), Error> {
        let (heap, index) = catalog::heap_and_index(self.table())?;
        let mut keys: [pg_sys::ScanKeyData; 4] = [Default::default(); 4];
        let mut values = self.prefix();
        let slot_column = values.len();
        values.extend(slot.map(|slot| Datum::from(i32::from(slot))));
        // SAFETY: the sequence of every catalog look-up in the server; the functions are those of the columns' types (text, date, integer).
        // An error on the way is cleaned up by the transaction's abort.
        unsafe {
            for (position, value) in values.iter().enumerate() {
                let equals = match slot_column - position {
                    0 => pg_sys::F_INT4EQ,
                    1 => pg_sys::F_DATE_EQ,
                    _ => pg_sys::F_TEXTEQ,
                };
                pg_sys::ScanKeyInit(
                    &mut keys[position],
                    position as i16 + 1,
                    pg_sys::BTEqualStrategyNumber as _,
                    pg_sys::Oid::from(equals),
                    *value,
                );
            }
            let relation = pg_sys::table_open(heap, pg_sys::AccessShareLock as _);
            let scan =
                pg_sys::systable_beginscan(relation, index, true, std::ptr::null_mut(), values.len() as _, keys.as_mut_ptr());
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                let column = |number: usize| {
                    let mut null = false;
                    let value = pg_sys::heap_getattr(tuple, number as i32, (*relation).rd_att, &mut null);
                    (value, null)
                };
                let (number, null) = column(slot_column + 1);
                let number = i32::from_datum(number, null).unwrap_or_default();
                let (amount, null) = column(slot_column + 2);
                see(i64::from_datum(amount, null).unwrap_or_default(), number, tuple);
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
        }
        Ok(())
    }

    /// Gives a slot, which the transaction holds, another amount. `row` is what was read since it does.
    pub(super) fn write(&self, row: &Row, amount: i64) -> Result<(), Error> {
        let (heap, _) = catalog::heap_and_index(self.table())?;
        let mut values = self.prefix();
        values.push(Datum::from(i32::from(row.slot)));
        values.push(Datum::from(amount));
        let mut nulls = vec![false; values.len()];
        // SAFETY: as PostgreSQL writes a catalog's row: the values are of the table's columns in their order (sql/usage/tables.sql), and
        // nobody else writes a row of a slot that this transaction holds. The lock on the table stays, as it does after an UPDATE.
        unsafe {
            let relation = pg_sys::table_open(heap, pg_sys::RowExclusiveLock as _);
            if row.tuple.is_null() {
                let tuple = pg_sys::heap_form_tuple((*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
                pg_sys::CatalogTupleInsert(relation, tuple);
            } else {
                let mut replace = vec![false; values.len()];
                replace[values.len() - 1] = true;
                let tuple = pg_sys::heap_modify_tuple(
                    row.tuple,
                    (*relation).rd_att,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                    replace.as_mut_ptr(),
                );
                pg_sys::CatalogTupleUpdate(relation, &mut (*row.tuple).t_self, tuple);
            }
            pg_sys::table_close(relation, pg_sys::NoLock as _);
            // What was written is seen from here on, by this transaction.
            pg_sys::CommandCounterIncrement();
        }
        Ok(())
    }

    /// Adds to a slot, which the transaction holds. Errors: 22003 it would hold more than a bigint does.
    pub(super) fn add(&self, row: &Row, amount: i64) -> Result<(), Error> {
        let sum = row.amount.checked_add(amount).ok_or_else(|| {
            Error::new(Code::OutOfRange, "the counter is full").hint("A counter of one day holds a bigint at most.")
        })?;
        self.write(row, sum)
    }
}

/// Adds a row to one of the tables beside the counters.
pub(super) fn insert(table: &Table, values: &mut [Datum]) -> Result<(), Error> {
    let (heap, _) = catalog::heap_and_index(table)?;
    let mut nulls = vec![false; values.len()];
    // SAFETY: as in `Series::write`; the values are of the table's columns in their order.
    unsafe {
        let relation = pg_sys::table_open(heap, pg_sys::RowExclusiveLock as _);
        let tuple = pg_sys::heap_form_tuple((*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::CatalogTupleInsert(relation, tuple);
        pg_sys::table_close(relation, pg_sys::NoLock as _);
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}

/// Removes a tenant's rows of a period from one of these tables, those that nobody else is removing.
pub(super) fn delete(table: &Table, tenant: &Id, period: &str) -> Result<(), Error> {
    let (heap, _) = catalog::heap_and_index(table)?;
    for mut row in catalog::rows(table, &[tenant.as_str(), period], |row| row.place())? {
        // SAFETY: as in `insert`; whoever calls holds the lock under which these rows come and go.
        unsafe {
            let relation = pg_sys::table_open(heap, pg_sys::RowExclusiveLock as _);
            pg_sys::CatalogTupleDelete(relation, &mut row);
            pg_sys::table_close(relation, pg_sys::NoLock as _);
            pg_sys::CommandCounterIncrement();
        }
    }
    Ok(())
}
