"""amp.usage_report(): the page as an HTML parser reads it, for an operator and for an account's admin, with names meant to break out of it."""

import base64
import hashlib
from html.parser import HTMLParser

import pytest

from harness import raises

MONTH = "2019-03"
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"' onmouseover=alert(1) x=\"",
    "</title></style></svg>--><!--",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt;",
    "line\u2028para\u2029\r\nnew\x01\x85",
    "\u202eright to left\u2066\u200f",
    "https://evil.example/x.js",
]
VOID = {"meta", "br", "input"}
DRAWN = {"path", "rect", "line", "circle"}  # in SVG, and closed at once


class Page(HTMLParser):
    """Elements as (tag, attributes, text); fails where the page is not well-formed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.tables = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is there twice"
        element = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        assert tag in DRAWN, tag
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        for _, _, text in self.open:
            text.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def all(self, tag, **attributes):
        return [e for e in self.elements if e[0] == tag and all(e[1].get(key) == value for key, value in attributes.items())]

    def texts(self, tag, **attributes):
        return [" ".join("".join(text).split()) for _, _, text in self.all(tag, **attributes)]


def keep_months(admin):
    """Counters by hand: months are kept beside days."""
    admin.execute("DELETE FROM amp.monthly_usage")
    admin.execute("""INSERT INTO amp.monthly_usage SELECT tenant_id, date_trunc('month', day), metric, slot, sum(amount)
                     FROM amp.usage_counters GROUP BY 1, 2, 3, 4""")


@pytest.fixture
def platform(fresh_db):
    """Two accounts: `acc`, whose tenants have hostile names and cost 1.00, 2.01 …, and `rival`, whose tenant costs 12,345.67."""
    with fresh_db.connect("amp_ops") as ops, fresh_db.connect() as admin:
        for account in ("acc", "rival"):
            ops.execute("SELECT amp.create_account('<b>' || %s, 'agency', %s)", [account, account])
            ops.execute("SELECT amp.add_account_member(%s, %s, 'admin')", [account, f"{account}@example.com"])
        ops.execute("SELECT amp.add_account_member('acc', 'viewer@example.com', 'viewer')")
        limits = '{"cost_limits": {"monthly_limit_cents": 250, "daily_limit_cents": 150, "alert_threshold_percent": 80}}'
        for i, name in enumerate(HOSTILE):
            ops.execute("SELECT amp.create_tenant(%s, %s, %s, %s, 'acc')", [name, f"hostile-{i}", limits, f"t{i}"])
            admin.execute("INSERT INTO amp.usage_counters VALUES (%s, 'cost_cents', '2019-03-05', 1, 100)", [f"t{i}"])
            admin.execute("INSERT INTO amp.usage_counters VALUES (%s, 'cost_cents', '2019-03-31', 1, %s)", [f"t{i}", 101 * i])
        ops.execute("SELECT amp.create_tenant('The Rival', 'the-rival', '{}', 'rival', 'rival')")
        admin.execute("INSERT INTO amp.usage_counters VALUES ('rival', 'cost_cents', '2019-03-05', 1, 1234567)")
        keep_months(admin)
        admin.execute("INSERT INTO amp.alerts VALUES ('t2', '2019-03', 80, 200, 250, 201, false, '2019-03-31 09:15+00')")
    return fresh_db


def report(connection, *args):
    html = connection.execute(f"SELECT amp.usage_report({', '.join(['%s'] * len(args))})", args).fetchone()[0]
    return html, Page(html)


def client(database, email, **key):
    with database.connect("amp_ops") as ops:
        user = ops.execute("SELECT id FROM amp.app_users WHERE email = %s", [email]).fetchone()[0]
        made = ops.execute(
            "SELECT amp.create_api_key(%s, %s, 'k') ->> 'key'", [user, key.get("tenant")]
        ).fetchone()[0]
    session = database.connect("amp_client")
    session.execute("SELECT amp.authenticate(%s)", [made])
    return session


def as_shown(name):
    """Control characters are shown as what they are not; white space is one space to a reader."""
    shown = "".join(c if c in "\n\t" or not (c < " " or "\x7f" <= c <= "\x9f") else "\ufffd" for c in name.strip())
    return " ".join(shown.split())


def test_page_is_complete_by_itself(platform):
    with platform.connect("amp_ops") as ops:
        html, page = report(ops, MONTH)
    assert html.startswith("<!DOCTYPE html>") and html.isascii()
    assert {tag for tag, _, _ in page.elements} <= set(
        "html head meta title style body header main footer section article h1 h2 h3 p dl dt dd div span small bdi br ul li label input"
        " select option output table thead tbody tr th td svg desc path rect line circle text details summary script code".split()
    )
    for tag, attributes, _ in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "href", "srcset", "style", "action", "formaction"), (tag, name)
            assert "://" not in (value or "") and "url(" not in (value or ""), (tag, name, value)
    [(_, policy, _)] = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    allowed = dict(part.strip().split(" ", 1) for part in policy["content"].split(";"))
    assert allowed["default-src"] == "'none'" and "unsafe" not in policy["content"]
    for tag in ("style", "script"):
        [(_, _, text)] = page.all(tag)
        digest = base64.b64encode(hashlib.sha256("".join(text).encode()).digest()).decode()
        assert allowed[f"{tag}-src"] == f"'sha256-{digest}'"
        for remote in ("://", "url(", "@import", "fetch", "XMLHttp", "innerHTML"):
            assert remote not in "".join(text)


def test_numbers_and_names_are_those_of_the_review(platform):
    with platform.connect("amp_ops") as ops:
        rows = ops.execute(
            "SELECT name, cost_cents, share_percent, percent_used, jsonb_array_length(alerts) FROM amp.usage_review(%s)", [MONTH]
        ).fetchall()
        _, page = report(ops, MONTH)
    names = page.texts("th", **{"class": "tenant"})
    assert len(names) == len(rows) == len(HOSTILE) + 1
    table = page.texts("td")
    for name, cost, share, used, alerts in rows:
        assert any(shown.startswith(as_shown(name)) for shown in names), name
        assert f"{cost / 100:,.2f}" in table
        assert share is None or f"{share} %" in table
        assert used is None or f"{used} %" in table
    big = page.texts("span", **{"class": "big"})
    total = sum(row[1] for row in rows)
    over = [row for row in rows if row[3] is not None and row[3] >= 100]
    near = [row for row in rows if row[3] is not None and 80 <= row[3] < 100]
    assert big == [f"{total / 100:,.2f}", "\u2013", str(len(near)), str(len(over))]
    assert "2019-03-31 09:15 80 % of 2.50 a month" in page.texts("li")


def test_every_chart_can_be_read_without_seeing_it(platform):
    with platform.connect("amp_ops") as ops:
        _, page = report(ops, MONTH)
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in page.elements:
        for reference in ("aria-labelledby", "aria-describedby"):
            assert set(attributes.get(reference, "").split()) <= set(ids)
    charts = page.all("svg", role="img")
    assert len(charts) == len(HOSTILE) + 1 == len(page.all("desc"))
    assert "Spending in March 2019: 12,345.67, there is no monthly limit. The most expensive day was 5 March 2019 with 12,345.67." in page.texts("desc")
    assert all("scope" in attributes for _, attributes, _ in page.all("th"))
    assert [attributes["aria-sort"] for _, attributes, _ in page.all("th") if "aria-sort" in attributes] == ["descending"]


def test_P1_an_admin_of_an_account_has_a_page_of_its_tenants_alone(platform):
    with client(platform, "acc@example.com") as boss:
        html, page = report(boss, MONTH)
        assert len(page.all("article")) == len(HOSTILE)
        assert "rival" not in html.lower() and "12,345" not in html and "1234567" not in html
        assert page.texts("span", **{"class": "big"})[0] == f"{sum(100 + 101 * i for i in range(len(HOSTILE))) / 100:,.2f}"
        assert "Account <b>acc (acc)." in page.texts("p")[0]
        assert boss.execute("SELECT count(*), sum(share_percent) > 99 FROM amp.usage_review(%s)", [MONTH]).fetchone() == (len(HOSTILE), True)
        for account in ("rival", "nowhere"):
            with raises("TN003"):
                report(boss, MONTH, account)
    with client(platform, "rival@example.com") as boss:
        assert report(boss, MONTH)[1].texts("h3") == ["The Rival rival"]


def test_P1_nobody_else_has_one(platform):
    with platform.connect("amp_ops") as ops:
        ops.execute("SELECT amp.invite_user('member@example.com', 'admin', 't0')")
    sessions = [(platform.connect("amp_client"), "TN004"), (platform.connect("amp_svc"), "TN004"), (platform.connect("amp_owner"), "TN004"),
                (client(platform, "viewer@example.com"), "TN004"), (client(platform, "member@example.com"), "TN004"),
                (client(platform, "acc@example.com", tenant="t0"), "TN003")]  # fmt: skip
    sessions[1][0].execute("SET amp.tenant_id = 't0'")
    for session, code in sessions:
        with session:
            for call in ("amp.usage_report('2019-03')", "amp.usage_review('2019-03')"):
                with raises(code):
                    session.execute(f"SELECT * FROM {call}")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_P6_who_is_no_admin_any_more_reviews_nothing(platform, isolation):
    with platform.connect("amp_ops") as ops, client(platform, "acc@example.com") as boss:
        ops.execute("SELECT amp.add_account_member('acc', 'other@example.com', 'admin')")
        boss.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        assert boss.execute("SELECT count(*) FROM amp.usage_review('2019-03')").fetchone() == (len(HOSTILE),)
        ops.execute("SELECT amp.add_account_member('acc', 'acc@example.com', 'operator')")
        with raises("TN004"):
            boss.execute("SELECT count(*) FROM amp.usage_review('2019-03')")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_P6_a_tenant_that_is_moved_away_is_in_the_review_no_more(platform, isolation):
    """The open transaction's snapshot still shows it in the account."""
    with platform.connect("amp_ops") as ops, client(platform, "acc@example.com") as boss:
        boss.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        assert boss.execute("SELECT count(*) FROM amp.usage_review('2019-03')").fetchone() == (len(HOSTILE),)
        ops.execute("SELECT amp.set_tenant_account('t1', 'rival')")
        left = [row[0] for row in boss.execute("SELECT tenant_id FROM amp.usage_review('2019-03') ORDER BY 1").fetchall()]
        assert left == [f"t{i}" for i in range(len(HOSTILE)) if i != 1]
        assert len(report(boss, MONTH)[1].all("article")) == len(HOSTILE) - 1


