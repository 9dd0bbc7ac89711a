"""What it costs to prove who one is: an API key and a signed token of each algorithm, alone and in a pooled transaction."""

import json
import re
import secrets
import statistics
import time
from dataclasses import dataclass, replace

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

import counter
import workload
from workload import AMP, TENANT, Job

ISSUER, AUDIENCE = "https://id.example.com", "https://api.example.com"


@dataclass(frozen=True)
class Credential:
    name: str  # of a token: its algorithm
    title: str
    target: float | None = None  # the most that amp.authenticate() may take, in microseconds of CPU
    pooled: bool = False  # also measured in a pooled transaction


NOTHING = Credential("nothing", "none: `SELECT length($1)`")
KEY = Credential("key", "API key", pooled=True)
HS256 = Credential("HS256", "token, HS256", 50, pooled=True)
EDDSA = Credential("EdDSA", "token, EdDSA", 150, pooled=True)
TOKENS = [HS256, EDDSA, Credential("ES256", "token, ES256"), Credential("RS256", "token, RS256")]
ALL = [KEY, *TOKENS]
ROUNDS = 9


def _signing_key(algorithm):
    """What signs, and what amp.add_signing_key() takes."""
    if algorithm == "HS256":
        secret = secrets.token_urlsafe(48)
        return secret, secret
    private = {"EdDSA": ed25519.Ed25519PrivateKey.generate,
               "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
               "RS256": lambda: rsa.generate_private_key(65537, 2048)}[algorithm]()
    public = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public.decode()


def token(server, database, algorithm, user, tenant):
    """A token like an identity provider's, of a signing key that the database gets to know."""
    private, public = _signing_key(algorithm)
    server.sql(f"SELECT amp.add_signing_key('{algorithm}', '{algorithm}', '{public}', '{ISSUER}', '{AUDIENCE}')", database)
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": user, "tid": tenant, "iat": now, "exp": now + 86_400, "jti": secrets.token_hex(16)}
    return jwt.encode(claims, private, algorithm, headers={"kid": algorithm})


def load(server):
    """A member of the tenant, and what proves who he is: {credential: text}."""
    user = json.loads(server.sql(f"SELECT amp.invite_user('somebody@example.com', 'operator', '{TENANT}')"))["id"]
    key = json.loads(server.sql(f"SELECT amp.create_api_key('{user}', '{TENANT}', 'bench')"))["key"]
    tokens = {kind: token(server, "bench", kind.name, user, TENANT) for kind in TOKENS}
    return {NOTHING: tokens[HS256], KEY: key, **tokens}


def _first(text):
    """Gives pgbench the credential: in a prepared statement it is a parameter."""
    return f"\\if :first\nSELECT '{text}' AS credential \\gset\n\\endif\n"


def job(kind, text):
    """One call, in a transaction of its own."""
    return Job(_first(text) + f"SELECT {'length' if kind == NOTHING else 'amp.authenticate'}(:credential);\n", "bench_client")


def calls(server, texts):
    """{credential: instructions per call}"""
    return {kind: counter.instructions(server, job(kind, text)) for kind, text in texts.items()}


def cpu(server, texts, executions):
    """{credential: microseconds of CPU per call}: of each the median of some batches, in turn."""

    def batch(kind, text):
        # How long the backend has been on a CPU, while it waits for a statement: after the first tenth, and at the end.
        first, last = executions // 10, executions // 10 + executions
        clock = f"\\if :n = {first} or :n = {last}\n\\shell set -- :pid ; echo clock $(cat /proc/$1/schedstat)\n\\endif\n"
        call = job(kind, text)
        timed = replace(call, script=counter.INTRODUCTION + clock + "\\set n :n + 1\n" + call.script)
        output = server.pgbench(timed, "-t", str(last + 1))
        before, after = (int(nanoseconds) for nanoseconds in re.findall(r"^clock (\d+)", output, re.M))
        return (after - before) / 1000 / executions

    rounds = [[batch(kind, text) for kind, text in texts.items()] for _ in range(ROUNDS)]
    return dict(zip(texts, map(statistics.median, zip(*rounds))))


def pooled(server, statement, texts):
    """{credential: instructions of the pooled transaction that begins with it}"""

    def transaction(text):
        credential = ":credential" if statement.prepared else f"'{text}'"
        same = workload.job(statement, AMP, f"SELECT amp.authenticate({credential});")
        return replace(same, script=_first(text) + same.script, user="bench_client")

    return {kind: counter.instructions(server, transaction(text)) for kind, text in texts.items() if kind.pooled}
