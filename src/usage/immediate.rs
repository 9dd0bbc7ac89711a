//! Usage that survives a rollback: `durability => 'immediate'`.
//!
//! What is to be counted is put into shared memory, where no rollback reaches, and a background worker of the database writes it to the
//! tables, at most a quarter of a second later. Without an idempotency key additions to one counter are summed up while they wait.
//!
//! **Protocol.** One lock, held exclusively for a few comparisons, never while anything else is waited for. An addition is accepted only
//! while a worker serves the database: whoever finds none has one started, and waits. The worker *takes* additions, up to a batch: they stay
//! where they are, known by their keys, and what comes to the same counter goes beside them. It writes the batch in one transaction and
//! removes it from inside that transaction's commit.
//!
//! **Exactly once.** Removing is done by the worker's XACT_EVENT_COMMIT callback. PostgreSQL runs it with interrupts held off, after the commit
//! record is flushed (synchronous_commit is `local`), and nothing can end the process in between but a crash: an error there is a PANIC.
//! A crash of any process has the postmaster begin anew with empty shared memory. So there is no moment at which a batch is
//! committed and is still there for another worker. If the transaction does not commit, nobody removes the batch. The worker is dead
//! then, since it ends with any error; the next one makes what was taken pending again. It knows that nobody is writing it: a lock of
//! the session ([`become_writer`]) is let go only when the last transaction of the one before has ended. Hence every addition is written by
//! one committed transaction, or was in memory when the server crashed.
//!
//! **What can be lost.** A crash of the server, an immediate shutdown and a failover lose what was accepted and not written yet: what came in
//! the last quarter of a second, and as long as writing the batch takes; more if writing fails, which the server's log says. At a fast
//! or smart shutdown the worker hears of it together with the sessions. It stops accepting, and then writes what there is; sessions that
//! come too late are waiting for a worker when they are ended, and have got no answer. Ending a worker (pg_terminate_backend) does the same; the postmaster
//! starts it again a second later, or whoever waits does at once.
//!
//! **Keys.** Whoever brings a key holds the key's lock ([`keys::alone`]) while he looks for it among what is pending, then in the table,
//! and puts it in. So nobody else does meanwhile, in neither durability, and what was removed from memory before is seen in the table. Who
//! finds that an open transaction counts the key waits for it, as everywhere; a transaction that finds it pending takes it for counted. So the
//! worker finds no key that somebody has under way, and waits for nobody; if ever it does, it comes back to it later.
//!
//! **Room.** [`CAPACITY`] entries, about 0.9 MB. A tenant has at most an eighth of them. Who finds no room waits for ten seconds, and gets an error then;
//! nothing is dropped. Only where there is nothing to write to is an addition given up, and the log says so: the extension or the
//! database was dropped, the tenant was purged.

use super::functions::count;
use super::keys::{self, Noted};
use super::period::Day;
use super::rows::COST;
use super::slots::become_writer;
use crate::backend::{self, Local};
use crate::context::catalog::{self, PURGES, TENANTS};
use crate::error::{Code, Error};
use crate::id::Id;
use crate::identity::expiry;
use crate::inline::Text;
use crate::worker;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, SignalWakeFlags};
use pgrx::prelude::*;
use pgrx::{IntoDatum, PGRXSharedMemory, PgLwLock, pg_shmem_init};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

unsafe extern "C-unwind" {
    // Whose binding does not say in every version that it does not return.
    fn proc_exit(code: c_int) -> !;
}

/// How many additions wait at most, and how many of them may be one tenant's.
const CAPACITY: usize = 2048;
const PER_TENANT: usize = CAPACITY / 8;
/// How many databases can be served at a time.
const DATABASES: usize = 64;
/// How many additions are written in one transaction.
const BATCH: u16 = 512;
/// The longest idempotency key here, in bytes.
const MAX_KEY: usize = 255;

// In microseconds.
/// How long one waits for room or for a worker.
const PATIENCE: i64 = 10_000_000;
/// How long a worker may take to come, and when another one is tried if none could be started.
const STARTING: i64 = 1_000_000;
const START_AGAIN: i64 = 50_000;
/// How long a worker stays with nothing to do: less than the five seconds for which DROP DATABASE waits for it.
const IDLE: i64 = 2_000_000;
/// How long a worker that is ended tries to write everything before.
const LAST_TRY: i64 = 5_000_000;

/// How long a worker sleeps between two batches, and those who wait between two looks, in milliseconds.
const PAUSE: i64 = 250;
const STEP: i64 = 10;

/// The end of a chain.
const NONE: u16 = u16::MAX;

// SAFETY: nobody else uses this name.
static PENDING: PgLwLock<Pending> = unsafe { PgLwLock::new(c"amp_tenancy_pending_usage") };

/// What is removed from memory when this worker's transaction commits.
static WRITTEN: Local<RefCell<Vec<u16>>> = Local::new(RefCell::new(Vec::new()));

/// The address of this worker's latch, while it serves.
static OWN_LATCH: Local<Cell<usize>> = Local::new(Cell::new(0));

