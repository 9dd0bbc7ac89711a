//! The rows behind counters: read by a fresh snapshot, written by whoever holds their slot.

use super::period::{Day, Month};
use crate::context::catalog::{self, MONTHLY_USAGE, Table, USAGE_COUNTERS};
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
    metric: &'a str,
    of: Of,
}

#[derive(Clone, Copy)]
enum Of {
    Day(Day),
    /// What is kept of a month beside its days: a document has few rows to add up.
    Month(Month),
}

/// One slot of a counter, there or not yet.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) slot: u16,
    pub(super) amount: i64,
    /// Where it was looked for, and as it was read, in the memory of the caller; null if there is none.
    table: pg_sys::Oid,
    tuple: pg_sys::HeapTuple,
}

impl<'a> Series<'a> {
    pub(super) fn of_day(tenant: &'a Id, metric: &'a str, day: Day) -> Series<'a> {
        Series { tenant, metric, of: Of::Day(day) }
    }

    pub(super) fn of_month(tenant: &'a Id, metric: &'a str, month: Month) -> Series<'a> {
        Series { tenant, metric, of: Of::Month(month) }
    }

    fn table(&self) -> &'static Table {
        match self.of {
            Of::Day(_) => &USAGE_COUNTERS,
            Of::Month(_) => &MONTHLY_USAGE,
        }
    }

    /// The values of the columns before the slot, each with the function that compares it.
    fn prefix(&self) -> [(Datum, u32); 3] {
        let text = |text: &str| (text.into_datum().unwrap_or(Datum::null()), pg_sys::F_TEXTEQ);
        let date = |date: i32| (Datum::from(date), pg_sys::F_DATE_EQ);
        let (tenant, metric) = (text(self.tenant.as_str()), text(self.metric));
        match self.of {
            Of::Day(day) => [tenant, metric, date(day.0)],
            Of::Month(month) => [tenant, date(month.0), metric],
        }
    }

    /// The row of a slot.
    pub(super) fn row(&self, slot: u16) -> Result<Row, Error> {
        let (mut amount, mut tuple) = (0, std::ptr::null_mut());
        let table = self.scan(Some(slot), |stored, _, found| {
            // SAFETY: the scan stands on the tuple; the copy is the caller's.
            (amount, tuple) = (stored, unsafe { pg_sys::heap_copytuple(found) });
        })?;
        Ok(Row { slot, amount, table, tuple })
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

    /// Reads one slot, or all of them; gives the table.
    fn scan(&self, slot: Option<u16>, mut see: impl FnMut(i64, i32, pg_sys::HeapTuple)) -> Result<pg_sys::Oid, Error> {
        let (heap, index) = catalog::heap_and_index(self.table())?;
        let mut keys: [pg_sys::ScanKeyData; 4] = [Default::default(); 4];
        let mut values = self.prefix().to_vec();
        values.extend(slot.map(|slot| (Datum::from(i32::from(slot)), pg_sys::F_INT4EQ)));
        // SAFETY: the sequence of every catalog look-up in the server; the functions are those of the columns' types (text, date, integer).
        // An error on the way is cleaned up by the transaction's abort.
        unsafe {
            for (position, (value, equals)) in values.iter().enumerate() {
                pg_sys::ScanKeyInit(
                    &mut keys[position],
                    position as i16 + 1,
                    pg_sys::BTEqualStrategyNumber as _,
                    pg_sys::Oid::from(*equals),
                    *value,
                );
            }
            let relation = pg_sys::table_open(heap, pg_sys::AccessShareLock as _);
            let scan = pg_sys::systable_beginscan(
                relation,
                index,
                true,
                std::ptr::null_mut(),
                values.len() as _,
                keys.as_mut_ptr(),
            );
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                let column = |number| {
                    let mut null = false;
                    let value = pg_sys::heap_getattr(tuple, number, (*relation).rd_att, &mut null);
                    (value, null)
                };
                let (number, null) = column(4);
                let number = i32::from_datum(number, null).unwrap_or_default();
                let (amount, null) = column(5);
                see(i64::from_datum(amount, null).unwrap_or_default(), number, tuple);
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
        }
        Ok(heap)
    }

    /// Gives a slot, which the transaction holds, another amount. `row` is what was read since it does.
    pub(super) fn write(&self, row: &Row, amount: i64) {
        let [tenant, one, other] = self.prefix().map(|(value, _)| value);
        let mut values = [tenant, one, other, Datum::from(i32::from(row.slot)), Datum::from(amount)];
        let mut nulls = [false; 5];
        // SAFETY: as PostgreSQL writes a catalog's row: the values are of the table's columns in their order (sql/usage/tables.sql), and
        // nobody else writes a row of a slot that this transaction holds. The lock on the table stays, as it does after an UPDATE.
        unsafe {
            let relation = pg_sys::table_open(row.table, pg_sys::RowExclusiveLock as _);
            if row.tuple.is_null() {
                let tuple = pg_sys::heap_form_tuple((*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
                pg_sys::CatalogTupleInsert(relation, tuple);
            } else {
                let mut replace = [false, false, false, false, true];
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
    }

    /// Adds to a slot, which the transaction holds. Errors: 22003 it would hold more than a bigint does.
    pub(super) fn add(&self, row: &Row, amount: i64) -> Result<(), Error> {
        let sum = row.amount.checked_add(amount).ok_or_else(|| {
            Error::new(Code::OutOfRange, "the counter is full").hint("A counter of one day holds a bigint at most.")
        })?;
        self.write(row, sum);
        Ok(())
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
