//! The functions behind `amp.stat_tenants`: raw version-1 functions, declared in sql/usage/statistics.sql.

use super::table::{Counter, Entry};
use super::{SHARED, Shared, measure};
use crate::context::{resolve, session};
use crate::error::{Code, Error, guarded};
use crate::function::raw_function;
use pgrx::IntoDatum;
use pgrx::pg_sys::{self, Datum, FunctionCallInfo};

raw_function! {
    /// `amp.stat_tenants_data() → setof record`: this database's tenants for who may see all, else the session's own, without
    /// what it costs.
    amp_stat_tenants_data, pg_finfo_amp_stat_tenants_data, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe {
            guarded(|| {
                let shared = shared()?;
                // SAFETY: reads a variable of the backend.
                let database: u32 = pg_sys::MyDatabaseId.into();
                let sees_all = session::sees_statistics();
                let own = if sees_all { None } else { Some(resolve::tenant_if_set()?) };
                let entries: Vec<Entry> = shared.share(|table| {
                    let visible = |entry: &Entry| {
                        entry.key.database == database && own.is_none_or(|own| own == Some(entry.key.tenant))
                    };
                    table.entries().filter(visible).collect()
                });
                pg_sys::InitMaterializedSRF(fcinfo, 0);
                let result = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
                for entry in &entries {
                    let row = row(entry, sees_all);
                    let mut nulls = row.map(|value| value.is_none());
                    let mut row = row.map(|value| value.unwrap_or(Datum::null()));
                    pg_sys::tuplestore_putvalues((*result).setResult, (*result).setDesc, row.as_mut_ptr(), nulls.as_mut_ptr());
                }
                (*fcinfo).isnull = true;
                Ok(Datum::null())
            })
        }
    }
}

/// The columns of amp.stat_tenants_data(), in their order. What a scan costs tells of rows that the policies hide from it: time, blocks and WAL
/// are for who may see all tenants' statistics, and null for a tenant.
fn row(entry: &Entry, with_costs: bool) -> [Option<Datum>; 12] {
    let count = |counter| (entry.totals.get(counter) as i64).into_datum();
    let cost = |counter| if with_costs { count(counter) } else { None };
    [
        entry.key.tenant.as_str().into_datum(),
        count(Counter::Calls),
        count(Counter::Rows),
        if with_costs { (entry.totals.get(Counter::Nanoseconds) as f64 / 1e6).into_datum() } else { None },
        cost(Counter::SharedHit),
        cost(Counter::SharedRead),
        cost(Counter::SharedDirtied),
        cost(Counter::SharedWritten),
        cost(Counter::TempRead),
        cost(Counter::TempWritten),
        cost(Counter::WalBytes),
        entry.since.into_datum(),
    ]
}

raw_function! {
    /// `amp.stat_tenants_evicted() → bigint`
    amp_stat_tenants_evicted, pg_finfo_amp_stat_tenants_evicted, |_fcinfo| {
        // SAFETY: this frame owns nothing.
        unsafe {
            guarded(|| {
                if !session::sees_statistics() {
                    return Err(Error::new(Code::PermissionDenied, "how many tenants were forgotten is for operators")
                        .hint("Ask as a member of amp_operator or pg_read_all_stats."));
                }
                Ok(Datum::from(shared()?.share(|table| table.evicted()) as i64))
            })
        }
    }
}

raw_function! {
    /// `amp.clear_stat_tenants() → void`: when the transaction commits, for it is logged in the same transaction.
    amp_clear_stat_tenants, pg_finfo_amp_clear_stat_tenants, |_fcinfo| {
        // SAFETY: this frame owns nothing.
        unsafe {
            guarded(|| {
                shared()?;
                measure::reset_at_commit();
                Ok(Datum::null())
            })
        }
    }
}

/// Errors: 55000 the library was not preloaded.
fn shared() -> Result<Shared, Error> {
    SHARED.get().ok_or_else(|| {
        Error::new(Code::NotReady, "amp.stat_tenants counts only where amp_tenancy is preloaded")
            .hint("Add amp_tenancy to shared_preload_libraries and restart the server.")
    })
}
