//! `amp.stat_tenants`: what each tenant's statements cost, in shared memory.
//!
//! A statement is the tenant's that its transaction is pinned to when it ends: a verified context, never a claim. What runs in a
//! transaction without a pin is nobody's. Measured is the outermost statement alone, so that what it calls is in it and counts once
//! ([`measure`]); parallel workers measure nothing, for PostgreSQL adds their blocks and WAL to the leader's. A statement that fails
//! counts nothing.
//!
//! Locking protocol:
//!
//! - There is one LWLock. Whoever reads the table or adds to an entry's counters holds it shared; whoever makes, evicts or removes
//!   entries holds it exclusively. It is taken for nothing else, and nothing of PostgreSQL is called while it is held.
//! - The counters of an entry are atomics and change under the shared lock. A reader may therefore see one statement's calls before its
//!   blocks; each number by itself is right. Everything else in the table changes under the exclusive lock alone.
//! - A backend remembers the place of the entry that it used last. Another one may have it by now: its key is compared under the lock.
//! - The postmaster takes no lock. It fills the table before it has children, and saves it when it has none any more; one that died in
//!   the middle of a change has left its mark in the table ([`table::Table::is_whole`]), and nothing is saved then.
//!
//! The table has room for `amp.stat_tenants_max` entries; when it is full, the least used twentieth goes ([`table`]). It is saved when the
//! server stops and read when it starts ([`file`]); a crash loses it.

mod file;
mod functions;
pub(crate) mod measure;
mod table;

pub(crate) use measure::{at_subtransaction_abort, at_transaction_end, check_prepare};

use crate::backend::{self, Local};
use crate::error;
use crate::id::Id;
use crate::identity::expiry;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, c_int};
use table::{Key, Table, Totals};

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static MAX: GucSetting<i32> = GucSetting::<i32>::new(1000);

const NAME: &CStr = c"amp_tenancy_stat_tenants";

/// Where the table is: set in the postmaster, inherited by every backend; none where the library was not preloaded.
static SHARED: Local<Cell<Option<Shared>>> = Local::new(Cell::new(None));

/// The place of the entry that this backend used last.
static LAST: Local<Cell<usize>> = Local::new(Cell::new(0));

static NEXT_REQUEST: Local<Cell<pg_sys::shmem_request_hook_type>> = Local::new(Cell::new(None));
static NEXT_STARTUP: Local<Cell<pg_sys::shmem_startup_hook_type>> = Local::new(Cell::new(None));

unsafe extern "C-unwind" {
    // Without pgrx's guards: taken at every statement. It fails for nobody who holds less than 200 locks.
    fn LWLockAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
    fn LWLockRelease(lock: *mut pg_sys::LWLock);
}

pub(crate) fn init() {
    if !backend::is_preloaded() {
        return;
    }
    GucRegistry::define_bool_guc(
        c"amp.stat_tenants",
        c"Whether statements count in amp.stat_tenants.",
        c"What was counted stays when it is switched off.",
        &ENABLED,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"amp.stat_tenants_max",
        c"How many tenants amp.stat_tenants has room for.",
        c"Of all databases together. When there are more, the least used are forgotten.",
        &MAX,
        10,
        1_000_000,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    // SAFETY: from _PG_init, in the postmaster.
    unsafe {
        NEXT_REQUEST.set(pg_sys::shmem_request_hook);
        pg_sys::shmem_request_hook = Some(request);
        NEXT_STARTUP.set(pg_sys::shmem_startup_hook);
        pg_sys::shmem_startup_hook = Some(startup);
    }
    measure::init();
}

/// Asks for the table's memory and its lock.
unsafe extern "C-unwind" fn request() {
    // SAFETY: PostgreSQL's hook, in the postmaster; this frame owns nothing, so an error may jump over it.
    unsafe {
        if let Some(next) = NEXT_REQUEST.get() {
            next();
        }
        error::guarded(|| {
            pg_sys::RequestAddinShmemSpace(Table::size(MAX.get() as usize));
            pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), 1);
            Ok(())
        });
    }
}

