//! Meters: counting the rows that come into a table, or into a state, while they do.
//!
//! PostgreSQL evaluates the WHEN condition of an AFTER row trigger once for every row that really was written, after BEFORE
//! triggers, ON CONFLICT and MERGE have had their say, and queues an event only where the condition holds. The condition of a
//! meter's row triggers calls [`amp_meter_text`] (or its twins), which counts in the backend's memory and is never true: nothing
//! is queued, kept or read again. The meter's statement trigger ([`amp_count_inserted`]) then adds what was counted to the
//! tenant's usage, once a statement. A transition table, the obvious way, copies every row, keeps COPY into a partitioned table
//! from inserting by the page, and takes a row that MERGE moves to another partition for a new one (docs/performance.md).
//!
//! A row that an update moves to another partition is deleted here and inserted there, and fires what inserts fire. Right after
//! that PostgreSQL evaluates the conditions of the UPDATE triggers of the table that the statement named, with the old and the new
//! row, though it fires none of them; [`amp_meter_moved`] is one and takes the last count back.
//!
//! Who may do what: everybody can call the counting functions by hand, as everybody can call amp.record_usage() for his own tenant:
//! what a session under row security has counted is its own tenant's, whatever it says. Only past row security is it each row's
//! tenant's, and that takes EXECUTE on amp.add_usage(). Taking back works in the trigger of the table itself only.
//!
//! What is counted belongs to a subtransaction: it ends with it, and a statement inside of another adds only what its own has.

use crate::backend::Local;
use crate::compat;
use crate::context::{catalog, resolve};
use crate::error::{Code, Error, guarded};
use crate::function::{plain_text, raw_function, text};
use crate::id::{self, Id};
use pgrx::pg_sys::{self, Datum, FunctionCallInfo, MemoryContext, NullableDatum, Oid};
use pgrx::{FromDatum, IntoDatum, Uuid};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_void};

/// What rows have been counted and not yet added to usage.
static PENDING: Local<RefCell<Option<Counters>>> = Local::new(RefCell::new(None));

/// Boxed, for call sites point at them; a counter is gone only when the epoch has ended, see [`forget`].
type Counters = HashMap<Counter, Box<Cell<i64>>>;

/// How many counters a transaction can have: tenants by metrics.
const MAX_COUNTERS: usize = 1_000_000;

/// Grows when counters have gone.
static EPOCH: Local<Cell<u64>> = Local::new(Cell::new(1));

/// The queries that count, or take back, now; one for each metric.
static QUERIES: Local<RefCell<Vec<*mut Query>>> = Local::new(RefCell::new(Vec::new()));

/// One counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Counter {
    subtransaction: pg_sys::SubTransactionId,
    metric: Id,
    tenant: Id,
}

/// A call site of a counting function, kept in `fn_extra`: its last row's tenant, and the counter of that.
#[repr(C)]
struct Site {
    /// 0 when it is not to be used again.
    epoch: u64,
    count: *const Cell<i64>,
    query: *mut Query,
    root: Oid,
    counter: Counter,
    tenant_len: usize,
    /// The tenant column's value, as it is stored.
    tenant: [u8; id::MAX_LEN],
}

/// A metric in a running query; lives, like its call sites, in the query's memory context.
#[repr(C)]
struct Query {
    context: MemoryContext,
    metric: Id,
    /// The call site that has counted last; null if that was taken back.
    last: *mut Site,
    callback: pg_sys::MemoryContextCallback,
}

pub(super) fn init() {
    // SAFETY: from _PG_init; the callbacks are plain functions that stay loaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_event), std::ptr::null_mut());
    }
}

/// Runs inside commit and abort: it must not fail, and calls nothing of PostgreSQL.
unsafe extern "C-unwind" fn at_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    if matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE) && PENDING.take().is_some() {
        EPOCH.set(EPOCH.get() + 1);
    }
}

/// As [`at_event`]. What its statements counted has been added when a subtransaction commits.
unsafe extern "C-unwind" fn at_subtransaction_event(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    if matches!(event, pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB | pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB) {
        forget(|counter| counter.subtransaction == own);
    }
}

/// Drops counters, and ends the epoch if there were such.
fn forget(which: impl Fn(&Counter) -> bool) {
    if let Some(pending) = PENDING.borrow_mut().as_mut() {
        let before = pending.len();
        pending.retain(|counter, _| !which(counter));
        if pending.len() < before {
            EPOCH.set(EPOCH.get() + 1);
        }
    }
}

