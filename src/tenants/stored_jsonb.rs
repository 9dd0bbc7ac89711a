//! A jsonb as PostgreSQL stores it (utils/jsonb.h), as far as it takes to give an object other values without unpacking the rest of it:
//! what a merged document costs beside the plain one is what is shared, not what is the tenant's own. Pure.
//!
//! A container is a word (its kind and its count), a word for each key and value (its kind and its length, or every so often where it
//! ends), and the keys and values, of which numbers and containers begin at a multiple of four. PostgreSQL checks none of it when it
//! reads: what is not as expected is None here, never a guess.

use std::collections::BTreeMap;

const COUNT: u32 = 0x0FFF_FFFF;
const SCALAR: u32 = 0x1000_0000;
const OBJECT: u32 = 0x2000_0000;

const LENGTH: u32 = 0x0FFF_FFFF;
const KIND: u32 = 0x7000_0000;
const ENDS_AT: u32 = 0x8000_0000;
const NUMBER: u32 = 0x1000_0000;
const CONTAINER: u32 = 0x5000_0000;

/// Every which word says where its value ends.
const STRIDE: usize = 32;

/// A key or value inside a container, without what it is filled up by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part<'a> {
    kind: u32,
    bytes: &'a [u8],
}

impl Part<'_> {
    fn is_aligned(&self) -> bool {
        self.kind == NUMBER || self.kind == CONTAINER
    }
}

/// A whole jsonb, as a part of another. A scalar is stored as a list of one.
pub(super) fn whole(jsonb: &[u8]) -> Option<Part<'_>> {
    match word(jsonb, 0)? & SCALAR {
        0 => Some(Part { kind: CONTAINER, bytes: jsonb }),
        _ => parts(jsonb, 1)?.pop(),
    }
}

/// An object with other values for these keys.
pub(super) fn with(object: &[u8], changes: &[(&str, Part)]) -> Option<Vec<u8>> {
    let header = word(object, 0)?;
    if header & OBJECT == 0 {
        return None;
    }
    let count = (header & COUNT) as usize;
    let parts = parts(object, 2 * count)?;
    let (keys, values) = parts.split_at(count);
    // Keys are sorted by their length, and then as bytes.
    let mut pairs: BTreeMap<(usize, &[u8]), Part> =
        keys.iter().zip(values).map(|(key, value)| ((key.bytes.len(), key.bytes), *value)).collect();
    pairs.extend(changes.iter().map(|(key, value)| ((key.len(), key.as_bytes()), *value)));

    let keys = pairs.keys().map(|(_, key)| Part { kind: 0, bytes: key });
    let mut data = Vec::with_capacity(object.len());
    let mut stored = Vec::with_capacity(4 + 8 * pairs.len());
    stored.extend((OBJECT | u32::try_from(pairs.len()).ok()?).to_ne_bytes());
    for (at, part) in keys.chain(pairs.values().copied()).enumerate() {
        let begin = data.len();
        if part.is_aligned() {
            data.resize(begin.next_multiple_of(4), 0);
        }
        data.extend_from_slice(part.bytes);
        let (length, flag) = if at % STRIDE == 0 { (data.len(), ENDS_AT) } else { (data.len() - begin, 0) };
        let length = u32::try_from(length).ok().filter(|length| *length <= LENGTH)?;
        stored.extend((part.kind | length | flag).to_ne_bytes());
    }
    (data.len() <= LENGTH as usize).then(|| {
        stored.append(&mut data);
        stored
    })
}

fn parts(container: &[u8], count: usize) -> Option<Vec<Part<'_>>> {
    let data = container.get(4 + 4 * count..)?;
    let mut end = 0;
    let part = |at| {
        let stored = word(container, 4 + 4 * at)?;
        let (begin, length) = (end, (stored & LENGTH) as usize);
        end = if stored & ENDS_AT == 0 { begin + length } else { length };
        let part = Part { kind: stored & KIND, bytes: &[] };
        let begin = if part.is_aligned() { begin.next_multiple_of(4) } else { begin };
        Some(Part { bytes: data.get(begin..end)?, ..part })
    };
    (0..count).map(part).collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn what_is_put_in_is_found_again() {
        let empty = words(&[OBJECT]);
        let text = Part { kind: 0, bytes: b"warm" };
        let number = Part { kind: NUMBER, bytes: b"12345678" };
        let list = words(&[0x4000_0000]);
        let list = whole(&list).unwrap();
        let object = with(&empty, &[("voice", text), ("n", number), ("zz", list)]).unwrap();
        // Shorter keys first; a number and a container begin at a multiple of four.
        assert_eq!(object[..4], words(&[OBJECT | 3]));
        let found = parts(&object, 6).unwrap();
        assert_eq!(found.iter().map(|part| part.bytes).collect::<Vec<_>>()[..3], [&b"n"[..], b"zz", b"voice"]);
        assert_eq!(found[3..], [number, list, text]);
        assert_eq!(with(&object, &[]).unwrap(), object);
        let other = with(&object, &[("voice", list), ("a", text)]).unwrap();
        assert_eq!(parts(&other, 8).unwrap()[4..], [text, number, list, list]);
    }

    #[test]
    fn ends_are_stored_every_so_often() {
        let names: Vec<String> = (0..100).map(|n| format!("key{n:03}")).collect();
        let value = Part { kind: NUMBER, bytes: b"12345678" };
        let changes: Vec<(&str, Part)> = names.iter().map(|name| (name.as_str(), value)).collect();
        let object = with(&words(&[OBJECT]), &changes).unwrap();
        let ends: Vec<usize> = (0..200).filter(|at| word(&object, 4 + 4 * at).unwrap() & ENDS_AT != 0).collect();
        assert_eq!(ends, [0, 32, 64, 96, 128, 160, 192]);
        assert!(parts(&object, 200).unwrap()[100..].iter().all(|part| *part == value));
    }

    #[test]
    fn a_scalar_is_a_list_of_one() {
        let mut scalar = words(&[0x5000_0001, 4 | ENDS_AT]);
        scalar.extend(b"warm");
        assert_eq!(whole(&scalar), Some(Part { kind: 0, bytes: b"warm" }));
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let object = with(&words(&[OBJECT]), &[("voice", Part { kind: 0, bytes: b"warm" })]).unwrap();
        for length in 0..object.len() {
            assert_eq!(with(&object[..length], &[]), None);
        }
        assert_eq!(with(&words(&[0x4000_0000]), &[]), None);
        assert_eq!(with(&words(&[OBJECT | COUNT]), &[]), None);
    }
}
