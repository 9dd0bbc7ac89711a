//! Slots: who may write which row of a counter.
//!
//! A slot is a number. Whoever writes a row of that number holds the slot's lock until his transaction (or savepoint) ends, and nobody
//! waits for it where another slot will do. The locks are PostgreSQL's own heavyweight ones, under a kind that SQL cannot take
//! (LOCKTAG_USERLOCK, not the advisory kind): they are seen by the deadlock detector and in pg_locks, come with savepoints and
//! PREPARE TRANSACTION, and are gone when a session is. Tenants are told apart by a 64-bit hash: two that share one would now and
//! then wait for each other, and never more.

use crate::backend::Local;
use crate::context::transaction;
use crate::id::Id;
use pgrx::pg_sys::{self, LOCKTAG};
use std::cell::{Cell, RefCell};
use std::ffi::c_int;

unsafe extern "C-unwind" {
    fn hash_bytes_extended(bytes: *const u8, length: c_int, seed: u64) -> u64;
}

/// How many slots the parts of a limit are spread over.
pub(super) const CAPPED: u16 = 64;
/// How many there are where no limit is to be kept.
pub(super) const ALL: u16 = 1024;

/// What a lock is about, for one tenant.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    /// A slot of all his counters but spending.
    Count = 0,
    /// A slot of his spending by day.
    Day = 1,
    /// A slot of his spending by month.
    Month = 2,
    /// The others: shared by what goes on as usual, exclusive for what needs the tenant's spending to itself.
    Gate = 3,
    Turnstile = 4,
    Alerts = 5,
    /// The correction of a counter.
    Correction = 6,
    /// The idempotency key whose hash stands for the tenant's.
    Key = 7,
}

/// How a lock was come by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Now,
    Before,
}

/// The locks of one tenant.
#[derive(Clone, Copy)]
pub(super) struct Locks {
    hash: u64,
}

const EXCLUSIVE: pg_sys::LOCKMODE = pg_sys::ExclusiveLock as _;
const SHARED: pg_sys::LOCKMODE = pg_sys::ShareLock as _;

impl Locks {
    pub(super) fn of(tenant: &Id) -> Locks {
        Locks::of_bytes(tenant.as_str().as_bytes(), 0)
    }

    /// Of a tenant's idempotency key.
    pub(super) fn of_key(tenant: &Id, key: &str) -> Locks {
        Locks::of_bytes(key.as_bytes(), Locks::of(tenant).hash)
    }

    fn of_bytes(bytes: &[u8], seed: u64) -> Locks {
        // SAFETY: reads the bytes. A length is an i32 in PostgreSQL; ids and keys are a few hundred bytes.
        let hash = unsafe { hash_bytes_extended(bytes.as_ptr(), bytes.len() as _, seed) };
        Locks { hash }
    }

    fn tag(self, kind: Kind, slot: u16) -> LOCKTAG {
        LOCKTAG {
            // SAFETY: reads a variable of the backend.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: (self.hash >> 32) as u32,
            locktag_field3: self.hash as u32,
            locktag_field4: (kind as u16) << 12 | slot,
            locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        }
    }

    fn acquire(self, kind: Kind, slot: u16, mode: pg_sys::LOCKMODE, dont_wait: bool) -> Option<Taken> {
        // SAFETY: a complete tag; the lock belongs to the running (sub)transaction.
        let result = unsafe { pg_sys::LockAcquire(&self.tag(kind, slot), mode, false, dont_wait) };
        match result {
            pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL => None,
            pg_sys::LockAcquireResult::LOCKACQUIRE_OK => Some(Taken::Now),
            _ => Some(Taken::Before),
        }
    }

    fn release(self, kind: Kind, slot: u16, mode: pg_sys::LOCKMODE) {
        // SAFETY: as above; held once at least.
        unsafe { pg_sys::LockRelease(&self.tag(kind, slot), mode, false) };
    }

