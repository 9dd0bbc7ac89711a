//! From a claim to an answer: who acts in which tenant, with which permissions.
//!
//! Verdicts are cached per backend and across transactions, at most [`CAPACITY`] of them, positive ones only. Every change to
//! the tables behind them sends a relcache invalidation (trigger `amp.invalidate`), transactional and cluster-wide; the
//! callback advances [`EPOCH`], and a cache of another epoch is empty. A verdict that was read while an invalidation arrived
//! is used once and not kept: its snapshot may be older than the change.

use super::session::{self, Session};
use super::settings::{self, Claimed};
use super::{catalog, parallel, transaction};
use crate::backend::Local;
use crate::error::{Code, Error};
use crate::id::Id;
use crate::tenants::membership::{self, Verdict};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// The most verdicts that a backend keeps; when full, it starts anew.
const CAPACITY: usize = 1024;

/// Grows whenever a table behind the verdicts changes.
static EPOCH: Local<Cell<u64>> = Local::new(Cell::new(1));

/// The transaction that wrote new rows into these tables itself: what it reads may be rolled back, and nobody is told of that.
static UNCOMMITTED: Local<Cell<u64>> = Local::new(Cell::new(0));

/// The tables whose invalidation counts; none before the first look-up.
static WATCHED: Local<Cell<[pg_sys::Oid; 5]>> = Local::new(Cell::new([pg_sys::InvalidOid; 5]));

static VERDICTS: Local<RefCell<Option<Verdicts>>> = Local::new(RefCell::new(None));

/// The generation and the login role for which the answer below was found.
static ANSWERED: Local<Cell<u64>> = Local::new(Cell::new(0));
static ANSWERED_FOR: Local<Cell<pg_sys::Oid>> = Local::new(Cell::new(pg_sys::InvalidOid));
static TENANT_TEXT: Local<Cell<usize>> = Local::new(Cell::new(0));
static CURRENT: Local<RefCell<Option<Rc<Current>>>> = Local::new(RefCell::new(None));

/// The read permissions that were asked for and granted in the transaction of that number.
static READS: Local<RefCell<(u64, Vec<String>)>> = Local::new(RefCell::new((0, Vec::new())));

struct Verdicts {
    epoch: u64,
    known: HashMap<(Id, Option<Id>), Rc<Verdict>>,
}

/// The context that holds now.
pub(super) struct Current {
    pub(super) tenant: Id,
    pub(super) user: Option<Id>,
    pub(super) verdict: Rc<Verdict>,
    /// The epoch in which the verdict was read; 0 if it is not to be used again.
    pub(super) epoch: u64,
}

unsafe extern "C-unwind" {
    fn AcceptInvalidationMessages();
}

pub(super) fn init() {
    // SAFETY: from _PG_init; the callback is a plain function that stays loaded.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(on_invalidation), pg_sys::Datum::null()) };
}

/// A relation, or all of them, may have changed. Runs during invalidation: it must not fail, and calls nothing of PostgreSQL.
unsafe extern "C-unwind" fn on_invalidation(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || WATCHED.get().contains(&relation) {
        EPOCH.set(EPOCH.get() + 1);
        transaction::advance();
    }
}

/// The tenant's id as a text datum, if an answer was found and nothing has changed since. The fast path of every policy.
#[inline(always)]
pub(super) fn tenant_text() -> Option<pg_sys::Datum> {
    (ANSWERED.get() == transaction::generation()).then(|| pg_sys::Datum::from(TENANT_TEXT.get()))
}

/// Whether the answer holds a permission; only where [`tenant_text`] gives one.
pub(super) fn holds(permission: &[u8]) -> bool {
    CURRENT.borrow().as_ref().is_some_and(|current| current.verdict.held.contains(permission))
}

/// Notes that rows were read by this permission.
pub(super) fn note_read(permission: &[u8]) {
    let mut reads = READS.borrow_mut();
    if reads.0 != transaction::serial() {
        *reads = (transaction::serial(), Vec::new());
    }
    if !reads.1.iter().any(|read| read.as_bytes() == permission) {
        reads.1.push(String::from_utf8_lossy(permission).into_owned());
    }
}

