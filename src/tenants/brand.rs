//! A tenant's brand context, and what others share into it. Pure.
//!
//! An element is a dotted path of keys, such as `voice.personality`. What a tenant reads is its own document on top of the elements
//! that are shared with it: an own value always wins, objects merge. Between shares, the longer path is nearer and stands in its place
//! whole; of one element from two sources, the older share is used alone.

use super::config::{Invalid, differences, join};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The longest document, as compact JSON, in bytes.
pub(super) const MAX_LEN: usize = 2 * 1024 * 1024;

/// The most elements that one call shares.
const MAX_ELEMENTS: usize = 100;

/// The most keys of an element.
const MAX_KEYS: usize = 8;

/// The most paths that are listed: as changed by a patch, or as overridden in an element.
const MAX_LISTED: usize = 100;

/// The most keys that a wrong one is compared with, and how much of one is shown, in characters.
const MAX_COMPARED: usize = 1000;
const SHOWN: usize = 80;

/// An element that is in force for a tenant, with its present value.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) element: String,
    pub(super) source: String,
    /// Since when it is shared, and until when; PostgreSQL's microseconds.
    pub(super) since: i64,
    pub(super) expires: i64,
    pub(super) value: Value,
}

/// Where an element of a merged document is from.
#[derive(Debug, PartialEq)]
pub(super) struct Origin {
    pub(super) element: String,
    pub(super) source: String,
    pub(super) expires: i64,
    /// Where in it the tenant's own value stands.
    pub(super) overridden: Vec<String>,
}

/// Puts a tenant's own document on top of what is shared with it.
pub(super) fn merge(own: &Value, mut shares: Vec<Share>) -> (Value, Vec<Origin>) {
    let rank =
        |share: &Share| (share.element.matches('.').count(), share.element.clone(), share.since, share.source.clone());
    shares.sort_by_cached_key(rank);
    shares.dedup_by(|later, first| later.element == first.element);
    let elements: BTreeSet<String> = shares.iter().map(|share| share.element.clone()).collect();
    let mut merged = Value::Object(Map::new());
    let mut origins: Vec<Origin> = Vec::new();
    for share in shares {
        let mut overridden = Vec::new();
        match own_at(own, &share.element) {
            Ok(Some(own)) => overrides(&share.element, &share.value, own, &elements, &mut overridden),
            Ok(None) => {}
            Err(above) => overridden.push(above),
        }
        if let Some(displaced) = put(&mut merged, &share.element, share.value) {
            origins.retain(|origin| origin.element != displaced);
        }
        let Share { element, source, expires, .. } = share;
        origins.push(Origin { element, source, expires, overridden });
    }
    overlay(&mut merged, own);
    origins.sort_by(|one, other| one.element.cmp(&other.element));
    (merged, origins)
}

/// The own value at an element; an error names the own value above it that is no object.
fn own_at<'a>(own: &'a Value, element: &str) -> Result<Option<&'a Value>, String> {
    let (mut value, mut path) = (own, String::new());
    for key in element.split('.') {
        let Value::Object(keys) = value else { return Err(path) };
        let Some(found) = keys.get(key) else { return Ok(None) };
        (value, path) = (found, join(&path, key));
    }
    Ok(Some(value))
}

/// Lists where an own value stands in the place of a shared one, but for what is nearer shared by itself.
fn overrides(path: &str, shared: &Value, own: &Value, elements: &BTreeSet<String>, found: &mut Vec<String>) {
    match (shared, own) {
        _ if found.len() >= MAX_LISTED => {}
        (Value::Object(shared), Value::Object(own)) => {
            for (key, value) in shared {
                let path = join(path, &shown(key));
                if let Some(own) = own.get(key)
                    && !elements.contains(&path)
                {
                    overrides(&path, value, own, elements, found);
                }
            }
        }
        _ => found.push(path.to_owned()),
    }
}

/// Puts a value at an element. Returns the path above it that held no object, and does now.
fn put(document: &mut Value, element: &str, value: Value) -> Option<String> {
    let (mut at, mut path, mut displaced) = (document, String::new(), None);
    for key in element.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
            displaced = Some(path.clone());
        }
        at = &mut at[key]; // inserts a null
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
        path = join(&path, key);
    }
    *at = value;
    displaced
}