/// Something to be counted.
#[derive(Clone, Copy)]
struct Addition {
    database: pg_sys::Oid,
    tenant: Id,
    metric: Text<50>,
    day: Day,
    key: Option<Text<MAX_KEY>>,
    amount: i64,
}

impl Addition {
    fn is_of_tenant(&self, other: &Addition) -> bool {
        self.database == other.database && self.tenant == other.tenant
    }

    fn bucket(&self) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.database.to_u32(), self.tenant).hash(&mut hasher);
        hasher.finish() as usize % CAPACITY
    }
}

#[derive(Clone, Copy)]
struct Entry {
    addition: Addition,
    /// A worker is writing it.
    taken: bool,
}

/// A database with something to write.
#[derive(Clone, Copy)]
struct Place {
    database: pg_sys::Oid,
    /// The address of its worker's latch; 0 where there is none. Latches are in shared memory, at the same address in every process.
    latch: usize,
    /// The worker is about to end: it takes what is there, and nothing more is accepted.
    closing: bool,
    /// When a worker was started last, and how often one has been since one came to serve.
    started: i64,
    starts: u32,
    /// How many additions the next batch has, and where it begins. Halved each time, and made larger again if it was written: what
    /// cannot be written does not hold up the rest.
    batch: u16,
    from: u16,
}

impl Place {
    const FREE: Place = Place {
        database: pg_sys::InvalidOid,
        latch: 0,
        closing: false,
        started: i64::MIN,
        starts: 0,
        batch: BATCH,
        from: 0,
    };

    fn is_served(&self) -> bool {
        self.latch != 0 && !self.closing
    }
}

/// All that waits to be written. A tenant's entries form a chain, which begins in the bucket of his hash.
#[derive(Clone, Copy)]
struct Pending {
    entries: [Option<Entry>; CAPACITY],
    /// The chains of the tenants, and that of the free entries.
    next: [u16; CAPACITY],
    heads: [u16; CAPACITY],
    free: u16,
    places: [Place; DATABASES],
}

// SAFETY: plain values; the addresses in it are of shared memory.
unsafe impl PGRXSharedMemory for Pending {}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Accepted {
    Yes,
    /// Yes, and the worker should not sleep on.
    Crowded,
    Wait(For),
}

/// What one waits for.
#[derive(Clone, Copy, PartialEq, Debug)]
enum For {
    Worker,
    TenantsRoom,
    Room,
    DatabasesRoom,
}

/// What a worker finds when it comes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Duty {
    Serve,
    /// Workers have come and gone without serving: is the database there?
    Check,
    Nothing,
}

impl Pending {
    fn new() -> Pending {
        let mut pending = Pending {
            entries: [None; CAPACITY],
            next: [NONE; CAPACITY],
            heads: [NONE; CAPACITY],
            free: 0,
            places: [Place::FREE; DATABASES],
        };
        for (index, next) in pending.next[..CAPACITY - 1].iter_mut().enumerate() {
            *next = index as u16 + 1;
        }
        pending
    }

