//! What an error would take back: refused contexts, and when an API key was last used.
//!
//! A change is written to `amp.audit_log` by the function that makes it, in the same transaction: it stands or falls with it.
//! A refusal is an error, and its transaction rolls back. So it is noted in shared memory, and a background worker, started when there
//! is something to write, writes it a second later. Nobody fills the disk that way: equal refusals are counted in one
//! row, a database gets one row a second once a minute's worth is used up, a login role and a database have their share of the room, and
//! what finds none is only counted.
//! Without `shared_preload_libraries`, and on a standby, a refusal is in the server's log alone, as every error is.
//!
//! Protocol: one lock, held exclusively for a few comparisons, never while anything else is waited for. A database's worker
//! says every second that it lives; whoever notes something and finds no such word in ten seconds starts another.

use crate::backend::{self, Local};
use crate::context::{catalog, session, settings};
use crate::error::{Code, Error};
use crate::id::Id;
use crate::identity::proof::{self, By, Proof};
use crate::identity::{self, expiry};
use crate::inline::Text;
use crate::worker;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, SignalWakeFlags};
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::prelude::*;
use pgrx::{IntoDatum, PGRXSharedMemory, PgLwLock, pg_shmem_init};
use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

/// How many notes wait at most.
const CAPACITY: usize = 128;
/// How many databases can have a worker.
const DATABASES: usize = 64;
/// How many of them may be one login role's, so that nobody crowds out the others.
const PER_LOGIN: usize = 16;
/// How many rows a database gets at once; it earns one a second.
const BURST: f64 = 60.0;
/// How long a worker's word counts, how long a note waits for one at least, and for how long a key's use is not noted again:
/// in microseconds.
const ALIVE: i64 = 10_000_000;
const STALE: i64 = 60_000_000;
const USED_AGAIN: i64 = 60_000_000;

// SAFETY: nobody else uses this name.
static NOTES: PgLwLock<Notes> = unsafe { PgLwLock::new(c"amp_tenancy_audit") };

/// The key whose use this backend noted last, and when.
static LAST_USED: Local<Cell<Option<(proof::Name, i64)>>> = Local::new(Cell::new(None));

/// What happened.
#[derive(Clone, Copy, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "it lies in shared memory, where nothing can be boxed")]
enum Event {
    /// A context or a credential was refused.
    Refused { code: [u8; 5], reason: Text<160>, tenant: Option<Id>, user: Option<Id> },
    /// A credential was accepted.
    Used,
}

/// Something to be written.
#[derive(Clone, Copy)]
struct Note {
    database: pg_sys::Oid,
    event: Event,
    login: Text<64>,
    user: Option<Id>,
    key: Option<Text<64>>,
    token: Option<Text<64>>,
    address: Option<IpAddr>,
    at: i64,
    times: i64,
}

impl Note {
    fn same(&self, other: &Note) -> bool {
        (self.database, self.event, self.user, self.address) == (other.database, other.event, other.user, other.address)
            && (self.login, self.key, self.token) == (other.login, other.key, other.token)
    }
}

/// A database in which something was noted.
#[derive(Clone, Copy)]
struct Place {
    database: pg_sys::Oid,
    /// When something was noted in it last.
    heard: i64,
    /// Its worker's last word; never, if there is none.
    word: i64,
    /// The rows that it may write, and since when that is so.
    budget: f64,
    counted: i64,
    /// How many notes found no room or no budget.
    lost: i64,
}

impl Place {
    const FREE: Place =
        Place { database: pg_sys::InvalidOid, heard: i64::MIN, word: i64::MIN, budget: BURST, counted: 0, lost: 0 };
}

#[derive(Clone, Copy)]
struct Notes {
    waiting: [Option<Note>; CAPACITY],
    places: [Place; DATABASES],
}

// SAFETY: plain values without pointers.
unsafe impl PGRXSharedMemory for Notes {}

impl Notes {
    fn new() -> Notes {
        Notes { waiting: [None; CAPACITY], places: [Place::FREE; DATABASES] }
    }

    /// The place of a database; a new one takes that of the database that was heard of longest ago.
    fn place(&mut self, database: pg_sys::Oid) -> &mut Place {
        let places = &self.places;
        let known = (0..DATABASES).find(|index| places[*index].database == database);
        let index = known.unwrap_or_else(|| (0..DATABASES).min_by_key(|index| places[*index].heard).unwrap_or(0));
        if known.is_none() {
            self.places[index] = Place { database, ..Place::FREE };
        }
        &mut self.places[index]
    }

