"""Sessions on several servers that are sent the same statements one by one, all that a client gets to see of each, and whether it is
the same.

Three servers: `base`, its twin `control`, which is the same in everything, and `other`, which differs in another tenant's rows. What
differs between the twins (pids, clocks, random numbers, paths) is noise, and says nothing about anybody's rows; what is equal there
has to be equal on the third.
"""

import re
from contextlib import ExitStack
from typing import NamedTuple

from psycopg import pq

FIELDS = [
    field
    for field in pq.DiagnosticField
    if field.name not in ("SEVERITY_NONLOCALIZED", "SOURCE_FILE", "SOURCE_LINE", "SOURCE_FUNCTION")
]
ROWS = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)
TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d]+|\s+|.", re.DOTALL)

NOISE = "noise"  # what difference() says if the twins differ in shape


class Statement(NamedTuple):
    """One message to the server; `kind` is the class of leak that it tries for, `data` what it copies in."""

    kind: str
    sql: str
    data: str = ""


class Sheet(NamedTuple):
    """A part of what the client gets: a result, an error, the notices … with its rows."""

    title: str
    rows: list


def text(value):
    return "∅" if value is None else bytes(value).decode("utf-8", "backslashreplace")


def diagnosis(result):
    return tuple(f"{field.name}: {text(result.error_field(field))}" for field in FIELDS if result.error_field(field) is not None)


class Session:
    """A connection below psycopg's, where command tags, notices and the fields of errors are as the server sends them."""

    def __init__(self, host, port, dbname, user, options=""):
        conninfo = f"host={host} port={port} dbname={dbname} user={user} options='{options}' application_name=fuzz"
        self.connection = pq.PGconn.connect(conninfo.encode())
        if self.connection.status != pq.ConnStatus.OK:
            raise RuntimeError(text(self.connection.error_message))
        self.notices = []
        self.connection.notice_handler = lambda result: self.notices.append(diagnosis(result))

    def send(self, statement):
        self.notices.clear()
        try:
            self.connection.send_query(statement.sql.encode())
        except Exception:  # the connection is gone: receive() says so
            pass

    def receive(self, statement):
        """All that came back, as sheets. A client sees no more of a statement than this."""
        sheets, connection = [], self.connection
        while connection.status == pq.ConnStatus.OK and (result := connection.get_result()):
            if result.status in ROWS:
                names = ", ".join(f"{text(result.fname(i))} {result.ftype(i)}" for i in range(result.nfields))
                columns = range(result.nfields)
                rows = [tuple(text(result.get_value(row, i)) for i in columns) for row in range(result.ntuples)]
                sheets.append(Sheet(f"{text(result.command_status)} ({names})", rows))
            elif result.status == pq.ExecStatus.COPY_IN:
                if statement.data:
                    connection.put_copy_data(statement.data.encode())
                connection.put_copy_end()
            elif result.status == pq.ExecStatus.COPY_OUT:
                rows = []
                while (read := connection.get_copy_data(0))[0] > 0:
                    rows.append((text(read[1]),))
                sheets.append(Sheet("copied out", rows))
            else:
                sheets.append(Sheet(f"error {text(result.error_field(pq.DiagnosticField.SQLSTATE))}", [diagnosis(result)]))
        connection.consume_input() if connection.status == pq.ConnStatus.OK else None
        while connection.status == pq.ConnStatus.OK and (heard := connection.notifies()):
            sheets.append(Sheet("notification", [(text(heard.relname), text(heard.extra), str(heard.be_pid))]))
        sheets.append(Sheet("notices", list(self.notices)))
        sheets.append(Sheet(f"then {self.status.name}", []))
        return sheets

    @property
    def status(self):
        """In a transaction, idle, in a failed one, or UNKNOWN: the server is gone."""
        return pq.TransactionStatus(self.connection.transaction_status)

    def close(self):
        self.connection.finish()


class Lockstep:
    """One session on each server, in the order base, control, other; a context manager."""

    def __init__(self, databases, user, options=""):
        self.databases, self.user, self.options = databases, user, options

    def __enter__(self):
        with ExitStack() as opened:
            self.sessions = []
            for database in self.databases:
                cluster = database.cluster
                self.sessions.append(Session(cluster.host, cluster.port, database.name, self.user, self.options))
                opened.callback(self.sessions[-1].close)
            self.closing = opened.pop_all()
        return self

    def __exit__(self, *_):
        self.closing.close()

    def run(self, statement):
        """What each server answers; they work at the same time."""
        for session in self.sessions:
            session.send(statement)
        return [session.receive(statement) for session in self.sessions]

    @property
    def status(self):
        return self.sessions[0].status


def difference(base, control, other, ordered):
    """Where `other` differs, in words; NOISE if the twins already give results of different shape; None if there is nothing.

    Rows are compared in their order only if it is `ordered`: without ORDER BY it tells where rows lie.
    """
    if not ordered:
        base, control, other = ([Sheet(sheet.title, sorted(sheet.rows)) for sheet in side] for side in (base, control, other))
    if shape(base) != shape(control):
        return NOISE
    if shape(base) != shape(other):
        here, there = words(base), words(other)
        return f"{[word for word in here if word not in there]} <> {[word for word in there if word not in here]}"
    for mine, twin, theirs in zip(base, control, other):
        for row, row_twin, row_theirs in zip(mine.rows, twin.rows, theirs.rows):
            for cell, cell_twin, cell_theirs in zip(row, row_twin, row_theirs):
                if not same(cell, cell_twin, cell_theirs):
                    return f"{mine.title}: {cell!r} <> {cell_theirs!r}"
    return None


def shape(sheets):
    return [(sheet.title, [len(row) for row in sheet.rows]) for sheet in sheets]


def words(sheets):
    """An answer's parts, one by one."""
    return [part for sheet in sheets for part in (f"{sheet.title}, {len(sheet.rows)} row(s)", *map(" · ".join, sheet.rows))]


def same(cell, twin, other):
    """Is `other` equal to `cell` wherever the twins are?"""
    if cell == twin:
        return other == cell
    tokens, twins, others = (TOKEN.findall(value) for value in (cell, twin, other))
    if len(tokens) != len(twins) or len(tokens) != len(others):
        return True  # a length that is noise by itself
    return all(mine == theirs for mine, beside, theirs in zip(tokens, twins, others) if mine == beside)