    fn place(&mut self, database: pg_sys::Oid) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.database == database)
    }

    /// The place of a database; a new one is one that nobody needs.
    fn make_place(&mut self, database: pg_sys::Oid, now: i64) -> Option<&mut Place> {
        let known = (0..DATABASES).find(|index| self.places[*index].database == database);
        let index = known.or_else(|| {
            let needed = |place: &Place| place.latch != 0 || place.started > now - PATIENCE || self.has(place.database);
            let index = (0..DATABASES).find(|index| !needed(&self.places[*index]))?;
            self.places[index] = Place { database, ..Place::FREE };
            Some(index)
        });
        index.map(|index| &mut self.places[index])
    }

    fn of_database(&self, database: pg_sys::Oid) -> impl Iterator<Item = (u16, &Entry)> {
        let entries = (0..CAPACITY as u16).zip(&self.entries);
        entries
            .filter_map(|(index, entry)| entry.as_ref().map(|entry| (index, entry)))
            .filter(move |(_, entry)| entry.addition.database == database)
    }

    fn has(&self, database: pg_sys::Oid) -> bool {
        self.of_database(database).next().is_some()
    }

    /// The entries in the chain of an addition's tenant: his, and those of tenants of the same hash.
    fn chain(&self, of: &Addition) -> impl Iterator<Item = (u16, &Entry)> {
        let mut at = self.heads[of.bucket()];
        std::iter::from_fn(move || {
            let index = at;
            let entry = self.entries.get(index as usize)?.as_ref()?;
            at = self.next[index as usize];
            Some((index, entry))
        })
    }

    /// What an addition's key counts, if it is pending.
    fn look(&self, new: &Addition) -> Option<(Text<50>, i64)> {
        let same = |entry: &&Entry| entry.addition.is_of_tenant(new) && entry.addition.key == new.key;
        let found = self.chain(new).map(|(_, entry)| entry).find(same)?;
        Some((found.addition.metric, found.addition.amount))
    }

    /// Accepts an addition; with a key, if it was looked for.
    fn accept(&mut self, new: &Addition) -> Accepted {
        if !self.place(new.database).is_some_and(|place| place.is_served()) {
            return Accepted::Wait(For::Worker);
        }
        let (mut of_tenant, mut same) = (0, None);
        for (index, entry) in self.chain(new).filter(|(_, entry)| entry.addition.is_of_tenant(new)) {
            of_tenant += 1;
            let known = &entry.addition;
            let keyless = known.key.is_none() && new.key.is_none();
            if keyless && !entry.taken && (known.metric, known.day) == (new.metric, new.day) {
                same = Some(index);
            }
        }
        if let Some(entry) = same.and_then(|index| self.entries[index as usize].as_mut())
            && let Some(sum) = entry.addition.amount.checked_add(new.amount)
        {
            entry.addition.amount = sum;
            return Accepted::Yes;
        }
        if of_tenant >= PER_TENANT {
            return Accepted::Wait(For::TenantsRoom);
        }
        let index = self.free;
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return Accepted::Wait(For::Room);
        };
        *entry = Some(Entry { addition: *new, taken: false });
        self.free = self.next[index as usize];
        self.next[index as usize] = self.heads[new.bucket()];
        self.heads[new.bucket()] = index;
        if of_tenant >= PER_TENANT / 2 || self.free == NONE { Accepted::Crowded } else { Accepted::Yes }
    }

    fn latch(&mut self, database: pg_sys::Oid) -> usize {
        self.place(database).map_or(0, |place| place.latch)
    }

    /// Whether whoever waits has to start a worker, which counts as started then. None if there is no place for the database.
    fn needs_worker(&mut self, database: pg_sys::Oid, now: i64) -> Option<bool> {
        let place = self.make_place(database, now)?;
        if place.is_served() || place.started > now - STARTING {
            return Some(false);
        }
        place.started = now;
        Some(true)
    }

    /// A worker could not be started: whoever waits tries again soon, and not all of them at once.
    fn could_not_start(&mut self, database: pg_sys::Oid, now: i64) {
        if let Some(place) = self.place(database) {
            place.started = now - STARTING + START_AGAIN;
        }
    }

    /// A worker has come.
    fn report(&mut self, database: pg_sys::Oid) -> Duty {
        match self.place(database) {
            None => Duty::Nothing,
            Some(place) if place.is_served() => Duty::Nothing,
            Some(place) => {
                place.starts += 1;
                if place.starts % 4 == 0 { Duty::Check } else { Duty::Serve }
            }
        }
    }

    /// The only worker of a database begins to serve: what was taken is pending again.
    fn serve(&mut self, database: pg_sys::Oid, latch: usize, now: i64) -> bool {
        let Some(place) = self.make_place(database, now) else {
            return false;
        };
        (place.latch, place.closing, place.starts) = (latch, false, 0);
        for entry in self.entries.iter_mut().flatten().filter(|entry| entry.addition.database == database) {
            entry.taken = false;
        }
        true
    }

    /// The worker takes nothing more; another one may be started at once.
    fn close(&mut self, database: pg_sys::Oid) {
        if let Some(place) = self.place(database) {
            (place.closing, place.started) = (true, i64::MIN);
        }
    }

    /// A worker has ended.
    fn leave(&mut self, database: pg_sys::Oid, latch: usize) {
        if let Some(place) = self.place(database).filter(|place| place.latch == latch) {
            (place.latch, place.closing) = (0, false);
        }
    }

    /// Lets a worker go if there is nothing to write.
    fn leave_if_done(&mut self, database: pg_sys::Oid, latch: usize) -> bool {
        let done = !self.has(database);
        if done {
            self.leave(database, latch);
        }
        done
    }

    /// Gives a worker its next batch, and says whether there is more.
    fn take(&mut self, database: pg_sys::Oid) -> (Vec<(u16, Addition)>, bool) {
        let Some(place) = self.place(database) else {
            return (Vec::new(), false);
        };
        let (most, from) = (place.batch as usize, place.from as usize);
        let mut taken = Vec::with_capacity(most);
        let mut more = false;
        for index in (from..CAPACITY).chain(0..from) {
            let entry =
                self.entries[index].as_mut().filter(|entry| entry.addition.database == database && !entry.taken);
            if let Some(entry) = entry {
                if taken.len() == most {
                    more = true;
                    break;
                }
                entry.taken = true;
                taken.push((index as u16, entry.addition));
            }
        }
        if let (Some((last, _)), Some(place)) = (taken.last().copied(), self.place(database)) {
            place.from = (last + 1) % CAPACITY as u16;
            place.batch = (place.batch / 2).max(1);
        }
        (taken, more)
    }

    /// The batch is written but for these.
    fn put_back(&mut self, database: pg_sys::Oid, later: &[u16]) {
        for index in later {
            if let Some(entry) = &mut self.entries[*index as usize] {
                entry.taken = false;
            }
        }
        if let Some(place) = self.place(database) {
            place.batch = (place.batch * 4).min(BATCH);
        }
    }

    fn remove(&mut self, written: &[u16]) {
        for index in written {
            let Some(entry) = self.entries[*index as usize].take() else {
                continue;
            };
            let next = std::mem::replace(&mut self.next[*index as usize], self.free);
            self.free = *index;
            let mut link = &mut self.heads[entry.addition.bucket()];
            while *link != *index && *link != NONE {
                link = &mut self.next[*link as usize];
            }
            *link = next;
        }
    }

    /// Gives up everything of a database, and says how many entries that were.
    fn give_up(&mut self, database: pg_sys::Oid) -> usize {
        let all: Vec<u16> = self.of_database(database).map(|(index, _)| index).collect();
        self.remove(&all);
        all.len()
    }

    /// The database is gone.
    fn forget(&mut self, database: pg_sys::Oid) -> usize {
        let given_up = self.give_up(database);
        if let Some(place) = self.place(database) {
            *place = Place::FREE;
        }
        given_up
    }
}

