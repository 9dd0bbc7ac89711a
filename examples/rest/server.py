#!/usr/bin/env python3
"""The product's HTTP interface, as a thin layer: each request is one transaction and one call. See docs/rest.md.

Connects as an ordinary login role that is in no group of amp's: every request proves who it is by its own API key or token, and
what it may do is decided in the database. Usage: server.py PORT CONNINFO
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import psycopg

# A tenant in the path is told the call, and a user's session enters it.
TENANT = "/v1/tenants/(?P<tenant>[^/]+)"
ROUTES = [
    ("POST", "/v1/tenants", "SELECT amp.create_tenant(%(body)s::jsonb)"),
    ("GET", "/v1/tenants\\?include=usage", "SELECT amp.list_tenants()"),
    ("GET", "/v1/tenants", "SELECT amp.my_tenants()"),
    ("GET", TENANT, "SELECT amp.tenant(%(tenant)s)"),
    ("PUT", TENANT, "SELECT amp.update_config(%(body)s::jsonb, %(tenant)s)"),
    ("GET", f"{TENANT}/usage", "SELECT amp.usage(%(tenant)s, %(period)s)"),
    ("GET", f"{TENANT}/users", "SELECT amp.users(%(tenant)s)"),
    ("POST", f"{TENANT}/users", "SELECT amp.invite_user(%(body)s::jsonb, %(tenant)s)"),
    ("PUT", f"{TENANT}/users/(?P<user>[^/]+)", "SELECT amp.set_user_role(%(user)s, %(body)s::jsonb, %(tenant)s)"),
    ("DELETE", f"{TENANT}/users/(?P<user>[^/]+)", "SELECT amp.remove_user(%(user)s, %(tenant)s)"),
    ("PUT", "/v1/auth/settings", "SELECT amp.set_default_tenant(%(body)s::jsonb)"),
    ("POST", "/v1/brand/share", "SELECT amp.share_brand(%(body)s::jsonb)"),
    ("GET", "/v1/brand", "SELECT amp.brand_context()"),
    ("PUT", "/v1/brand", "SELECT amp.set_brand_context(%(body)s::jsonb)"),
    ("GET", "/v1/approvals", "SELECT amp.approvals(%(status)s)"),
    ("POST", "/v1/approvals/(?P<id>[^/]+)/approve", "SELECT amp.approve(%(id)s, %(body)s::jsonb ->> 'comment')"),
    ("POST", "/v1/approvals/(?P<id>[^/]+)/reject", "SELECT amp.reject(%(id)s, %(body)s::jsonb ->> 'comment')"),
    ("GET", "/v1/missions", "SELECT jsonb_build_object('data', coalesce(jsonb_agg(to_jsonb(m) ORDER BY m.id), '[]')) FROM missions m"),
]

STATUS = {
    "TN001": 400, "TN002": 404, "TN003": 403, "TN004": 403, "TN005": 402, "TN006": 409, "TN007": 401, "TN010": 422,
    "22023": 422, "22P02": 400, "23505": 409, "42704": 404, "54000": 422, "55000": 409, "40001": 503,
}  # fmt: skip


class Request(BaseHTTPRequestHandler):
    def answer(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        resource = url.path + ("?include=usage" if query.get("include") == ["usage"] else "")
        for method, pattern, statement in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, resource)):
                return self.call(statement, match.groupdict(), query)
        return 404, {"error": {"message": f"no such resource: {self.command} {url.path}"}}

    def call(self, statement, names, query):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode() or "{}"
        key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        period, status = (query.get(name, [None])[0] for name in ("period", "status"))
        try:
            with psycopg.connect(self.server.conninfo) as connection:  # COMMIT at its end, ROLLBACK after an error
                proof = connection.execute("SELECT amp.authenticate(%s)", [key]).fetchone()[0]
                # A resource under a tenant is used in that tenant; brand elements are shared by their source.
                tenant = names.get("tenant") or self.headers.get("X-Tenant-ID")
                if "share_brand" in statement:
                    tenant = tenant or connection.execute("SELECT %s::jsonb ->> 'source_tenant'", [body]).fetchone()[0]
                if tenant and not proof["operator"]:
                    connection.execute("SELECT set_config('amp.tenant_id', %s, true)", [tenant])
                values = {"tenant": None, "body": body, "period": period, "status": status, **names}
                return 200, connection.execute(statement, values).fetchone()[0]
        except psycopg.Error as error:
            told = error.diag
            return STATUS.get(error.sqlstate, 500), {
                "error": {"code": error.sqlstate, "message": told.message_primary, "detail": told.message_detail, "hint": told.message_hint}
            }

    def do_GET(self):
        status, document = self.answer()
        text = b"" if document in (None, "") else json.dumps(document).encode()
        self.send_response(204 if status == 200 and not text else status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_PUT = do_DELETE = do_GET


def serve(port, conninfo):
    server = ThreadingHTTPServer(("127.0.0.1", port), Request)
    server.conninfo = conninfo
    return server


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2]).serve_forever()