/// Checks that the permissions by which rows were read in this transaction are still held.
/// Errors: TN004 one was lost; as [`current`].
pub(super) fn check_reads() -> Result<(), Error> {
    let current = current()?;
    let reads = READS.borrow();
    let lost = reads.1.iter().find(|read| !current.verdict.held.contains(read.as_bytes()));
    match lost.filter(|_| reads.0 == transaction::serial()) {
        None => Ok(()),
        Some(lost) => {
            Err(Error::new(Code::PermissionDenied, format!("permission \"{lost}\" was lost while a cursor was open"))
                .hint("Close the cursor: what may be read now is another set of rows."))
        }
    }
}

/// Grows whenever a table behind the verdicts changes: what was read in another epoch is to be read again.
pub(crate) fn epoch() -> u64 {
    EPOCH.get()
}

/// From now on this transaction keeps no verdict beyond its end.
pub(super) fn keep_nothing() {
    UNCOMMITTED.set(transaction::serial());
}

fn keeps() -> bool {
    UNCOMMITTED.get() != transaction::serial()
}

/// Refuses to run anything for a session that claims a context but has come to bypass row security since.
/// Errors: TN009.
pub(super) fn check_bypass() -> Result<(), Error> {
    if session::current().bypasses { Err(bypasses()) } else { Ok(()) }
}

/// Forgets the answer if the login role has changed (SET SESSION AUTHORIZATION, for superusers).
pub(super) fn check_login_role() {
    if ANSWERED_FOR.get() != session::login_role() {
        transaction::advance();
    }
}

/// Resolves the context and pins its tenant for this transaction.
/// Errors: TN001 none is set, TN002 tenant unknown or not active, TN003 not a member or not entitled to choose, TN006 another
/// tenant is pinned, TN009 the session bypasses row security.
pub(super) fn current() -> Result<Rc<Current>, Error> {
    if tenant_text().is_some()
        && let Some(current) = CURRENT.borrow().as_ref()
    {
        return Ok(Rc::clone(current));
    }
    let generation = transaction::generation();
    let current = if parallel::is_worker() {
        Rc::new(parallel::carried().ok_or_else(|| no_context(Claimed::Nothing))?)
    } else {
        decide()?
    };
    let pin = match transaction::pinned() {
        Some(pin) if pin.tenant == current.tenant => pin,
        Some(pin) => return Err(pinned(pin.tenant, current.tenant)),
        None => transaction::pin(current.tenant),
    };
    TENANT_TEXT.set(pin.text().value());
    *CURRENT.borrow_mut() = Some(Rc::clone(&current));
    ANSWERED_FOR.set(session::login_role());
    ANSWERED.set(generation);
    Ok(current)
}

fn decide() -> Result<Rc<Current>, Error> {
    let session = session::current();
    let tenant = match settings::tenant() {
        Claimed::Id(tenant) => tenant,
        _ if session.bypasses => return Err(bypasses()),
        none => return Err(no_context(none)),
    };
    admit(session)?;
    if let Some(pin) = transaction::pinned()
        && pin.tenant != tenant
    {
        return Err(pinned(pin.tenant, tenant));
    }
    let user = settings::user().id();
    if user.is_none() && settings::require_user() {
        return Err(Error::new(Code::NotAMember, "no user is set for this session")
            .detail("amp.require_user is on: a service has to name the user it acts for.")
            .hint("Run SET LOCAL amp.user_id = '…' in the transaction."));
    }
    // Most transactions of a session are the last one's tenant and user again.
    if let Some(last) = CURRENT.borrow().as_ref()
        && last.epoch == EPOCH.get()
        && last.tenant == tenant
        && last.user == user
    {
        return Ok(Rc::clone(last));
    }
    let epoch = if keeps() { EPOCH.get() } else { 0 };
    Ok(Rc::new(Current { tenant, user, verdict: verdict(tenant, user)?, epoch }))
}