pub(super) fn init() {
    if backend::is_preloaded() {
        pg_shmem_init!(PENDING = Pending::new());
    }
}

/// Counts, whatever becomes of the transaction. False if this key has counted before.
/// Errors: 22023 spending, a key that is too long or was used for something else; 55000 not preloaded, this transaction creates the
/// tenant or counts the key; 25006 on a standby; 53400 no room, or no worker, in ten seconds.
pub(super) fn record(tenant: &Id, metric: &str, amount: i64, key: Option<&str>) -> Result<bool, Error> {
    if metric == COST {
        return Err(Error::new(Code::InvalidValue, "cost_cents cannot be counted with durability immediate")
            .detail("Limits are kept by transactions: what is spent is within them when it commits.")
            .hint("Call amp.charge(), in a transaction that commits."));
    }
    if !backend::is_preloaded() {
        return Err(Error::new(Code::NotReady, "durability immediate needs amp_tenancy in shared_preload_libraries")
            .hint("Have it preloaded and the server restarted, or use durability transaction."));
    }
    // SAFETY: NUL-terminated; these raise, or do nothing.
    unsafe {
        pg_sys::PreventCommandDuringRecovery(c"amp.record_usage()".as_ptr());
        pg_sys::PreventCommandIfParallelMode(c"amp.record_usage()".as_ptr());
    }
    if let Some(key) = key.filter(|key| key.len() > MAX_KEY) {
        return Err(Error::new(
            Code::InvalidValue,
            "with durability immediate an idempotency key has at most 255 bytes",
        )
        .detail(format!("Given: {} bytes.", key.len()))
        .hint("Pass a shorter one, such as its hash, or use durability transaction."));
    }
    // SAFETY: reads a variable of the backend.
    let database = unsafe { pg_sys::MyDatabaseId };
    check_created(tenant)?;
    let new = addition(database, tenant, metric, amount, key);
    let begun = expiry::now();
    loop {
        let accepted = match key {
            None => PENDING.exclusive().accept(&new),
            Some(key) => {
                let accepted = keys::alone(tenant, key, |known| {
                    // Looked for in the table after that, only if it is not here.
                    match pending(&new).map_or_else(known, |found| Ok(Some(found)))? {
                        None => Ok(Ok(PENDING.exclusive().accept(&new))),
                        Some((known, of)) => Ok(Err((known, of))),
                    }
                })?;
                match accepted {
                    Ok(accepted) => accepted,
                    Err((known, of)) if (known.as_str(), of) == (metric, amount) => return Ok(false),
                    Err((known, of)) => return Err(keys::used(key, &known, of, metric, amount)),
                }
            }
        };
        let now = expiry::now();
        let mut awaited = match accepted {
            Accepted::Yes => return Ok(true),
            Accepted::Crowded => {
                wake(database);
                return Ok(true);
            }
            Accepted::Wait(awaited) => awaited,
        };
        if awaited == For::Worker && !ask_for_worker(database, now) {
            awaited = For::DatabasesRoom;
        }
        if now >= begun + PATIENCE {
            return Err(refuse(tenant, awaited));
        }
        wake(database);
        pause(STEP);
    }
}

fn addition(database: pg_sys::Oid, tenant: &Id, metric: &str, amount: i64, key: Option<&str>) -> Addition {
    let (tenant, metric, key) = (*tenant, Text::new(metric), key.map(Text::new));
    Addition { database, tenant, metric, day: Day::of_transaction(), key, amount }
}

fn pending(addition: &Addition) -> Option<(String, i64)> {
    let found = PENDING.share().look(addition);
    found.map(|(metric, amount)| (metric.as_str().to_owned(), amount))
}

/// What a key counts, if it is pending: to the transactions of others it is as good as counted.
pub(super) fn pending_key(tenant: &Id, key: &str) -> Option<(String, i64)> {
    if !backend::is_preloaded() || key.len() > MAX_KEY {
        return None;
    }
    // SAFETY: reads a variable of the backend.
    pending(&addition(unsafe { pg_sys::MyDatabaseId }, tenant, "", 0, Some(key)))
}

