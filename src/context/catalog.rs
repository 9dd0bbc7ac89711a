//! amp's own tables as a backend reads them to decide: through their primary keys, with a catalog snapshot.
//!
//! A catalog snapshot is taken anew for every look-up, so a REPEATABLE READ transaction sees a suspension that committed
//! after its own snapshot (P6). Nothing here writes, takes a transaction id or uses SPI: it works on a standby, in a read-only
//! transaction and inside a setting's check hook. Column numbers are those of tables.sql in sql/tenants, sql/identity and
//! sql/approval, and of sql/tenants/brand.sql; upgrades only append.

use crate::error::{Code, Error};
use pgrx::{FromDatum, PgMemoryContexts, pg_sys};
use std::ffi::CStr;

/// A table of schema amp and the index that its rows are found by.
pub(crate) struct Table {
    name: &'static CStr,
    index: &'static CStr,
}

/// (id, status, name, slug, created_at, updated_at, account_id, ...)
pub(crate) const TENANTS: Table = Table { name: c"tenants", index: c"tenants_pkey" };
/// (tenant_id, user_id, role, created_at, ...)
pub(crate) const MEMBERS: Table = Table { name: c"members", index: c"members_pkey" };
/// (account_id, user_id, role, created_at, ...)
pub(crate) const ACCOUNT_MEMBERS: Table = Table { name: c"account_members", index: c"account_members_pkey" };
/// (tenant_id, name, permissions, ...)
pub(crate) const ROLES: Table = Table { name: c"roles", index: c"roles_pkey" };
/// (name, management, roles, ...)
pub(crate) const PERMISSIONS: Table = Table { name: c"permissions", index: c"permissions_pkey" };
/// (id, email, default_tenant_id, ...)
pub(crate) const USERS: Table = Table { name: c"app_users", index: c"app_users_pkey" };

/// (id, hash, user_id, tenant_id, operator, permissions, expires_at, name, created_by, created_at, last_used_at, account_id, ...)
pub(crate) const API_KEYS: Table = Table { name: c"stored_api_keys", index: c"stored_api_keys_pkey" };
/// (key_id, ...)
pub(crate) const REVOKED_API_KEYS: Table = Table { name: c"revoked_api_keys", index: c"revoked_api_keys_key_id_idx" };
/// (kid, algorithm, key, issuer, audience, single_use, retired_at, ...)
pub(crate) const SIGNING_KEYS: Table = Table { name: c"signing_keys", index: c"signing_keys_pkey" };
/// (role_name, role, user_id, ...)
pub(crate) const BOUND_ROLES: Table = Table { name: c"bound_roles", index: c"bound_roles_pkey" };

/// (target_tenant, source_tenant, element, account_id, expires_at, since, shared_at, ...)
pub(crate) const BRAND_SHARES: Table = Table { name: c"stored_brand_shares", index: c"stored_brand_shares_pkey" };
/// (target_tenant, source_tenant, element, ended_at, ...)
pub(crate) const ENDED_BRAND_SHARES: Table =
    Table { name: c"ended_brand_shares", index: c"ended_brand_shares_tenants_idx" };
/// (source_tenant, element, value, ...)
pub(crate) const BRAND_ELEMENTS: Table = Table { name: c"brand_elements", index: c"brand_elements_pkey" };

/// (tenant_id, config, ...)
pub(crate) const TENANT_CONFIGS: Table = Table { name: c"tenant_configs", index: c"tenant_configs_pkey" };
/// (id, tenant_id, status, reason, decided_at, requested_by, requested_at, ...)
pub(crate) const APPROVAL_REQUESTS: Table = Table { name: c"approval_requests", index: c"approval_requests_pkey" };
/// (relation, tenant_column, ...)
const PROTECTED_TABLES: Table = Table { name: c"protected_tables", index: c"protected_tables_pkey" };
/// (request_id, user_id, decision, at, ...)
pub(crate) const APPROVAL_DECISIONS: Table = Table { name: c"approval_decisions", index: c"approval_decisions_pkey" };