raw_function! {
    /// `amp.meter_row(metric text, tenant text, root regclass) → boolean`
    amp_meter_text, pg_finfo_amp_meter_text, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe { count(fcinfo, Key::Text) }
    }
}

raw_function! {
    /// `amp.meter_row(metric text, tenant uuid, root regclass) → boolean`
    amp_meter_uuid, pg_finfo_amp_meter_uuid, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe { count(fcinfo, Key::Uuid) }
    }
}

raw_function! {
    /// `amp.meter_row(metric text, tenant bigint, root regclass) → boolean`
    amp_meter_bigint, pg_finfo_amp_meter_bigint, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe { count(fcinfo, Key::Bigint) }
    }
}

/// The type of a table's tenant column.
#[derive(Clone, Copy)]
enum Key {
    Text,
    Uuid,
    Bigint,
}

impl Key {
    /// A value as it is stored, unless it is compressed or stored elsewhere: then it is longer than an id.
    ///
    /// # Safety
    /// `tenant` is an argument of this type.
    #[inline(always)]
    unsafe fn bytes(self, tenant: &NullableDatum) -> Option<&[u8]> {
        // SAFETY: by the contract above; a bigint is in the datum itself.
        unsafe {
            match self {
                Key::Text => plain_text(*tenant),
                _ if tenant.isnull => None,
                Key::Uuid => Some(std::slice::from_raw_parts(tenant.value.cast_mut_ptr::<u8>(), 16)),
                Key::Bigint => Some(std::slice::from_raw_parts((&raw const tenant.value).cast(), size_of::<i64>())),
            }
        }
    }

    /// The tenant whose key this is; None where no tenant can have such a key.
    ///
    /// # Safety
    /// As [`Key::bytes`].
    unsafe fn tenant(self, tenant: &NullableDatum) -> Option<Id> {
        // SAFETY: by the contract above.
        unsafe {
            match self {
                Key::Text => Id::parse(self.bytes(tenant)?),
                Key::Uuid => Id::parse(Uuid::from_slice(self.bytes(tenant)?).ok()?.to_string().as_bytes()),
                Key::Bigint => Id::parse(i64::from_datum(tenant.value, tenant.isnull)?.to_string().as_bytes()),
            }
        }
    }
}

/// Counts a row. Never true: the trigger whose condition it is does not fire.
///
/// # Safety
/// `fcinfo` is the function manager's; the arguments are a text, a value of type `key` and an object id.
#[inline(always)]
unsafe fn count(fcinfo: FunctionCallInfo, key: Key) -> Datum {
    // SAFETY: by the contract above. fn_extra is ours alone: null, or what `find_counter` put there; its counter is there as long as the epoch is.
    unsafe {
        let tenant = &(*fcinfo).args.as_slice(3)[1];
        match (*(*fcinfo).flinfo).fn_extra.cast::<Site>().as_mut() {
            Some(site) if site.epoch == EPOCH.get() && key.bytes(tenant) == Some(&site.tenant[..site.tenant_len]) => {
                (*site.count).set((*site.count).get() + 1);
                (*site.query).last = site;
            }
            _ => guarded(|| find_counter(fcinfo, key)),
        }
        Datum::from(false)
    }
}