/// A tenant that this transaction creates may never have been: 55000.
fn check_created(tenant: &Id) -> Result<(), Error> {
    // SAFETY: reads the transaction's state. Who has written nothing has created nobody.
    let has_written = unsafe { pg_sys::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId;
    if has_written && catalog::row(&TENANTS, &[tenant.as_str()], catalog::Row::is_own)?.unwrap_or(false) {
        return Err(Error::new(
            Code::WrongState,
            format!("tenant \"{}\" was created or changed in this transaction", tenant.as_str()),
        )
        .detail("With durability immediate its usage would be counted, and the tenant may be rolled back.")
        .hint("Commit first."));
    }
    Ok(())
}

fn refuse(tenant: &Id, awaited: For) -> Error {
    let (message, hint) = match awaited {
        For::Worker => (
            "no background worker came to write usage".to_owned(),
            "Have max_worker_processes raised, and look at the server's log; or use durability transaction.",
        ),
        For::TenantsRoom => (
            format!("{PER_TENANT} additions of tenant \"{}\" wait to be written", tenant.as_str()),
            "Try again. If it stays so, look at the server's log, and for open transactions that count the same keys.",
        ),
        For::Room => (
            format!("{CAPACITY} additions of usage wait to be written"),
            "Try again. If it stays so, look at the server's log for why they are not written.",
        ),
        For::DatabasesRoom => (
            format!("usage of {DATABASES} databases waits to be written"),
            "Try again. If it stays so, look at the server's log for why it is not written.",
        ),
    };
    Error::new(Code::NoRoom, message).detail("Nothing was counted.").hint(hint)
}

/// Has a worker started, if none was lately. False if there is no place for the database.
fn ask_for_worker(database: pg_sys::Oid, now: i64) -> bool {
    let needed = PENDING.exclusive().needs_worker(database, now);
    if needed == Some(true) {
        let started = BackgroundWorkerBuilder::new("amp_tenancy usage")
            .set_type("amp_tenancy usage")
            .set_library("amp_tenancy")
            .set_function("amp_usage_worker")
            .set_argument(database.into_datum())
            .enable_spi_access()
            .set_restart_time(Some(Duration::from_secs(1)))
            .load_dynamic();
        if started.is_err() {
            PENDING.exclusive().could_not_start(database, now);
        }
    }
    needed.is_some()
}

fn wake(database: pg_sys::Oid) {
    let latch = PENDING.exclusive().latch(database);
    if latch != 0 {
        // SAFETY: the latch of a process's slot in shared memory, which stays there; whoever has it by now looks around and sleeps on.
        unsafe { pg_sys::SetLatch(latch as *mut pg_sys::Latch) };
    }
}

/// Sleeps until somebody wakes this process, or for so many milliseconds. Errors: the query is cancelled, the session ended.
fn pause(milliseconds: i64) {
    // SAFETY: the process's own latch.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as c_int,
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pg_sys::check_for_interrupts!();
}

/// Writes what is pending for one database, and ends when there has been nothing for a while. Started again by the postmaster if it fails.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn amp_usage_worker(database: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // SAFETY: the argument is what `ask_for_worker` passed.
    let database = unsafe { pg_sys::Oid::from_datum(database, false) }.unwrap_or(pg_sys::InvalidOid);
    let duty = PENDING.exclusive().report(database);
    match duty {
        Duty::Serve => serve(database),
        Duty::Check => check(database),
        Duty::Nothing => {}
    }
}

/// Gives up what is pending for a database that is not there any more.
fn check(database: pg_sys::Oid) {
    BackgroundWorker::connect_worker_to_spi_by_oid(None, None);
    let there = BackgroundWorker::transaction(|| {
        // SAFETY: a look-up in a shared catalog, in a transaction.
        unsafe {
            let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::DATABASEOID as _, database.into());
            if tuple.is_null() {
                return false;
            }
            pg_sys::ReleaseSysCache(tuple);
            true
        }
    });
    if there {
        end_and_come_back();
    }
    let given_up = PENDING.exclusive().forget(database);
    if given_up > 0 {
        log!("amp_tenancy: {given_up} additions of usage were given up: database {} is gone", database.to_u32());
    }
}

fn end_and_come_back() -> ! {
    // SAFETY: nothing is held. With another code than 0 the postmaster starts a worker again.
    unsafe { proc_exit(1) }
}

fn serve(database: pg_sys::Oid) {
    // SAFETY: as pgrx does it, once. What was accepted is written although nobody else may connect.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            database,
            pg_sys::InvalidOid,
            pg_sys::BGWORKER_BYPASS_ALLOWCONN,
        );
    }
    worker::settle();
    while !BackgroundWorker::transaction(become_writer) {
        if PENDING.exclusive().place(database).is_none_or(|place| place.is_served())
            || BackgroundWorker::sigterm_received()
        {
            return;
        }
        pause(STEP);
    }
    // SAFETY: plain functions that stay loaded. The first runs when the last transaction has ended and its locks are let go.
    let latch = unsafe {
        pg_sys::on_shmem_exit(Some(at_exit), database.into());
        pg_sys::RegisterXactCallback(Some(at_event), std::ptr::null_mut());
        pg_sys::MyLatch as usize
    };
    OWN_LATCH.set(latch);
    if !PENDING.exclusive().serve(database, latch, expiry::now()) {
        end_and_come_back();
    }
    let mut busy = expiry::now();
    loop {
        pause(PAUSE);
        if BackgroundWorker::sigterm_received() {
            return finish(database);
        }
        if BackgroundWorker::sighup_received() {
            // SAFETY: outside of a transaction; what `settle` has set goes before what is in the files.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        }
        if write_all(database) {
            busy = expiry::now();
        } else if expiry::now() - busy > IDLE && PENDING.exclusive().leave_if_done(database, latch) {
            return;
        }
    }
}

