//! What the outermost statement costs.
//!
//! A query is registered when it starts, added to while it runs, and recorded when it ends: a cursor that is fetched in pieces is one
//! call. A utility statement is recorded when it returns. Statements that only handle others (EXECUTE, DECLARE, FETCH, transaction
//! control, SET) measure nothing themselves; the queries that they run are measured as they come.
//!
//! There is no nesting level that an error could leave too high, only the one measurement that runs. An error inside of it that
//! somebody catches (an EXCEPTION block) does not touch it; one that leaves it rolls back the subtransaction or transaction in which it
//! began, and that ends it. A procedure that commits or rolls back goes on being one call; what each of its transactions cost is that
//! one's tenant's.
//!
//! What runs outside of any portal (a function that the planner evaluates, a deferred trigger at commit) belongs to a statement that
//! cannot be asked for: its cost counts, as no call.

use super::table::{Counter, Totals};
use super::{ENABLED, clear, record};
use crate::backend::Local;
use crate::compat;
use crate::context::transaction;
use crate::error::{Code, Error};
use crate::id::Id;
use crate::utility::Call;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::time::Instant;

static NEXT_START: Local<Cell<pg_sys::ExecutorStart_hook_type>> = Local::new(Cell::new(None));
static NEXT_FINISH: Local<Cell<pg_sys::ExecutorFinish_hook_type>> = Local::new(Cell::new(None));
static NEXT_END: Local<Cell<pg_sys::ExecutorEnd_hook_type>> = Local::new(Cell::new(None));

/// The outermost statement, while it runs.
static RUNNING: Local<Cell<Option<Running>>> = Local::new(Cell::new(None));

/// The queries that were begun as outermost statements and have not ended: one, and the open cursors.
static QUERIES: Local<RefCell<Vec<Query>>> = Local::new(RefCell::new(Vec::new()));

/// What transactions cost that ended inside of a procedure, until it can be recorded: a callback must not.
static SETTLED: Local<Cell<Option<(Id, Totals)>>> = Local::new(Cell::new(None));

/// The subtransaction that asked for this database's tenants to be forgotten.
static RESET: Local<Cell<Option<pg_sys::SubTransactionId>>> = Local::new(Cell::new(None));

#[derive(Clone, Copy)]
struct Running {
    since: Instant,
    /// PostgreSQL's counters at that time.
    counters: Totals,
    subtransaction: pg_sys::SubTransactionId,
    /// The tenant of its last transaction that ended.
    tenant: Option<Id>,
}

struct Query {
    query: *mut pg_sys::QueryDesc,
    subtransaction: pg_sys::SubTransactionId,
    spent: Totals,
}

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of PostgreSQL has to pass with every field it has.
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
    fn standard_ExecutorEnd(query: *mut pg_sys::QueryDesc);
    // It reads a variable.
    fn GetCurrentSubTransactionId() -> pg_sys::SubTransactionId;
}

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT_START.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(start);
        NEXT_FINISH.set(pg_sys::ExecutorFinish_hook);
        pg_sys::ExecutorFinish_hook = Some(finish);
        NEXT_END.set(pg_sys::ExecutorEnd_hook);
        pg_sys::ExecutorEnd_hook = Some(end);
    }
    compat::executor_run::measure(before_run, after_run);
}

unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: PostgreSQL hands every hook a live query; this frame owns nothing, so an error may jump over it.
    unsafe {
        match NEXT_START.get() {
            Some(next) => next(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
        if is_outermost() {
            register(query);
        }
    }
}

/// Before a query runs, or goes on. True if it is the outermost statement.
///
/// # Safety
/// As the executor's hooks: a live query, in a frame that owns nothing.
unsafe fn before_run(query: *mut pg_sys::QueryDesc) -> bool {
    if !is_outermost() {
        settle();
        return false;
    }
    // SAFETY: by the contract above.
    unsafe {
        if !is_registered(query) {
            register(query); // a function's cursor, which is fetched from outside of it
        }
    }
    begin();
    true
}

/// # Safety
/// As [`before_run`], which said true.
unsafe fn after_run(query: *mut pg_sys::QueryDesc) {
    let mut spent = stop();
    // SAFETY: by the contract above; a query that has run has its state.
    spent.add(Counter::Rows, unsafe { (*(*query).estate).es_processed });
    add(query, &spent);
}

unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as in `start`.
    unsafe {
        // A plain SELECT has nothing left to do.
        let works = (*query).operation != pg_sys::CmdType::CMD_SELECT || (*(*query).plannedstmt).hasModifyingCTE;
        let outermost = works && is_outermost() && is_registered(query);
        if outermost {
            begin();
        }
        match NEXT_FINISH.get() {
            Some(next) => next(query),
            None => standard_ExecutorFinish(query),
        }
        if outermost {
            add(query, &stop());
        }
    }
}

