"""Each curl command and each JSON document of the product's description, through the HTTP layer of examples/rest, compared whole."""

import json
import os
import subprocess
import sys
import threading

import pytest

from harness import ROOT

sys.path.append(str(ROOT / "examples/rest"))
from server import serve  # noqa: E402

PEOPLE = {"user_xxx": "alice@example.com", "user_yyy": "bob@example.com", "user_zzz": "carol@example.com"}

CONFIG = {
    "metricool": {"enabled": True, "token": "encrypted_token", "blog_id": "xxx"},
    "provider_routing": {"llm_preference": "claude", "image_preference": "openai", "fallback_enabled": True},
    "cost_limits": {"monthly_limit_cents": 500000, "alert_threshold_percent": 80},
    "approval": {"require_approval": True, "auto_approve_after_hours": 48, "approvers": ["user_xxx", "user_yyy"]},
}


class Api:
    """The layer, at an address of this machine, and the keys of those who call it."""

    def __init__(self, database, address, keys):
        self.database, self.address, self.keys = database, address, keys

    def curl(self, method, path, key, body=None, *headers):
        """A command as the description shows them: the status and the document that it answers."""
        command = ["curl", "-sS", "-w", "\n%{http_code}", "-X", method, f"http://{self.address}{path}"]
        for header in (f"Authorization: Bearer {self.keys.get(key, key)}", "Content-Type: application/json", *headers):
            command += ["-H", header]
        if body is not None:
            command += ["-d", body if isinstance(body, str) else json.dumps(body)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        document, status = answer.rsplit("\n", 1)
        return int(status), json.loads(document) if document else None

    def admin(self, statement, *values):
        with self.database.connect() as admin:
            return admin.execute(statement, values)




@pytest.fixture
def api(fresh_db, cluster):
    """Tenants tnt_xxx and tnt_yyy; user_xxx is an admin of the first and an operator of the second; keys of his and of an operator."""
    with fresh_db.connect() as admin, fresh_db.connect("amp_ops") as ops:
        for user, email in PEOPLE.items():
            admin.execute("INSERT INTO amp.app_users VALUES (%s, %s)", [user, email])
        ops.execute("SELECT amp.create_tenant('Agency Client A', 'client-a', id => 'tnt_xxx')")
        ops.execute("SELECT amp.create_tenant('Agency Client B', 'client-b', id => 'tnt_yyy')")
        for user, role, tenant in (
            ("user_xxx", "admin", "tnt_xxx"),
            ("user_xxx", "operator", "tnt_yyy"),
            ("user_yyy", "operator", "tnt_xxx"),
            ("user_zzz", "viewer", "tnt_xxx"),
        ):
            ops.execute("SELECT amp.invite_user(%s, %s, %s)", [PEOPLE[user], role, tenant])
        keys = {
            "$AMP_API_KEY": ops.execute("SELECT amp.create_api_key('user_xxx', name => 'k') ->> 'key'").fetchone()[0],
            "$VIEWER_KEY": ops.execute("SELECT amp.create_api_key('user_zzz', name => 'k') ->> 'key'").fetchone()[0],
            "$OPERATOR_API_KEY": ops.execute("SELECT amp.create_operator_key('k') ->> 'key'").fetchone()[0],
        }
    with fresh_db.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE missions (tenant_id text, id int, name text, status text, PRIMARY KEY (tenant_id, id))")
        owner.execute("INSERT INTO missions VALUES ('tnt_xxx', 1, 'one', 'active'), ('tnt_yyy', 2, 'two', 'active')")
        owner.execute("SELECT amp.protect('missions')")
        owner.execute("GRANT SELECT ON missions TO amp_client")
    conninfo = f"host={cluster.host} port={cluster.port} dbname={fresh_db.name} user=amp_client"
    layer = serve(0, conninfo)
    threading.Thread(target=layer.serve_forever, daemon=True).start()
    yield Api(fresh_db, f"127.0.0.1:{layer.server_address[1]}", keys)
    layer.shutdown()
    layer.server_close()


def without_times(document):
    return {key: value for key, value in document.items() if key not in ("created_at", "updated_at")}


ZERO = {"current_month": {"missions_created": 0, "content_generated": 0, "api_calls": 0, "cost_cents": 0}}


def test_create_tenant_operator_only(api):
    body = """{
    "name": "New Client Corp",
    "slug": "new-client-corp",
    "config": {
      "provider_routing": {
        "llm_preference": "claude"
      }
    }
  }"""
    status, document = api.curl("POST", "/v1/tenants", "$OPERATOR_API_KEY", body)
    assert status == 200, document
    assert document.pop("id").startswith("tnt_")
    assert without_times(document) == {
        "name": "New Client Corp",
        "slug": "new-client-corp",
        "status": "active",
        "config": {"provider_routing": {"llm_preference": "claude"}},
        "usage": ZERO,
    }
    status, document = api.curl("POST", "/v1/tenants", "$AMP_API_KEY", body)
    assert (status, document["error"]["code"]) == (403, "TN004")


def test_the_tenant_document(api):
    """Exactly the description's, but for the secret, which is shown as encrypted, and only where the server has a key file."""
    config = CONFIG | {"metricool": {"enabled": True, "blog_id": "xxx"}}
    assert api.curl("PUT", "/v1/tenants/tnt_xxx", "$OPERATOR_API_KEY", {"config": config})[0] == 200
    api.admin("UPDATE amp.tenants SET name = 'Acme Corporation', slug = 'acme-corp', created_at = '2024-01-01Z', updated_at = '2024-01-15 10:30Z'"
              " WHERE id = 'tnt_xxx'")  # fmt: skip
    api.admin("UPDATE amp.tenant_configs SET updated_at = '2024-01-15 10:30Z' WHERE tenant_id = 'tnt_xxx'")
    usage = {"missions_created": 5, "content_generated": 234, "api_calls": 12456, "cost_cents": 23400}
    for metric, amount in usage.items():
        api.admin("SELECT amp.add_usage('tnt_xxx', %s, %s)", metric, amount)
    for key in ("$AMP_API_KEY", "$OPERATOR_API_KEY"):
        status, document = api.curl("GET", "/v1/tenants/tnt_xxx", key)
        assert (status, document) == (
            200,
            {
                "id": "tnt_xxx",
                "name": "Acme Corporation",
                "slug": "acme-corp",
                "status": "active",
                "config": config,
                "usage": {"current_month": usage},
                "created_at": "2024-01-01T00:00:00Z",
                "updated_at": "2024-01-15T10:30:00Z",
            },
        )


SECTIONS = {
    "provider routing": {
        "provider_routing": {
            "llm_preference": "claude",
            "llm_fallback": ["openai", "google"],
            "image_preference": "openai",
            "cost_optimization": True,
        }
    },
    "cost controls": {
        "cost_limits": {
            "monthly_limit_cents": 500000,
            "daily_limit_cents": 20000,
            "alert_threshold_percent": 80,
            "hard_stop_at_limit": True,
        }
    },
    "approval workflows": {
        "approval": {
            "require_approval": True,
            "auto_approve_after_hours": 24,
            "approvers": ["user_xxx", "user_yyy"],
            "approval_order": "any",
            "escalation_after_hours": 12,
            "escalation_to": "user_zzz",
        }
    },
    "update tenant configuration": {"cost_limits": {"monthly_limit_cents": 750000}},
}


@pytest.mark.parametrize("section", SECTIONS)
def test_update_tenant_configuration(api, section):
    status, document = api.curl("PUT", "/v1/tenants/tnt_xxx", "$AMP_API_KEY", {"config": SECTIONS[section]})
    assert (status, document.get("config")) == (200, SECTIONS[section]), document
    assert api.curl("GET", "/v1/tenants/tnt_xxx", "$AMP_API_KEY")[1] == document
    assert api.curl("PUT", "/v1/tenants/tnt_xxx", "$VIEWER_KEY", {"config": SECTIONS[section]})[0] == 403


def test_view_tenant_usage(api):
    api.curl("PUT", "/v1/tenants/tnt_xxx", "$AMP_API_KEY", {"config": {"cost_limits": {"monthly_limit_cents": 500000}}})
    usage = {
        "missions_created": 12,
        "content_generated": 456,
        "content_published": 423,
        "api_calls": 34567,
        "llm_tokens_used": 2345678,
        "images_generated": 89,
        "cost_cents": 45600,
    }
    for metric, amount in usage.items():
        api.admin("INSERT INTO amp.usage_counters VALUES ('tnt_xxx', %s, '2024-01-31', 1, %s)", metric, amount)
        api.admin("INSERT INTO amp.monthly_usage VALUES ('tnt_xxx', '2024-01-01', %s, 1, %s)", metric, amount)
    status, document = api.curl("GET", "/v1/tenants/tnt_xxx/usage?period=2024-01", "$AMP_API_KEY")
    assert (status, document) == (
        200,
        {
            "tenant_id": "tnt_xxx",
            "period": "2024-01",
            "usage": usage,
            "limits": {"monthly_limit_cents": 500000, "percent_used": 9.12},
        },
    )
    assert api.curl("GET", "/v1/tenants/tnt_xxx/usage", "$AMP_API_KEY")[1]["usage"]["cost_cents"] == 0


def test_regular_usage_reviews(api):
    """All tenants' usage, for an operator."""
    api.admin("SELECT amp.add_usage('tnt_yyy', 'cost_cents', 45)")
    status, reviewed = api.curl("GET", "/v1/tenants?include=usage", "$OPERATOR_API_KEY")
    assert status == 200
    assert {tenant["id"]: tenant["usage"]["current_month"]["cost_cents"] for tenant in reviewed["data"]} == {"tnt_xxx": 0, "tnt_yyy": 45}
    assert reviewed["data"] == [api.curl("GET", f"/v1/tenants/{tenant}", "$OPERATOR_API_KEY")[1] for tenant in ("tnt_xxx", "tnt_yyy")]
    assert api.curl("GET", "/v1/tenants?include=usage", "$AMP_API_KEY")[0] == 403


def test_user_management(api):
    status, invited = api.curl(
        "POST", "/v1/tenants/tnt_xxx/users", "$AMP_API_KEY", {"email": "newuser@example.com", "role": "operator"}
    )
    assert status == 200 and invited.pop("id").startswith("user_")
    assert invited == {"email": "newuser@example.com", "role": "operator", "tenant_id": "tnt_xxx"}
    status, changed = api.curl("PUT", "/v1/tenants/tnt_xxx/users/user_yyy", "$AMP_API_KEY", {"role": "admin"})
    assert (status, changed) == (200, {"id": "user_yyy", "email": "bob@example.com", "role": "admin", "tenant_id": "tnt_xxx"})
    assert api.curl("DELETE", "/v1/tenants/tnt_xxx/users/user_yyy", "$AMP_API_KEY") == (204, None)
    status, listed = api.curl("GET", "/v1/tenants/tnt_xxx/users", "$AMP_API_KEY")
    assert [user["email"] for user in listed["data"]] == ["alice@example.com", "carol@example.com", "newuser@example.com"]
    assert api.curl("POST", "/v1/tenants/tnt_xxx/users", "$VIEWER_KEY", {"email": "x@example.com", "role": "viewer"})[0] == 403


def test_switching_tenants(api):
    """List, set the default, and override it for one request."""
    listed = api.curl("GET", "/v1/tenants", "$AMP_API_KEY")
    assert listed == (
        200,
        {
            "data": [
                {"id": "tnt_xxx", "name": "Agency Client A", "role": "admin", "is_default": True},
                {"id": "tnt_yyy", "name": "Agency Client B", "role": "operator", "is_default": False},
            ]
        },
    )
    missions = {tenant: {"data": [{"id": number, "name": name, "status": "active", "tenant_id": tenant}]}
                for tenant, number, name in (("tnt_xxx", 1, "one"), ("tnt_yyy", 2, "two"))}  # fmt: skip
    assert api.curl("GET", "/v1/missions", "$AMP_API_KEY")[1] == missions["tnt_xxx"]
    assert api.curl("PUT", "/v1/auth/settings", "$AMP_API_KEY", {"default_tenant_id": "tnt_yyy"}) == (200, {"default_tenant_id": "tnt_yyy"})
    assert api.curl("GET", "/v1/missions", "$AMP_API_KEY")[1] == missions["tnt_yyy"]
    assert api.curl("GET", "/v1/missions", "$AMP_API_KEY", None, "X-Tenant-ID: tnt_xxx")[1] == missions["tnt_xxx"]
    flags = {tenant["id"]: tenant["is_default"] for tenant in api.curl("GET", "/v1/tenants", "$AMP_API_KEY")[1]["data"]}
    assert flags == {"tnt_xxx": False, "tnt_yyy": True}


def test_the_agency_use_case(api):
    with api.database.connect("amp_ops") as ops:
        ops.execute("SELECT amp.create_account('The Agency', 'agency', 'acc_agency')")
        ops.execute("SELECT amp.add_account_member('acc_agency', 'carol@example.com', 'admin')")
        key = ops.execute("SELECT amp.create_api_key('user_zzz', name => 'k', account_id => 'acc_agency') ->> 'key'").fetchone()
        api.keys["$AGENCY_KEY"] = key[0]
    status, acme = api.curl("POST", "/v1/tenants", "$AGENCY_KEY", {"name": "Acme Corp", "slug": "acme-corp"})
    assert status == 200, acme
    path = f"/v1/tenants/{acme['id']}/users"
    status, invited = api.curl("POST", path, "$AGENCY_KEY", {"email": "marketing@acme.com", "role": "viewer"})
    assert status == 200 and (invited["email"], invited["role"]) == ("marketing@acme.com", "viewer")
    listed = api.curl("GET", "/v1/tenants", "$AGENCY_KEY")[1]
    assert listed == {"data": [{"id": acme["id"], "name": "Acme Corp", "role": "admin", "is_default": False}]}
    # The key is the agency's: where its holder is a viewer himself, it opens nothing.
    assert api.curl("GET", "/v1/tenants/tnt_xxx", "$AGENCY_KEY")[0] == 403


def test_the_enterprise_use_case(api):
    """Departments and brands of one account share elements of their brand context."""
    with api.database.connect("amp_ops") as ops:
        ops.execute("SELECT amp.create_account('The Enterprise', 'enterprise', 'acc_enterprise')")
        ops.execute("SELECT amp.add_account_member('acc_enterprise', 'alice@example.com', 'admin')")
        for tenant in ("tnt_corporate", "tnt_product_a"):
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s, account_id => 'acc_enterprise')",
                        [tenant, tenant.replace("_", "-"), tenant])  # fmt: skip
    brand = {"visual_identity": {"primary": "#123456"}, "voice": {"personality": "warm", "pace": "slow"}}
    for tenant, document in (("tnt_corporate", brand), ("tnt_product_a", {"voice": {"pace": "fast"}})):
        assert api.curl("PUT", "/v1/brand", "$AMP_API_KEY", document, f"X-Tenant-ID: {tenant}")[0] == 200
    body = """{
    "source_tenant": "tnt_corporate",
    "target_tenant": "tnt_product_a",
    "elements": ["visual_identity", "voice.personality"]
  }"""
    status, shared = api.curl("POST", "/v1/brand/share", "$AMP_API_KEY", body)
    assert (status, shared) == (200, json.loads(body) | {"expires_at": None})
    status, merged = api.curl("GET", "/v1/brand", "$AMP_API_KEY", None, "X-Tenant-ID: tnt_product_a")
    assert (status, merged["context"]) == (200, brand | {"voice": {"personality": "warm", "pace": "fast"}})
    assert [(origin["element"], origin["source_tenant"]) for origin in merged["shared"]] == [
        ("visual_identity", "tnt_corporate"),
        ("voice.personality", "tnt_corporate"),
    ]
    # Never into another account.
    status, refused = api.curl("POST", "/v1/brand/share", "$AMP_API_KEY", body.replace("tnt_product_a", "tnt_xxx"))
    assert (status, refused["error"]["code"]) == (404, "TN002")


