"""Findings of the doctor that take more than one table, or another server: tests/pg_regress/sql/doctor.sql has the others."""

import pytest

from harness import Cluster
from world import column

MADE = {
    "parent-unprotected": """
        CREATE TABLE base (tenant_id text, id int); CREATE TABLE part () INHERITS (base);
        SELECT amp.protect('part')""",
    "table-unprotected": """
        CREATE SCHEMA app; SELECT amp.protect_schema('app'); CREATE TABLE app.late (tenant_id text, id int)""",
    "foreign-key-without-tenant": """
        CREATE TABLE one (tenant_id text, id int, PRIMARY KEY (tenant_id, id), UNIQUE (id)); CREATE TABLE other (tenant_id text, one_id int);
        SELECT amp.protect('one'); SELECT amp.protect('other');
        ALTER TABLE other ADD FOREIGN KEY (one_id) REFERENCES one (id)""",
}


@pytest.mark.parametrize("code", MADE)
def test_what_is_found_is_closed_by_its_fix(fresh_db, code):
    found = f"SELECT fix FROM amp.doctor() WHERE code = '{code}'"
    with fresh_db.connect() as owner:
        assert column(owner, found) == []
        fresh_db.open_hole(MADE[code])
        [fix] = column(owner, found)
        owner.execute(fix.partition(", or ")[0])  # of two ways, the first
        assert column(owner, found) == []


def test_a_library_that_is_not_preloaded_is_found():
    server = Cluster(shared_preload_libraries="")
    try:
        with server.database().connect("amp_client") as client:
            assert column(client, "SELECT object FROM amp.doctor() WHERE code = 'not-preloaded'") == ["shared_preload_libraries"]
    finally:
        server.remove()
