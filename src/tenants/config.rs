//! A tenant's configuration: what may be in it. Pure.
//!
//! An update is a JSON merge patch (RFC 7396) of the whole document, which is then checked whole, by the types below. An error says
//! where, what was given, what is allowed, and the nearest known key; nothing is stored then.

use serde::Deserialize;
use serde_aux::serde_introspection::serde_introspect;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The longest configuration, as JSON, in bytes.
const MAX_LEN: usize = 256 * 1024;

/// The most secrets of a tenant, and the longest path of one, in bytes.
const MAX_SECRETS: usize = 100;
const MAX_PATH: usize = 512;

/// How much of a wrong value an error shows, in characters.
const SHOWN: usize = 80;

/// The sections of which an error shows no value: a secret may have got into another key of them.
const HIDDEN: [&str; 2] = ["metricool", "integrations"];

/// The whole document. Every section, and every key of one, may be absent.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
pub(super) struct Config {
    metricool: Metricool,
    pub(super) provider_routing: ProviderRouting,
    cost_limits: CostLimits,
    pub(super) approval: Approval,
    /// By name, free-form; a `secret` in one is a secret, or an object of secrets.
    integrations: BTreeMap<Word, Map<String, Value>>,
    /// Free-form.
    preferences: Map<String, Value>,
}

/// The Metricool integration.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct Metricool {
    enabled: Option<bool>,
    token: Option<Line>,
    blog_id: Option<Line>,
}

/// Which AI providers to ask, in which order.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
pub(super) struct ProviderRouting {
    llm_preference: Option<Word>,
    llm_fallback: Vec<Word>,
    image_preference: Option<Word>,
    image_fallback: Vec<Word>,
    fallback_enabled: Option<bool>,
    cost_optimization: Option<bool>,
}

/// Spending limits: cents, in UTC months and days.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct CostLimits {
    monthly_limit_cents: Option<Cents>,
    daily_limit_cents: Option<Cents>,
    alert_threshold_percent: Option<Percent>,
    hard_stop_at_limit: Option<bool>,
}

/// Who approves content, and what happens when nobody does.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
pub(crate) struct Approval {
    pub(crate) require_approval: Option<bool>,
    pub(crate) auto_approve_after_hours: Option<Hours>,
    pub(crate) approvers: Vec<UserId>,
    pub(crate) approval_order: Option<Order>,
    pub(crate) escalation_after_hours: Option<Hours>,
    pub(crate) escalation_to: Option<UserId>,
}

/// Whose approval it takes.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    Any,
    All,
    Sequential,
}

/// Where a document is wrong.
#[derive(Debug, PartialEq)]
pub(super) struct Invalid {
    /// Dotted, from the root: `config.cost_limits.monthly_limit_cents`.
    pub(super) path: String,
    pub(super) given: String,
    pub(super) allowed: String,
    pub(super) nearest: Option<String>,
}

impl Invalid {
    pub(super) fn new(path: &str, given: &Value, allowed: impl Into<String>) -> Invalid {
        let section = path.split('.').next().unwrap_or_default();
        let hidden = section.is_empty() || HIDDEN.contains(&section);
        let path = if path.is_empty() { "config".to_owned() } else { format!("config.{path}") };
        let invalid = Invalid::at(path, given, allowed);
        if hidden { Invalid { given: kind(given).to_owned(), ..invalid } } else { invalid }
    }

    /// In another document than a configuration.
    pub(super) fn at(path: impl Into<String>, given: &Value, allowed: impl Into<String>) -> Invalid {
        let given = match given {
            Value::Object(_) | Value::Array(_) => kind(given).to_owned(),
            value => value.to_string(),
        };
        let shown = given.chars().take(SHOWN).collect::<String>();
        let given = if shown.len() < given.len() { shown + "..." } else { given };
        Invalid { path: path.into(), given, allowed: allowed.into(), nearest: None }
    }
}

/// What a value is, in an error's words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What a patch makes of a configuration.
#[derive(Debug)]
pub(super) struct Patched {
    /// The new document, in which secrets are shown as [`ENCRYPTED`].
    pub(super) document: Value,
    pub(super) config: Config,
    /// The paths whose value is another one now.
    pub(super) changed: Vec<String>,
    /// New secrets by their path.
    pub(super) secrets: Vec<(String, String)>,
    /// The paths of secrets that are there no more.
    pub(super) gone: Vec<String>,
}

/// What a document shows of a secret; given back, the secret stays what it is.
pub(super) const ENCRYPTED: &str = "encrypted";