def test_approving_over_http(api):
    rules = {"config": {"approval": {"require_approval": True, "approvers": ["user_yyy"]}}}
    assert api.curl("PUT", "/v1/tenants/tnt_xxx", "$AMP_API_KEY", rules)[0] == 200
    with api.database.connect("amp_ops") as ops, api.database.connect("amp_svc") as service:
        api.keys["$APPROVER"] = ops.execute("SELECT amp.create_api_key('user_yyy', name => 'k') ->> 'key'").fetchone()[0]
        service.execute("SET amp.tenant_id = 'tnt_xxx'; SET amp.user_id = 'user_xxx'")
        one, two = (service.execute("SELECT amp.request_approval('posts', %s, '{}') ->> 'id'", [n]).fetchone()[0] for n in "12")
    assert api.curl("POST", f"/v1/approvals/{one}/approve", "$AMP_API_KEY")[0] == 403  # his own
    assert api.curl("POST", f"/v1/approvals/{one}/approve", "$APPROVER", {"comment": "fine"})[1]["status"] == "approved"
    assert api.curl("POST", f"/v1/approvals/{two}/reject", "$APPROVER")[1]["status"] == "rejected"
    status, listed = api.curl("GET", "/v1/approvals?status=rejected", "$VIEWER_KEY")
    assert (status, [request["id"] for request in listed["data"]]) == (200, [two])


