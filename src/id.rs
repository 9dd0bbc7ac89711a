//! Identifiers: their syntax, their canonical forms, and new ones.
//!
//! An id is 1 to 64 characters of `[A-Za-z0-9_-]`, kept inline so that a setting's hook can hold it without allocating.
//! A table may be keyed by uuid or bigint: an id then has to be that type's *canonical* text, so that two different ids
//! can never mean the same key (`1` and `01`, or two spellings of one uuid, would be two tenants sharing rows).

use rand::TryRngCore;
use rand::distr::{Alphanumeric, SampleString};

/// The longest id, in bytes.
pub(crate) const MAX_LEN: usize = 64;

/// A well-formed tenant or user id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct Id {
    len: u8,
    bytes: [u8; MAX_LEN],
}

impl Id {
    /// `None` unless `text` is 1 to 64 characters of `[A-Za-z0-9_-]`.
    pub(crate) fn parse(text: &[u8]) -> Option<Id> {
        if text.is_empty() || text.len() > MAX_LEN {
            return None;
        }
        if !text.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
            return None;
        }
        let mut bytes = [0; MAX_LEN];
        bytes[..text.len()].copy_from_slice(text);
        Some(Id { len: text.len() as u8, bytes })
    }

    pub(crate) fn as_str(&self) -> &str {
        // SAFETY: `parse` lets only ASCII in.
        unsafe { std::str::from_utf8_unchecked(&self.bytes[..self.len as usize]) }
    }

    /// The 16 bytes of a uuid, if the id is its canonical text (lower case, hyphenated).
    pub(crate) fn as_uuid(&self) -> Option<[u8; 16]> {
        let text = self.as_str().as_bytes();
        if text.len() != 36 {
            return None;
        }
        let mut uuid = [0; 16];
        let mut nibbles = 0;
        for (position, &byte) in text.iter().enumerate() {
            if matches!(position, 8 | 13 | 18 | 23) {
                if byte != b'-' {
                    return None;
                }
                continue;
            }
            let nibble = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return None,
            };
            uuid[nibbles / 2] |= nibble << if nibbles % 2 == 0 { 4 } else { 0 };
            nibbles += 1;
        }
        Some(uuid)
    }

    /// The number, if the id is its canonical decimal text (`-7`, not `+7`, `07` or `-0`).
    pub(crate) fn as_bigint(&self) -> Option<i64> {
        let number: i64 = self.as_str().parse().ok()?;
        (number.to_string() == self.as_str()).then_some(number)
    }
}

/// A new id: the prefix and 16 base62 characters (95 bits) from the operating system's generator.
pub(crate) fn generate(prefix: &str) -> String {
    let mut id = String::from(prefix);
    Alphanumeric.append_string(&mut rand::rngs::OsRng.unwrap_err(), &mut id, 16);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_contract_accepts() {
        for ok in ["a", "tnt_2xK9mPqR4vN8sT3w", "A-b_9", "42", "-1", &"x".repeat(64)] {
            assert_eq!(Id::parse(ok.as_bytes()).map(|id| id.as_str().to_owned()).as_deref(), Some(ok));
        }
        for bad in ["", " a", "a b", "a'b", "ä", "a\0", "a.b", &"x".repeat(65)] {
            assert!(Id::parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_has_one_spelling() {
        let id = |text: &str| Id::parse(text.as_bytes()).unwrap();
        assert_eq!(id("42").as_bigint(), Some(42));
        assert_eq!(id("-9223372036854775808").as_bigint(), Some(i64::MIN));
        for other in ["042", "-0", "4_2", "9223372036854775808", "-", "a"] {
            assert_eq!(id(other).as_bigint(), None, "{other}");
        }
        let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        assert_eq!(id(uuid).as_uuid().unwrap()[..4], [0xa0, 0xee, 0xbc, 0x99]);
        assert_eq!(id(uuid).as_uuid().unwrap()[15], 0x11);
        for other in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
            "a0eebc999-c0b-4ef8-bb6d-6bb9bd380a11",
            "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ] {
            assert_eq!(id(other).as_uuid(), None, "{other}");
        }
    }

    #[test]
    fn new_ids_are_well_formed_and_differ() {
        let (one, two) = (generate("tnt_"), generate("tnt_"));
        assert_eq!(one.len(), 20);
        assert!(Id::parse(one.as_bytes()).is_some());
        assert_ne!(one, two);
    }
}
