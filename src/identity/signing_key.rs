//! The keys that sign tokens: `amp.signing_keys`, each bound to one algorithm.

use super::claims::Rules;
use super::proof::Proof;
use crate::backend::Local;
use crate::context::catalog::{self, SIGNING_KEYS};
use crate::context::resolve;
use crate::error::{Code, Error};
use jsonwebtoken::{Algorithm, DecodingKey};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The shortest secret of HS256, in bytes: that of its hash (RFC 7518, 3.2).
const MIN_SECRET: usize = 32;

/// The shortest RSA key, in bits (RFC 7518, 3.3), and the longest: verifying takes longer with each bit.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The most keys that a backend keeps parsed.
const CAPACITY: usize = 64;

/// Parsed keys, as of an epoch.
static KNOWN: Local<RefCell<Option<Known>>> = Local::new(RefCell::new(None));

type Known = (u64, HashMap<String, Rc<SigningKey>>);

/// A key that may sign tokens now.
pub(super) struct SigningKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
    pub(super) rules: Rules,
}

/// The key of that name, unless it is unknown or retired.
pub(super) fn find(kid: &str) -> Result<Option<Rc<SigningKey>>, Error> {
    let epoch = resolve::epoch();
    if let Some((known, keys)) = KNOWN.borrow().as_ref()
        && *known == epoch
        && let Some(key) = keys.get(kid)
    {
        return Ok(Some(Rc::clone(key)));
    }
    resolve::watch()?;
    let found = catalog::row(&SIGNING_KEYS, &[kid], |row| {
        if row.get::<pgrx::datum::TimestampWithTimeZone>(7).is_some() {
            return None;
        }
        let algorithm = algorithm(&row.get::<String>(2)?)?;
        let key = parse(algorithm, &row.get::<String>(3)?).ok()?;
        let rules = Rules { issuer: row.get(4), audience: row.get(5), single_use: row.get(6)? };
        Some(SigningKey { algorithm, key, rules })
    })?;
    let Some(key) = found.flatten().map(Rc::new) else {
        return Ok(None);
    };
    if resolve::epoch() == epoch && resolve::keeps() {
        let mut known = KNOWN.borrow_mut();
        let (of, keys) = known.get_or_insert_with(|| (epoch, HashMap::new()));
        if *of != epoch || keys.len() >= CAPACITY {
            keys.clear();
            *of = epoch;
        }
        keys.insert(kid.to_owned(), Rc::clone(&key));
    }
    Ok(Some(key))
}

/// Checks that the key which signed an accepted token still may. Errors: TN007.
pub(super) fn confirm(proof: &Proof) -> Result<(), Error> {
    match find(proof.credential.as_str())? {
        Some(_) => Ok(()),
        None => Err(super::revoked()),
    }
}

/// An algorithm by its name (RFC 7518, RFC 8037).
fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "HS256" => Some(Algorithm::HS256),
        "ES256" => Some(Algorithm::ES256),
        "EdDSA" => Some(Algorithm::EdDSA),
        "RS256" => Some(Algorithm::RS256),
        _ => None,
    }
}

fn parse(algorithm: Algorithm, key: &str) -> Result<DecodingKey, &'static str> {
    let pem = key.trim_start().starts_with("-----BEGIN");
    if pem && key.contains("PRIVATE KEY") {
        return Err("That is a private key: it stays with who signs. Pass the public one.");
    }
    match algorithm {
        Algorithm::HS256 if pem => Err("HS256 takes a secret; a public key as a secret is known to everybody."),
        Algorithm::HS256 if key.len() < MIN_SECRET => Err("HS256 takes a secret of at least 32 bytes."),
        Algorithm::HS256 => Ok(DecodingKey::from_secret(key.as_bytes())),
        _ if !pem => Err("Pass the public key in PEM form: -----BEGIN PUBLIC KEY-----."),
        Algorithm::ES256 => {
            let parsed =
                DecodingKey::from_ec_pem(key.as_bytes()).map_err(|_| "That is no P-256 public key in PEM form.")?;
            let point = parsed.try_get_as_bytes().unwrap_or_default();
            match point {
                // An uncompressed or compressed point of a curve of 256 bits.
                [0x04, ..] if point.len() == 65 => Ok(parsed),
                [0x02 | 0x03, ..] if point.len() == 33 => Ok(parsed),
                _ => Err("That is no P-256 public key in PEM form."),
            }
        }
        Algorithm::EdDSA => {
            let parsed =
                DecodingKey::from_ed_pem(key.as_bytes()).map_err(|_| "That is no Ed25519 public key in PEM form.")?;
            match parsed.try_get_as_bytes() {
                Ok(bytes) if bytes.len() == 32 => Ok(parsed),
                _ => Err("That is no Ed25519 public key in PEM form."),
            }
        }
        Algorithm::RS256 => {
            let parsed =
                DecodingKey::from_rsa_pem(key.as_bytes()).map_err(|_| "That is no RSA public key in PEM form.")?;
            match parsed.try_get_as_bytes().ok().and_then(modulus_bits) {
                Some(bits) if RSA_BITS.contains(&bits) => Ok(parsed),
                Some(_) => Err("An RSA key has 2048 to 4096 bits."),
                None => Err("That is no RSA public key in PEM form."),
            }
        }
        _ => Err("The algorithm is not HS256, ES256, EdDSA or RS256."),
    }
}