/// Counts a row whose tenant is another than the last one's. Cold: once a statement and for each change of the tenant.
/// Errors: 55000 in a restricted operation, or too many counters.
///
/// # Safety
/// As [`count`].
#[cold]
unsafe fn find_counter(fcinfo: FunctionCallInfo, key: Key) -> Result<(), Error> {
    // SAFETY: by the contract above.
    unsafe {
        let arguments = (*fcinfo).args.as_slice(3);
        let flinfo = (*fcinfo).flinfo;
        let (Some(tenant), Some(metric)) = (key.tenant(&arguments[1]), metric(&text(arguments[0]))) else {
            return Ok(());
        };
        // A stranger's index expression in a superuser's ANALYZE: his next statement must not add what it has counted.
        if pg_sys::InSecurityRestrictedOperation() {
            return Err(Error::new(Code::WrongState, "nothing is metered in a security-restricted operation")
                .hint("Insert the rows in a statement of their own."));
        }
        let counter = Counter { subtransaction: pg_sys::GetCurrentSubTransactionId(), metric, tenant };
        let mut pending = PENDING.borrow_mut();
        let pending = pending.get_or_insert_default();
        if pending.len() >= MAX_COUNTERS && !pending.contains_key(&counter) {
            return Err(Error::new(
                Code::WrongState,
                format!("one transaction can meter {MAX_COUNTERS} tenants at most"),
            )
            .hint("Load the rows in several transactions."));
        }
        let count = pending.entry(counter).or_default();
        count.set(count.get() + 1);
        if !pg_sys::get_fn_expr_arg_stable(flinfo, 0) || !pg_sys::get_fn_expr_arg_stable(flinfo, 2) {
            return Ok(()); // called by hand
        }
        let query = query((*flinfo).fn_mcxt, metric);
        if (*flinfo).fn_extra.is_null() {
            (*flinfo).fn_extra = pg_sys::MemoryContextAllocZero((*flinfo).fn_mcxt, size_of::<Site>());
        }
        let bytes = key.bytes(&arguments[1]).unwrap_or_default();
        let site = (*flinfo).fn_extra.cast::<Site>();
        let mut kept = [0; id::MAX_LEN];
        kept[..bytes.len()].copy_from_slice(bytes);
        site.write(Site {
            epoch: EPOCH.get(),
            count: &raw const **count,
            query,
            root: Oid::from_datum(arguments[2].value, arguments[2].isnull).unwrap_or(pg_sys::InvalidOid),
            counter,
            tenant_len: bytes.len(),
            tenant: kept,
        });
        (*query).last = site;
    }
    Ok(())
}

/// What is known of a metric in the query with this memory context.
///
/// # Safety
/// `context` is a live memory context.
unsafe fn query(context: MemoryContext, metric: Id) -> *mut Query {
    // SAFETY: by the contract above; a query is in the list as long as its memory context is there.
    unsafe {
        let known =
            QUERIES.borrow().iter().copied().find(|query| (**query).context == context && (**query).metric == metric);
        known.unwrap_or_else(|| {
            let query = pg_sys::MemoryContextAlloc(context, size_of::<Query>()).cast::<Query>();
            let callback = pg_sys::MemoryContextCallback {
                func: Some(at_end_of_query),
                arg: query.cast(),
                next: std::ptr::null_mut(),
            };
            query.write(Query { context, metric, last: std::ptr::null_mut(), callback });
            QUERIES.borrow_mut().push(query);
            pg_sys::MemoryContextRegisterResetCallback(context, &raw mut (*query).callback);
            query
        })
    }
}

/// Its memory goes. Must not fail, and calls nothing of PostgreSQL.
unsafe extern "C-unwind" fn at_end_of_query(query: *mut c_void) {
    QUERIES.borrow_mut().retain(|known| !std::ptr::eq(known.cast(), query));
}

/// A metric, as amp.assert_metric() knows it.
fn metric(text: &str) -> Option<Id> {
    let well_formed = text.len() <= 50
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if well_formed { Id::parse(text.as_bytes()) } else { None }
}

raw_function! {
    /// `amp.meter_moved(metric text, row record) → boolean`
    amp_meter_moved, pg_finfo_amp_meter_moved, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe {
            guarded(|| take_back(fcinfo));
            Datum::from(false)
        }
    }
}

/// Takes back the count of the row that has been inserted last: it was moved. Errors: 55000 called by hand.
///
/// # Safety
/// `fcinfo` is the function manager's; the arguments are a text and a row.
unsafe fn take_back(fcinfo: FunctionCallInfo) -> Result<(), Error> {
    // SAFETY: by the contract above; a query's last call site is in the query's memory.
    unsafe {
        let flinfo = (*fcinfo).flinfo;
        let root = table_of_trigger((*flinfo).fn_expr).ok_or_else(|| {
            Error::new(Code::WrongState, "a meter takes a row back only where its table's trigger has found it moved")
                .hint("If the table has virtual columns now, its owner drops the meter with amp.unmeter().")
        })?;
        let Some(metric) = metric(&text((*fcinfo).args.as_slice(2)[0])) else {
            return Ok(());
        };
        let query = query((*flinfo).fn_mcxt, metric);
        let Some(last) = (*query).last.as_ref().filter(|last| last.root == root) else {
            return Ok(());
        };
        if let Some(count) = PENDING.borrow().as_ref().and_then(|pending| pending.get(&last.counter)) {
            count.set(count.get() - 1);
        }
        (*query).last = std::ptr::null_mut();
    }
    Ok(())
}