/// (tenant_id, metric, day, slot, amount)
pub(crate) const USAGE_COUNTERS: Table = Table { name: c"usage_counters", index: c"usage_counters_pkey" };
/// (tenant_id, month, metric, slot, amount)
pub(crate) const MONTHLY_USAGE: Table = Table { name: c"monthly_usage", index: c"monthly_usage_pkey" };
/// (tenant_id, idempotency_key, metric, amount, recorded_at)
pub(crate) const USAGE_KEYS: Table = Table { name: c"usage_keys", index: c"usage_keys_pkey" };
/// (tenant_id, ...)
pub(crate) const PURGES: Table = Table { name: c"purges", index: c"purges_pkey" };
/// (name, ...)
pub(crate) const METRICS: Table = Table { name: c"metrics", index: c"metrics_pkey" };
/// (tenant_id, monthly_limit_cents, daily_limit_cents, alert_threshold_percent, hard_stop, version)
pub(crate) const SPENDING_LIMITS: Table = Table { name: c"spending_limits", index: c"spending_limits_pkey" };
/// (tenant_id, version)
pub(crate) const SETTLED_LIMITS: Table = Table { name: c"settled_limits", index: c"settled_limits_pkey" };
/// (tenant_id, period, threshold_cents)
pub(crate) const SPENDING_WATCHES: Table =
    Table { name: c"spending_watches", index: c"spending_watches_tenant_id_idx" };
/// (tenant_id, period, threshold_percent, threshold_cents, limit_cents, spent_cents, hard_stop, raised_at)
pub(crate) const ALERTS: Table = Table { name: c"alerts", index: c"alerts_pkey" };

/// The tables that an answer about the context can rest on.
const ALL: [&Table; 10] = [
    &TENANTS,
    &MEMBERS,
    &ACCOUNT_MEMBERS,
    &ROLES,
    &PERMISSIONS,
    &USERS,
    &API_KEYS,
    &REVOKED_API_KEYS,
    &SIGNING_KEYS,
    &BOUND_ROLES,
];

/// Their object ids; invalid ones before the first look-up.
pub(super) type Watched = [pg_sys::Oid; ALL.len()];

/// One row, while the scan stands on it.
pub(crate) struct Row {
    tuple: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
}

impl Row {
    /// Where the row is stored.
    pub(crate) fn place(&self) -> pg_sys::ItemPointerData {
        // SAFETY: the scan holds the tuple.
        unsafe { (*self.tuple).t_self }
    }

    /// Whether this transaction has written it.
    pub(crate) fn is_own(&self) -> bool {
        // SAFETY: the scan holds the tuple.
        unsafe { pg_sys::TransactionIdIsCurrentTransactionId((*(*self.tuple).t_data).t_choice.t_heap.t_xmin) }
    }

    /// The value of a column, None when null.
    pub(crate) fn get<T: FromDatum>(&self, column: i32) -> Option<T> {
        let mut null = false;
        // SAFETY: the scan holds the tuple and its relation, which is the extension's own (see `relation`), so that the column,
        // if it is there in this version of the extension, is of the type asked for.
        unsafe {
            if column > (*self.description).natts {
                return None;
            }
            let datum = pg_sys::heap_getattr(self.tuple, column, self.description, &mut null);
            T::from_datum(datum, null)
        }
    }
}

/// The schema's object id. One that does not belong to a superuser is not ours: in a database without the extension anybody
/// may make a schema of that name, with tables of those names.
pub(crate) fn schema() -> Result<pg_sys::Oid, Error> {
    // SAFETY: syscache look-ups, in a transaction; the tuple of this cache is a row of pg_namespace.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"amp".as_ptr(), true);
        let owner = cached(pg_sys::SysCacheIdentifier::NAMESPACEOID, schema, |tuple| {
            (*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_namespace>(tuple)).nspowner
        });
        if owner.is_some_and(|owner| pg_sys::superuser_arg(owner)) { Ok(schema) } else { Err(not_installed()) }
    }
}