/// The length of an RSA public key (PKCS #1, DER): SEQUENCE { INTEGER modulus, INTEGER exponent }.
fn modulus_bits(der: &[u8]) -> Option<usize> {
    let (sequence, _) = element(der, 0x30)?;
    let (modulus, _) = element(sequence, 0x02)?;
    let significant = &modulus[modulus.iter().position(|byte| *byte != 0)?..];
    Some(significant.len() * 8 - significant[0].leading_zeros() as usize)
}

/// The contents of the DER element at the beginning, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (first as usize, rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked((first & 0x7f) as usize)?;
            (length.iter().fold(0, |length, byte| length << 8 | *byte as usize), rest)
        }
        _ => return None,
    };
    (found == tag).then_some(rest.split_at_checked(length)?)
}

/// Checks a key before it is stored. Errors: 22023.
pub(super) fn check(name: &str, key: &str) -> Result<(), Error> {
    let Some(algorithm) = algorithm(name) else {
        let shown: String = name.chars().take(20).collect();
        return Err(Error::new(Code::InvalidValue, format!("invalid algorithm \"{shown}\""))
            .hint("Choose HS256, ES256, EdDSA or RS256; EdDSA where you can choose."));
    };
    match parse(algorithm, key) {
        Ok(_) => Ok(()),
        Err(why) => Err(Error::new(Code::InvalidValue, format!("invalid key for {name}"))
            .detail(why)
            .hint("openssl pkey -in private.pem -pubout prints a public key; openssl rand -base64 48 a secret.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    const EC: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9\nq9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==\n-----END PUBLIC KEY-----\n";

    #[test]
    fn a_key_fits_its_algorithm_only() {
        let secret = "x".repeat(32);
        assert!(check("HS256", &secret).is_ok());
        assert!(check("EdDSA", ED).is_ok());
        assert!(check("ES256", EC).is_ok());
        for (algorithm, key) in [
            ("HS256", "x".repeat(31).as_str()),
            ("HS256", ED),
            ("HS256", EC),
            ("ES256", ED),
            ("EdDSA", EC),
            ("RS256", EC),
            ("ES256", &secret),
            ("none", &secret),
            ("hs256", &secret),
            ("", ""),
            (
                "EdDSA",
                "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\n-----END PRIVATE KEY-----",
            ),
            ("EdDSA", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----"),
        ] {
            assert!(check(algorithm, key).is_err(), "{algorithm} {key}");
        }
    }

    #[test]
    fn the_length_of_an_rsa_key() {
        let modulus = |bytes: usize| {
            let mut integer = vec![0x02, 0x82, ((bytes + 1) >> 8) as u8, (bytes + 1) as u8, 0, 0x80];
            integer.resize(5 + bytes, 1);
            let mut der = vec![0x30, 0x82, (integer.len() >> 8) as u8, integer.len() as u8];
            der.extend(integer);
            der
        };
        assert_eq!(modulus_bits(&modulus(256)), Some(2048));
        assert_eq!(modulus_bits(&modulus(128)), Some(1024));
        for broken in
            [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0x82, 0xff], &[0x30, 3, 2, 0x84, 0xff], &[0x30, 2, 2, 0]]
        {
            assert_eq!(modulus_bits(broken), None);
        }
    }
}