    /// Takes a note. True if its database needs a worker, which counts as started then.
    fn add(&mut self, note: Note) -> bool {
        if let Some(known) = self.waiting.iter_mut().flatten().find(|known| known.same(&note)) {
            known.times += 1;
            known.at = note.at;
        } else if self.of_login(&note) >= PER_LOGIN {
            self.place(note.database).lost += 1;
        } else {
            let room = self.waiting.iter().position(Option::is_none).or_else(|| self.make_room(&note));
            match room {
                Some(room) => self.waiting[room] = Some(note),
                None => self.place(note.database).lost += 1,
            }
        }
        let place = self.place(note.database);
        place.heard = note.at;
        if place.word > note.at.saturating_sub(ALIVE) {
            return false;
        }
        place.word = note.at;
        true
    }

    fn of_login(&self, note: &Note) -> usize {
        let own = |other: &&Note| other.database == note.database && other.login == note.login;
        self.waiting.iter().flatten().filter(own).count()
    }

    fn of_database(&self, database: pg_sys::Oid) -> usize {
        self.waiting.iter().flatten().filter(|other| other.database == database).count()
    }

    /// Gives up a note for another one: one that nobody came for, or one of the database with the most, if that is not its own.
    fn make_room(&mut self, note: &Note) -> Option<usize> {
        let oldest = (0..CAPACITY).min_by_key(|index| self.waiting[*index].map_or(i64::MAX, |waiting| waiting.at))?;
        let stale = self.waiting[oldest].is_some_and(|waiting| waiting.at < note.at.saturating_sub(STALE));
        let given_up = if stale {
            oldest
        } else {
            let count = |index: &usize| self.waiting[*index].map_or(0, |waiting| self.of_database(waiting.database));
            let of_largest = (0..CAPACITY).max_by_key(count)?;
            if count(&of_largest) <= self.of_database(note.database) + 1 {
                return None;
            }
            of_largest
        };
        let gone = self.waiting[given_up].take()?;
        self.place(gone.database).lost += gone.times;
        Some(given_up)
    }

    /// Gives a database's worker its notes, and how many were lost; what it has no budget for is lost, too.
    /// None when there is nothing: the worker is gone then.
    fn take(&mut self, database: pg_sys::Oid, now: i64) -> Option<(Vec<Note>, i64)> {
        let mut notes: Vec<Note> = Vec::new();
        for place in &mut self.waiting {
            if place.is_some_and(|note| note.database == database) {
                notes.extend(place.take());
            }
        }
        let place = self.place(database);
        let seconds = now.saturating_sub(place.counted).max(0) as f64 / 1e6;
        place.budget = (place.budget + seconds).min(BURST);
        place.counted = now;
        place.word = if notes.is_empty() { i64::MIN } else { now };
        let affordable = place.budget as usize;
        for beyond in notes.drain(affordable.min(notes.len())..) {
            place.lost += beyond.times;
        }
        place.budget -= notes.len() as f64;
        if notes.is_empty() {
            return (place.word == now).then_some((notes, 0));
        }
        Some((notes, std::mem::take(&mut place.lost)))
    }
}

pub(crate) fn init() {
    if backend::is_preloaded() {
        pg_shmem_init!(NOTES = Notes::new());
    }
}

/// Who acts, as far as known without asking whether he may.
pub(crate) struct Actor {
    pub(crate) user: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) token: Option<String>,
}

impl Actor {
    /// The session's: by its credential, or by the user that a service names.
    pub(crate) fn of_session() -> Actor {
        let bound = || identity::current().ok().flatten().map(|identity| identity.proof);
        let proof = proof::current().or_else(bound);
        let credential = proof.filter(|proof| proof.by != By::LoginRole);
        Actor {
            user: proof.and_then(|proof| proof.user).or(settings::user().id()).map(|user| user.as_str().to_owned()),
            key: credential.map(|proof| proof.credential.as_str().to_owned()),
            token: proof.and_then(|proof| proof.token).map(|token| token.as_str().to_owned()),
        }
    }
}