/// Applies a merge patch and checks the result whole.
pub(super) fn patch(old: &Value, patch: &Value) -> Result<Patched, Invalid> {
    if !patch.is_object() {
        return Err(Invalid::new("", patch, "an object, a JSON merge patch (RFC 7396)"));
    }
    check_keys(patch)?;
    let mut document = old.clone();
    json_patch::merge(&mut document, patch);
    let known = secrets_in(old)?;
    let named = secrets_in(&document)?;
    if named.len() > MAX_SECRETS {
        let mut invalid = Invalid::new("integrations", &Value::Null, format!("at most {MAX_SECRETS} secrets"));
        invalid.given = format!("{} secrets", named.len());
        return Err(invalid);
    }
    let gone = known.iter().filter(|path| !named.contains(path)).cloned().collect();
    let mut secrets = Vec::new();
    for path in named {
        let Some(value) = document.pointer_mut(&pointer(&path)) else { continue };
        match value {
            Value::String(text) if text == ENCRYPTED => {
                if !known.contains(&path) {
                    return Err(Invalid::new(&path, value, "the secret itself: none is stored yet"));
                }
            }
            Value::String(text) if (1..=4096).contains(&text.len()) => {
                secrets.push((path, std::mem::replace(text, ENCRYPTED.to_owned())));
            }
            Value::String(_) => return Err(Invalid::new(&path, value, "a text of 1 to 4096 bytes")),
            _ => return Err(Invalid::new(&path, value, "a text")),
        }
    }
    let config = check(&document)?;
    let mut changed = Vec::new();
    differences("", old, &document, &mut changed);
    for (path, _) in &secrets {
        if !changed.contains(path) {
            changed.push(path.clone());
        }
    }
    changed.sort_unstable();
    Ok(Patched { document, config, changed, secrets, gone })
}

/// Checks a whole document.
pub(super) fn check(document: &Value) -> Result<Config, Invalid> {
    check_keys(document)?;
    let config: Config = serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        let value = document.pointer(&pointer(&path)).unwrap_or(&Value::Null);
        let message = error.inner().to_string();
        let allowed = message.rsplit_once("expected ").map_or(message.as_str(), |(_, allowed)| allowed);
        let allowed = if allowed == "a map" { "an object" } else { allowed }; // serde's word for it
        Invalid::new(&path, value, allowed)
    })?;
    if document.to_string().len() > MAX_LEN {
        return Err(Invalid::new("", document, "a document of at most 256 KiB"));
    }
    Ok(config)
}

/// Checks that a document, or a patch of one, has sections that are objects (or null, in a patch) and no unknown keys. Not left to
/// serde, which reads a struct from a list, too.
fn check_keys(document: &Value) -> Result<(), Invalid> {
    let Value::Object(sections) = document else {
        return Err(Invalid::new("", document, "an object"));
    };
    for (name, section) in sections {
        known("", name, section, serde_introspect::<Config>())?;
        let keys = match section {
            Value::Object(keys) => keys,
            Value::Null => continue,
            _ => return Err(Invalid::new(name, section, "an object")),
        };
        let fields = match name.as_str() {
            "metricool" => serde_introspect::<Metricool>(),
            "provider_routing" => serde_introspect::<ProviderRouting>(),
            "cost_limits" => serde_introspect::<CostLimits>(),
            "approval" => serde_introspect::<Approval>(),
            _ => continue, // free-form
        };
        for (key, value) in keys {
            known(name, key, value, fields)?;
        }
    }
    Ok(())
}

fn known(parent: &str, key: &str, value: &Value, fields: &[&str]) -> Result<(), Invalid> {
    if fields.contains(&key) {
        return Ok(());
    }
    // The key is what is wrong, not its value.
    let mut invalid = Invalid::new(&join(parent, &shorten(key)), value, format!("the keys {}", fields.join(", ")));
    invalid.given = format!("\"{}\"", shorten(key));
    invalid.nearest = nearest(key, fields);
    Err(invalid)
}

/// The known key that somebody may have meant.
pub(super) fn nearest(key: &str, known: &[&str]) -> Option<String> {
    if key.len() > SHOWN {
        return None; // comparing takes time by its length
    }
    let near = known.iter().map(|field| (strsim::normalized_damerau_levenshtein(field, key), *field));
    let nearest = near.filter(|(likeness, _)| *likeness > 0.4).max_by(|one, other| one.0.total_cmp(&other.0));
    nearest.map(|(_, field)| field.to_owned())
}

