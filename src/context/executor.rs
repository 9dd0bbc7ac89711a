//! Before a query runs: hear what other sessions changed, and pin the tenant of a query under amp's policies.
//!
//! Locks a transaction already holds are not taken again, so a session inside a transaction would not hear of a suspension
//! on its own; here it does, at every statement and every FETCH (P6). Resolving before the first row makes a missing context
//! an error on an empty table too (P2), and comes before parallel workers start, which need the answer. A plan without policies, of a role
//! that bypasses row security no longer, is refused here as well.

use super::{catalog, parallel, resolve, session, settings, stale_plan};
use crate::backend::Local;
use crate::identity::proof;
use crate::isolation;
use crate::{compat, error};
use pgrx::pg_sys;
use std::cell::Cell;

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of the executor has to pass with every field it has.
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: std::ffi::c_int);
    fn AcceptInvalidationMessages();
}

static NEXT_START: Local<Cell<pg_sys::ExecutorStart_hook_type>> = Local::new(Cell::new(None));

/// The syscache hash values of amp.tenant_id() and its kin, by which a plan says that it depends on them.
static FUNCTIONS: Local<Cell<Option<[u32; 6]>>> = Local::new(Cell::new(None));

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT_START.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(start);
        pg_sys::CacheRegisterSyscacheCallback(
            pg_sys::SysCacheIdentifier::PROCOID as _,
            Some(on_function_change),
            pg_sys::Datum::null(),
        );
    }
    compat::executor_run::install(before_run);
}

/// Some function changed. Runs during invalidation: it must not fail, and calls nothing of PostgreSQL.
unsafe extern "C-unwind" fn on_function_change(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    FUNCTIONS.set(None);
}

unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, flags: std::ffi::c_int) {
    // SAFETY: PostgreSQL hands every hook a live query; this frame owns nothing, so an error may jump over it.
    unsafe {
        before(query);
        match NEXT_START.get() {
            Some(next) => next(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
    }
}

/// # Safety
/// As the executor's hooks: a live query, in a frame that owns nothing.
unsafe fn before_run(query: *mut pg_sys::QueryDesc) {
    // SAFETY: by the contract above.
    unsafe {
        isolation::check_explained(query);
        if before(query) && (*query).already_executed {
            // A cursor goes on: it may hold rows back that were read when more was permitted, in a sort for instance.
            error::guarded(resolve::check_reads);
        }
        if (*(*query).plannedstmt).parallelModeNeeded && !parallel::is_worker() && !pg_sys::IsInParallelMode() {
            error::guarded(|| {
                let current = if resolve::has_tenant().unwrap_or(false) { resolve::current().ok() } else { None };
                let user = if current.is_none() { resolve::user().ok().flatten() } else { None };
                parallel::publish(current.as_deref(), user);
                Ok(())
            });
        }
    }
}

/// True if the query is under the policies, and the context holds for it.
///
/// # Safety
/// As [`before_run`].
unsafe fn before(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: by the contract above; the plan lives as long as the query.
    unsafe {
        let plan = &*(*query).plannedstmt;
        let (isolated, claims) = (depends_on_tenant(plan), settings::any() || proof::any());
        // A bound role claims nothing, and a function may ask what no plan shows: whoever has been answered keeps listening.
        let answered = resolve::is_watching() || session::is_known();
        let bypasses = stale_plan::bypasses(plan);
        if !(isolated || claims || answered || bypasses) || parallel::is_worker() {
            return false;
        }
        AcceptInvalidationMessages();
        if bypasses {
            error::guarded(|| stale_plan::check(plan));
        }
        resolve::check_premises();
        if claims && !session::known_to_be_bound() {
            error::guarded(resolve::check_bypass);
        }
        if isolated && resolve::tenant_text().is_none() {
            error::guarded(|| resolve::current().map(|_| ()));
        }
        isolated
    }
}

/// True if the plan calls one of amp's tenant functions: it is under the policies of a protected table.
///
/// # Safety
/// As [`before_run`].
unsafe fn depends_on_tenant(plan: &pg_sys::PlannedStmt) -> bool {
    let items = plan.invalItems;
    if items.is_null() {
        return false;
    }
    let functions = match FUNCTIONS.get() {
        Some(functions) => functions,
        // SAFETY: by the contract above.
        None => unsafe { error::guarded(|| Ok(tenant_functions())) },
    };
    // SAFETY: the planner's list of PlanInvalItem, as long as it says.
    unsafe {
        (0..(*items).length as usize).any(|position| {
            let item = &*(*(*items).elements.add(position)).ptr_value.cast::<pg_sys::PlanInvalItem>();
            item.cacheId == pg_sys::SysCacheIdentifier::PROCOID as i32 && functions.contains(&item.hashValue)
        })
    }
}

/// True where the extension is installed in this database.
///
/// # Safety
/// In a transaction, from a frame that owns nothing.
pub(crate) unsafe fn installed() -> bool {
    // SAFETY: by the contract above.
    FUNCTIONS.get().is_some() || unsafe { error::guarded(|| Ok(tenant_functions())) } != [0; 6]
}

fn tenant_functions() -> [u32; 6] {
    let Ok(schema) = catalog::schema() else {
        return [0; 6]; // not installed here; a hash of 0 at worst resolves a context once too often
    };
    const NAMES: [&std::ffi::CStr; 3] = [c"tenant_id", c"tenant_uuid", c"tenant_bigint"];
    let permission = [pg_sys::TEXTOID];
    let mut functions = [0; 6];
    for (hash, (name, arguments)) in
        functions.iter_mut().zip(NAMES.iter().flat_map(|name| [(name, &permission[..0]), (name, &permission[..])]))
    {
        // SAFETY: syscache look-ups with the key types that the caches declare.
        unsafe {
            let arguments = pg_sys::buildoidvector(arguments.as_ptr(), arguments.len() as _);
            let function = pg_sys::GetSysCacheOid(
                pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as _,
                pg_sys::Anum_pg_proc_oid as _,
                pg_sys::Datum::from(name.as_ptr()),
                pg_sys::Datum::from(arguments),
                schema.into(),
                pg_sys::Datum::null(),
            );
            *hash = pg_sys::GetSysCacheHashValue(
                pg_sys::SysCacheIdentifier::PROCOID as _,
                function.into(),
                pg_sys::Datum::null(),
                pg_sys::Datum::null(),
                pg_sys::Datum::null(),
            );
        }
    }
    FUNCTIONS.set(Some(functions));
    functions
}
