"""Credentials for the tests: signed tokens as an issuer makes them, and the keys that sign them."""

import base64
import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# One key for each algorithm: what the issuer signs with. Made anew in every run.
KEYS = {
    "HS256": "a secret of the tests that is longer than 32 bytes",
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
}


def claims(user, tenant=None, **more):
    """The claims of a token of `user`, for one tenant or for all of his, good for a minute; `more` overrides, None removes."""
    made = {"sub": user, "tid": tenant, "exp": int(time.time()) + 60, **more}
    return {name: value for name, value in made.items() if value is not None}


def token(claims, key=None, kid=None, algorithm="EdDSA", **header):
    """A signed token. The key is the tests' own of that algorithm, and is called as the algorithm, unless said otherwise."""
    return jwt.encode(claims, key or KEYS[algorithm], algorithm, {"kid": kid or algorithm, **header})


def base64url(data):
    """A part of a token: without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def compact(header, payload, algorithm="EdDSA", key=None):
    """A token of any header and payload (bytes, or what JSON makes of it), well-formed or not, rightly signed all the same."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = ".".join(base64url(part) for part in parts)
    signer = jwt.get_algorithm_by_name(algorithm)
    key = key or KEYS[algorithm]
    return f"{signed}.{base64url(signer.sign(signed.encode(), key.encode() if isinstance(key, str) else key))}"


def public(key):
    """What the server is told of a key: the public part in PEM form, or the secret itself."""
    if isinstance(key, str):
        return key
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def add_signing_key(ops, kid=None, algorithm="EdDSA", key=None, **rules):
    """An operator's session makes a key known; `rules` are issuer, audience, single_use. Returns its kid."""
    kid, names = kid or algorithm, "".join(f", {name} => %({name})s" for name in rules)
    ops.execute(
        f"SELECT amp.add_signing_key(%(kid)s, %(algorithm)s, %(key)s{names})",
        {"kid": kid, "algorithm": algorithm, "key": public(key or KEYS[algorithm]), **rules},
    )
    return kid