/// Makes the table, again after a crash, and reads what was saved.
unsafe extern "C-unwind" fn startup() {
    // SAFETY: as in `request`. The postmaster is alone: nobody else can be making the table.
    unsafe {
        if let Some(next) = NEXT_STARTUP.get() {
            next();
        }
        error::guarded(|| {
            let (places, mut found) = (MAX.get() as usize, false);
            let memory = pg_sys::ShmemInitStruct(NAME.as_ptr(), Table::size(places), &raw mut found);
            let shared = Shared {
                lock: (&raw mut (*pg_sys::GetNamedLWLockTranche(NAME.as_ptr())).lock).cast(),
                table: Table::at(memory, places),
            };
            if !found {
                shared.table.cast::<u8>().write_bytes(0, Table::size(places));
                file::read(&mut *shared.table);
            }
            SHARED.set(Some(shared));
            if !pg_sys::IsUnderPostmaster {
                pg_sys::on_shmem_exit(Some(save), pg_sys::Datum::null());
            }
            Ok(())
        });
    }
}

/// The server stops: saves the table, unless it crashed.
unsafe extern "C-unwind" fn save(code: c_int, _arg: pg_sys::Datum) {
    let Some(shared) = SHARED.get().filter(|_| code == 0) else {
        return;
    };
    // SAFETY: in the postmaster, after its last child; this frame owns nothing.
    unsafe {
        error::guarded(|| {
            file::write(&*shared.table);
            Ok(())
        });
    }
}

#[derive(Clone, Copy)]
struct Shared {
    lock: *mut pg_sys::LWLock,
    table: *mut Table,
}

impl Shared {
    /// Runs `body` with the table to read, and its counters to add to. It must call nothing of PostgreSQL.
    fn share<T>(self, body: impl FnOnce(&Table) -> T) -> T {
        let _held = self.hold(pg_sys::LWLockMode::LW_SHARED);
        // SAFETY: under the shared lock nobody has the table exclusively.
        body(unsafe { &*self.table })
    }

    /// Runs `body` with the table to change. It must call nothing of PostgreSQL.
    fn exclusive<T>(self, body: impl FnOnce(&mut Table) -> T) -> T {
        let _held = self.hold(pg_sys::LWLockMode::LW_EXCLUSIVE);
        // SAFETY: under the exclusive lock nobody else has the table.
        body(unsafe { &mut *self.table })
    }

    #[inline(always)]
    fn hold(self, mode: pg_sys::LWLockMode::Type) -> Held {
        // SAFETY: the lock is PostgreSQL's, made in `startup`; `Held` releases it.
        unsafe { LWLockAcquire(self.lock, mode) };
        Held(self.lock)
    }
}

/// Releases the lock.
struct Held(*mut pg_sys::LWLock);

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: held since `hold`.
        unsafe { LWLockRelease(self.0) };
    }
}

/// Adds what a statement of this tenant cost.
fn record(tenant: Id, spent: &Totals) {
    let Some(shared) = SHARED.get() else {
        return;
    };
    // SAFETY: reads a variable of the backend.
    let key = Key { database: unsafe { pg_sys::MyDatabaseId }.into(), tenant };
    let known = shared.share(|table| {
        let place = table.find(&key, LAST.get())?;
        table.add(place, spent);
        Some(place)
    });
    LAST.set(known.unwrap_or_else(|| {
        let now = expiry::now();
        shared.exclusive(|table| {
            let place = table.find_or_make(&key, now);
            table.add(place, spent);
            place
        })
    }));
}

/// Forgets this database's tenants.
fn clear() {
    if let Some(shared) = SHARED.get() {
        // SAFETY: reads a variable of the backend.
        let database = unsafe { pg_sys::MyDatabaseId }.into();
        shared.exclusive(|table| table.clear(database));
    }
}