MISTAKES = [
    ("POST", "/v1/tenants", "$OPERATOR_API_KEY", {"name": "x", "slug": "Client 1"}, 422, "22023"),
    ("POST", "/v1/tenants", "$OPERATOR_API_KEY", {"name": "x", "slag": "client-1"}, 422, "TN010"),
    ("POST", "/v1/tenants", "$OPERATOR_API_KEY", {"name": "x", "slug": "client-a"}, 409, "23505"),
    ("POST", "/v1/tenants", "$OPERATOR_API_KEY", '{"name": ', 400, "22P02"),
    ("PUT", "/v1/tenants/tnt_xxx", "$AMP_API_KEY", {"config": {"cost_limits": {"monthly_limit": 1}}}, 422, "TN010"),
    ("PUT", "/v1/tenants/tnt_yyy", "$AMP_API_KEY", {"config": {"cost_limits": {"monthly_limit_cents": 1}}}, 403, "TN004"),
    ("GET", "/v1/tenants/tnt_zzz", "$AMP_API_KEY", None, 403, "TN003"),
    ("GET", "/v1/tenants/tnt_yyy", "$VIEWER_KEY", None, 403, "TN003"),
    ("GET", "/v1/tenants/tnt_zzz", "$OPERATOR_API_KEY", None, 404, "TN002"),
    ("GET", "/v1/tenants", "amp_sk_" + "x" * 48, None, 403, "TN003"),
    ("GET", "/v1/missions", "$OPERATOR_API_KEY", None, 400, "TN001"),
    ("POST", "/v1/tenants/tnt_xxx/users", "$AMP_API_KEY", {"email": "a@b.example"}, 422, "TN010"),
    ("POST", "/v1/tenants/tnt_xxx/users", "$AMP_API_KEY", {"email": 5, "role": "admin"}, 422, "TN010"),
    ("PUT", "/v1/tenants/tnt_xxx/users/user_yyy", "$AMP_API_KEY", {"rule": "admin"}, 422, "TN010"),
    ("PUT", "/v1/auth/settings", "$AMP_API_KEY", {"default_tenant_id": "tnt_zzz"}, 403, "TN003"),
    ("PUT", "/v1/auth/settings", "$AMP_API_KEY", {"default": "tnt_yyy"}, 422, "TN010"),
    ("POST", "/v1/brand/share", "$AMP_API_KEY", '{"source_tenant": ', 400, "22P02"),
    ("POST", "/v1/brand/share", "$AMP_API_KEY", "[]", 422, "TN010"),
    ("POST", "/v1/brand/share", "$AMP_API_KEY", {"source_tenant": 5, "target_tenant": "tnt_yyy", "elements": []}, 403, "TN003"),
]


@pytest.mark.parametrize(("method", "path", "key", "body", "status", "code"), MISTAKES)
def test_a_mistake_is_told_and_changes_nothing(api, method, path, key, body, status, code):
    tables = ("tenants", "tenant_configs", "members", "app_users")
    before = [api.admin(f"SELECT * FROM amp.{table} ORDER BY 1").fetchall() for table in tables]
    answered, document = api.curl(method, path, key, body)
    assert (answered, document["error"]["code"]) == (status, code), document
    assert document["error"]["message"] and document["error"]["hint"] or code == "22P02"
    assert [api.admin(f"SELECT * FROM amp.{table} ORDER BY 1").fetchall() for table in tables] == before
