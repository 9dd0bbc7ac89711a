//! The claims of a token, and what makes them acceptable once its signature has been verified. Pure.

use serde::{Deserialize, Deserializer};

/// The claims that count (RFC 7519), and `tid`. Every other claim is the application's own. A claim of another type, or given
/// twice, makes the token malformed.
#[derive(Deserialize, Debug)]
pub(super) struct Claims {
    /// The user's id.
    pub(super) sub: String,
    /// The tenant's id: the only one that this token opens. Null is not "any": it is an issuer's mistake.
    #[serde(default, deserialize_with = "not_null")]
    pub(super) tid: Option<String>,
    /// When it ends, in seconds since 1970.
    pub(super) exp: f64,
    /// Before when it is not valid.
    #[serde(default, deserialize_with = "not_null")]
    nbf: Option<f64>,
    /// When it was issued.
    #[serde(default, deserialize_with = "not_null")]
    pub(super) iat: Option<f64>,
    /// The token's own id.
    #[serde(default, deserialize_with = "not_null")]
    pub(super) jti: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    iss: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    aud: Option<Audience>,
}

/// A claim that may be absent, but not null.
fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(claim: D) -> Result<Option<T>, D::Error> {
    T::deserialize(claim).map(Some)
}

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Audience::One(one) => one == audience,
            Audience::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

/// What the signing key asks of its tokens.
#[derive(Default, Debug, Clone, PartialEq)]
pub(super) struct Rules {
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) single_use: bool,
}

/// Why claims are not accepted.
#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    /// Whatever else: the reason, for the server's log.
    Invalid(&'static str),
    /// Everything is right but the time.
    Expired,
}

