//! The syntax of credentials: an API key, or a signed token. Pure: what a hostile client sends is first looked at here.
//!
//! An API key is `amp_sk_`, the 16 base62 characters of its id, and 32 of its secret (190 bits). A token is a JWS in compact
//! form (RFC 7515) of at most 8 KiB, whose header names its key and algorithm and demands nothing that we do not know.

use jsonwebtoken::{Algorithm, Header, decode_header};

/// What every API key begins with: secret scanners look for it.
pub const PREFIX: &str = "amp_sk_";

const ID_LEN: usize = 16;
const SECRET_LEN: usize = 32;

/// The longest credential that is looked at, in bytes.
pub const MAX_LEN: usize = 8192;

/// A well-formed credential; nothing is known of its truth.
#[derive(Debug, PartialEq)]
pub enum Credential<'a> {
    /// The key's id, `key_` and 16 characters. The whole text is the secret.
    ApiKey(String),
    /// A token that claims to be signed by this key with this algorithm.
    Token(Token<'a>),
}

/// A token's outside.
#[derive(Debug, PartialEq)]
pub struct Token<'a> {
    /// The whole token.
    pub text: &'a str,
    /// Which key is said to have signed it.
    pub kid: String,
    /// How.
    pub algorithm: Algorithm,
}

/// Reads a credential. Errors: why not, for the server's log.
pub fn parse(text: &str) -> Result<Credential<'_>, &'static str> {
    if text.len() > MAX_LEN {
        return Err("it is longer than 8 KiB");
    }
    match text.strip_prefix(PREFIX) {
        Some(rest) if rest.len() == ID_LEN + SECRET_LEN && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            Ok(Credential::ApiKey(format!("key_{}", &rest[..ID_LEN])))
        }
        Some(_) => Err("it is no well-formed API key"),
        None => token(text).map(Credential::Token),
    }
}

fn token(text: &str) -> Result<Token<'_>, &'static str> {
    // Header, claims and signature: none of them empty, and nothing else. `alg: none` has no signature.
    if text.split('.').count() != 3 || text.split('.').any(str::is_empty) {
        return Err("it is neither an API key nor a token in compact form");
    }
    let header =
        decode_header(text).map_err(|_| "the token's header is malformed, or names an algorithm that nobody knows")?;
    demands_nothing(&header)?;
    let kid = header.kid.ok_or("the token's header names no key (kid)")?;
    if !matches!(header.alg, Algorithm::HS256 | Algorithm::ES256 | Algorithm::EdDSA | Algorithm::RS256) {
        return Err("the token's algorithm is not HS256, ES256, EdDSA or RS256");
    }
    Ok(Token { text, kid, algorithm: header.alg })
}

/// A header may say more than we need, but not that the token has to be understood in a way that we do not know.
fn demands_nothing(header: &Header) -> Result<(), &'static str> {
    if header.crit.is_some() || header.extras.inner().contains_key("b64") {
        return Err("the token's header demands an extension (crit)");
    }
    if header.enc.is_some() || header.zip.is_some() || header.cty.is_some() {
        return Err("the token is encrypted, compressed or nested");
    }
    match header.typ.as_deref() {
        None => Ok(()),
        Some(typ) if typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt") => Ok(()),
        Some(_) => Err("the token is of another type (typ)"),
    }
}