/// Writes what has been accepted, and nothing more is, before this worker ends.
fn finish(database: pg_sys::Oid) {
    PENDING.exclusive().close(database);
    let until = expiry::now() + LAST_TRY;
    loop {
        write_all(database);
        let left = PENDING.share().of_database(database).count();
        if left == 0 {
            return;
        }
        if expiry::now() > until {
            log!("amp_tenancy: {left} additions of usage wait for the next worker; they are lost if the server stops");
            end_and_come_back();
        }
        pause(STEP);
    }
}

/// Writes everything that is pending, and that nobody has under way. False if there was nothing.
fn write_all(database: pg_sys::Oid) -> bool {
    let mut some = false;
    // Not for ever: what is put back would come again and again.
    for _ in 0..CAPACITY / BATCH as usize {
        let (taken, more) = PENDING.exclusive().take(database);
        if taken.is_empty() {
            break;
        }
        some = true;
        let later = BackgroundWorker::transaction(AssertUnwindSafe(|| write(database, &taken)));
        PENDING.exclusive().put_back(database, &later);
        // SAFETY: outside of a transaction. Without it autovacuum would not hear of what a worker that stays has changed.
        unsafe { pg_sys::pgstat_report_stat(false) };
        if !more {
            break;
        }
    }
    some
}

/// What is to be done for a tenant.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Write,
    Later,
    GiveUp(&'static str),
}

/// Writes a batch, and tells what is to be tried again later. The rest is removed from memory when the transaction commits.
fn write(database: pg_sys::Oid, batch: &[(u16, Addition)]) -> Vec<u16> {
    if !catalog::is_installed() {
        let given_up = PENDING.exclusive().give_up(database);
        log!("amp_tenancy: {given_up} additions of usage were given up: the extension was dropped");
        return Vec::new();
    }
    // A purge that begins from here on waits for this transaction.
    // SAFETY: in a transaction.
    unsafe { pg_sys::GetCurrentTransactionId() };
    let (mut written, mut later) = (Vec::with_capacity(batch.len()), Vec::new());
    let mut fates = HashMap::new();
    for (index, addition) in batch {
        let tenant = &addition.tenant;
        let known = fates.get(tenant).copied();
        let fate = known.map_or_else(|| fate(addition), Ok).and_then(|fate| {
            fates.insert(*tenant, fate);
            if fate == Fate::Write { write_one(addition) } else { Ok(fate) }
        });
        match fate {
            Ok(Fate::Write) => written.push(*index),
            Ok(Fate::Later) => later.push(*index),
            Ok(Fate::GiveUp(why)) => {
                give_up(addition, why);
                written.push(*index);
            }
            // The counter of a day is full.
            Err(error) if error.code == Code::OutOfRange => {
                give_up(addition, error.message());
                written.push(*index);
            }
            Err(error) => error!("amp_tenancy: usage cannot be written: {}", error.message()),
        }
    }
    WRITTEN.replace(written);
    later
}

fn give_up(addition: &Addition, why: &str) {
    let key = addition.key.map_or(String::new(), |key| format!(" (key {:?})", key.as_str()));
    let (amount, metric, tenant) = (addition.amount, addition.metric.as_str(), addition.tenant.as_str());
    log!("amp_tenancy: {amount} of {metric} for tenant \"{tenant}\"{key} was given up: {why}");
}

/// A tenant that is purged gets no more rows; one that is being purged is to be waited for.
fn fate(addition: &Addition) -> Result<Fate, Error> {
    let tenant = [addition.tenant.as_str()];
    if catalog::row(&PURGES, &tenant, |_| ())?.is_some() {
        return Ok(Fate::GiveUp("the tenant is purged"));
    }
    if catalog::is_there_or_coming(&PURGES, &tenant)? {
        return Ok(Fate::Later);
    }
    let there = catalog::row(&TENANTS, &tenant, |_| ())?.is_some();
    Ok(if there { Fate::Write } else { Fate::GiveUp("there is no such tenant") })
}

fn write_one(addition: &Addition) -> Result<Fate, Error> {
    let Addition { tenant, metric, day, key, amount, .. } = addition;
    if let Some(key) = key {
        match keys::try_note(tenant, key.as_str(), metric.as_str(), *amount)? {
            Noted::Now => {}
            Noted::Before => return Ok(Fate::GiveUp("the key was counted meanwhile")),
            Noted::Otherwise => return Ok(Fate::GiveUp("the key was used for something else meanwhile")),
            Noted::Busy => return Ok(Fate::Later),
        }
    }
    count(tenant, metric.as_str(), *day, *amount)?;
    Ok(Fate::Write)
}

/// Removes what was written. Runs inside commit: see above.
unsafe extern "C-unwind" fn at_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    if event == pg_sys::XactEvent::XACT_EVENT_COMMIT {
        let written = WRITTEN.take();
        if !written.is_empty() {
            PENDING.exclusive().remove(&written);
        }
    }
}