unsafe extern "C-unwind" fn end(query: *mut pg_sys::QueryDesc) {
    // Also from inside of another statement: a function may close the session's cursor.
    let spent = take(query);
    // SAFETY: as in `start`.
    unsafe {
        match NEXT_END.get() {
            Some(next) => next(query),
            None => standard_ExecutorEnd(query),
        }
    }
    if let (Some(spent), Some(tenant)) = (spent, transaction::tenant()) {
        record(tenant, &spent);
    }
}

/// # Safety
/// As a handler of [`crate::utility`].
pub(crate) unsafe fn utility(call: Call) {
    // SAFETY: by the contract above the statement lives, and may be gone afterwards; this frame owns nothing.
    unsafe {
        let works = works((*(*call.statement).utilityStmt).type_);
        let outermost = works && is_outermost();
        let calls = u64::from(outermost && is_call(call.statement));
        if outermost {
            begin();
        } else if works {
            settle();
        }
        call.proceed();
        if outermost {
            after_utility(calls, call.completion.as_ref());
        }
    }
}

fn after_utility(calls: u64, completion: Option<&pg_sys::QueryCompletion>) {
    use pg_sys::CommandTag::*;
    settle();
    let before = RUNNING.get().and_then(|running| running.tenant);
    let mut spent = stop();
    spent.add(Counter::Calls, calls);
    if let Some(completion) = completion
        && matches!(completion.commandTag, CMDTAG_COPY | CMDTAG_SELECT | CMDTAG_REFRESH_MATERIALIZED_VIEW)
    {
        spent.add(Counter::Rows, completion.nprocessed);
    }
    if let Some(tenant) = transaction::tenant().or(before) {
        record(tenant, &spent);
    }
}

/// False for statements that only handle others, or the session.
fn works(statement: pg_sys::NodeTag) -> bool {
    use pg_sys::NodeTag::*;
    !matches!(
        statement,
        T_TransactionStmt
            | T_DeclareCursorStmt
            | T_FetchStmt
            | T_ClosePortalStmt
            | T_PrepareStmt
            | T_ExecuteStmt
            | T_DeallocateStmt
            | T_VariableSetStmt
            | T_VariableShowStmt
            | T_DiscardStmt
            | T_ConstraintsSetStmt
    )
}

/// True for the statement that a client sent, and not what rules or the end of the transaction add to it.
///
/// # Safety
/// A live statement.
unsafe fn is_call(statement: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: by the contract above; a variable of the backend.
    unsafe { (*statement).canSetTag && !pg_sys::ActivePortal.is_null() }
}

/// True if nothing is being measured, and what comes is to be.
#[inline(always)]
fn is_outermost() -> bool {
    // SAFETY: reads a variable of the backend.
    !is_running() && ENABLED.get() && unsafe { pg_sys::ParallelWorkerNumber < 0 }
}

#[inline(always)]
fn is_running() -> bool {
    // SAFETY: on the backend's thread, and nothing changes it meanwhile.
    unsafe { (*RUNNING.as_ptr()).is_some() }
}

fn begin() {
    // SAFETY: reads a variable of the backend.
    let subtransaction = unsafe { GetCurrentSubTransactionId() };
    RUNNING.set(Some(Running { since: Instant::now(), counters: counters(), subtransaction, tenant: None }));
}

/// Ends the measurement. Nothing, if none runs.
fn stop() -> Totals {
    RUNNING.take().map(|running| spent(&running).0).unwrap_or_default()
}

/// What was spent since then, and the measurement that goes on from here.
fn spent(running: &Running) -> (Totals, Running) {
    let (now, counters) = (Instant::now(), counters());
    let mut spent =
        Totals(std::array::from_fn(|counter| counters.0[counter].wrapping_sub(running.counters.0[counter])));
    spent.add(Counter::Nanoseconds, now.duration_since(running.since).as_nanos() as u64);
    (spent, Running { since: now, counters, ..*running })
}

