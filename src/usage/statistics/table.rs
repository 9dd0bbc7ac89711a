//! The table: places of fixed size, an open-addressed hash table over them, and who goes when it is full.
//!
//! Nothing here knows PostgreSQL. `&Table` is what the shared lock gives, `&mut Table` what the exclusive one does.

use crate::id::{Id, MAX_LEN};
use std::ffi::c_void;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, compiler_fence};

/// What is counted, in the order in which it is stored.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(super) enum Counter {
    Calls,
    Rows,
    Nanoseconds,
    SharedHit,
    SharedRead,
    SharedDirtied,
    SharedWritten,
    TempRead,
    TempWritten,
    WalBytes,
}

pub(super) const COUNTERS: usize = Counter::WalBytes as usize + 1;

/// A value of each counter.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(super) struct Totals(pub(super) [u64; COUNTERS]);

impl Totals {
    #[inline(always)]
    pub(super) fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    #[inline(always)]
    pub(super) fn add(&mut self, counter: Counter, amount: u64) {
        let value = &mut self.0[counter as usize];
        *value = value.wrapping_add(amount);
    }

    #[inline(always)]
    pub(super) fn add_all(&mut self, other: &Totals) {
        for (value, amount) in self.0.iter_mut().zip(other.0) {
            *value = value.wrapping_add(amount);
        }
    }
}

/// Whose numbers an entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) database: u32,
    pub(super) tenant: Id,
}

/// A tenant's entry as it is read, saved and restored.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) key: Key,
    /// When it was made.
    pub(super) since: i64,
    /// How much it is used: [`ONE`] for every statement, less whenever others had to go.
    pub(super) score: u64,
    pub(super) totals: Totals,
}

/// What one statement adds to a score: enough for a hundredth of it to be a number.
const ONE: u64 = 1 << 10;

/// One of the table's places, and its share of the hash table's buckets: twice as many as entries, so that one in two is free at least.
#[repr(C)]
pub(super) struct Place {
    /// The number of an entry, counted from 1; 0 for none.
    buckets: [u32; 2],
    key: Key,
    since: i64,
    score: AtomicU64,
    totals: [AtomicU64; COUNTERS],
}

impl Place {
    fn entry(&self) -> Entry {
        let totals = Totals(std::array::from_fn(|counter| self.totals[counter].load(Relaxed)));
        Entry { key: self.key, since: self.since, score: self.score.load(Relaxed), totals }
    }

    fn hold(&mut self, entry: &Entry) {
        self.key = entry.key;
        self.since = entry.since;
        *self.score.get_mut() = entry.score;
        for (counter, total) in self.totals.iter_mut().zip(entry.totals.0) {
            *counter.get_mut() = total;
        }
    }
}

/// The places and how many of them are taken, from the first on. All bytes zero is an empty table.
#[repr(C)]
pub(super) struct Table<P: ?Sized = [Place]> {
    taken: usize,
    evicted: u64,
    /// True while somebody changes more than counters.
    changing: AtomicBool,
    places: P,
}

impl Table {
    /// How many bytes a table of that many places takes.
    pub(super) fn size(places: usize) -> usize {
        size_of::<Table<[Place; 0]>>() + places * size_of::<Place>()
    }

    /// The table of that many places at that address.
    pub(super) fn at(memory: *mut c_void, places: usize) -> *mut Table {
        std::ptr::slice_from_raw_parts_mut(memory.cast::<u8>(), places) as *mut Table
    }

    /// False if somebody died while he changed it.
    pub(super) fn is_whole(&self) -> bool {
        !self.changing.load(Relaxed)
    }