/// This worker serves no more.
unsafe extern "C-unwind" fn at_exit(_code: c_int, database: pg_sys::Datum) {
    // SAFETY: what `serve` passed.
    let database = unsafe { pg_sys::Oid::from_datum(database, false) }.unwrap_or(pg_sys::InvalidOid);
    PENDING.exclusive().leave(database, OWN_LATCH.get());
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000_000;

    fn database(number: u32) -> pg_sys::Oid {
        pg_sys::Oid::from(number)
    }

    fn addition(database: u32, tenant: &str, metric: &str, amount: i64) -> Addition {
        Addition {
            database: pg_sys::Oid::from(database),
            tenant: Id::parse(tenant.as_bytes()).unwrap(),
            metric: Text::new(metric),
            day: Day(1),
            key: None,
            amount,
        }
    }

    fn keyed(tenant: &str, key: &str) -> Addition {
        Addition { key: Some(Text::new(key)), ..addition(1, tenant, "calls", 1) }
    }

    /// An empty table. Without optimization it is copied on its way into the box: more than a test's stack holds.
    fn empty() -> Box<Pending> {
        let made = std::thread::Builder::new().stack_size(16 << 20).spawn(|| Box::new(Pending::new())).unwrap();
        made.join().unwrap()
    }

    /// Two databases that are served.
    fn served() -> Box<Pending> {
        let mut pending = empty();
        assert!(pending.serve(database(1), 11, NOW) && pending.serve(database(2), 12, NOW));
        pending
    }

    fn indexes(taken: &[(u16, Addition)]) -> Vec<u16> {
        taken.iter().map(|(index, _)| *index).collect()
    }

    fn amounts(taken: &[(u16, Addition)]) -> Vec<i64> {
        taken.iter().map(|(_, addition)| addition.amount).collect()
    }

    #[test]
    fn additions_to_one_counter_are_one_entry_until_it_is_taken() {
        let mut pending = served();
        for _ in 0..5 {
            assert_eq!(pending.accept(&addition(1, "a", "calls", 2)), Accepted::Yes);
        }
        pending.accept(&addition(1, "a", "tokens", 7));
        pending.accept(&Addition { day: Day(2), ..addition(1, "a", "calls", 8) });
        pending.accept(&addition(1, "b", "calls", 9));
        pending.accept(&addition(2, "a", "calls", 100));
        let (taken, more) = pending.take(database(1));
        assert_eq!((amounts(&taken), more), (vec![10, 7, 8, 9], false));
        pending.accept(&addition(1, "a", "calls", 3));
        let (beside, _) = pending.take(database(1));
        assert_eq!(amounts(&beside), [3]);
        pending.remove(&indexes(&taken));
        assert_eq!(pending.of_database(database(1)).count(), 1);
        assert_eq!(amounts(&pending.take(database(2)).0), [100]);
    }

    #[test]
    fn what_was_taken_is_pending_again_for_the_next_worker() {
        let mut pending = served();
        pending.accept(&addition(1, "a", "calls", 2));
        assert_eq!(pending.take(database(1)).0.len(), 1);
        assert_eq!(pending.take(database(1)).0.len(), 0);
        pending.leave(database(1), 11);
        assert_eq!(pending.accept(&addition(1, "a", "calls", 2)), Accepted::Wait(For::Worker));
        pending.serve(database(1), 13, NOW);
        assert_eq!(amounts(&pending.take(database(1)).0), [2]);
    }

    #[test]
    fn a_key_is_pending_until_it_is_removed() {
        let mut pending = served();
        let looks = |pending: &Pending, new: &Addition| {
            pending.look(new).map(|(metric, amount)| (metric.as_str().to_owned(), amount))
        };
        assert_eq!(looks(&pending, &keyed("a", "one")), None);
        pending.accept(&keyed("a", "one"));
        pending.accept(&addition(1, "a", "calls", 5));
        let (taken, _) = pending.take(database(1));
        assert_eq!(amounts(&taken), [1, 5]);
        assert_eq!(looks(&pending, &keyed("a", "one")), Some(("calls".to_owned(), 1)));
        for other in [keyed("b", "one"), keyed("a", "other"), Addition { database: database(2), ..keyed("a", "one") }] {
            assert_eq!(looks(&pending, &other), None);
        }
        pending.remove(&indexes(&taken));
        assert_eq!(looks(&pending, &keyed("a", "one")), None);
    }

    #[test]
    fn a_tenant_has_his_part_and_the_table_its_end() {
        let mut pending = served();
        let mut fill = |tenant: usize| {
            let mut accepted = 0;
            for number in 0..=PER_TENANT {
                let new = keyed(&format!("t{tenant}"), &number.to_string());
                match pending.accept(&new) {
                    Accepted::Yes | Accepted::Crowded => accepted += 1,
                    refused => return (accepted, Some(refused)),
                }
            }
            (accepted, None)
        };
        for tenant in 0..8 {
            assert_eq!(fill(tenant), (PER_TENANT, Some(Accepted::Wait(For::TenantsRoom))));
        }
        assert_eq!(fill(8), (0, Some(Accepted::Wait(For::Room))));
        // Everything comes out again, once, and there is as much room as before.
        let mut seen = vec![false; CAPACITY];
        for _ in 0..CAPACITY {
            let (taken, _) = pending.take(database(1));
            for index in indexes(&taken) {
                assert!(!std::mem::replace(&mut seen[index as usize], true));
            }
            pending.put_back(database(1), &[]);
            pending.remove(&indexes(&taken));
        }
        assert!(seen.iter().all(|seen| *seen) && !pending.has(database(1)));
        assert_eq!(
            (0..CAPACITY).filter(|n| pending.accept(&keyed(&n.to_string(), "k")) != Accepted::Wait(For::Room)).count(),
            CAPACITY
        );
    }

    #[test]
    fn a_sum_that_would_overflow_goes_beside() {
        let mut pending = served();
        pending.accept(&addition(1, "a", "calls", i64::MAX - 1));
        pending.accept(&addition(1, "a", "calls", 2));
        assert_eq!(pending.of_database(database(1)).count(), 2);
    }

    #[test]
    fn what_cannot_be_written_does_not_hold_up_the_rest() {
        let mut pending = served();
        for number in 0..100 {
            pending.accept(&addition(1, &format!("t{number}"), "calls", number));
        }
        // Whoever writes the amount 50 dies of it.
        for _ in 0..100 {
            let (taken, _) = pending.take(database(1));
            if amounts(&taken).contains(&50) {
                pending.leave(database(1), 11);
                pending.serve(database(1), 11, NOW);
            } else {
                pending.put_back(database(1), &[]);
                pending.remove(&indexes(&taken));
            }
        }
        assert_eq!(pending.of_database(database(1)).map(|(_, entry)| entry.addition.amount).collect::<Vec<_>>(), [50]);
    }

    #[test]
    fn what_is_put_back_comes_again() {
        let mut pending = served();
        pending.accept(&keyed("a", "busy"));
        pending.accept(&keyed("a", "free"));
        let (taken, _) = pending.take(database(1));
        pending.remove(&[taken[1].0]);
        pending.put_back(database(1), &[taken[0].0]);
        assert_eq!(indexes(&pending.take(database(1)).0), [taken[0].0]);
    }

    #[test]
    fn one_worker_is_started_and_another_when_it_does_not_come() {
        let mut pending = empty();
        assert_eq!(pending.accept(&addition(1, "a", "calls", 1)), Accepted::Wait(For::Worker));
        assert_eq!(pending.needs_worker(database(1), NOW), Some(true));
        assert_eq!(pending.needs_worker(database(1), NOW + STARTING - 1), Some(false));
        assert_eq!(pending.needs_worker(database(1), NOW + STARTING), Some(true));
        pending.could_not_start(database(1), NOW + STARTING);
        assert_eq!(pending.needs_worker(database(1), NOW + STARTING), Some(false));
        assert_eq!(pending.needs_worker(database(1), NOW + STARTING + START_AGAIN), Some(true));
        assert_eq!(pending.report(database(1)), Duty::Serve);
        pending.serve(database(1), 11, NOW);
        assert_eq!(pending.report(database(1)), Duty::Nothing);
        assert_eq!(pending.needs_worker(database(1), NOW + 9 * STARTING), Some(false));
        pending.close(database(1));
        assert_eq!(pending.accept(&addition(1, "a", "calls", 1)), Accepted::Wait(For::Worker));
        assert_eq!(pending.needs_worker(database(1), NOW + 9 * STARTING), Some(true));
        // A worker that comes back after a crash finds nothing to do.
        assert_eq!(pending.report(database(2)), Duty::Nothing);
    }

    #[test]
    fn a_worker_goes_when_there_is_nothing_and_the_database_is_looked_for_when_none_stays() {
        let mut pending = served();
        pending.accept(&addition(1, "a", "calls", 1));
        assert!(!pending.leave_if_done(database(1), 11));
        assert!(pending.leave_if_done(database(2), 12));
        assert_eq!(pending.accept(&addition(2, "a", "calls", 1)), Accepted::Wait(For::Worker));
        pending.leave(database(1), 11);
        let duties: Vec<Duty> = (0..4).map(|_| pending.report(database(1))).collect();
        assert_eq!(duties, [Duty::Serve, Duty::Serve, Duty::Serve, Duty::Check]);
        assert_eq!(pending.forget(database(1)), 1);
        assert_eq!(pending.report(database(1)), Duty::Nothing);
    }

    #[test]
    fn places_are_for_databases_that_need_one() {
        let mut pending = empty();
        for number in 1..=DATABASES as u32 {
            assert_eq!(pending.needs_worker(database(number), NOW), Some(true));
        }
        assert_eq!(pending.needs_worker(database(1000), NOW), None);
        pending.serve(database(1), 11, NOW);
        pending.accept(&addition(1, "a", "calls", 1));
        pending.leave(database(1), 11);
        assert_eq!(pending.needs_worker(database(1000), NOW + PATIENCE), Some(true));
        assert!(pending.place(database(1)).is_some() && pending.place(database(2)).is_none());
    }

    #[test]
    fn it_is_as_large_as_it_says() {
        assert!((850_000..950_000).contains(&size_of::<Pending>()), "{}", size_of::<Pending>());
    }
}