/// Decides at `now` (seconds since 1970), with `leeway` seconds of difference allowed between the clocks.
pub(super) fn check(claims: &Claims, rules: &Rules, now: f64, leeway: f64) -> Result<(), Refused> {
    let invalid = |why| Err(Refused::Invalid(why));
    // A time outside of the years that PostgreSQL knows is a mistake, or an attack on arithmetic.
    let sane = |time: f64| (0.0..=253_402_300_799.0).contains(&time);
    if ![Some(claims.exp), claims.nbf, claims.iat].into_iter().flatten().all(sane) {
        return invalid("a time in the token is out of range");
    }
    match (&rules.issuer, &claims.iss) {
        (Some(expected), Some(given)) if expected == given => {}
        (Some(_), _) => return invalid("the token's issuer (iss) is not the signing key's"),
        (None, _) => {}
    }
    // RFC 7519, 4.1.3: who is not named by a token that names an audience must refuse it.
    match (&rules.audience, &claims.aud) {
        (Some(expected), Some(given)) if given.names(expected) => {}
        (None, None) => {}
        _ => return invalid("the token's audience (aud) is not the signing key's"),
    }
    if claims.nbf.is_some_and(|nbf| nbf > now + leeway) {
        return invalid("the token is not valid yet (nbf)");
    }
    if claims.iat.is_some_and(|iat| iat > now + leeway) {
        return invalid("the token was issued in the future (iat)");
    }
    if rules.single_use && (claims.jti.is_none() || claims.iat.is_none()) {
        return invalid("a token for a single use needs jti and iat");
    }
    if claims.exp + leeway <= now {
        return Err(Refused::Expired);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1_800_000_000.0;

    fn decide(claims: serde_json::Value, rules: &Rules) -> Result<(), Refused> {
        let claims = serde_json::from_value(claims).map_err(|_| Refused::Invalid("malformed"))?;
        check(&claims, rules, NOW, 10.0)
    }

    fn with(extra: serde_json::Value) -> serde_json::Value {
        let mut claims = serde_json::json!({"sub": "user_1", "exp": NOW + 60.0});
        claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        claims
    }

    #[test]
    fn times_have_a_bounded_leeway() {
        let plain = Rules::default();
        for (claim, offset, expected) in [
            ("exp", 0.0, None),
            ("exp", -9.0, None),
            ("exp", -10.0, Some(Refused::Expired)),
            ("exp", -1e6, Some(Refused::Expired)),
            ("nbf", 10.0, None),
            ("nbf", 11.0, Some(Refused::Invalid("the token is not valid yet (nbf)"))),
            ("iat", 10.0, None),
            ("iat", 11.0, Some(Refused::Invalid("the token was issued in the future (iat)"))),
        ] {
            assert_eq!(
                decide(with(serde_json::json!({claim: NOW + offset})), &plain).err(),
                expected,
                "{claim} {offset}"
            );
        }
    }

    #[test]
    fn an_expired_token_with_another_fault_is_not_just_expired() {
        let rules = Rules { issuer: Some("https://idp".into()), ..Rules::default() };
        let outcome = decide(serde_json::json!({"sub": "u", "exp": NOW - 100.0, "iss": "https://other"}), &rules);
        assert!(matches!(outcome, Err(Refused::Invalid(_))));
    }

    #[test]
    fn issuer_and_audience() {
        let rules = Rules { issuer: Some("i".into()), audience: Some("a".into()), ..Rules::default() };
        for (extra, ok) in [
            (serde_json::json!({"iss": "i", "aud": "a"}), true),
            (serde_json::json!({"iss": "i", "aud": ["x", "a"]}), true),
            (serde_json::json!({"iss": "i"}), false),
            (serde_json::json!({"aud": "a"}), false),
            (serde_json::json!({"iss": "I", "aud": "a"}), false),
            (serde_json::json!({"iss": "i", "aud": []}), false),
            (serde_json::json!({"iss": ["i"], "aud": "a"}), false),
        ] {
            assert_eq!(decide(with(extra.clone()), &rules).is_ok(), ok, "{extra}");
        }
        assert!(decide(with(serde_json::json!({"aud": "a"})), &Rules::default()).is_err());
    }

    #[test]
    fn single_use_needs_an_id_and_a_time() {
        let rules = Rules { single_use: true, ..Rules::default() };
        assert!(decide(with(serde_json::json!({"jti": "1", "iat": NOW})), &rules).is_ok());
        assert!(decide(with(serde_json::json!({"jti": "1"})), &rules).is_err());
        assert!(decide(with(serde_json::json!({"iat": NOW})), &rules).is_err());
    }

    #[test]
    fn malformed_claims() {
        for text in [
            r#"{}"#,
            r#"{"sub": "u"}"#,
            r#"{"exp": 1900000000}"#,
            r#"{"sub": "u", "exp": "1900000000"}"#,
            r#"{"sub": "u", "exp": null}"#,
            r#"{"sub": "u", "exp": true}"#,
            r#"{"sub": "u", "exp": [1900000000]}"#,
            r#"{"sub": 1, "exp": 1900000000}"#,
            r#"{"sub": null, "exp": 1900000000}"#,
            r#"{"sub": "u", "sub": "v", "exp": 1900000000}"#,
            r#"{"sub": "u", "exp": 1900000000, "exp": 1900000001}"#,
            r#"{"sub": "u", "exp": 1900000000, "tid": 7}"#,
            r#"{"sub": "u", "exp": 1900000000, "nbf": "0"}"#,
            r#"{"sub": "u", "exp": 1900000000, "tid": null}"#,
            r#"{"sub": "u", "exp": 1900000000, "aud": null}"#,
            r#"{"sub": "u", "exp": 1e999}"#,
            r#"[]"#,
            r#"null"#,
            r#""sub""#,
        ] {
            assert!(serde_json::from_str::<Claims>(text).is_err(), "{text}");
        }
        for exp in [-1.0, 1e18] {
            assert!(decide(with(serde_json::json!({"exp": exp})), &Rules::default()).is_err());
        }
    }
}