/// Reads the row of a catalog by its object id.
///
/// # Safety
/// In a transaction, of a cache that is keyed by object id; `read` takes the tuple for one of that catalog.
pub(crate) unsafe fn cached<T>(
    cache: pg_sys::SysCacheIdentifier::Type,
    oid: pg_sys::Oid,
    read: impl FnOnce(pg_sys::HeapTuple) -> T,
) -> Option<T> {
    // SAFETY: by the contract above.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(cache as _, oid.into());
        if tuple.is_null() {
            return None;
        }
        let value = read(tuple);
        pg_sys::ReleaseSysCache(tuple);
        Some(value)
    }
}

/// True where the extension is installed, with its audit log.
pub(crate) fn is_installed() -> bool {
    schema().and_then(|schema| relation(schema, c"audit_log")).is_ok() && watched().is_ok()
}

/// The object ids of the tables that an answer can rest on, whose changes a backend has to hear of.
pub(super) fn watched() -> Result<Watched, Error> {
    let schema = schema()?;
    let mut tables: Watched = [pg_sys::InvalidOid; ALL.len()];
    for (oid, table) in tables.iter_mut().zip(ALL) {
        *oid = relation(schema, table.name)?;
    }
    Ok(tables)
}

/// A table or index of the schema; as with the schema, only a superuser's is ours.
pub(crate) fn relation(schema: pg_sys::Oid, name: &CStr) -> Result<pg_sys::Oid, Error> {
    // SAFETY: syscache look-ups, in a transaction; the tuple of this cache is a row of pg_class.
    unsafe {
        let relation = pg_sys::get_relname_relid(name.as_ptr(), schema);
        let owner = cached(pg_sys::SysCacheIdentifier::RELOID, relation, |tuple| {
            (*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_class>(tuple)).relowner
        });
        if owner.is_some_and(|owner| pg_sys::superuser_arg(owner)) { Ok(relation) } else { Err(not_installed()) }
    }
}

/// A table and its index.
pub(crate) fn heap_and_index(table: &Table) -> Result<(pg_sys::Oid, pg_sys::Oid), Error> {
    let schema = schema()?;
    Ok((relation(schema, table.name)?, relation(schema, table.index)?))
}

fn not_installed() -> Error {
    Error::new(Code::NotReady, "extension amp_tenancy is not installed in this database")
        .hint("Run CREATE EXTENSION amp_tenancy as a superuser.")
}

/// Reads the rows whose leading key columns equal `key`, in the order of the index, as `read` makes of each.
pub(crate) fn rows<T>(table: &Table, key: &[&str], read: impl FnMut(&Row) -> T) -> Result<Vec<T>, Error> {
    // SAFETY: no snapshot asks for one that is taken anew; these tables are keyed by text.
    unsafe { scan(std::ptr::null_mut(), table, key, read) }
}

/// Reads the row with this primary key.
pub(crate) fn row<T>(table: &Table, key: &[&str], read: impl FnMut(&Row) -> T) -> Result<Option<T>, Error> {
    Ok(rows(table, key, read)?.pop())
}

/// Whether a table is registered as protected.
pub(crate) fn is_protected(relation: pg_sys::Oid) -> Result<bool, Error> {
    // SAFETY: no snapshot asks for one that is taken anew; this table is keyed by object id.
    Ok(!unsafe { scan(std::ptr::null_mut(), &PROTECTED_TABLES, &[relation], |_| ()) }?.is_empty())
}

/// A function of the schema, by its name and the types of its arguments.
pub(crate) fn function(name: &CStr, arguments: &[pg_sys::Oid]) -> Result<pg_sys::Oid, Error> {
    let schema = schema()?;
    // SAFETY: a syscache look-up, in a transaction, by the key of that cache.
    let function = unsafe {
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as _,
            pg_sys::Anum_pg_proc_oid as _,
            name.as_ptr().into(),
            pg_sys::buildoidvector(arguments.as_ptr(), arguments.len() as _).into(),
            schema.into(),
            pg_sys::Datum::null(),
        )
    };
    if function == pg_sys::InvalidOid { Err(not_installed()) } else { Ok(function) }
}

