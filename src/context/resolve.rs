//! From a claim to an answer: who acts in which tenant, with which permissions.
//!
//! Verdicts are cached per backend and across transactions, at most [`CAPACITY`] of them, positive ones only. Every change to
//! the tables behind them sends a relcache invalidation (trigger `amp.invalidate`), transactional and cluster-wide; the
//! callback advances [`EPOCH`], and a cache of another epoch is empty. A verdict that was read while an invalidation arrived
//! is used once and not kept: its snapshot may be older than the change.

use super::session::{self, Session};
use super::settings::{self, Claimed};
use super::{catalog, parallel, transaction};
use crate::audit;
use crate::backend::Local;
use crate::error::{Code, Error};
use crate::id::Id;
use crate::identity::{self, Identity, expiry};
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
static WATCHED: Local<Cell<Option<catalog::Watched>>> = Local::new(Cell::new(None));

/// Counts the changes of relations, of any.
static HEARD: Local<Cell<u64>> = Local::new(Cell::new(0));

static VERDICTS: Local<RefCell<Option<Verdicts>>> = Local::new(RefCell::new(None));

/// The generation and the login role for which the answer below was found.
static ANSWERED: Local<Cell<u64>> = Local::new(Cell::new(0));
static ANSWERED_FOR: Local<Cell<pg_sys::Oid>> = Local::new(Cell::new(pg_sys::InvalidOid));
/// When the proof that the answer rests on ends.
static EXPIRES: Local<Cell<i64>> = Local::new(Cell::new(expiry::NEVER));
static TENANT_TEXT: Local<Cell<usize>> = Local::new(Cell::new(0));
static CURRENT: Local<RefCell<Option<Rc<Current>>>> = Local::new(RefCell::new(None));

/// The read permissions that were asked for and granted in the transaction of that number.
static READS: Local<RefCell<(u64, Vec<String>)>> = Local::new(RefCell::new((0, Vec::new())));

struct Verdicts {
    epoch: u64,
    known: HashMap<(Id, Option<Id>), Rc<Verdict>>,
}

