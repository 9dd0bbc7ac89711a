"""Two tenants whose sessions share a database role: what one of them sees of the other, and does to him, beside the tables."""

from credentials import add_signing_key, claims, token
from proofs import TOKEN, authenticate
from world import people

PLAIN, TRUSTED = "plain", "service"


class Neighbours:
    """Opens sessions in t1 and in t2: by a plain setting, by a trusted service's, or by a token."""

    def __init__(self, database, kind):
        self.database, self.kind = database, kind
        self.role = "amp_client" if kind == TOKEN else "amp_svc"
        if kind == TOKEN:
            people(database, one=("t1", "operator"), two=("t2", "operator"))
            with database.connect("amp_ops") as ops:
                add_signing_key(ops)

    def open(self, tenant, **kw):
        session = self.database.connect(self.role, **kw)
        self.enter(session, tenant)
        return session

    def enter(self, session, tenant):
        if self.kind == TOKEN:
            authenticate(session, token(claims({"t1": "one", "t2": "two"}[tenant], tenant)))
        else:
            session.execute(f"SET {'app.tenant' if self.kind == PLAIN else 'amp.tenant_id'} = '{tenant}'")
