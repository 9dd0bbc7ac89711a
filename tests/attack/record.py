"""A pytest plugin of tests/attacks: runs the tests of catalogue rows only, and writes what each did to the file $AMP_ATTACKS_RECORD.

A test belongs to the rows that its name begins with (test_A1_…, test_F3_F4_…), and to those that list it in rows.toml. Whether it showed the
attack on plain PostgreSQL, and in which kinds of session it tried it under amp, is seen by where it connects.
"""

import json
import os
import re

import harness
import pytest
from proofs import CHOOSES, KINDS
from rows import listed, rows_of

ROLES = {"amp_svc": "service", "amp_client": "client", "amp_ops": "operator", "amp_owner": "owner"}
seen, results = set(), []


def pytest_configure():
    connect = harness.Database.connect

    def watched(self, user="postgres", **kw):
        seen.add((self.extension, user))
        return connect(self, user, **kw)

    harness.Database.connect = watched


def pytest_collection_modifyitems(config, items):
    of_rows = [item for item in items if rows(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in of_rows])
    items[:] = of_rows


def acting(connections):
    return {ROLES.get(user, "other roles") for extension, user in connections if extension and user != "postgres"}


def rows(item):
    return sorted({*rows_of(item.originalname), *listed(item.nodeid)})


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item):
    seen.clear()
    yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    prepared = set(seen)
    seen.clear()
    yield
    params = item.callspec.params.values() if hasattr(item, "callspec") else []
    kinds = [value for value in params if value in (*KINDS, CHOOSES)]
    # Who prepares the ground, unless nobody else comes; at last a superuser, where the attack is a program's or the catalogs are looked at.
    roles = acting(seen) - {"operator", "owner"} or acting(seen) or acting(prepared)
    if not roles and any(extension for extension, _ in seen | prepared):
        roles = {"superuser"}
    item.user_properties += [
        ("rows", rows(item)),
        ("open", [mark.args[0] for mark in item.iter_markers("still_open")]),
        ("plain", any(not extension and user not in ("postgres", "amp_owner") for extension, user in seen | prepared)),
        ("amp", kinds or sorted(roles)),
    ]


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        results.append({"test": report.nodeid, "outcome": report.outcome, **dict(report.user_properties)})


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):  # with pytest-xdist, the workers' reports come here
        with open(os.environ["AMP_ATTACKS_RECORD"], "w") as file:
            json.dump(results, file)
