"""Sessions of an attacker who is in t1: on plain PostgreSQL, and under amp_tenancy of every kind."""

from neighbours import PLAIN, TRUSTED
from proofs import KINDS, Proved

UNDER_AMP = [TRUSTED, *KINDS]


class ByName:
    """A session that names its tenant by a setting: plain PostgreSQL's, or a trusted service's."""

    role = "amp_svc"

    def __init__(self, database, kind):
        self.database, self.kind = database, kind
        self.setting = "app.tenant" if kind == PLAIN else "amp.tenant_id"

    def open(self, **kw):
        session = self.database.connect(self.role, **kw)
        session.execute(f"SET {self.setting} = 't1'")
        return session


def attacker(database, kind):
    return ByName(database, kind) if kind in (PLAIN, TRUSTED) else Proved(database, kind)
