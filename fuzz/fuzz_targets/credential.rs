//! What a hostile client can send to `amp.authenticate()`, as far as it is read without a key: a credential's syntax, and the
//! claims of a token. Nothing panics, and the answer is the one that a second, plainer reading of the same text gives.

#![no_main]

#[path = "../../src/identity/claims.rs"]
mod claims;
#[path = "../../src/identity/credential.rs"]
mod credential;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use claims::{Claims, Refused, Rules, check};
use credential::{Credential, MAX_LEN, PREFIX, Token, parse};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

/// The time at which claims are decided, in seconds since 1970.
const NOW: f64 = 1_800_000_000.0;

/// The end of the year 9999.
const LAST_SECOND: f64 = 253_402_300_799.0;

fuzz_target!(|data: &[u8]| {
    // Anything else is refused before it is read.
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    credential(text);
    claims(text);
    // Three lines are a token's parts before they are encoded, so that mutations reach what is in them.
    if let [header, payload, signature] = text.splitn(3, '\n').collect::<Vec<_>>()[..] {
        credential(&[header, payload, signature].map(|part| BASE64.encode(part)).join("."));
    }
});

fn credential(text: &str) {
    match parse(text) {
        Ok(Credential::ApiKey(id)) => {
            assert!(is_api_key(text));
            assert_eq!(id, format!("key_{}", &text[7..23]));
        }
        Ok(Credential::Token(token)) => {
            assert_eq!(token.text, text);
            token_parts(&token);
        }
        Err(reason) => assert!(!reason.is_empty() && !is_api_key(text)),
    }
}

fn is_api_key(text: &str) -> bool {
    text.len() == 55
        && text.starts_with(PREFIX)
        && text[7..].chars().all(|c| matches!(c, '0'..='9' | 'A'..='Z' | 'a'..='z'))
}

fn token_parts(token: &Token) {
    assert!(token.text.len() <= MAX_LEN && !token.text.starts_with(PREFIX));
    let parts: Vec<&str> = token.text.split('.').collect();
    assert!(parts.len() == 3 && parts.iter().all(|part| !part.is_empty()));

    // A number out of range that nobody asks for is read over by one reader, and refused by the other.
    let Ok(header) = serde_json::from_slice::<Map<String, Value>>(&BASE64.decode(parts[0]).unwrap()) else {
        return;
    };
    let algorithm = text_of(&header, "alg").expect("a header has an algorithm");
    assert!(["HS256", "ES256", "EdDSA", "RS256"].contains(&algorithm));
    assert_eq!(format!("{:?}", token.algorithm), algorithm);
    assert_eq!(Some(token.kid.as_str()), text_of(&header, "kid"));
    for demand in ["crit", "b64", "enc", "zip", "cty"] {
        assert!(header.get(demand).is_none_or(Value::is_null), "{demand}");
    }
    assert!(text_of(&header, "typ").is_none_or(|typ| ["jwt", "at+jwt"].contains(&typ.to_ascii_lowercase().as_str())));

    if let Ok(payload) = BASE64.decode(parts[1])
        && let Ok(payload) = std::str::from_utf8(&payload)
    {
        claims(payload);
    }
}

fn claims(text: &str) {
    let Ok(claims) = serde_json::from_str::<Claims>(text) else {
        return;
    };
    // None for a list, too: the JWT crate wants `exp` where it has `sub`, so no token's claims are one.
    let said = serde_json::from_str::<Map<String, Value>>(text).ok();
    for rules in all_rules() {
        for leeway in [0.0, 10.0, 300.0] {
            let decided = check(&claims, &rules, NOW, leeway);
            let expired = claims.exp + leeway <= NOW;
            assert!(decided != Ok(()) || !expired, "an expired token is accepted");
            assert!(decided != Err(Refused::Expired) || expired, "a token that has not expired is said to have");
            if let Some(said) = &said {
                assert_eq!(text_of(said, "sub"), Some(claims.sub.as_str()));
                assert_eq!(text_of(said, "tid"), claims.tid.as_deref());
                assert_eq!(text_of(said, "jti"), claims.jti.as_deref());
                assert_eq!(time_of(said, "exp"), Some(claims.exp));
                for name in ["tid", "nbf", "iat", "jti", "iss", "aud"] {
                    assert!(said.get(name).is_none_or(|claim| !claim.is_null()), "{name}");
                }
                assert_eq!(
                    !matches!(decided, Err(Refused::Invalid(_))),
                    right_but_for_exp(said, &rules, leeway),
                    "{decided:?}"
                );
            }
        }
    }
}

fn all_rules() -> impl Iterator<Item = Rules> {
    (0..8).map(|bits| Rules {
        issuer: (bits & 1 != 0).then(|| "i".into()),
        audience: (bits & 2 != 0).then(|| "a".into()),
        single_use: bits & 4 != 0,
    })
}

fn right_but_for_exp(said: &Map<String, Value>, rules: &Rules, leeway: f64) -> bool {
    let audience = match (&rules.audience, said.get("aud").unwrap_or(&Value::Null)) {
        (None, given) => given.is_null(),
        (Some(_), Value::Array(given)) => given.contains(&"a".into()),
        (Some(_), given) => given == "a",
    };
    let not_after = |name, limit| time_of(said, name).is_none_or(|time| time <= limit);
    audience
        && (rules.issuer.is_none() || text_of(said, "iss") == Some("i"))
        && ["exp", "nbf", "iat"]
            .iter()
            .all(|name| time_of(said, name).is_none_or(|time| (0.0..=LAST_SECOND).contains(&time)))
        && not_after("nbf", NOW + leeway)
        && not_after("iat", NOW + leeway)
        && (!rules.single_use || (text_of(said, "jti").is_some() && time_of(said, "iat").is_some()))
}

fn text_of<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

fn time_of(object: &Map<String, Value>, name: &str) -> Option<f64> {
    object.get(name).and_then(Value::as_f64)
}
