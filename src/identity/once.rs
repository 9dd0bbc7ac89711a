//! Tokens for a single use: which were used, in shared memory, for all backends and until they expire.
//!
//! Not a table: a row would be gone when the transaction that used the token rolls back, and a second use would have to
//! wait for the first one's end. Shared memory is empty after a start, so a token that was issued before the server
//! started is refused; so is every token on a standby, whose primary keeps a memory of its own. When a standby is promoted, the
//! memory counts from the first time that this is noticed.
//!
//! Protocol: one lock, held exclusively for the look-up and the entry together. A token has its place in one set of
//! [`WAYS`] neighbouring entries, by its hash. An entry is free when its token has expired. A full set refuses: nothing is forgotten early.

use super::authenticate::Refusal;
use super::expiry;
use super::proof::Name;
use crate::backend;
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgLwLock, pg_shmem_init};
use sha2::{Digest, Sha256};

/// How many tokens can be remembered: 32 bytes each.
const CAPACITY: usize = 16_384;
const WAYS: usize = 64;

// SAFETY: nobody else uses this name.
static USED: PgLwLock<Used> = unsafe { PgLwLock::new(c"amp_tenancy_used_tokens") };

#[derive(Clone, Copy)]
struct Entry {
    hash: u128,
    expires: i64,
}

#[derive(Clone, Copy)]
struct Used {
    /// Since when every use is in here; None on a server that started as a standby and was not seen promoted.
    since: Option<i64>,
    entries: [Entry; CAPACITY],
}

// SAFETY: plain values without pointers.
unsafe impl PGRXSharedMemory for Used {}

impl Used {
    /// As the server starts.
    fn new() -> Used {
        // The server's working directory is its data directory; a standby says so by a file.
        let standby = ["standby.signal", "recovery.signal"].iter().any(|file| std::path::Path::new(file).exists());
        let since = if standby { None } else { Some(expiry::now()) };
        Used { since, entries: [Entry { hash: 0, expires: i64::MIN }; CAPACITY] }
    }

    /// Enters a token; the reason if it cannot be used.
    fn enter(&mut self, hash: u128, issued: i64, expires: i64, now: i64) -> Result<(), &'static str> {
        if issued < *self.since.get_or_insert(now) {
            return Err("the token was issued before the server started to remember the used ones");
        }
        let first = hash as usize % (CAPACITY / WAYS) * WAYS;
        let set = &mut self.entries[first..first + WAYS];
        if set.iter().any(|entry| entry.hash == hash && entry.expires > now) {
            return Err("the token was used before");
        }
        match set.iter_mut().find(|entry| entry.expires <= now) {
            Some(free) => {
                *free = Entry { hash, expires };
                Ok(())
            }
            None => Err("too many tokens for a single use are in use"),
        }
    }
}

pub(super) fn init() {
    if backend::is_preloaded() {
        pg_shmem_init!(USED = Used::new());
    }
}

/// Uses a token up. Times are PostgreSQL's microseconds; `issued` is the earliest that it may have been.
pub(super) fn consume(kid: &Name, jti: &Name, issued: i64, expires: i64) -> Result<(), Refusal> {
    if !backend::is_preloaded() {
        return Err(Refusal::Invalid("tokens for a single use need amp_tenancy in shared_preload_libraries"));
    }
    // SAFETY: reads shared memory.
    if unsafe { pg_sys::RecoveryInProgress() } {
        return Err(Refusal::Invalid("tokens for a single use are taken by the primary only"));
    }
    let mut hash = Sha256::new();
    // SAFETY: reads a variable of the backend. A kid is one database's.
    hash.update(u32::from(unsafe { pg_sys::MyDatabaseId }).to_be_bytes());
    // The key's name cannot hold a line break, so the two parts cannot be divided otherwise.
    hash.update(kid.as_bytes());
    hash.update(b"\n");
    hash.update(jti.as_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let [first, ..] = hash.as_chunks::<16>().0 else { unreachable!() };
    USED.exclusive().enter(u128::from_be_bytes(*first), issued, expires, expiry::now()).map_err(Refusal::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(since: Option<i64>) -> Box<Used> {
        Box::new(Used { since, entries: [Entry { hash: 0, expires: i64::MIN }; CAPACITY] })
    }

    #[test]
    fn a_token_is_used_once() {
        let mut used = empty(Some(0));
        assert!(used.enter(7, 10, 100, 20).is_ok());
        assert!(used.enter(7, 10, 100, 21).is_err());
        assert!(used.enter(8, 10, 100, 21).is_ok());
        // Its place is free when it has expired, which is checked before this.
        assert!(used.enter(7, 10, 200, 100).is_ok());
    }

    #[test]
    fn what_was_issued_before_the_memory_is_refused() {
        let mut used = empty(Some(50));
        assert!(used.enter(1, 49, 100, 60).is_err());
        assert!(used.enter(1, 50, 100, 60).is_ok());
        let mut promoted = empty(None);
        assert!(promoted.enter(1, 59, 100, 60).is_err());
        assert!(promoted.enter(2, 60, 100, 61).is_ok());
    }

    #[test]
    fn a_full_set_refuses_and_forgets_nothing() {
        let mut used = empty(Some(0));
        let same_set = |number: usize| (number * (CAPACITY / WAYS)) as u128;
        for number in 1..=WAYS {
            assert!(used.enter(same_set(number), 1, 100, 2).is_ok());
        }
        assert!(used.enter(same_set(WAYS + 1), 1, 100, 2).is_err());
        assert!(used.enter(same_set(1), 1, 100, 2).is_err());
        assert!(used.enter(same_set(WAYS + 1), 1, 200, 100).is_ok());
    }
}