/// PostgreSQL's counters of this backend.
fn counters() -> Totals {
    // SAFETY: copies of plain variables of the backend.
    let (blocks, wal_bytes) = unsafe { (pg_sys::pgBufferUsage, pg_sys::pgWalUsage.wal_bytes) };
    let mut totals = Totals::default();
    for (counter, value) in [
        (Counter::SharedHit, blocks.shared_blks_hit),
        (Counter::SharedRead, blocks.shared_blks_read),
        (Counter::SharedDirtied, blocks.shared_blks_dirtied),
        (Counter::SharedWritten, blocks.shared_blks_written),
        (Counter::TempRead, blocks.temp_blks_read),
        (Counter::TempWritten, blocks.temp_blks_written),
    ] {
        totals.add(counter, value as u64);
    }
    totals.add(Counter::WalBytes, wal_bytes);
    totals
}

/// # Safety
/// A query that has started.
unsafe fn register(query: *mut pg_sys::QueryDesc) {
    let mut spent = Totals::default();
    // SAFETY: by the contract above; a variable of the backend.
    let subtransaction = unsafe {
        spent.add(Counter::Calls, u64::from(is_call((*query).plannedstmt)));
        GetCurrentSubTransactionId()
    };
    let mut queries = QUERIES.borrow_mut();
    // One that ended with an error may have left its address.
    queries.retain(|known| known.query != query);
    queries.push(Query { query, subtransaction, spent });
}

fn is_registered(query: *mut pg_sys::QueryDesc) -> bool {
    QUERIES.borrow().iter().any(|known| known.query == query)
}

fn add(query: *mut pg_sys::QueryDesc, spent: &Totals) {
    if let Some(known) = QUERIES.borrow_mut().iter_mut().find(|known| known.query == query) {
        known.spent.add_all(spent);
    }
}

fn take(query: *mut pg_sys::QueryDesc) -> Option<Totals> {
    let mut queries = QUERIES.borrow_mut();
    let position = queries.iter().position(|known| known.query == query)?;
    Some(queries.swap_remove(position).spent)
}

/// Records what a procedure's ended transactions cost.
fn settle() {
    // SAFETY: as in `is_running`.
    if unsafe { (*SETTLED.as_ptr()).is_some() }
        && let Some((tenant, spent)) = SETTLED.take()
    {
        record(tenant, &spent);
    }
}

/// This database's tenants will be forgotten when the transaction commits.
pub(super) fn reset_at_commit() {
    // SAFETY: reads a variable of the backend.
    RESET.set(Some(RESET.get().unwrap_or(unsafe { GetCurrentSubTransactionId() })));
}

/// The transaction ends, and its tenant is still known. Runs inside commit and abort: it must not fail. The one lock that it takes is
/// for a reset, which cannot be taken back once it is done.
pub(crate) fn at_transaction_end(committed: bool) {
    QUERIES.borrow_mut().clear();
    if RESET.take().is_some() && committed {
        clear();
    }
    // SAFETY: reads a variable of the backend: null unless a statement is running, such as a procedure that commits.
    if unsafe { pg_sys::ActivePortal.is_null() } {
        RUNNING.set(None);
        SETTLED.set(None);
        return;
    }
    let Some((running, tenant)) = RUNNING.get().zip(transaction::tenant()) else {
        return;
    };
    let (mut spent, mut running) = spent(&running);
    match SETTLED.get() {
        // Nothing ran between two transactions' ends: what is left goes to the next one's tenant.
        Some((other, _)) if other != tenant => return,
        Some((_, before)) => spent.add_all(&before),
        None => {}
    }
    SETTLED.set(Some((tenant, spent)));
    running.tenant = Some(tenant);
    RUNNING.set(Some(running));
}

/// A subtransaction is rolled back: what began in it is over. Must not fail, and calls nothing of PostgreSQL.
pub(crate) fn at_subtransaction_abort(aborted: pg_sys::SubTransactionId) {
    // Whatever began after it, and has not ended, began inside of it.
    if RUNNING.get().is_some_and(|running| running.subtransaction >= aborted) {
        RUNNING.set(None);
    }
    QUERIES.borrow_mut().retain(|query| query.subtransaction < aborted);
    RESET.set(RESET.get().filter(|asked| *asked < aborted));
}

/// Refuses PREPARE TRANSACTION after a reset, which cannot wait for COMMIT PREPARED. Errors: 55000.
pub(crate) fn check_prepare() -> Result<(), Error> {
    if RESET.get().is_none() {
        return Ok(());
    }
    Err(Error::new(Code::WrongState, "cannot PREPARE a transaction that has called amp.reset_stat_tenants()")
        .hint("Call it in a transaction of its own."))
}