/// Notes that a context was refused: the tenant and user that were asked for. A context that nobody set is no refusal.
pub(crate) fn refused(error: &Error, tenant: Option<Id>, user: Option<Id>) {
    if matches!(
        error.code,
        Code::TenantInactive | Code::NotAMember | Code::ContextPinned | Code::ProofExpired | Code::BypassesRowSecurity
    ) {
        let event = Event::Refused { code: *error.code.sqlstate(), reason: Text::new(error.message()), tenant, user };
        note(event);
    }
}

/// Notes that an API key was used, once a minute in each backend.
pub(crate) fn used(proof: &Proof) {
    let now = expiry::now();
    let again = LAST_USED.get().is_some_and(|(key, at)| key == proof.credential && now - at < USED_AGAIN);
    if proof.by == By::ApiKey && !again {
        LAST_USED.set(Some((proof.credential, now)));
        note(Event::Used);
    }
}

fn note(event: Event) {
    // SAFETY: reads variables of the backend, and shared memory.
    let (database, here) = unsafe {
        let database = pg_sys::MyDatabaseId;
        (database, database != pg_sys::InvalidOid && pg_sys::ParallelWorkerNumber < 0 && !pg_sys::RecoveryInProgress())
    };
    if !here || !backend::is_preloaded() {
        return;
    }
    let actor = Actor::of_session();
    let note = Note {
        database,
        event,
        login: Text::new(&session::login_name()),
        user: actor.user.as_deref().and_then(|user| Id::parse(user.as_bytes())),
        key: actor.key.as_deref().map(Text::new),
        token: actor.token.as_deref().map(Text::new),
        address: client_address(),
        at: expiry::now(),
        times: 1,
    };
    let alone = NOTES.exclusive().add(note);
    if alone {
        // No worker to be had just now: somebody starts one in ten seconds.
        let _ = BackgroundWorkerBuilder::new("amp_tenancy audit")
            .set_type("amp_tenancy audit")
            .set_library("amp_tenancy")
            .set_function("amp_audit_worker")
            .set_argument(database.into_datum())
            .enable_spi_access()
            .load_dynamic();
    }
}

/// The client's address; None for a Unix socket.
fn client_address() -> Option<IpAddr> {
    // SAFETY: PostgreSQL's own function, which takes no argument and looks at the backend's connection, if there is one.
    let address = unsafe { pgrx::direct_function_call::<pgrx::Inet>(pg_sys::inet_client_addr, &[]) };
    address?.0.parse().ok()
}

/// Writes what was noted for one database, and ends when there is nothing left.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn amp_audit_worker(database: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGTERM);
    // SAFETY: the argument is what `note` passed.
    let database = unsafe { pg_sys::Oid::from_datum(database, false) }.unwrap_or(pg_sys::InvalidOid);
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database), None);
    worker::settle();
    while BackgroundWorker::wait_latch(Some(Duration::from_secs(1))) {
        let taken = NOTES.exclusive().take(database, expiry::now());
        let Some((notes, lost)) = taken else {
            return;
        };
        if !notes.is_empty() {
            BackgroundWorker::transaction(std::panic::AssertUnwindSafe(|| write(&notes, lost)));
        }
    }
}

fn write(notes: &[Note], lost: i64) {
    if !catalog::is_installed() {
        return;
    }
    for (position, note) in notes.iter().enumerate() {
        let at = TimestampWithTimeZone::try_from(note.at).ok();
        let written = match note.event {
            Event::Used => Spi::run_with_args(
                "UPDATE amp.stored_api_keys SET last_used_at = $2
                 WHERE id = (SELECT k.id FROM amp.stored_api_keys k WHERE k.id = $1 FOR UPDATE SKIP LOCKED)",
                &[text(note.key.as_ref().map(Text::as_str)), timestamp(at)],
            ),
            Event::Refused { code, reason, tenant, user } => Spi::run_with_args(
                "INSERT INTO amp.audit_log (at, login_role, user_id, key_id, token_id, action, tenant_id, detail, client_address)
                 VALUES ($1, $2, $3, $4, $5, 'context.refused', $6,
                         pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                             'sqlstate', $7, 'reason', $8, 'times', $9, 'lost', nullif($10, 0), 'asked_user_id', $12)), $11::inet)",
                &[
                    timestamp(at),
                    text(Some(note.login.as_str())),
                    text(note.user.as_ref().map(Id::as_str)),
                    text(note.key.as_ref().map(Text::as_str)),
                    text(note.token.as_ref().map(Text::as_str)),
                    text(tenant.as_ref().map(Id::as_str)),
                    text(std::str::from_utf8(&code).ok()),
                    text(Some(reason.as_str())),
                    number(note.times),
                    number(if position == 0 { lost } else { 0 }),
                    text(note.address.map(|address| address.to_string()).as_deref()),
                    text(user.filter(|user| note.user != Some(*user)).as_ref().map(Id::as_str)),
                ],
            ),
        };
        if let Err(error) = written {
            warning!("amp_tenancy: a note for the audit log was not written: {error}");
        }
    }
}