/// The paths of secrets: the Metricool token, and `secret` in an integration, or what is in that if it is an object.
fn secrets_in(document: &Value) -> Result<Vec<String>, Invalid> {
    let mut paths = Vec::new();
    if document.pointer("/metricool/token").is_some() {
        paths.push("metricool.token".to_owned());
    }
    let integrations = document.get("integrations").and_then(Value::as_object).into_iter().flatten();
    for (name, integration) in integrations {
        // A name that is none is refused with the rest of the document.
        if let Some(secret) = integration.get("secret")
            && is_word(name)
        {
            add_secrets(format!("integrations.{name}.secret"), secret, &mut paths)?;
        }
    }
    Ok(paths)
}

fn add_secrets(path: String, secret: &Value, paths: &mut Vec<String>) -> Result<(), Invalid> {
    let Value::Object(parts) = secret else {
        paths.push(path);
        return Ok(());
    };
    for (name, part) in parts {
        if !is_word(name) {
            let mut invalid = Invalid::new(&path, part, WORD);
            invalid.given = format!("\"{}\"", shorten(name));
            return Err(invalid);
        }
        let path = join(&path, name);
        if path.len() > MAX_PATH {
            return Err(Invalid::new("integrations", part, "secrets whose path has at most 512 bytes"));
        }
        add_secrets(path, part, paths)?;
    }
    Ok(())
}

/// The paths at which two documents differ, as deep as both are objects, down to the third key.
pub(super) fn differences(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(one), Value::Object(other)) if path.matches('.').count() < 2 => {
            for key in one.keys().chain(other.keys().filter(|key| !one.contains_key(*key))) {
                let (one, other) = (one.get(key).unwrap_or(&Value::Null), other.get(key).unwrap_or(&Value::Null));
                differences(&join(path, &shorten(key)), one, other, found);
            }
        }
        _ if old != new => found.push(path.to_owned()),
        _ => {}
    }
}

pub(super) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

fn shorten(key: &str) -> String {
    key.chars().take(SHOWN).collect()
}

/// A JSON pointer (RFC 6901) for a dotted path, whose keys hold neither dots nor slashes; `a[0]` is an element.
fn pointer(path: &str) -> String {
    path.replace('[', ".").replace(']', "").split('.').map(|key| format!("/{key}")).collect()
}

/// The providers to try for `llm` or `image`, in order: the preferred one, then the fall-backs unless they are switched off.
pub(super) fn providers(routing: &ProviderRouting, kind: &str) -> Option<Vec<String>> {
    let (preference, fallback) = match kind {
        "llm" => (&routing.llm_preference, &routing.llm_fallback),
        "image" => (&routing.image_preference, &routing.image_fallback),
        _ => return None,
    };
    let fallback = if routing.fallback_enabled.unwrap_or(true) { &fallback[..] } else { &[] };
    let mut providers: Vec<String> = Vec::new();
    for Word(provider) in preference.iter().chain(fallback) {
        if !providers.contains(provider) {
            providers.push(provider.clone());
        }
    }
    Some(providers)
}