    /// How many entries had to go for others, since the server started.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.places[..self.taken].iter().map(Place::entry)
    }

    /// The place of an entry; `guess` is where it may be.
    #[inline]
    pub(super) fn find(&self, key: &Key, guess: usize) -> Option<usize> {
        if guess < self.taken && self.places[guess].key == *key {
            return Some(guess);
        }
        self.look_up(key).ok()
    }

    /// The place of an entry, or the bucket that it would have.
    fn look_up(&self, key: &Key) -> Result<usize, usize> {
        let buckets = 2 * self.places.len();
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut bucket = (hasher.finish() % buckets as u64) as usize;
        loop {
            match self.places[bucket / 2].buckets[bucket % 2] as usize {
                0 => return Err(bucket),
                number if self.places[number - 1].key == *key => return Ok(number - 1),
                _ => bucket = (bucket + 1) % buckets,
            }
        }
    }

    /// Adds to the counters of an entry.
    #[inline]
    pub(super) fn add(&self, place: usize, spent: &Totals) {
        let place = &self.places[place];
        place.score.fetch_add(ONE, Relaxed);
        for (counter, amount) in place.totals.iter().zip(spent.0) {
            if amount != 0 {
                counter.fetch_add(amount, Relaxed);
            }
        }
    }

    /// The place of an entry, which is made if it is not there.
    pub(super) fn find_or_make(&mut self, key: &Key, now: i64) -> usize {
        match self.look_up(key) {
            Ok(place) => place, // somebody was faster
            Err(_) => self.put(&Entry { key: *key, since: now, score: 0, totals: Totals::default() }),
        }
    }

    /// Puts an entry into a free place; where there is none, makes some.
    fn put(&mut self, entry: &Entry) -> usize {
        self.change(|table| {
            if table.taken == table.places.len() {
                table.evict();
            }
            let place = table.taken;
            if let Err(bucket) = table.look_up(&entry.key) {
                table.places[place].hold(entry);
                table.places[bucket / 2].buckets[bucket % 2] = place as u32 + 1;
                table.taken += 1;
            }
            place
        })
    }

    /// The least used twentieth goes, one at least. Those that stay are worth a little less from then on: who was busy long ago
    /// does not stay for ever.
    fn evict(&mut self) {
        let kept = self.taken - (self.taken / 20).max(1);
        self.places[..self.taken]
            .select_nth_unstable_by_key(kept, |place| std::cmp::Reverse(place.score.load(Relaxed)));
        for place in &mut self.places[..kept] {
            let score = place.score.get_mut();
            *score -= *score / 100;
        }
        self.evicted += (self.taken - kept) as u64;
        self.taken = kept;
        self.fill_buckets();
    }

    /// Removes the entries of one database.
    pub(super) fn clear(&mut self, database: u32) {
        self.change(|table| {
            let mut kept = 0;
            for place in 0..table.taken {
                if table.places[place].key.database != database {
                    table.places.swap(kept, place);
                    kept += 1;
                }
            }
            table.taken = kept;
            table.fill_buckets();
        });
    }

    /// Fills an empty table with what was saved: the most used, if there are more than it has places.
    pub(super) fn restore(&mut self, mut entries: Vec<Entry>) {
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.score));
        for entry in entries.iter().take(self.places.len()) {
            self.put(entry);
        }
    }

    fn fill_buckets(&mut self) {
        for place in &mut self.places {
            place.buckets = [0; 2];
        }
        for place in 0..self.taken {
            if let Err(bucket) = self.look_up(&self.places[place].key) {
                self.places[bucket / 2].buckets[bucket % 2] = place as u32 + 1;
            }
        }
    }

    fn change<T>(&mut self, body: impl FnOnce(&mut Table) -> T) -> T {
        // Whoever reads the mark after this process has died finds what it had done by then, in the order of the program.
        self.changing.store(true, Relaxed);
        compiler_fence(SeqCst);
        let result = body(self);
        compiler_fence(SeqCst);
        self.changing.store(false, Relaxed);
        result
    }
}

impl Entry {
    /// Its length when saved.
    pub(super) const SAVED: usize = 4 + 1 + MAX_LEN + 8 + 8 + 8 * COUNTERS;

