//! The body of a request: a JSON object whose keys are known and whose values are of the right kind. Pure.

use super::config::{Invalid, kind, nearest};
use serde_json::{Map, Value};

/// Checks a body against what it may hold: each key with the kind of its value (as [`kind`] says it, or "a list of texts"), a `?` after those that may be absent.
pub(super) fn check(body: &Value, keys: &Map<String, Value>) -> Result<(), Invalid> {
    let invalid = |path: &str, given: String, allowed: String| {
        let nearest = None;
        Err(Invalid { path: path.to_owned(), given, allowed, nearest })
    };
    let Value::Object(body) = body else {
        return invalid("the body", kind(body).to_owned(), "an object".to_owned());
    };
    let names: Vec<&str> = keys.keys().map(|key| key.trim_end_matches('?')).collect();
    if let Some(unknown) = body.keys().find(|key| !names.contains(&key.as_str())) {
        let shown: String = unknown.chars().take(80).collect();
        let allowed = format!("the keys {}", names.join(", "));
        let nearest = nearest(unknown, &names);
        return Err(Invalid { path: shown.clone(), given: format!("\"{shown}\""), allowed, nearest });
    }
    for (key, wanted) in keys {
        let (name, optional) = (key.trim_end_matches('?'), key.ends_with('?'));
        let wanted = wanted.as_str().unwrap_or_default();
        match body.get(name) {
            None | Some(Value::Null) if optional => {}
            None => return invalid(name, "nothing".to_owned(), wanted.to_owned()),
            Some(value) if kind(value) == wanted => {}
            Some(Value::Array(list)) if wanted == "a list of texts" && list.iter().all(Value::is_string) => {}
            Some(value) => return invalid(name, kind(value).to_owned(), wanted.to_owned()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(body: Value) -> Result<(), (String, String, Option<String>)> {
        let keys = json!({"email": "a text", "role": "a text", "elements?": "a list of texts"});
        check(&body, keys.as_object().unwrap()).map_err(|wrong| (wrong.path, wrong.given, wrong.nearest))
    }

    #[test]
    fn what_is_asked_for_is_there_and_nothing_else() {
        assert_eq!(told(json!({"email": "a@b", "role": "admin"})), Ok(()));
        assert_eq!(told(json!({"email": "a@b", "role": "admin", "elements": null})), Ok(()));
        assert_eq!(told(json!({"email": "a@b", "role": "admin", "elements": []})), Ok(()));
        assert_eq!(told(json!({"email": "a@b", "role": "admin", "elements": ["x"]})), Ok(()));
        assert_eq!(
            told(json!({"email": "a@b", "role": "admin", "elements": ["x", 1]})),
            Err(("elements".into(), "a list".into(), None))
        );
        assert_eq!(told(json!({"email": "a@b"})), Err(("role".into(), "nothing".into(), None)));
        assert_eq!(told(json!({"email": 5, "role": "admin"})), Err(("email".into(), "a number".into(), None)));
        assert_eq!(told(json!({"email": {}, "role": "admin"})), Err(("email".into(), "an object".into(), None)));
        assert_eq!(told(json!(["a@b"])), Err(("the body".into(), "a list".into(), None)));
        assert_eq!(
            told(json!({"emial": "a@b", "role": "admin"})),
            Err(("emial".into(), "\"emial\"".into(), Some("email".into())))
        );
    }
}
