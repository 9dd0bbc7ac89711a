//! Secrets of tenants: encrypted in the tables, under a key that only the server's file system holds.
//!
//! `amp.secret_key_file` names a file of keys ([`key_file`]); each tenant's own key is derived from one of them, and a secret is sealed with
//! the tenant and the path that it is for ([`cipher`]), so that a ciphertext opens nowhere else. Nothing of it is kept in the
//! backend: the file is read when a secret is stored or read, and a key that was added or taken out counts at once. The statement that brings one is kept
//! out of the server's log ([`statement`]).

mod cipher;
mod functions;
mod key_file;
mod statement;

pub(crate) use functions::seal;

pub(crate) fn init() {
    key_file::init();
    statement::init();
}
