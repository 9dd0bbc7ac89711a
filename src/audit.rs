//! What an error would take back: refused contexts, and when an API key was last used.
//!
//! A change is written to `amp.audit_log` by the function that makes it, in the same transaction: it stands or falls with it.
//! A refusal is an error, and its transaction rolls back. So it is noted in shared memory, and a background worker, started when there
//! is something to write, writes it a second later. Nobody fills the disk that way: equal refusals are counted in one
//! row, the worker writes at most one row a second once a minute's worth is used up, and what finds no room is only counted.
//! Without `shared_preload_libraries`, and on a standby, a refusal is in the server's log alone, as every error is.
//!
//! Protocol: one lock, held exclusively for a few comparisons, never while anything else is waited for. A database's worker
//! says every second that it lives; whoever notes something and finds no such word in ten seconds starts another.

use crate::backend::Local;
use crate::context::{catalog, session, settings};
use crate::error::{Code, Error};
use crate::id::Id;
use crate::identity::expiry;
use crate::identity::proof::{self, By, Proof};
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
/// How many rows a worker may write at once; it earns one a second.
const BURST: f64 = 60.0;
/// How long a worker's word counts, and for how long a key's use is not noted again, in microseconds.
const ALIVE: i64 = 10_000_000;
const USED_AGAIN: i64 = 60_000_000;

// SAFETY: nobody else uses this name.
static NOTES: PgLwLock<Notes> = unsafe { PgLwLock::new(c"amp_tenancy_audit") };

/// True where the library was preloaded: in the postmaster, and so in all of its children.
static SHARED: Local<Cell<bool>> = Local::new(Cell::new(false));

/// The key whose use this backend noted last, and when.
static LAST_USED: Local<Cell<Option<(proof::Name, i64)>>> = Local::new(Cell::new(None));

/// A text kept inline, cut to fit.
#[derive(Clone, Copy, PartialEq)]
struct Text<const N: usize> {
    len: usize,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    fn new(text: &str) -> Text<N> {
        let len = (0..=text.len().min(N)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let mut bytes = [0; N];
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Text { len, bytes }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

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

#[derive(Clone, Copy)]
struct Notes {
    waiting: [Option<Note>; CAPACITY],
    /// Each database's worker, and its last word.
    workers: [(pg_sys::Oid, i64); DATABASES],
    /// What found no room.
    lost: i64,
}

// SAFETY: plain values without pointers.
unsafe impl PGRXSharedMemory for Notes {}

impl Notes {
    fn new() -> Notes {
        Notes { waiting: [None; CAPACITY], workers: [(pg_sys::InvalidOid, i64::MIN); DATABASES], lost: 0 }
    }

    /// Takes a note. True if its database needs a worker, which counts as started then.
    fn add(&mut self, note: Note) -> bool {
        if let Some(known) = self.waiting.iter_mut().flatten().find(|known| known.same(&note)) {
            known.times += 1;
            known.at = note.at;
        } else if let Some(free) = self.waiting.iter_mut().find(|place| place.is_none()) {
            *free = Some(note);
        } else {
            self.lost += 1;
        }
        let word = self.workers.iter().find(|(database, _)| *database == note.database).map(|(_, word)| *word);
        if word.is_some_and(|word| word > note.at.saturating_sub(ALIVE)) {
            return false;
        }
        let oldest = self.workers.iter_mut().min_by_key(|(database, word)| (*database != note.database, *word));
        if let Some(place) = oldest {
            *place = (note.database, note.at);
        }
        true
    }

    /// Gives a database's worker at most `limit` notes, and how many were lost. None when there are none: the worker is gone then.
    fn take(&mut self, database: pg_sys::Oid, limit: usize, now: i64) -> Option<(Vec<Note>, i64)> {
        let mut own =
            self.waiting.iter_mut().filter(|place| place.is_some_and(|note| note.database == database)).peekable();
        let nothing = own.peek().is_none();
        let notes: Vec<Note> = own.take(limit).filter_map(Option::take).collect();
        if let Some(place) = self.workers.iter_mut().find(|(known, _)| *known == database) {
            *place = if nothing { (pg_sys::InvalidOid, i64::MIN) } else { (database, now) };
        }
        let lost = if notes.is_empty() { 0 } else { std::mem::take(&mut self.lost) };
        (!nothing).then_some((notes, lost))
    }
}

pub(crate) fn init() {
    // SAFETY: reads a variable of the backend.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        pg_shmem_init!(NOTES = Notes::new());
        SHARED.set(true);
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
        let proof = proof::current();
        Actor {
            user: proof.and_then(|proof| proof.user).or(settings::user().id()).map(|user| user.as_str().to_owned()),
            key: proof.map(|proof| proof.credential.as_str().to_owned()),
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
    if !here || !SHARED.get() {
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
    // Whoever owns the database may have set another.
    BackgroundWorker::transaction(|| Spi::run("SET search_path = pg_catalog, pg_temp"))
        .unwrap_or_else(|error| error!("{error}"));
    let mut budget = BURST;
    while BackgroundWorker::wait_latch(Some(Duration::from_secs(1))) {
        let taken = NOTES.exclusive().take(database, budget as usize, expiry::now());
        let Some((notes, lost)) = taken else {
            return;
        };
        budget = (budget - notes.len() as f64 + 1.0).min(BURST);
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

    #[test]
    fn equal_refusals_are_counted_in_one_note() {
        let mut notes = Box::new(Notes::new());
        for at in 1..=5 {
            notes.add(note(1, "a", at));
        }
        notes.add(note(1, "b", 6));
        let (taken, lost) = notes.take(pg_sys::Oid::from(1), 10, 7).unwrap();
        assert_eq!(taken.iter().map(|note| note.times).collect::<Vec<_>>(), [5, 1]);
        assert_eq!(lost, 0);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut notes = Box::new(Notes::new());
        for number in 0..CAPACITY + 3 {
            notes.add(note(1, &number.to_string(), 1));
        }
        assert_eq!(notes.take(pg_sys::Oid::from(1), CAPACITY, 2).unwrap().1, 3);
        assert!(notes.take(pg_sys::Oid::from(1), CAPACITY, 2).is_none());
    }

    #[test]
    fn a_worker_is_started_once_and_again_when_it_is_gone_or_silent() {
        let mut notes = Box::new(Notes::new());
        let database = pg_sys::Oid::from(1);
        assert!(notes.add(note(1, "a", 1)));
        assert!(!notes.add(note(1, "b", 2)));
        assert!(notes.add(note(2, "a", 2)));
        assert_eq!(notes.take(database, 1, 3).unwrap().0.len(), 1);
        assert!(!notes.add(note(1, "c", 4)));
        assert!(notes.add(note(1, "d", 4 + 2 * ALIVE)));
        while notes.take(database, 9, 5).is_some() {}
        assert!(notes.add(note(1, "e", 6)));
    }

    #[test]
    fn a_worker_without_budget_takes_nothing_and_stays() {
        let mut notes = Box::new(Notes::new());
        notes.add(note(1, "a", 1));
        assert!(notes.take(pg_sys::Oid::from(1), 0, 2).unwrap().0.is_empty());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(Text::<3>::new("aéé").as_str(), "aé");
    }
}