    /// Takes a slot, or None if another transaction has it. One that this transaction has is not taken twice.
    pub(super) fn try_slot(self, kind: Kind, slot: u16) -> Option<Taken> {
        let taken = self.acquire(kind, slot, EXCLUSIVE, true)?;
        if taken == Taken::Before {
            self.release(kind, slot, EXCLUSIVE);
        }
        Some(taken)
    }

    /// Takes a slot, and waits for whoever has it.
    pub(super) fn wait_for_slot(self, kind: Kind, slot: u16) {
        self.acquire(kind, slot, EXCLUSIVE, false);
    }

    /// Takes the first slot that is free, so that there are no more of them than transactions at a time; waits only where none of all is.
    pub(super) fn take_any(self, kind: Kind) -> u16 {
        (0..ALL).find(|slot| self.try_slot(kind, *slot).is_some()).unwrap_or_else(|| {
            self.wait_for_slot(kind, 0);
            0
        })
    }

    /// Gives back a slot in which nothing was written.
    pub(super) fn give_back(self, kind: Kind, slot: u16) {
        self.release(kind, slot, EXCLUSIVE);
    }

    pub(super) fn share(self, kind: Kind, number: u16) {
        self.acquire(kind, number, SHARED, false);
    }

    pub(super) fn stop_sharing(self, kind: Kind, number: u16) {
        self.release(kind, number, SHARED);
    }

    pub(super) fn exclude(self, kind: Kind, number: u16) {
        self.acquire(kind, number, EXCLUSIVE, false);
    }

    pub(super) fn stop_excluding(self, kind: Kind, number: u16) {
        self.release(kind, number, EXCLUSIVE);
    }

    /// The slot of a limit that this backend wrote last, which is likely to be free and to have room again.
    pub(super) fn last(self, kind: Kind) -> u16 {
        let (hash, day, month) = LAST[self.hash as usize % LAST.len()].get();
        match kind {
            _ if hash != self.hash => 0,
            Kind::Day => day,
            Kind::Month => month,
            _ => 0,
        }
    }

    pub(super) fn set_last(self, kind: Kind, slot: u16) {
        let place = &LAST[self.hash as usize % LAST.len()];
        let (hash, day, month) = place.get();
        let (day, month) = if hash == self.hash { (day, month) } else { (0, 0) };
        place.set(match kind {
            Kind::Day => (self.hash, slot, month),
            _ => (self.hash, day, slot),
        });
    }

    /// Whether this transaction has spent the tenant's money before.
    pub(super) fn has_spent(self) -> bool {
        let spent = SPENT.borrow();
        spent.0 == transaction::serial() && spent.1.contains(&self.hash)
    }

    pub(super) fn set_spent(self) {
        let mut spent = SPENT.borrow_mut();
        if spent.0 != transaction::serial() {
            *spent = (transaction::serial(), Vec::new());
        }
        if !spent.1.contains(&self.hash) {
            spent.1.push(self.hash);
        }
    }
}

/// Makes this process the one that writes what is pending in its database, until it ends. False while another one is.
pub(super) fn become_writer() -> bool {
    let tag = LOCKTAG {
        // SAFETY: reads a variable of the backend.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: 0,
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
        // The other method: such a lock is the session's, whatever becomes of its transactions, and is let go after the last of them.
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    };
    // SAFETY: a complete tag.
    unsafe { pg_sys::LockAcquire(&tag, EXCLUSIVE, true, true) != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL }
}

/// Tenants' hashes, with the slots of the day and of the month.
static LAST: Local<[Cell<(u64, u16, u16)>; 64]> = Local::new([const { Cell::new((0, 0, 0)) }; 64]);

/// The tenants whose money the transaction of that number has spent. A savepoint's rollback leaves them: see where it is asked.
static SPENT: Local<RefCell<(u64, Vec<u64>)>> = Local::new(RefCell::new((0, Vec::new())));
