//! The table's file: written when the server stops, read when it starts, and removed then, so that what a crash loses is not replaced by
//! what was true long before.

use super::table::{Entry, Table};
use pgrx::prelude::*;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};

/// Beside PostgreSQL's own statistics, in the data directory, which is the server's current one.
const PATH: &str = "pg_stat/amp_tenancy.stat";
const UNFINISHED: &str = "pg_stat/amp_tenancy.stat.tmp";

/// What it begins with: a file of another format is a broken one.
const MAGIC: &[u8; 8] = b"ampstat1";
const HASH: usize = 32;

/// Fills the table with what was saved. A file that cannot be read is none, and the log says so.
pub(super) fn read(table: &mut Table) {
    let saved = match fs::read(PATH) {
        Ok(saved) => saved,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                log!("amp_tenancy: could not read file \"{PATH}\", amp.stat_tenants begins anew: {error}");
            }
            return;
        }
    };
    match decode(&saved) {
        Some(entries) => table.restore(entries),
        None => log!("amp_tenancy: ignoring invalid file \"{PATH}\", amp.stat_tenants begins anew"),
    }
    if let Err(error) = fs::remove_file(PATH) {
        log!("amp_tenancy: could not remove file \"{PATH}\": {error}");
    }
}

/// Saves the table, if nobody died while he changed it.
pub(super) fn write(table: &Table) {
    if !table.is_whole() {
        log!("amp_tenancy: amp.stat_tenants was being changed when the server stopped, and is not saved");
        return;
    }
    let saved = encode(table.entries());
    let written = File::create(UNFINISHED)
        .and_then(|mut file| file.write_all(&saved).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(UNFINISHED, PATH))
        .and_then(|()| File::open("pg_stat")?.sync_all());
    if let Err(error) = written {
        log!("amp_tenancy: could not write file \"{PATH}\": {error}");
        let _ = fs::remove_file(UNFINISHED);
    }
}

fn encode(entries: impl Iterator<Item = Entry>) -> Vec<u8> {
    let mut saved = MAGIC.to_vec();
    for entry in entries {
        entry.encode(&mut saved);
    }
    let hash = Sha256::digest(&saved);
    saved.extend(hash);
    saved
}

fn decode(saved: &[u8]) -> Option<Vec<Entry>> {
    let (content, hash) = saved.split_last_chunk::<HASH>()?;
    let (entries, rest) = content.strip_prefix(MAGIC)?.as_chunks::<{ Entry::SAVED }>();
    if !rest.is_empty() || Sha256::digest(content)[..] != hash[..] {
        return None;
    }
    entries.iter().map(Entry::decode).collect()
}

#[cfg(test)]
mod tests {
    use super::super::table::{Key, Totals};
    use super::*;
    use crate::id::Id;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let key = |database| Key { database, tenant: Id::parse(b"ant").unwrap() };
        let entry = |database| Entry { key: key(database), since: 1, score: 2, totals: Totals([3; _]) };
        let saved = encode((0..3).map(entry));
        let read = decode(&saved).unwrap();
        assert!(read.iter().map(|entry| entry.key.database).eq(0..3) && read[2].totals == Totals([3; _]));
        assert!(decode(&encode(std::iter::empty())).unwrap().is_empty());
        for end in 0..saved.len() {
            assert!(decode(&saved[..end]).is_none());
        }
        for at in 0..saved.len() {
            let mut broken = saved.clone();
            broken[at] ^= 1;
            assert!(decode(&broken).is_none());
        }
    }
}