def test_P1_a_strangers_function_reviews_nothing_for_an_operator(platform):
    """Neither as its owner, who is nobody, nor by the operator's session in which it runs."""
    with platform.connect("amp_owner") as owner:
        owner.execute("""
            CREATE FUNCTION public.trap() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ SELECT amp.usage_report('2019-03') $$;
            CREATE FUNCTION public.rows() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT count(*) FROM amp.usage_review('2019-03') $$;
        """)
    with client(platform, "acc@example.com") as boss, platform.connect("amp_ops") as ops:
        for session in (boss, ops):
            for trap in ("public.trap()", "public.rows()"):
                with raises("TN004"):
                    session.execute(f"SELECT {trap}")


def test_one_tenant_cannot_break_everybodys_review(platform):
    """Amounts beyond bigint, and more metrics than anybody has names for."""
    with platform.connect() as admin:
        admin.execute("INSERT INTO amp.usage_counters SELECT 't0', 'cost_cents', '2019-03-07', i, 9223372036854775807 FROM generate_series(101, 120) i")
        admin.execute("INSERT INTO amp.usage_counters SELECT 't0', 'm' || i, '2019-03-07', 1, 1 FROM generate_series(1, 5000) i")
        keep_months(admin)
    with platform.connect("amp_ops") as ops:
        cost, metrics = ops.execute(
            "SELECT cost_cents, (SELECT count(*) FROM jsonb_object_keys(usage)) FROM amp.usage_review(%s) LIMIT 1", [MONTH]
        ).fetchone()
        assert (cost, metrics) == (100 + 20 * (2**63 - 1), 107)
        assert f"{int(cost) // 100:,}.{int(cost) % 100:02}" in report(ops, MONTH)[0]