/// Defines a value with a range: from what it is read, when it is right, and what an error says is allowed.
macro_rules! value {
    ($(#[$doc:meta])* $name:ident($inner:ty), $allowed:expr, |$value:ident| $right:expr) => {
        $(#[$doc])*
        #[derive(Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        #[serde(try_from = "serde_json::Value")]
        pub(crate) struct $name(pub(crate) $inner);

        impl TryFrom<Value> for $name {
            type Error = &'static str;

            fn try_from(value: Value) -> Result<$name, &'static str> {
                match serde_json::from_value::<$inner>(value) {
                    Ok($value) if $right => Ok($name($value)),
                    _ => Err(concat!("expected ", $allowed)),
                }
            }
        }
    };
}

value!(
    /// An amount of money.
    Cents(u64), "a whole number of cents from 0 to 1000000000000", |cents| cents <= 1_000_000_000_000
);
value!(
    /// A share.
    Percent(u64), "a whole number from 1 to 100", |percent| (1..=100).contains(&percent)
);
value!(
    /// A time span, up to a year.
    Hours(u64), "a whole number of hours from 1 to 8760", |hours| (1..=8760).contains(&hours)
);
/// What a name in configuration is.
macro_rules! word {
    () => {
        "a name of 1 to 63 characters of a-z, 0-9, _ and -, beginning with a letter or digit"
    };
}
const WORD: &str = word!();

fn is_word(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
        && !text.starts_with(['_', '-'])
}

value!(
    /// A name in configuration.
    Word(String), word!(), |word| is_word(&word)
);
value!(
    /// A line of text.
    Line(String), "a text of 1 to 1024 characters on one line", |line| {
        (1..=1024).contains(&line.chars().count()) && !line.chars().any(char::is_control)
    }
);
value!(
    /// A user's id.
    UserId(String), "a user's id", |id| crate::id::Id::parse(id.as_bytes()).is_some()
);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn invalid(patched: Value) -> (String, String, Option<String>) {
        let error = patch(&json!({}), &patched).unwrap_err();
        (error.path, error.allowed, error.nearest)
    }

    #[test]
    fn the_documented_configuration_is_right() {
        let documented = json!({
            "metricool": {"enabled": true, "blog_id": "xxx"},
            "provider_routing": {
                "llm_preference": "claude", "llm_fallback": ["openai", "google"], "image_preference": "openai",
                "fallback_enabled": true, "cost_optimization": true
            },
            "cost_limits": {
                "monthly_limit_cents": 500000, "daily_limit_cents": 20000, "alert_threshold_percent": 80,
                "hard_stop_at_limit": true
            },
            "approval": {
                "require_approval": true, "auto_approve_after_hours": 24, "approvers": ["user_xxx", "user_yyy"],
                "approval_order": "any", "escalation_after_hours": 12, "escalation_to": "user_zzz"
            },
            "integrations": {"slack": {"channel": "#ops", "retries": 3}},
            "preferences": {"theme": {"dark": true}}
        });
        let patched = patch(&json!({}), &documented).unwrap();
        assert_eq!(patched.document, documented);
        assert_eq!(providers(&patched.config.provider_routing, "llm").unwrap(), ["claude", "openai", "google"]);
        assert_eq!(providers(&patched.config.provider_routing, "image").unwrap(), ["openai"]);
        assert!(providers(&patched.config.provider_routing, "video").is_none());
    }

    #[test]
    fn a_patch_changes_what_it_names_and_null_removes() {
        let old = json!({"cost_limits": {"monthly_limit_cents": 1, "daily_limit_cents": 2}, "preferences": {"a": 1}});
        let new = patch(&old, &json!({"cost_limits": {"monthly_limit_cents": 5}, "preferences": null})).unwrap();
        assert_eq!(new.document, json!({"cost_limits": {"monthly_limit_cents": 5, "daily_limit_cents": 2}}));
        assert_eq!(new.changed, ["cost_limits.monthly_limit_cents", "preferences"]);
    }

    #[test]
    fn an_error_names_path_and_nearest_key() {
        let (path, allowed, nearest) = invalid(json!({"cost_limits": {"monthly_limit": 5}}));
        assert_eq!(
            (path.as_str(), nearest.as_deref()),
            ("config.cost_limits.monthly_limit", Some("monthly_limit_cents"))
        );
        assert!(allowed.contains("daily_limit_cents"));
        assert_eq!(invalid(json!({"cost_limit": {}})).2.as_deref(), Some("cost_limits"));
        assert_eq!(invalid(json!({"zzz": {}})).2, None);
    }

    #[test]
    fn values_out_of_range_or_of_another_type() {
        for (path, value) in [
            ("cost_limits.monthly_limit_cents", json!(-1)),
            ("cost_limits.monthly_limit_cents", json!(1.5)),
            ("cost_limits.monthly_limit_cents", json!("500")),
            ("cost_limits.monthly_limit_cents", json!(1_000_000_000_001_u64)),
            ("cost_limits.alert_threshold_percent", json!(0)),
            ("cost_limits.alert_threshold_percent", json!(101)),
            ("cost_limits.hard_stop_at_limit", json!("yes")),
            ("approval.approval_order", json!("some")),
            ("approval.approvers", json!("user_x")),
            ("approval.auto_approve_after_hours", json!(0)),
            ("provider_routing.llm_preference", json!("Claude 3")),
            ("provider_routing.fallback_enabled", json!(1)),
            ("metricool.blog_id", json!("a\nb")),
            ("metricool.token", json!(7)),
            ("preferences.x", json!(null)),
        ] {
            let (section, key) = path.split_once('.').unwrap();
            let outcome = patch(&json!({}), &json!({section: {key: value}}));
            match outcome {
                Ok(patched) => assert_eq!(patched.document, json!({"preferences": {}}), "{path} {value}"),
                Err(error) => assert_eq!(error.path, format!("config.{path}"), "{value}"),
            }
        }
        for section in ["metricool", "provider_routing", "cost_limits", "approval", "integrations", "preferences"] {
            for list in [json!([]), json!([true, "a secret"]), json!(1), json!("x")] {
                let error = patch(&json!({}), &json!({section: list})).unwrap_err();
                assert_eq!((error.path, error.allowed.as_str()), (format!("config.{section}"), "an object"));
            }
        }
        assert!(patch(&json!({}), &json!({"cost_limit": null})).is_err());
        for whole in
            [json!([]), json!(null), json!("x"), json!({"cost_limits": 5}), json!({"integrations": {"slack": 1}})]
        {
            assert!(patch(&json!({}), &whole).is_err(), "{whole}");
        }
        let error = patch(&json!({}), &json!({"approval": {"approvers": ["user_1", "a b"]}})).unwrap_err();
        assert_eq!((error.path.as_str(), error.given.as_str()), ("config.approval.approvers[1]", "\"a b\""));
    }

    #[test]
    fn a_secret_is_taken_out_and_stays_when_its_mark_is_given_back() {
        let first =
            patch(&json!({}), &json!({"metricool": {"token": "t0p"}, "integrations": {"slack": {"secret": "s"}}}))
                .unwrap();
        assert_eq!(
            first.document,
            json!({"metricool": {"token": "encrypted"}, "integrations": {"slack": {"secret": "encrypted"}}})
        );
        assert_eq!(
            first.secrets,
            [("metricool.token".into(), "t0p".into()), ("integrations.slack.secret".into(), "s".into())]
        );
        let again = patch(&first.document, &json!({"metricool": {"token": "encrypted", "enabled": true}})).unwrap();
        assert!(again.secrets.is_empty());
        assert_eq!(again.changed, ["metricool.enabled"]);
        let other = patch(&first.document, &json!({"metricool": {"token": "new"}})).unwrap();
        assert_eq!(other.changed, ["metricool.token"]);
        let gone = patch(&first.document, &json!({"integrations": null})).unwrap();
        assert_eq!((gone.changed, gone.gone), (vec!["integrations".into()], vec!["integrations.slack.secret".into()]));
        assert!(patch(&json!({}), &json!({"metricool": {"token": "encrypted"}})).is_err());
    }

    #[test]
    fn a_secret_may_have_parts() {
        let first =
            patch(&json!({}), &json!({"integrations": {"x": {"secret": {"id": "i", "key": {"1": "k"}}}}})).unwrap();
        assert_eq!(
            first.document,
            json!({"integrations": {"x": {"secret": {"id": "encrypted", "key": {"1": "encrypted"}}}}})
        );
        assert_eq!(first.secrets[0], ("integrations.x.secret.id".into(), "i".into()));
        assert_eq!(first.secrets[1], ("integrations.x.secret.key.1".into(), "k".into()));
        let whole = patch(&first.document, &json!({"integrations": {"x": {"secret": "one"}}})).unwrap();
        assert_eq!(whole.gone, ["integrations.x.secret.id", "integrations.x.secret.key.1"]);
        for part in [json!({"a.b": "x"}), json!({"": "x"}), json!({"a": 1}), json!(["x"]), json!({"a": null})] {
            let patched = patch(&json!({}), &json!({"integrations": {"x": {"secret": part}}}));
            match patched {
                Ok(patched) => assert_eq!(patched.document, json!({"integrations": {"x": {"secret": {}}}})),
                Err(error) => assert!(error.path.starts_with("config.integrations.x.secret"), "{part}"),
            }
        }
    }

    #[test]
    fn an_error_shows_nothing_that_may_be_a_secret() {
        for wrong in [
            json!({"metricool": {"tokn": "s3cret"}}),
            json!({"metricool": {"token": {"value": "s3cret"}}}),
            json!({"metricool": {"token": ["s3cret"]}}),
            json!({"metricool": {"enabled": "s3cret"}}),
            json!({"metricool": "s3cret"}),
            json!({"metricol": {"token": "s3cret"}}),
            json!({"integrations": "s3cret"}),
            json!({"integrations": {"slack": "s3cret"}}),
            json!({"integrations": {"a.b": {"secret": "s3cret"}}}),
            json!({"integrations": {"slack": {"secret": ["s3cret"]}}}),
            json!({"integrations": {"slack": {"secret": {"A b": "s3cret"}}}}),
            json!("s3cret"),
            json!(["s3cret"]),
        ] {
            let error = patch(&json!({}), &wrong).unwrap_err();
            assert!(!format!("{error:?}").contains("s3cret"), "{wrong} {error:?}");
        }
    }
}
