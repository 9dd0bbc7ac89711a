//! Sealing and opening. Pure.
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha), whose nonce is long enough to be random. The key is HKDF-SHA256 (RFC 5869) of a key of
//! the file with the tenant's id: what leaks of one tenant's key opens no other's. Tenant and path are associated data.

use super::key_file::Key;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The first byte of what is stored: how it was made.
const FORMAT: u8 = 1;

pub(super) const NONCE_LEN: usize = 24;

/// What is stored of a secret: format, nonce, ciphertext with its tag. `nonce` is random, for every secret its own.
pub(super) fn seal(key: &Key, tenant: &str, path: &str, text: &str, nonce: [u8; NONCE_LEN]) -> Option<Vec<u8>> {
    let aad = associated_data(tenant, path);
    let payload = Payload { msg: text.as_bytes(), aad: &aad };
    let ciphertext = tenants_cipher(key, tenant)?.encrypt(&nonce.into(), payload).ok()?;
    Some([&[FORMAT][..], &nonce, &ciphertext].concat())
}

/// The secret; None if it was sealed for another tenant or path or by another key, or is not what was sealed.
pub(super) fn open(key: &Key, tenant: &str, path: &str, sealed: &[u8]) -> Option<Zeroizing<String>> {
    let (&FORMAT, rest) = sealed.split_first()? else {
        return None;
    };
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>()?;
    let aad = associated_data(tenant, path);
    let payload = Payload { msg: ciphertext, aad: &aad };
    let text = tenants_cipher(key, tenant)?.decrypt(nonce.into(), payload).ok()?;
    String::from_utf8(text).ok().map(Zeroizing::new)
}

fn tenants_cipher(key: &Key, tenant: &str) -> Option<XChaCha20Poly1305> {
    let mut derived = Zeroizing::new([0; 32]);
    let info = [b"amp_tenancy secret 1\0", tenant.as_bytes()];
    Hkdf::<Sha256>::new(None, key.bytes()).expand_multi_info(&info, &mut *derived).ok()?;
    Some(XChaCha20Poly1305::new((&*derived).into()))
}

/// A tenant's id has no NUL byte in it, so that no other pair reads the same.
fn associated_data(tenant: &str, path: &str) -> Vec<u8> {
    [tenant.as_bytes(), b"\0", path.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "metricool.token";

    fn key(byte: u8) -> Key {
        Key::new([byte; 32])
    }

    fn opened(key: &Key, tenant: &str, path: &str, sealed: &[u8]) -> Option<String> {
        open(key, tenant, path, sealed).map(|text| text.to_string())
    }

    #[test]
    fn it_opens_where_it_was_sealed_for_and_nowhere_else() {
        let sealed = seal(&key(1), "tnt_1", PATH, "s3cret", [7; NONCE_LEN]).unwrap();
        assert_eq!(opened(&key(1), "tnt_1", PATH, &sealed).as_deref(), Some("s3cret"));
        assert!(opened(&key(2), "tnt_1", PATH, &sealed).is_none());
        assert!(opened(&key(1), "tnt_2", PATH, &sealed).is_none());
        assert!(opened(&key(1), "tnt_1", "integrations.slack.secret", &sealed).is_none());
        // The border between tenant and path is part of what is authenticated.
        assert!(opened(&key(1), "tnt_", &format!("1{PATH}"), &sealed).is_none());
    }

    #[test]
    fn every_bit_counts() {
        let sealed = seal(&key(1), "tnt_1", PATH, "s3cret", [7; NONCE_LEN]).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(opened(&key(1), "tnt_1", PATH, &changed).is_none(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(opened(&key(1), "tnt_1", PATH, &sealed[..len]).is_none(), "{len} bytes");
        }
    }

    #[test]
    fn the_format_does_not_change() {
        // What is stored in databases has to open in every later version.
        let sealed = seal(&key(1), "tnt_1", PATH, "s3cret", [7; NONCE_LEN]).unwrap();
        let (head, ciphertext) = sealed.split_at(1 + NONCE_LEN);
        assert_eq!(head, [&[1][..], &[7; NONCE_LEN]].concat());
        assert_eq!(hex::encode(ciphertext), "fac5b9f87f0a823e150024b2eaa61ac91d18935637d4");
    }
}