    /// Appends it as it is saved.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let tenant = self.key.tenant.as_str().as_bytes();
        out.extend(self.key.database.to_le_bytes());
        out.push(tenant.len() as u8);
        out.extend(tenant);
        out.extend(&[0; MAX_LEN][tenant.len()..]);
        out.extend(self.since.to_le_bytes());
        out.extend(self.score.to_le_bytes());
        out.extend(self.totals.0.iter().flat_map(|total| total.to_le_bytes()));
    }

    /// Reads what [`Entry::encode`] wrote; None for what it cannot have written.
    pub(super) fn decode(saved: &[u8; Entry::SAVED]) -> Option<Entry> {
        let (database, rest) = saved.split_first_chunk::<4>()?;
        let (&len, rest) = rest.split_first()?;
        let (tenant, mut numbers) = rest.split_first_chunk::<MAX_LEN>()?;
        let mut next = || {
            let (number, rest) = numbers.split_first_chunk::<8>()?;
            numbers = rest;
            Some(u64::from_le_bytes(*number))
        };
        let key = Key { database: u32::from_le_bytes(*database), tenant: Id::parse(tenant.get(..len as usize)?)? };
        let (since, score) = (next()? as i64, next()?);
        let mut totals = Totals::default();
        for total in &mut totals.0 {
            *total = next()?;
        }
        Some(Entry { key, since, score, totals })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<const N: usize>() -> Box<Table> {
        // SAFETY: all bytes zero is an empty table, as the shared memory is at first; an id of no characters is never read.
        let table: Box<Table<[Place; N]>> = unsafe { Box::new_zeroed().assume_init() };
        table
    }

    fn key(database: u32, tenant: &str) -> Key {
        Key { database, tenant: Id::parse(tenant.as_bytes()).unwrap() }
    }

    fn call(table: &mut Table, key: &Key) {
        let place = table.find(key, usize::MAX).unwrap_or_else(|| table.find_or_make(key, 7));
        let mut spent = Totals::default();
        spent.add(Counter::Calls, 1);
        spent.add(Counter::WalBytes, 100);
        table.add(place, &spent);
    }

    fn calls(table: &Table, key: &Key) -> Option<u64> {
        table.find(key, usize::MAX).map(|place| table.places[place].entry().totals.get(Counter::Calls))
    }

    #[test]
    fn the_memory_is_what_the_table_takes() {
        assert_eq!(Table::size(7), size_of::<Table<[Place; 7]>>());
    }

    #[test]
    fn a_tenant_counts_by_itself_in_each_database() {
        let mut table = table::<10>();
        for _ in 0..3 {
            call(&mut table, &key(1, "ant"));
        }
        call(&mut table, &key(2, "ant"));
        call(&mut table, &key(1, "bee"));
        assert_eq!(
            [key(1, "ant"), key(2, "ant"), key(1, "bee")].map(|key| calls(&table, &key)),
            [Some(3), Some(1), Some(1)]
        );
        assert_eq!(calls(&table, &key(3, "ant")), None);
        assert_eq!(table.entries().count(), 3);
        let ant = table.entries().find(|entry| entry.key == key(1, "ant")).unwrap();
        assert_eq!((ant.since, ant.totals.get(Counter::WalBytes), ant.totals.get(Counter::Rows)), (7, 300, 0));
    }

    #[test]
    fn a_wrong_guess_is_none() {
        let mut table = table::<10>();
        call(&mut table, &key(1, "ant"));
        call(&mut table, &key(1, "bee"));
        for guess in [0, 1, 2, 9, 10, usize::MAX] {
            assert_eq!(table.find(&key(1, "ant"), guess), Some(0));
            assert_eq!(table.find(&key(1, "bee"), guess), Some(1));
            assert_eq!(table.find(&key(1, "cat"), guess), None);
        }
    }

    #[test]
    fn the_least_used_goes() {
        let mut table = table::<10>();
        for number in 0..10 {
            for _ in 0..=number {
                call(&mut table, &key(1, &format!("t{number}")));
            }
        }
        assert_eq!(table.evicted(), 0);
        call(&mut table, &key(1, "new"));
        assert_eq!((table.evicted(), table.entries().count()), (1, 10));
        assert_eq!(calls(&table, &key(1, "t0")), None);
        assert_eq!(calls(&table, &key(1, "new")), Some(1));
        for number in 1..10 {
            assert_eq!(calls(&table, &key(1, &format!("t{number}"))), Some(number + 1));
        }
    }

    #[test]
    fn a_twentieth_goes_at_once() {
        let mut table = table::<100>();
        for number in 0..101 {
            call(&mut table, &key(1, &format!("t{number}")));
        }
        assert_eq!((table.evicted(), table.entries().count()), (5, 96));
    }

    #[test]
    fn who_was_busy_long_ago_goes_at_last() {
        let mut table = table::<10>();
        for _ in 0..100 {
            call(&mut table, &key(1, "old"));
        }
        let mut rounds = 0;
        while calls(&table, &key(1, "old")).is_some() {
            for number in 0..10 {
                for _ in 0..20 {
                    call(&mut table, &key(1, &format!("t{rounds}-{number}")));
                }
            }
            rounds += 1;
            assert!(rounds < 1000);
        }
    }

    #[test]
    fn a_flood_of_tenants_does_not_displace_the_busy_one() {
        let mut table = table::<10>();
        for number in 0..10_000 {
            call(&mut table, &key(1, "busy"));
            call(&mut table, &key(1, &format!("t{number}")));
        }
        assert_eq!(calls(&table, &key(1, "busy")), Some(10_000));
        assert!(table.is_whole());
    }

    #[test]
    fn one_place_is_enough() {
        let mut table = table::<1>();
        for tenant in ["ant", "bee", "ant"] {
            call(&mut table, &key(1, tenant));
            assert_eq!(calls(&table, &key(1, tenant)), Some(1));
        }
        assert_eq!(table.evicted(), 2);
    }

    #[test]
    fn one_database_is_cleared() {
        let mut table = table::<10>();
        for number in 0..4 {
            call(&mut table, &key(1 + number % 2, &format!("t{number}")));
        }
        table.clear(1);
        assert_eq!(
            [0, 1, 2, 3].map(|n| calls(&table, &key(1 + n % 2, &format!("t{n}")))),
            [None, Some(1), None, Some(1)]
        );
        call(&mut table, &key(1, "t0"));
        assert_eq!(calls(&table, &key(1, "t0")), Some(1));
        assert_eq!(table.evicted(), 0);
    }

    #[test]
    fn what_was_saved_comes_back_the_most_used_first() {
        let mut full = table::<20>();
        for number in 0..20 {
            for _ in 0..=number {
                call(&mut full, &key(1, &format!("t{number}")));
            }
        }
        let mut smaller = table::<10>();
        smaller.restore(full.entries().collect());
        assert_eq!(smaller.entries().count(), 10);
        for number in 0..20 {
            assert_eq!(calls(&smaller, &key(1, &format!("t{number}"))), (number >= 10).then_some(number + 1));
        }
    }

    #[test]
    fn an_entry_is_saved_as_it_is() {
        let mut totals = Totals::default();
        for (number, total) in totals.0.iter_mut().enumerate() {
            *total = u64::MAX - number as u64;
        }
        for tenant in ["a", &"x".repeat(MAX_LEN)] {
            let entry = Entry { key: key(u32::MAX, tenant), since: -1, score: 3, totals };
            let mut saved = Vec::new();
            entry.encode(&mut saved);
            let mut saved: [u8; Entry::SAVED] = saved.try_into().unwrap();
            let read = Entry::decode(&saved).unwrap();
            assert!(read.key == entry.key && (read.since, read.score, read.totals) == (-1, 3, totals));
            for wrong in [0, 65, 255] {
                saved[4] = wrong;
                assert!(Entry::decode(&saved).is_none());
            }
        }
    }
}
