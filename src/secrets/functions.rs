//! The functions behind secrets, declared in sql/secrets.sql.

use super::cipher::{self, NONCE_LEN};
use super::key_file::{self, Key, KeyRing};
use crate::error::{Code, Error, guarded};
use crate::function::{raw_function, return_text, text};
use pgrx::pg_sys::{Datum, FunctionCallInfo};
use pgrx::{FromDatum, IntoDatum};
use rand::TryRngCore;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

/// What is to be stored of a secret.
pub(crate) struct Sealed<'a> {
    pub(crate) path: &'a str,
    pub(crate) key_id: String,
    pub(crate) ciphertext: Vec<u8>,
}

/// Seals a tenant's secrets, given by their path, under the newest key. Errors: 55000 there is none.
pub(crate) fn seal<'a>(tenant: &str, secrets: &'a [(String, String)]) -> Result<Vec<Sealed<'a>>, Error> {
    let keys = key_file::read()?;
    let key = keys.newest();
    let sealed = secrets.iter().map(|(path, text)| {
        Ok(Sealed { path, key_id: key.id().to_owned(), ciphertext: seal_under(key, tenant, path, text)? })
    });
    sealed.collect()
}

fn seal_under(key: &Key, tenant: &str, path: &str, text: &str) -> Result<Vec<u8>, Error> {
    let mut nonce = [0; NONCE_LEN];
    let sealed = match OsRng.try_fill_bytes(&mut nonce) {
        Ok(()) => cipher::seal(key, tenant, path, text, nonce),
        Err(_) => None,
    };
    sealed.ok_or_else(|| {
        Error::new(Code::NotReady, "the secret could not be encrypted")
            .hint("The operating system's random generator failed: try again.")
    })
}

fn key_of<'a>(keys: &'a KeyRing, id: &str, path: &str) -> Result<&'a Key, Error> {
    keys.find(id).ok_or_else(|| {
        Error::new(Code::NotReady, format!("the key of secret {path} is not in the file of keys"))
            .log_detail(format!("The key is {id}."))
            .hint("Put that key back into the file of amp.secret_key_file, or store the secret anew.")
    })
}

/// A row of amp.secrets.
struct Stored {
    tenant: String,
    path: String,
    key: String,
    sealed: Vec<u8>,
}

impl Stored {
    /// # Safety
    /// `fcinfo` is the function manager's; the function is STRICT, and its first arguments are three texts and a bytea.
    unsafe fn of(fcinfo: FunctionCallInfo) -> Stored {
        // SAFETY: by the contract above.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(4);
            let sealed = Vec::<u8>::from_datum(arguments[3].value, false).unwrap_or_default();
            Stored { tenant: text(arguments[0]), path: text(arguments[1]), key: text(arguments[2]), sealed }
        }
    }

    /// Errors: 55000 its key is not in the file, XX001 it is not what was stored there.
    fn open(&self, keys: &KeyRing) -> Result<Zeroizing<String>, Error> {
        let key = key_of(keys, &self.key, &self.path)?;
        cipher::open(key, &self.tenant, &self.path, &self.sealed).ok_or_else(|| {
            Error::new(Code::DataCorrupted, format!("secret {} does not decrypt", self.path))
                .detail("What is stored was changed, or belongs to another tenant or path.")
                .hint("Store the secret anew.")
        })
    }
}

raw_function! {
    /// `amp.open_secret(tenant text, path text, key_id text, sealed bytea) → text`
    amp_open_secret, pg_finfo_amp_open_secret, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with these arguments.
        unsafe { return_text(fcinfo, || Ok(Some(Stored::of(fcinfo).open(&key_file::read()?)?.to_string()))) }
    }
}

raw_function! {
    /// `amp.reseal_secret(tenant text, path text, key_id text, sealed bytea, new_key_id text) → bytea`: the same secret under that key.
    amp_reseal_secret, pg_finfo_amp_reseal_secret, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with these arguments.
        unsafe {
            guarded(|| {
                let (stored, keys) = (Stored::of(fcinfo), key_file::read()?);
                let new = text((*fcinfo).args.as_slice(5)[4]);
                let new = key_of(&keys, &new, &stored.path)?;
                let sealed = seal_under(new, &stored.tenant, &stored.path, &stored.open(&keys)?)?;
                Ok(sealed.into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}

raw_function! {
    /// `amp.newest_secret_key() → text`: the id of the key that encrypts.
    amp_newest_secret_key, pg_finfo_amp_newest_secret_key, |fcinfo| {
        // SAFETY: this frame owns nothing; fcinfo is the function manager's.
        unsafe { return_text(fcinfo, || Ok(Some(key_file::read()?.newest().id().to_owned()))) }
    }
}