fn text<'a>(value: Option<&str>) -> DatumWithOid<'a> {
    value.map(str::to_owned).into()
}

fn timestamp<'a>(value: Option<TimestampWithTimeZone>) -> DatumWithOid<'a> {
    value.into()
}

fn number<'a>(value: i64) -> DatumWithOid<'a> {
    value.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(database: u32, reason: &str, at: i64) -> Note {
        Note {
            database: pg_sys::Oid::from(database),
            event: Event::Refused { code: *b"TN003", reason: Text::new(reason), tenant: None, user: None },
            login: Text::new("app"),
            user: None,
            key: None,
            token: None,
            address: None,
            at,
            times: 1,
        }
    }

    fn one() -> pg_sys::Oid {
        pg_sys::Oid::from(1)
    }

    #[test]
    fn equal_refusals_are_counted_in_one_note() {
        let mut notes = Box::new(Notes::new());
        for at in 1..=5 {
            notes.add(note(1, "a", at));
        }
        notes.add(note(1, "b", 6));
        let (taken, lost) = notes.take(one(), 7).unwrap();
        assert_eq!(taken.iter().map(|note| note.times).collect::<Vec<_>>(), [5, 1]);
        assert_eq!(lost, 0);
    }

    #[test]
    fn one_login_role_does_not_crowd_out_the_others() {
        let mut notes = Box::new(Notes::new());
        for number in 0..1000 {
            notes.add(note(1, &number.to_string(), 1));
        }
        notes.add(Note { login: Text::new("other"), ..note(1, "other", 2) });
        let (taken, lost) = notes.take(one(), 3).unwrap();
        assert_eq!((taken.len(), lost), (PER_LOGIN + 1, 1000 - PER_LOGIN as i64));
    }

    #[test]
    fn one_database_does_not_crowd_out_the_others() {
        let mut notes = Box::new(Notes::new());
        for number in 0..1000 {
            notes.add(Note { login: Text::new(&number.to_string()), ..note(1, "a", 1) });
        }
        for database in 2..=9 {
            notes.add(note(database, "b", 2));
            assert_eq!(notes.take(pg_sys::Oid::from(database), 3).unwrap().0.len(), 1);
        }
        assert!(notes.take(one(), 4).unwrap().1 > 800);
    }

    #[test]
    fn notes_that_nobody_comes_for_make_room() {
        let mut notes = Box::new(Notes::new());
        for number in 0..CAPACITY as u32 {
            notes.add(note(number + 2, "a", 1));
        }
        notes.add(note(1, "b", 2 + STALE));
        assert_eq!(notes.take(one(), 3 + STALE).unwrap().0.len(), 1);
    }

    #[test]
    fn a_worker_is_started_once_and_again_when_it_is_gone_or_silent() {
        let mut notes = Box::new(Notes::new());
        assert!(notes.add(note(1, "a", 1)));
        assert!(!notes.add(note(1, "b", 2)));
        assert!(notes.add(note(2, "a", 2)));
        assert_eq!(notes.take(one(), 3).unwrap().0.len(), 2);
        assert!(!notes.add(note(1, "c", 4)));
        assert!(notes.add(note(1, "d", 4 + 2 * ALIVE)));
        while notes.take(one(), 5).is_some() {}
        assert!(notes.add(note(1, "e", 6)));
    }

    #[test]
    fn the_budget_outlives_the_worker() {
        let mut notes = Box::new(Notes::new());
        let mut written = 0;
        for round in 0..20 {
            for login in 0..16 {
                notes.add(Note { login: Text::new(&login.to_string()), ..note(1, &round.to_string(), 1) });
            }
            written += notes.take(one(), 1).unwrap().0.len();
            while notes.take(one(), 1).is_some() {}
        }
        assert_eq!(written, BURST as usize);
        notes.add(note(1, "later", 2_000_000));
        assert_eq!(notes.take(one(), 2_500_001).unwrap().0.len(), 1);
    }
}