/// The table that a call belongs to whose second argument is NEW in the condition of one of its triggers; a partition's copy of its
/// parent's trigger belongs to the parent. None for every other call. Only there is a whole row the one "from the outer plan": in a plan,
/// what comes from there is one of its columns. And its type is the table's alone: no cast makes another table's row of it,
/// unless that one is its partition.
///
/// # Safety
/// `call` is null or an expression.
unsafe fn table_of_trigger(call: *mut pg_sys::Node) -> Option<Oid> {
    // SAFETY: by the contract above: every node begins with its tag, which says what it is.
    unsafe {
        if call.as_ref()?.type_ != pg_sys::NodeTag::T_FuncExpr {
            return None;
        }
        let mut row = pg_sys::list_nth((*call.cast::<pg_sys::FuncExpr>()).args, 1).cast::<pg_sys::Node>();
        let mut row_type = None;
        while (*row).type_ == pg_sys::NodeTag::T_ConvertRowtypeExpr {
            let converted = row.cast::<pg_sys::ConvertRowtypeExpr>();
            row_type.get_or_insert((*converted).resulttype);
            row = (*converted).arg.cast();
        }
        if (*row).type_ != pg_sys::NodeTag::T_Var {
            return None;
        }
        let row = row.cast::<pg_sys::Var>();
        if (*row).varno != pg_sys::OUTER_VAR || (*row).varattno != 0 {
            return None;
        }
        Some(pg_sys::get_typ_typrelid(row_type.unwrap_or((*row).vartype)))
    }
}

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of add_usage() has to pass with every field it has.
    fn OidFunctionCall3Coll(function: Oid, collation: Oid, first: Datum, second: Datum, third: Datum) -> Datum;
}

/// What a statement has to add: calls of amp.add_usage(), in PostgreSQL's memory.
#[derive(Clone, Copy)]
struct Additions {
    add_usage: Oid,
    metric: Datum,
    first: *const (Datum, i64),
    len: usize,
}

raw_function! {
    /// `amp.count_inserted() → trigger`
    amp_count_inserted, pg_finfo_amp_count_inserted, |fcinfo| {
        // SAFETY: this frame owns nothing, so an error of add_usage() may jump over it; fcinfo is the function manager's.
        unsafe {
            let additions = guarded(|| additions(fcinfo));
            for position in 0..additions.len {
                let (tenant, amount) = *additions.first.add(position);
                OidFunctionCall3Coll(
                    additions.add_usage,
                    pg_sys::DEFAULT_COLLATION_OID,
                    tenant,
                    additions.metric,
                    Datum::from(amount),
                );
            }
            Datum::null()
        }
    }
}

/// Takes what the statement has counted. Errors: as amp.tenant_id(); 22023 no metric of a meter, 55000 the trigger was made by hand, 42501 past
/// row security without EXECUTE on amp.add_usage().
///
/// # Safety
/// `fcinfo` is the function manager's.
unsafe fn additions(fcinfo: FunctionCallInfo) -> Result<Additions, Error> {
    // SAFETY: by the contract above; a trigger function's context says that it is one, and is then its trigger's data.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return Err(Error::new(Code::NotSupported, "trigger functions can only be called as triggers"));
        }
        let fired = context.cast::<pg_sys::TriggerData>();
        if (*fired).tg_event & pg_sys::TRIGGER_EVENT_ROW != 0 {
            return Err(Error::new(Code::WrongState, "amp.count_inserted() counts by the statement")
                .hint("Use amp.meter(); drop triggers that were made by hand."));
        }
        let relation = (*(*fired).tg_relation).rd_id;
        let bound = pg_sys::check_enable_rls(relation, pg_sys::InvalidOid, true)
            == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32;
        if !bound && !catalog::is_protected(relation)? {
            return Err(Error::new(Code::WrongState, format!("table {} is not protected", name(relation)))
                .hint("Use amp.protect() and amp.meter(); drop triggers that were made by hand."));
        }
        let trigger = (*fired).tg_trigger;
        let argument = ((*trigger).tgnargs > 0).then(|| CStr::from_ptr(*(*trigger).tgargs).to_string_lossy());
        let metric = argument.as_deref().and_then(metric).filter(|metric| metric.as_str() != "cost_cents");
        let metric = metric.ok_or_else(|| {
            Error::new(Code::InvalidValue, "a meter's trigger has a metric as its argument, and not cost_cents")
                .hint("Use amp.meter(); drop triggers that were made by hand.")
        })?;

        let mut counted = take(pg_sys::GetCurrentSubTransactionId(), metric, bound);
        let nothing = Additions { add_usage: Oid::INVALID, metric: Datum::null(), first: std::ptr::null(), len: 0 };
        if counted.is_empty() {
            return Ok(nothing);
        }
        let add_usage = catalog::function(c"add_usage", &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT8OID])?;
        if bound {
            // The policies have let in rows of the session's tenant only. Those of a statement without rows have not been asked yet.
            resolve::listen();
            let total = counted.iter().map(|(_, amount)| amount).sum();
            counted = vec![(resolve::current()?.tenant, total)];
        } else if !compat::may_execute(add_usage) {
            return Err(Error::new(Code::InsufficientPrivilege, "permission denied for function add_usage")
                .detail(format!(
                    "Row security does not hold for this role on table {}: its rows may be any tenant's.",
                    name(relation)
                ))
                .hint("ALTER TABLE ... FORCE ROW LEVEL SECURITY, or load as a superuser."));
        }
        let len = counted.len();
        let first = pg_sys::palloc(len * size_of::<(Datum, i64)>()).cast::<(Datum, i64)>();
        for (position, (tenant, amount)) in counted.into_iter().enumerate() {
            first.add(position).write((tenant.as_str().into_datum().unwrap_or(Datum::null()), amount));
        }
        Ok(Additions { add_usage, metric: metric.as_str().into_datum().unwrap_or(Datum::null()), first, len })
    }
}

