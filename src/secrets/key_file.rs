//! The file of keys, `amp.secret_key_file`.
//!
//! A line is a key: 32 bytes in hexadecimal, as `openssl rand -hex 32` prints them. The first one encrypts, all of them decrypt; empty lines
//! and lines that begin with `#` are not read. The file has to belong to the server and be closed to everybody else, or to belong to root and be
//! readable by the server's group at most: PostgreSQL's rule for the keys of TLS (check_ssl_key_file_permissions).

use crate::error::{Code, Error};
use hkdf::Hkdf;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use sha2::Sha256;
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

static FILE_SETTING: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// The longest file, in bytes.
const MAX_LEN: u64 = 64 * 1024;

pub(super) fn init() {
    GucRegistry::define_string_guc(
        c"amp.secret_key_file",
        c"The file of keys under which tenants' secrets are encrypted.",
        c"An absolute path; each line is 32 bytes in hexadecimal, of which the first one encrypts.",
        &FILE_SETTING,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
}

/// A key, and how it is called in the tables.
pub(super) struct Key {
    id: String,
    bytes: Zeroizing<[u8; 32]>,
}

impl Key {
    pub(super) fn new(bytes: [u8; 32]) -> Key {
        let bytes = Zeroizing::new(bytes);
        let mut id = [0; 8];
        // Eight bytes are always to be had.
        let _ = Hkdf::<Sha256>::new(None, &*bytes).expand(b"amp_tenancy key id 1", &mut id);
        Key { id: hex::encode(id), bytes }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &*self.bytes
    }
}

/// The keys of the file; at least one.
pub(super) struct KeyRing(Vec<Key>);

impl KeyRing {
    /// The key that encrypts.
    pub(super) fn newest(&self) -> &Key {
        &self.0[0]
    }

    pub(super) fn find(&self, id: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }
}

/// Reads the file. Errors: 55000 there is none, it cannot be read, others can read it, or it is malformed.
pub(super) fn read() -> Result<KeyRing, Error> {
    let setting = FILE_SETTING.get();
    let Some(path) = setting.as_deref().filter(|path| !path.is_empty()) else {
        return Err(Error::new(Code::NotReady, "there is no key to encrypt secrets with")
            .detail("amp.secret_key_file is not set.")
            .hint("Write the output of \"openssl rand -hex 32\" to a file that only the server can read, and name it in postgresql.conf: amp.secret_key_file = '/...'."));
    };
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    match contents(path) {
        Ok(text) => parse(&text).map_err(|why| unusable(path, &why)),
        Err(why) => Err(unusable(path, &why)),
    }
}

/// The path and the reason are for the server's log: a client has no business there.
fn unusable(path: &Path, why: &str) -> Error {
    Error::new(Code::NotReady, "the file of keys for secrets cannot be used")
        .log_detail(format!("amp.secret_key_file \"{}\": {why}.", path.display()))
        .hint("The server's log says why.")
}

fn contents(path: &Path) -> Result<Zeroizing<String>, String> {
    if !path.is_absolute() {
        return Err("the path is not absolute".to_owned());
    }
    let failed = |error: io::Error| error.to_string();
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err("it is not a regular file".to_owned()); // nobody waits for a pipe
    }
    let file = fs::File::open(path).map_err(failed)?;
    // What was opened is looked at, not what stands at the path by now.
    let metadata = file.metadata().map_err(failed)?;
    check_permissions(metadata.permissions().mode(), metadata.uid(), server_user()?)?;
    let mut text = Zeroizing::new(String::with_capacity(MAX_LEN as usize + 1)); // never moved, so that no copy is left behind
    file.take(MAX_LEN + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_LEN { Err(format!("it is longer than {MAX_LEN} bytes")) } else { Ok(text) }
}

/// The user that the server runs as: the owner of its data directory, without which it does not start.
fn server_user() -> Result<u32, String> {
    // SAFETY: a text that the server sets when it starts.
    let data = unsafe { CStr::from_ptr(pg_sys::DataDir) };
    fs::metadata(OsStr::from_bytes(data.to_bytes())).map(|data| data.uid()).map_err(|error| error.to_string())
}

fn check_permissions(mode: u32, owner: u32, server: u32) -> Result<(), String> {
    let forbidden = match owner {
        _ if owner == server => 0o077,
        0 => 0o037,
        _ => return Err("it belongs to neither the server's user nor root".to_owned()),
    };
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(format!("others can use it (mode {:04o}); it has to be 0600, or 0640 if it belongs to root", mode & 0o7777))
}

fn parse(text: &str) -> Result<KeyRing, String> {
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut bytes = Zeroizing::new([0; 32]);
        // Nothing of the line is told: it is a key with a slip in it.
        hex::decode_to_slice(line, &mut *bytes)
            .map_err(|_| format!("line {} is not 32 bytes in hexadecimal (64 digits)", number + 1))?;
        keys.push(Key::new(*bytes));
    }
    if keys.is_empty() { Err("it holds no key".to_owned()) } else { Ok(KeyRing(keys)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_encrypts_and_all_are_found() {
        let (one, two) = ("01".repeat(32), "Fe".repeat(32));
        let ring = parse(&format!("# keys\n\n  {one}  \r\n{two}")).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(ring.newest().bytes(), [1; 32]);
        let second = Key::new([0xfe; 32]);
        assert_eq!(ring.find(second.id()).map(|key| key.bytes().to_vec()), Some(vec![0xfe; 32]));
        assert!(ring.find("0000000000000000").is_none());
        assert_eq!(second.id().len(), 16);
    }

    #[test]
    fn a_slip_is_named_by_its_line_alone() {
        let short = "ab".repeat(31);
        for (text, line) in [(format!("#\n{short}"), "line 2"), ("xyz".into(), "line 1"), ("".into(), "no key")] {
            let why = parse(&text).err().unwrap();
            assert!(why.contains(line) && !why.contains("ab"), "{why}");
        }
    }

    #[test]
    fn others_must_not_read_it() {
        for (mode, owner, allowed) in [
            (0o100600, 70, true),
            (0o100400, 70, true),
            (0o100640, 70, false),
            (0o100604, 70, false),
            (0o100640, 0, true),
            (0o100600, 0, true),
            (0o100660, 0, false),
            (0o100644, 0, false),
            (0o100600, 1000, false),
        ] {
            assert_eq!(check_permissions(mode, owner, 70).is_ok(), allowed, "{mode:o} of {owner}");
        }
    }
}