/// Decides a claim at the moment it is made. Errors: as [`current`], without the pin, which is checked at use.
pub(super) fn check(tenant: Option<Id>, user: Option<Id>) -> Result<(), Error> {
    // SAFETY: in a transaction. What other sessions have committed counts at the SET, too.
    unsafe { AcceptInvalidationMessages() };
    admit(session::current())?;
    match (tenant, user) {
        (Some(tenant), user) => verdict(tenant, user).map(|_| ()),
        (None, Some(user)) => membership::check_user(&user),
        (None, None) => Ok(()),
    }
}

/// The user that the session acts as, also where no tenant is set. None when there is none.
/// Errors: TN003 the user is unknown, or the session may not choose; with a tenant, as [`current`].
pub(super) fn user() -> Result<Option<Id>, Error> {
    if parallel::is_worker() {
        return Ok(parallel::carried().and_then(|current| current.user));
    }
    if settings::tenant().id().is_some() {
        return Ok(current()?.user);
    }
    let Some(user) = settings::user().id() else {
        return Ok(None);
    };
    check(None, Some(user))?;
    Ok(Some(user))
}

/// Whether this session may name a tenant at all.
fn admit(session: Session) -> Result<(), Error> {
    if session.bypasses {
        return Err(bypasses());
    }
    if session.service {
        return Ok(());
    }
    let (why, hint) = if session.operator {
        ("An operator runs the platform and has no view of tenants' rows.", "Connect as a service role for that.")
    } else {
        (
            "Only a trusted application service may name the tenant it acts for.",
            "If this login role is one, GRANT amp_service TO it.",
        )
    };
    Err(Error::new(
        Code::NotAMember,
        format!("login role \"{}\" may not choose a tenant or user", session::login_name()),
    )
    .detail(why)
    .hint(hint))
}

fn verdict(tenant: Id, user: Option<Id>) -> Result<Rc<Verdict>, Error> {
    let epoch = EPOCH.get();
    if let Some(verdicts) = VERDICTS.borrow().as_ref()
        && verdicts.epoch == epoch
        && let Some(known) = verdicts.known.get(&(tenant, user))
    {
        return Ok(Rc::clone(known));
    }
    WATCHED.set(catalog::watched()?);
    let verdict = Rc::new(membership::in_tenant(&tenant, user.as_ref())?);
    if EPOCH.get() == epoch && keeps() {
        let mut verdicts = VERDICTS.borrow_mut();
        let verdicts = verdicts.get_or_insert_with(|| Verdicts { epoch, known: HashMap::new() });
        if verdicts.epoch != epoch || verdicts.known.len() >= CAPACITY {
            verdicts.known.clear();
            verdicts.epoch = epoch;
        }
        verdicts.known.insert((tenant, user), Rc::clone(&verdict));
    }
    Ok(verdict)
}

fn no_context(claimed: Claimed) -> Error {
    let error = Error::new(Code::NoContext, "no tenant is set for this session");
    match claimed {
        Claimed::Expired => error
            .detail("amp.context_scope is \"transaction\", and amp.tenant_id was set by an earlier transaction, or before the library was loaded.")
            .hint("Set it in the transaction that uses it: BEGIN; SET LOCAL amp.tenant_id = '…'; …; COMMIT. Add amp_tenancy to shared_preload_libraries."),
        _ => error.hint("Run SET amp.tenant_id = '…' as a service role, or SET LOCAL inside a transaction."),
    }
}

fn bypasses() -> Error {
    Error::new(
        Code::BypassesRowSecurity,
        format!("role \"{}\" bypasses row security: a tenant would isolate nothing", session::bypassing_name()),
    )
    .detail("A superuser or a role with BYPASSRLS sees every tenant's rows, whatever tenant it names.")
    .hint("Connect the application as a role without SUPERUSER and BYPASSRLS that is a member of amp_service; RESET amp.tenant_id to go on without a tenant.")
}

fn pinned(pinned: Id, asked: Id) -> Error {
    Error::new(
        Code::ContextPinned,
        format!("this transaction acts for tenant \"{}\" and cannot change to \"{}\"", pinned.as_str(), asked.as_str()),
    )
    .detail("The first use of a tenant pins it until the transaction ends, also across savepoints.")
    .hint("COMMIT or ROLLBACK, then set the other tenant.")
}