/// Takes the counts of a metric, by tenant. With `net` only if there is more than what was taken back: a statement inside of an update that
/// moves rows may have added one before that was known.
fn take(subtransaction: pg_sys::SubTransactionId, metric: Id, net: bool) -> Vec<(Id, i64)> {
    let pending = PENDING.borrow();
    let mut counted: Vec<(Id, &Cell<i64>)> = pending
        .iter()
        .flatten()
        .filter(|(counter, _)| counter.subtransaction == subtransaction && counter.metric == metric)
        .map(|(counter, count)| (counter.tenant, &**count))
        .collect();
    if net && counted.iter().map(|(_, count)| count.get()).sum::<i64>() <= 0 {
        return Vec::new();
    }
    counted.retain(|(_, count)| net || count.get() > 0);
    // Always in the same order, for whoever waits for whom.
    counted.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    counted.into_iter().map(|(tenant, count)| (tenant, count.take())).collect()
}

/// # Safety
/// In a transaction.
unsafe fn name(relation: Oid) -> String {
    // SAFETY: by the contract above; the output function gives a C string.
    unsafe {
        let name = pg_sys::OidOutputFunctionCall(pg_sys::F_REGCLASSOUT.into(), relation.into());
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::parse(text.as_bytes()).unwrap()
    }

    fn counted(amounts: &[(u32, &str, &str, i64)]) {
        let counters = amounts.iter().map(|&(subtransaction, name, tenant, amount)| {
            (Counter { subtransaction, metric: id(name), tenant: id(tenant) }, Box::new(Cell::new(amount)))
        });
        *PENDING.borrow_mut() = Some(counters.collect());
    }

    fn taken(subtransaction: u32, net: bool) -> Vec<(String, i64)> {
        let taken = take(subtransaction, id("m"), net).into_iter();
        taken.map(|(tenant, amount)| (tenant.as_str().to_owned(), amount)).collect()
    }

    #[test]
    fn a_statement_takes_what_its_own_subtransaction_counted_of_its_metric() {
        counted(&[(1, "m", "b", 1), (1, "m", "a", 2), (2, "m", "a", 4), (1, "other", "a", 8)]);
        assert_eq!(taken(1, false), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(taken(1, false), []);
        forget(|counter| counter.subtransaction == 2);
        assert_eq!(taken(2, false), []);
    }

    #[test]
    fn what_was_taken_back_is_not_added() {
        counted(&[(1, "m", "a", -1)]);
        assert_eq!(taken(1, true), []);
        counted(&[(1, "m", "a", -1), (1, "m", "b", 3)]);
        assert_eq!(taken(1, true).into_iter().map(|(_, amount)| amount).sum::<i64>(), 2);
    }

    #[test]
    fn a_metric_is_a_lower_case_word() {
        assert!(metric("content_published2").is_some());
        for wrong in ["", "Bad", "2x", "_x", "a b", "a-b", &"x".repeat(51)] {
            assert!(metric(wrong).is_none(), "{wrong}");
        }
    }
}
