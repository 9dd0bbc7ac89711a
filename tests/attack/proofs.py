"""Sessions that have proved who they are, for tenant t1: the worlds beside a trusted service's.

`one` is a member of t1, `two` of t2, `both` of both (t1 first: he starts there); each has the role operator, so he reads and writes.
"""

from credentials import add_signing_key, claims, token
from harness import raises
from world import people

SERVICE, KEY, TOKEN, BOUND = KINDS = ["service with token", "client with key", "client with token", "bound role"]

# A credential that opens any tenant of its user: he may change tenants, though not within a transaction.
CHOOSES = "client who chooses"


class Proved:
    """Makes sessions of one kind. `role` logs in, `user` is proved, by `credential` (None for a bound role)."""

    def __init__(self, database, kind):
        self.database, self.kind, self.credential, self.key = database, kind, None, None
        self.role = "amp_svc" if kind == SERVICE else "amp_client"
        self.user = "one" if kind in (KEY, BOUND) else "both"
        people(database, one=("t1", "operator"), two=("t2", "operator"), both=("t1", "operator"))
        people(database, both=("t2", "operator"))
        with database.connect("amp_ops") as ops:
            for algorithm in "HS256", "ES256", "EdDSA":
                add_signing_key(ops, algorithm=algorithm)
        if kind == SERVICE:
            self.credential = token(claims(self.user, "t1"), algorithm="EdDSA")
            with database.connect() as admin:
                admin.execute(f"ALTER ROLE amp_svc IN DATABASE {database.name} SET amp.require_token = on")
        elif kind == KEY:
            self.key, self.credential = self.new_key("one")
        elif kind == TOKEN:
            self.credential = token(claims(self.user, "t1"), algorithm="HS256")
        elif kind == CHOOSES:
            self.credential = token(claims(self.user), algorithm="ES256")
        elif kind == BOUND:
            with database.connect("amp_ops") as ops:
                ops.execute("SELECT amp.bind_role(%s, %s)", [self.role, self.user])

    def new_key(self, user, tenant=None, expires_at=None):
        """An operator's API key for a user: its id and the key."""
        with self.database.connect("amp_ops") as ops:
            key = ops.execute("SELECT amp.create_api_key(%s, %s, 'test', %s)", [user, tenant, expires_at]).fetchone()[0]
        return key["id"], key["key"]

    def connect(self, **kw):
        """A session that has proved nothing yet (but for a bound role)."""
        return self.database.connect(self.role, **kw)

    def open(self, **kw):
        """A session in t1: for good with autocommit, else for its first transaction."""
        session = self.connect(**kw)
        self.enter(session)
        return session

    def enter(self, session, credential=None):
        if credential or self.credential:
            authenticate(session, credential or self.credential)

    def set(self, setting):
        """A superuser's setting for this kind's role."""
        with self.database.connect() as admin:
            admin.execute(f"ALTER ROLE {self.role} IN DATABASE {self.database.name} SET {setting}")


def authenticate(session, credential):
    return session.execute("SELECT amp.authenticate(%s)", [credential]).fetchone()[0]


def said(error):
    """All that a client hears of an error."""
    fields = [name for name in dir(error.diag) if not name.startswith("_")]
    return {name: getattr(error.diag, name) for name in fields if name != "severity_nonlocalized"}


REFUSAL = {}  # what nonsense is told, once it is known


def refuse(session, credential):
    """The credential must be refused, in the very words in which nonsense is."""
    for attempt in [credential] if REFUSAL else ["nonsense", credential]:
        with raises("TN003", "the credential was not accepted") as caught:
            authenticate(session, attempt)
        REFUSAL.update({} if REFUSAL else said(caught.value))
        assert said(caught.value) == REFUSAL and REFUSAL["message_detail"] is None
