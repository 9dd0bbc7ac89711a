//! Identity: who a session has proved to be.
//!
//! A proof comes from a credential that `amp.authenticate()` accepted ([`api_key`], [`token`]) or from PostgreSQL itself, for a
//! login role that an operator has bound to a user ([`bound_role`]). An accepted credential is kept as a [`proof`] in a setting
//! that nobody but this module can write: PostgreSQL ends it with the transaction, the savepoint or the session that it
//! belongs to, and takes it along to parallel workers.
//!
//! A proof is believed only as long as what it rests on: in every epoch (see [`resolve`]) its key, signing key or binding is read
//! again, and its expiry is checked against the clock at every use ([`expiry`]). A proof can only narrow what a session may
//! do: it names one user, perhaps one tenant, perhaps a cap on permissions; or it is an operator's, and opens no tenant.

mod api_key;
mod authenticate;
mod bound_role;
mod claims;
mod credential;
pub(crate) mod expiry;
mod once;
pub(crate) mod proof;
mod signing_key;
mod token;

pub(crate) use authenticate::iso;

use crate::backend::Local;
use crate::context::catalog;
use crate::context::resolve;
use crate::context::session::{self, Session};
use crate::error::{Code, Error};
use crate::id::Id;
use crate::tenants::permissions::Held;
use pgrx::pg_sys;
use proof::{By, Proof};
use std::cell::RefCell;
use std::rc::Rc;

/// The last identity that was confirmed, and when and for whom.
static CONFIRMED: Local<RefCell<Option<Confirmed>>> = Local::new(RefCell::new(None));

struct Confirmed {
    epoch: u64,
    login_role: pg_sys::Oid,
    identity: Rc<Identity>,
}

/// Who the session has proved to be.
pub(crate) struct Identity {
    pub(crate) proof: Proof,
    /// The permissions beyond which an API key gives none; None for no cap.
    pub(crate) cap: Option<Held>,
}

impl Identity {
    /// The API key that caps permissions, if one does.
    pub(crate) fn capped_by(&self) -> Option<Id> {
        self.cap.as_ref().and_then(|_| Id::parse(self.proof.credential.as_bytes()))
    }
}

pub(crate) fn init() {
    proof::init();
    token::init();
    once::init();
}

/// Who the session has proved to be; None if it has proved nothing.
/// Errors: TN007 the proof has expired, or what it rested on was revoked.
///
/// A parallel worker has the setting, but not the transaction that it was made in: it answers from what the leader found
/// (`context::parallel`), and whoever asks for more there has labelled his function wrongly.
pub(crate) fn current() -> Result<Option<Rc<Identity>>, Error> {
    // SAFETY: reads a variable of the backend.
    if unsafe { pg_sys::ParallelWorkerNumber >= 0 } {
        return Err(Error::new(Code::ContextPinned, "a parallel worker cannot say who the session has proved to be")
            .hint("Label the function that asks PARALLEL RESTRICTED."));
    }
    let session = session::current();
    let proof = proof::current();
    if proof.is_none() && !answers_to_binding(session) {
        return Ok(None);
    }
    if let Some(proof) = &proof
        && expiry::is_past(proof.expires)
    {
        return Err(expired());
    }
    let (epoch, login_role) = (resolve::epoch(), session::login_role());
    if let Some(known) = CONFIRMED.borrow().as_ref()
        && (known.epoch, known.login_role) == (epoch, login_role)
        && match &proof {
            Some(proof) => known.identity.proof == *proof,
            None => known.identity.proof.by == By::LoginRole,
        }
    {
        return Ok(Some(Rc::clone(&known.identity)));
    }
    resolve::watch()?;
    let identity = match proof {
        None => match bound_role::identity(login_role)? {
            Some(identity) => identity,
            None => return Ok(None),
        },
        Some(proof) => Identity {
            cap: match proof.by {
                By::ApiKey => api_key::confirm(&proof)?,
                By::Token => signing_key::confirm(&proof).map(|()| None)?,
                By::LoginRole => return Err(revoked()),
            },
            proof,
        },
    };
    Ok(Some(keep(epoch, identity)))
}

/// Keeps what was found in an epoch, unless something changed meanwhile.
fn keep(epoch: u64, identity: Identity) -> Rc<Identity> {
    let identity = Rc::new(identity);
    if resolve::epoch() == epoch && resolve::keeps() {
        let login_role = session::login_role();
        *CONFIRMED.borrow_mut() = Some(Confirmed { epoch, login_role, identity: Rc::clone(&identity) });
    }
    identity
}

/// True if the session has proved to be an operator. Never an error: whoever asks has other ways to be one.
pub(crate) fn proves_operator() -> bool {
    proof::current().is_some_and(|proof| proof.user.is_none())
        && current().is_ok_and(|identity| identity.is_some_and(|identity| identity.proof.user.is_none()))
}

/// Whether a login role is bound to a user: it is his alone.
pub(crate) fn is_bound(login_role: pg_sys::Oid) -> Result<bool, Error> {
    Ok(bound_role::identity(login_role)?.is_some())
}

/// True where being bound to a user counts: for operators and trusted services, their group does.
fn answers_to_binding(session: Session) -> bool {
    !session.operator && !session.trusted()
}

/// The tenant that a user starts in: his default one.
fn default_tenant(user: &Id) -> Result<Option<Option<Id>>, Error> {
    let default = catalog::row(&catalog::USERS, &[user.as_str()], |row| row.get::<String>(3))?;
    Ok(default.map(|tenant| tenant.and_then(|tenant| Id::parse(tenant.as_bytes()))))
}

/// TN007: it was right, and is over.
pub(crate) fn expired() -> Error {
    Error::new(Code::ProofExpired, "the credential has expired")
        .hint("Get a new one, and pass it to amp.authenticate().")
}

fn revoked() -> Error {
    Error::new(Code::ProofExpired, "the credential is no longer valid")
        .detail("It was revoked, or the key that signed it was retired.")
        .hint("Get a new one, and pass it to amp.authenticate().")
}