def test_P7_an_account_is_reviewed_by_the_session_itself(platform):
    """Not by whatever fetches from a cursor, and not while the context is locked: an account is more than one tenant."""
    with client(platform, "acc@example.com") as boss:
        for call in ("amp.usage_review('2019-03')", "amp.usage_report('2019-03')"):
            with boss.transaction(force_rollback=True):
                boss.execute(f"DECLARE c CURSOR FOR SELECT * FROM {call}")
                with raises("TN004"), boss.transaction():
                    boss.execute("FETCH c")
            with boss.transaction(force_rollback=True):
                boss.execute("SET LOCAL amp.tenant_id = 't0'")
                boss.execute("SELECT amp.lock_context()")
                with raises("TN006"), boss.transaction():
                    boss.execute(f"SELECT * FROM {call}")


@pytest.mark.parametrize("encoding, shown", [("LATIN1", "Gr&#xF6;&#xDF;e"), ("SQL_ASCII", "Gr&#xFFFD;&#xFFFD;e")])
def test_page_is_the_same_text_in_every_encoding(cluster, encoding, shown):
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE encoded TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with cluster.connect("encoded") as admin:
            admin.execute("CREATE EXTENSION amp_tenancy")
            admin.execute("GRANT amp_operator TO amp_ops")
            # A superuser's bytes; the client's encoding is not that of SQL_ASCII.
            admin.execute("INSERT INTO amp.tenants (id, name, slug) VALUES ('t', convert_from('\\x4772f6df65', %s), 'groesse')", [encoding])
        with cluster.connect("encoded", "amp_ops") as ops:
            assert ops.execute("SELECT amp.usage_report() LIKE %s", [f"%<bdi>{shown}</bdi>%"]).fetchone() == (True,)
    finally:
        with cluster.connect() as admin:
            admin.execute("DROP DATABASE encoded WITH (FORCE)")