/// A value that a table's rows are found by.
trait Key: Copy {
    /// The function that compares a column with such values.
    const EQUALS: u32;

    /// # Safety
    /// In a memory context that goes.
    unsafe fn datum(self) -> pg_sys::Datum;
}

impl Key for &str {
    const EQUALS: u32 = pg_sys::F_TEXTEQ;

    unsafe fn datum(self) -> pg_sys::Datum {
        // SAFETY: copies that many bytes.
        unsafe { pg_sys::cstring_to_text_with_len(self.as_ptr().cast(), self.len() as _).into() }
    }
}

impl Key for pg_sys::Oid {
    const EQUALS: u32 = pg_sys::F_OIDEQ;

    unsafe fn datum(self) -> pg_sys::Datum {
        self.into()
    }
}

/// Whether there is a row with this key, or one that a transaction under way is adding.
pub(crate) fn is_there_or_coming(table: &Table, key: &[&str]) -> Result<bool, Error> {
    let mut dirty = pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
    // SAFETY: a dirty snapshot is a plain value that the look-up fills in (InitDirtySnapshot); it is not registered.
    Ok(!unsafe { scan(&mut dirty, table, key, |_| ()) }?.is_empty())
}

/// One moment, as new as a catalog snapshot: for look-ups that have to agree with each other.
pub(crate) struct Moment(pg_sys::Snapshot);

/// Runs look-ups that all see this moment.
pub(crate) fn at_one_moment<T>(look: impl FnOnce(&Moment) -> Result<T, Error>) -> Result<T, Error> {
    // SAFETY: in a transaction, whose resource owner releases the snapshot if an error passes by.
    unsafe {
        let moment = Moment(pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()));
        let found = look(&moment);
        pg_sys::UnregisterSnapshot(moment.0);
        found
    }
}

impl Moment {
    /// As [`rows`].
    pub(crate) fn rows<T>(&self, table: &Table, key: &[&str], read: impl FnMut(&Row) -> T) -> Result<Vec<T>, Error> {
        // SAFETY: the snapshot is registered for as long as `self` is there; these tables are keyed by text.
        unsafe { scan(self.0, table, key, read) }
    }

    /// As [`row`].
    pub(crate) fn row<T>(&self, table: &Table, key: &[&str], read: impl FnMut(&Row) -> T) -> Result<Option<T>, Error> {
        Ok(self.rows(table, key, read)?.pop())
    }
}

/// # Safety
/// `snapshot` is null, registered, or a dirty one; the table's key is of type `K`.
unsafe fn scan<K: Key, T>(
    snapshot: pg_sys::Snapshot,
    table: &Table,
    key: &[K],
    mut read: impl FnMut(&Row) -> T,
) -> Result<Vec<T>, Error> {
    let (heap, index) = heap_and_index(table)?;
    let mut found = Vec::new();
    // SAFETY: the sequence of every catalog look-up in the server: open, scan by index, read while the scan holds the tuple,
    // close. What is allocated goes to a context of its own; an error on the way is cleaned up by the transaction's abort.
    unsafe {
        PgMemoryContexts::new("amp look-up").switch_to(|_| {
            let mut keys: [pg_sys::ScanKeyData; 2] = [Default::default(); 2];
            for (position, value) in key.iter().enumerate() {
                pg_sys::ScanKeyInit(
                    &mut keys[position],
                    position as i16 + 1,
                    pg_sys::BTEqualStrategyNumber as _,
                    pg_sys::Oid::from(K::EQUALS),
                    value.datum(),
                );
            }
            let heap = pg_sys::table_open(heap, pg_sys::AccessShareLock as _);
            let scan = pg_sys::systable_beginscan(heap, index, true, snapshot, key.len() as _, keys.as_mut_ptr());
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                found.push(read(&Row { tuple, description: (*heap).rd_att }));
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(heap, pg_sys::AccessShareLock as _);
        });
    }
    Ok(found)
}