/// The context that holds now.
pub(crate) struct Current {
    pub(crate) tenant: Id,
    pub(super) user: Option<Id>,
    pub(super) verdict: Rc<Verdict>,
    /// The API key that caps the verdict's permissions.
    pub(super) capped_by: Option<Id>,
    /// When the proof behind it ends.
    pub(super) expires: i64,
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
    HEARD.set(HEARD.get() + 1);
    if relation == pg_sys::InvalidOid || WATCHED.get().is_some_and(|watched| watched.contains(&relation)) {
        // They may have been dropped and made anew: whoever reads them next looks them up first.
        WATCHED.set(None);
        begin_epoch();
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

/// Makes everything that was read stale. Must not fail, for callbacks.
pub(super) fn begin_epoch() {
    EPOCH.set(EPOCH.get() + 1);
    transaction::advance();
}

/// From now on this transaction keeps no verdict beyond its end.
pub(super) fn keep_nothing() {
    UNCOMMITTED.set(transaction::serial());
}

/// Whether what is read now may be kept beyond the transaction.
pub(crate) fn keeps() -> bool {
    UNCOMMITTED.get() != transaction::serial()
}

/// Refuses to run anything for a session that claims a context but has come to bypass row security since.
/// Errors: TN009.
pub(crate) fn check_bypass() -> Result<(), Error> {
    if session::current().bypasses { Err(bypasses()) } else { Ok(()) }
}

/// Forgets the answer if the login role has changed (SET SESSION AUTHORIZATION, for superusers), or if the proof has expired.
pub(super) fn check_premises() {
    if ANSWERED_FOR.get() != session::login_role() || expiry::is_past(EXPIRES.get()) {
        transaction::advance();
    }
}

/// Resolves the context and pins its tenant for this transaction.
/// Errors: TN001 none is set, TN002 tenant unknown or not active, TN003 not a member or not entitled to choose, TN006 another
/// tenant is pinned, TN009 the session bypasses row security.
pub(crate) fn current() -> Result<Rc<Current>, Error> {
    if tenant_text().is_some()
        && let Some(current) = CURRENT.borrow().as_ref()
    {
        return Ok(Rc::clone(current));
    }
    let generation = transaction::generation();
    let current = decide().inspect_err(|error| {
        audit::refused(error, settings::tenant().id(), settings::user().id());
    })?;
    let pin = transaction::pinned().unwrap_or_else(|| transaction::pin(current.tenant));
    TENANT_TEXT.set(pin.text().value());
    EXPIRES.set(current.expires);
    expiry::arm(current.expires);
    *CURRENT.borrow_mut() = Some(Rc::clone(&current));
    ANSWERED_FOR.set(session::login_role());
    ANSWERED.set(generation);
    Ok(current)
}

fn decide() -> Result<Rc<Current>, Error> {
    if parallel::is_worker() {
        let carried = parallel::carried().ok_or_else(|| no_context(Claimed::Nothing))?;
        return if expiry::is_past(carried.expires) { Err(identity::expired()) } else { Ok(Rc::new(carried)) };
    }
    let session = session::current();
    let proved = proved()?;
    let claimed = settings::tenant();
    let tenant = match (claimed, &proved) {
        (Claimed::Id(tenant), _) => tenant,
        _ if transaction::locked().is_some() && proved.as_ref().is_none_or(|proved| proved.proof.start.is_none()) => {
            return Err(locked()); // RESET amp.tenant_id
        }
        (_, Some(proved)) => proved.proof.start.ok_or_else(|| no_context(claimed))?,
        (_, None) => return Err(no_context(claimed)),
    };
    let user = match &proved {
        Some(proved) => {
            check_opens(proved, tenant)?;
            proved.proof.user
        }
        None => {
            admit(session)?;
            settings::user().id()
        }
    };
    if let Some(pin) = transaction::pinned()
        && pin.tenant != tenant
    {
        return Err(pinned(pin.tenant, tenant));
    }
    check_lock(tenant, user)?;
    if user.is_none() && settings::require_user() {
        return Err(Error::new(Code::NotAMember, "no user is set for this session")
            .detail("amp.require_user is on: a service has to name the user it acts for.")
            .hint("Run SET LOCAL amp.user_id = '...' in the transaction."));
    }
    let capped_by = proved.as_ref().and_then(|proved| proved.capped_by());
    let expires = proved.as_ref().map_or(expiry::NEVER, |proved| proved.proof.expires);
    // Most transactions of a session are the last one's tenant and user again.
    if let Some(last) = CURRENT.borrow().as_ref()
        && last.epoch == EPOCH.get()
        && (last.tenant, last.user, last.capped_by, last.expires) == (tenant, user, capped_by, expires)
    {
        check_account(proved.as_deref(), &last.verdict)?;
        return Ok(Rc::clone(last));
    }
    let epoch = if keeps() { EPOCH.get() } else { 0 };
    let mut verdict = verdict(tenant, user)?;
    check_account(proved.as_deref(), &verdict)?;
    if let Some(cap) = proved.as_ref().and_then(|proved| proved.cap.as_ref()) {
        verdict =
            Rc::new(Verdict { held: verdict.held.within(cap), role: verdict.role.clone(), account: verdict.account });
    }
    Ok(Rc::new(Current { tenant, user, verdict, capped_by, expires, epoch }))
}

/// The session's tenant, decided anew if anything has changed. Errors: as [`current`].
pub(crate) fn tenant() -> Result<Id, Error> {
    listen();
    check_premises();
    Ok(current()?.tenant)
}

/// Hears what other sessions have committed.
pub(crate) fn listen() {
    // SAFETY: in a transaction; an error of PostgreSQL becomes a panic here, for the frames above own things.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| AcceptInvalidationMessages()) };
}

/// Decides `SET amp.tenant_id` at the moment it is made. Errors: as [`current`], without the pin, which is checked at use.
pub(super) fn check_tenant(tenant: Id) -> Result<(), Error> {
    let decided = (|| {
        listen();
        let proved = proved()?;
        let user = match &proved {
            Some(proved) => {
                check_opens(proved, tenant)?;
                proved.proof.user
            }
            None => {
                admit(session::current())?;
                settings::user().id()
            }
        };
        check_lock(tenant, user)?;
        check_account(proved.as_deref(), &*verdict(tenant, user)?)
    })();
    decided.inspect_err(|error| audit::refused(error, Some(tenant), settings::user().id()))
}

/// Decides `SET amp.user_id` at the moment it is made. Errors: as [`check_tenant`]; TN006 a credential says who the user is.
pub(super) fn check_user(user: Id) -> Result<(), Error> {
    let decided = (|| {
        listen();
        if proved()?.is_some() {
            return Err(Error::new(Code::ContextPinned, "this session has proved who its user is: amp.user_id cannot be set")
                .hint("Pass another credential to amp.authenticate(), or give this one up: end the transaction, or RESET ALL. A bound role is its user."));
        }
        admit(session::current())?;
        if transaction::locked().is_some_and(|(_, locked)| locked != Some(user)) {
            return Err(locked());
        }
        match settings::tenant().id() {
            Some(tenant) => {
                check_lock(tenant, Some(user))?;
                verdict(tenant, Some(user)).map(|_| ())
            }
            None => membership::check_user(&user),
        }
    })();
    decided.inspect_err(|error| audit::refused(error, settings::tenant().id(), Some(user)))
}

/// Checks that a credential for one tenant lets its user in now. Errors: TN002, TN003, TN006 another tenant is pinned.
pub(crate) fn check_entry(tenant: Id, user: Id) -> Result<(), Error> {
    if let Some(pin) = transaction::pinned()
        && pin.tenant != tenant
    {
        return Err(pinned(pin.tenant, tenant));
    }
    let decided = verdict(tenant, Some(user)).map(|_| ());
    decided.inspect_err(|error| audit::refused(error, Some(tenant), Some(user)))
}

/// Locks the context until the transaction ends. Errors: as [`current`].
pub(super) fn lock() -> Result<(), Error> {
    let current = current()?;
    transaction::lock(current.tenant, current.user);
    Ok(())
}

/// Errors: TN006 the context is locked.
pub(crate) fn check_unlocked() -> Result<(), Error> {
    if transaction::locked().is_some() { Err(locked()) } else { Ok(()) }
}

fn check_lock(tenant: Id, user: Option<Id>) -> Result<(), Error> {
    match transaction::locked() {
        Some(context) if context != (tenant, user) => Err(locked()),
        _ => Ok(()),
    }
}

fn locked() -> Error {
    Error::new(Code::ContextPinned, "the context is locked until this transaction ends")
        .detail("amp.lock_context() was called in it.")
        .hint("COMMIT or ROLLBACK, then change tenant or user.")
}

/// Who the session has proved to be, if that is a user. An operator's login role has no view of tenants' rows, whatever it proves.
/// Errors: TN007, TN009.
fn proved() -> Result<Option<Rc<Identity>>, Error> {
    let session = session::current();
    if session.bypasses {
        return Err(bypasses());
    }
    let identity = identity::current()?;
    Ok(identity.filter(|identity| identity.proof.user.is_some() && (session.service || !session.operator)))
}

/// A credential for one tenant, or for an account, opens no other. Before anything else is asked of that one: who has it learns nothing of
/// where else its user is. Errors: TN003.
fn check_opens(proved: &Identity, tenant: Id) -> Result<(), Error> {
    if let Some(account) = proved.proof.account
        && membership::account_of(&tenant)? != Some(account)
    {
        return Err(opens_account_only(account));
    }
    match proved.proof.tenant {
        Some(only) if only != tenant => Err(Error::new(
            Code::NotAMember,
            format!("this session's credential opens tenant \"{}\" only", only.as_str()),
        )
        .hint("Pass a credential for the other tenant, or for all of the user's, to amp.authenticate().")),
        _ => Ok(()),
    }
}

/// The verdict is of a tenant that the credential opens: it may have been found later than that was asked. Errors: TN003.
fn check_account(proved: Option<&Identity>, verdict: &Verdict) -> Result<(), Error> {
    match proved.and_then(|proved| proved.proof.account) {
        Some(only) if verdict.account != Some(only) => Err(opens_account_only(only)),
        _ => Ok(()),
    }
}

fn opens_account_only(account: Id) -> Error {
    Error::new(
        Code::NotAMember,
        format!("this session's credential opens the tenants of account \"{}\" only", account.as_str()),
    )
    .hint("Pass a credential for the other tenant, or for all of the user's, to amp.authenticate().")
}

/// True if there is a tenant to resolve: one that was set, or the one that a proof starts in.
pub(super) fn has_tenant() -> Result<bool, Error> {
    if parallel::is_worker() {
        return Ok(parallel::carried().is_some());
    }
    Ok(settings::tenant().id().is_some() || proved_start()?.is_some())
}

/// The session's tenant, pinned for this transaction; None where none is set. Errors: as [`current`].
pub(crate) fn tenant_if_set() -> Result<Option<Id>, Error> {
    if has_tenant()? { current().map(|current| Some(current.tenant)) } else { Ok(None) }
}

fn proved_start() -> Result<Option<Id>, Error> {
    // Not an error for a superuser, who has nothing to prove and asks what he is.
    if session::current().bypasses {
        return Ok(None);
    }
    Ok(identity::current()?.and_then(|identity| identity.proof.start))
}

/// The user that the session acts as, also where no tenant is set. None when there is none.
/// Errors: TN003 the user is unknown, or the session may not choose; with a tenant, as [`current`]; TN007.
pub(super) fn user() -> Result<Option<Id>, Error> {
    if parallel::is_worker() {
        return Ok(parallel::carried_user());
    }
    // A locked context is a tenant and a user: where the tenant was given up, there is no user either.
    if settings::tenant().id().is_some() || transaction::locked().is_some() {
        return Ok(current()?.user);
    }
    if !session::current().bypasses
        && let Some(identity) = identity::current()?
        && identity.proof.user.is_some()
    {
        return Ok(identity.proof.user);
    }
    let Some(user) = settings::user().id() else {
        return Ok(None);
    };
    check_user(user)?;
    Ok(Some(user))
}

/// Whether this session may name a tenant, having proved no user. Errors: TN003.
fn admit(session: Session) -> Result<(), Error> {
    if session.trusted() {
        return Ok(());
    }
    let (why, hint) = if session.operator && !session.service {
        ("An operator runs the platform and has no view of tenants' rows.", "Connect as a service role for that.")
    } else if session.service {
        (
            "amp.require_token is on for this role: it has to prove every context.",
            "Pass the request's credential to amp.authenticate() in the transaction.",
        )
    } else {
        (
            "Only a trusted application service may name the tenant it acts for; everybody else proves who he is.",
            "Pass a credential to amp.authenticate(). If this login role is a service, GRANT amp_service TO it.",
        )
    };
    Err(Error::new(
        Code::NotAMember,
        format!("login role \"{}\" may not choose a tenant or user", session::login_name()),
    )
    .detail(why)
    .hint(hint))
}

/// From now on changes to the tables behind answers are noticed. Before each look-up: they may be others than in the last epoch.
pub(crate) fn watch() -> Result<(), Error> {
    while WATCHED.get().is_none() {
        let heard = HEARD.get();
        let watched = catalog::watched()?;
        // Whatever changed meanwhile may have been one of them.
        if HEARD.get() == heard {
            WATCHED.set(Some(watched));
        }
    }
    Ok(())
}

/// True if something was read from these tables, and none of them has changed since.
pub(super) fn is_watching() -> bool {
    WATCHED.get().is_some()
}

fn verdict(tenant: Id, user: Option<Id>) -> Result<Rc<Verdict>, Error> {
    let epoch = EPOCH.get();
    if let Some(verdicts) = VERDICTS.borrow().as_ref()
        && verdicts.epoch == epoch
        && let Some(known) = verdicts.known.get(&(tenant, user))
    {
        return Ok(Rc::clone(known));
    }
    watch()?;
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
            .hint("Set it in the transaction that uses it: BEGIN; SET LOCAL amp.tenant_id = '...'; ...; COMMIT. Add amp_tenancy to shared_preload_libraries."),
        _ => error.hint(match session::current() {
            session if session.trusted() => "Run SET amp.tenant_id = '...' as a service role, or SET LOCAL inside a transaction.",
            session if session.operator && !session.service => {
                "An operator acts for no tenant: name one in the function's tenant_id, or connect as a service role."
            }
            _ => "Pass a credential to amp.authenticate(); a user of several tenants then runs SET amp.tenant_id = '...'.",
        }),
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