fn overlay(document: &mut Value, own: &Value) {
    match (document, own) {
        (Value::Object(document), Value::Object(own)) => {
            for (key, value) in own {
                match document.get_mut(key) {
                    Some(present) => overlay(present, value),
                    None => {
                        document.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (document, own) => document.clone_from(own),
    }
}

/// A key as a path shows it: between quotation marks unless it can be one of an element.
fn shown(key: &str) -> String {
    if is_key(key) { key.to_owned() } else { Value::from(key.chars().take(SHOWN).collect::<String>()).to_string() }
}

fn is_key(key: &str) -> bool {
    (1..=63).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// What a merge patch (RFC 7396) makes of a document, and the paths whose value is another one now.
pub(super) fn patch(old: &Value, patch: &Value) -> Result<(Value, Vec<String>), Invalid> {
    let mut document = old.clone();
    json_patch::merge(&mut document, patch);
    if !document.is_object() || document.to_string().len() > MAX_LEN {
        return Err(Invalid::at("brand context", &document, "an object of at most 2 MB as JSON"));
    }
    let mut changed = Vec::new();
    differences("", old, &document, &mut changed);
    changed.sort_unstable();
    if changed.len() > MAX_LISTED {
        let more = changed.split_off(MAX_LISTED).len();
        changed.push(format!("and {more} more"));
    }
    Ok((document, changed))
}

/// What is wrong with a list of elements.
#[derive(Debug, PartialEq)]
pub(super) enum Wrong {
    Count(usize),
    Syntax(String),
    /// The document has none such; the nearest that it has.
    Unknown(String, Option<String>),
}

/// Checks that elements are well-formed and that the document has them; each of them once.
pub(super) fn elements(document: &Value, given: Vec<Option<String>>) -> Result<Vec<String>, Wrong> {
    if !(1..=MAX_ELEMENTS).contains(&given.len()) {
        return Err(Wrong::Count(given.len()));
    }
    let mut elements = BTreeSet::new();
    for element in given {
        let element = element.ok_or_else(|| Wrong::Syntax("NULL".to_owned()))?;
        if element.split('.').count() > MAX_KEYS || !element.split('.').all(is_key) {
            return Err(Wrong::Syntax(shown(&element)));
        }
        if !matches!(own_at(document, &element), Ok(Some(_))) {
            let nearest = nearest(document, &element);
            return Err(Wrong::Unknown(element, nearest));
        }
        elements.insert(element);
    }
    Ok(elements.into_iter().collect())
}

/// The document's element that is nearest to one that it lacks: as far as it has the keys, and then the likest one.
fn nearest(document: &Value, element: &str) -> Option<String> {
    let (mut value, mut path) = (document, String::new());
    for key in element.split('.') {
        let keys = value.as_object()?;
        if let Some(found) = keys.get(key) {
            (value, path) = (found, join(&path, key));
            continue;
        }
        return likest(key, keys.keys().filter(|key| is_key(key)).take(MAX_COMPARED).map(String::as_str))
            .map(|key| join(&path, key));
    }
    None
}

fn likest<'a>(key: &str, keys: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = keys.map(|known| (strsim::normalized_damerau_levenshtein(known, key), known));
    near.filter(|(likeness, _)| *likeness > 0.4).max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn share(element: &str, source: &str, since: i64, value: Value) -> Share {
        Share { element: element.into(), source: source.into(), since, expires: i64::MAX, value }
    }

    fn merged(own: Value, shares: Vec<Share>) -> (Value, Vec<(String, String, Vec<String>)>) {
        let (document, origins) = merge(&own, shares);
        (document, origins.into_iter().map(|origin| (origin.element, origin.source, origin.overridden)).collect())
    }

    fn origin(element: &str, source: &str, overridden: &[&str]) -> (String, String, Vec<String>) {
        (element.into(), source.into(), overridden.iter().map(|path| (*path).into()).collect())
    }

    #[test]
    fn an_own_value_wins_and_objects_merge() {
        let shared = json!({"colors": {"primary": "red", "accent": "blue"}, "fonts": ["a", "b"], "logo": "x"});
        let own = json!({"visual": {"colors": {"primary": "green"}, "fonts": ["c"], "shape": "round"}});
        assert_eq!(
            merged(own, vec![share("visual", "corp", 1, shared)]),
            (
                json!({"visual": {"colors": {"primary": "green", "accent": "blue"}, "fonts": ["c"], "logo": "x", "shape": "round"}}),
                vec![origin("visual", "corp", &["visual.colors.primary", "visual.fonts"])]
            )
        );
    }

    #[test]
    fn an_own_value_above_an_element_hides_it() {
        let shares = || vec![share("voice.personality", "corp", 1, json!("warm"))];
        for (own, overridden) in [
            (json!({"voice": "loud"}), &["voice"][..]),
            (json!({"voice": []}), &["voice"]),
            (json!({"voice": {"personality": {"calm": true}}}), &["voice.personality"]),
        ] {
            assert_eq!(merged(own.clone(), shares()), (own, vec![origin("voice.personality", "corp", overridden)]));
        }
        assert_eq!(
            merged(json!({"voice": {}}), shares()),
            (json!({"voice": {"personality": "warm"}}), vec![origin("voice.personality", "corp", &[])])
        );
    }

    #[test]
    fn the_longer_path_is_nearer_and_stands_whole() {
        let shares = vec![
            share("voice.personality", "emea", 9, json!({"a": 9})),
            share("voice", "corp", 1, json!({"personality": {"a": 1, "b": 2}, "tone": "warm"})),
        ];
        assert_eq!(
            merged(json!({"voice": {"personality": {"a": 5}}}), shares),
            (
                json!({"voice": {"personality": {"a": 5}, "tone": "warm"}}),
                vec![origin("voice", "corp", &[]), origin("voice.personality", "emea", &["voice.personality.a"])]
            )
        );
        // What is no object makes room for the nearer one, and is not listed: nothing is left of it.
        let shares =
            vec![share("voice", "corp", 1, json!("loud")), share("voice.personality", "emea", 9, json!("warm"))];
        assert_eq!(
            merged(json!({}), shares),
            (json!({"voice": {"personality": "warm"}}), vec![origin("voice.personality", "emea", &[])])
        );
    }

    #[test]
    fn of_one_element_the_older_share_is_used_alone() {
        let of = |source, since| share("voice", source, since, json!({source: 1}));
        for shares in [vec![of("a", 2), of("b", 1)], vec![of("b", 1), of("a", 2)], vec![of("b", 1), of("c", 1)]] {
            assert_eq!(merged(json!({}), shares), (json!({"voice": {"b": 1}}), vec![origin("voice", "b", &[])]));
        }
    }

    #[test]
    fn odd_keys_are_keys() {
        let odd = json!({"": 1, "a.b": {"c": 2}, "__proto__": {"x": 3}, "\u{fc}": 4, "0": null});
        let (document, origins) = merged(json!({"v": odd}), vec![share("v", "corp", 1, odd.clone())]);
        assert_eq!(document, json!({"v": odd}));
        assert_eq!(origins, [origin("v", "corp", &["v.\"\"", "v.0", "v.__proto__.x", "v.\"a.b\".c", "v.\"\u{fc}\""])]);
        // A list is not walked into: "0" is a key, not a place.
        assert_eq!(
            elements(&json!({"list": [1]}), vec![Some("list.0".into())]),
            Err(Wrong::Unknown("list.0".into(), None))
        );
    }

    #[test]
    fn what_is_listed_has_an_end() {
        let many: Value = (0..5000).map(|n| (format!("key{n}"), json!(n))).collect::<Map<_, _>>().into();
        let own = json!({ "v": many });
        let (_, origins) = merge(&own, vec![share("v", "corp", 1, many.clone())]);
        assert_eq!(origins[0].overridden.len(), MAX_LISTED);
        let (_, changed) = patch(&json!({}), &many).unwrap();
        assert_eq!((changed.len(), changed.last().unwrap().as_str()), (MAX_LISTED + 1, "and 4900 more"));
    }

    #[test]
    fn a_patch_changes_what_it_names_up_to_a_size() {
        let old = json!({"voice": {"tone": "warm", "pace": 1}});
        let (new, changed) = patch(&old, &json!({"voice": {"tone": null, "pace": 2}})).unwrap();
        assert_eq!((new, changed), (json!({"voice": {"pace": 2}}), vec!["voice.pace".into(), "voice.tone".into()]));
        assert!(patch(&old, &json!({})).unwrap().1.is_empty());
        assert!(patch(&json!({}), &json!({"a": "x".repeat(MAX_LEN - 8)})).is_ok());
        assert!(patch(&json!({}), &json!({"a": "x".repeat(MAX_LEN - 7)})).is_err());
        assert!(patch(&json!({}), &json!([])).is_err());
    }

    #[test]
    fn an_element_is_one_that_the_document_has() {
        let document = json!({"voice": {"personality": "warm", "a.b": 1}, "visual_identity": null});
        let of = |given: &[&str]| elements(&document, given.iter().map(|element| Some((*element).into())).collect());
        assert_eq!(
            of(&["voice", "visual_identity", "voice", "voice.personality"]).unwrap(),
            ["visual_identity", "voice", "voice.personality"]
        );
        let unknown = |element: &str, nearest: Option<&str>| {
            assert_eq!(of(&[element]), Err(Wrong::Unknown(element.into(), nearest.map(str::to_owned))));
        };
        unknown("voice.personalty", Some("voice.personality"));
        unknown("visual_identiy", Some("visual_identity"));
        unknown("voice.personality.x", None);
        unknown("zzz", None);
        for bad in [
            "",
            ".",
            "voice.",
            ".voice",
            "voice..x",
            "voice.a b",
            "v\u{f6}ice",
            "a/b",
            "a.b.c.d.e.f.g.h.i",
            &"x".repeat(64),
        ] {
            assert!(matches!(of(&[bad]), Err(Wrong::Syntax(_))), "{bad}");
        }
        assert_eq!(elements(&document, vec![None]), Err(Wrong::Syntax("NULL".into())));
        assert_eq!(of(&[]), Err(Wrong::Count(0)));
        assert_eq!(of(&["voice"; 101]), Err(Wrong::Count(101)));
    }
}
