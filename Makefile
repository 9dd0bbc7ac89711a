# amp_tenancy. PG_CONFIG=… chooses the PostgreSQL (default: Debian's 15); all but `install` work on a private copy of it.
export PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config

help:
	@echo "make demo      build, start a private PostgreSQL and show what the extension does"
	@echo "make psql      go on by hand in the demo's database;  make stop  stops its server"
	@echo "make test      all tests;  tests/run --only SUITE  runs one suite"
	@echo "make attacks   the table of attacks (docs/attacks.md), on this PostgreSQL"
	@echo "make test-core PostgreSQL's own suites, with the library preloaded and installed"
	@echo "make bench     what it costs, against the same queries without it"
	@echo "make fuzz      hostile credentials, or FUZZ=interference, for FUZZ_SECONDS (60)"
	@echo "make lint      formatting and clippy"
	@echo "make install   build and install into the server of PG_CONFIG=$(PG_CONFIG)"
	@echo "make clean     remove what was built, and the demo"

demo:
	@dev/demo

psql:
	@dev/demo psql

stop:
	@dev/demo stop

test:
	@tests/run

attacks:
	@tests/attacks

test-core:
	@tests/core/run

bench:
	@dev/setup bench
	@benches/run

fuzz:
	@dev/fuzz

lint:
	@dev/lint

install:
	@dev/install

clean:
	@dev/demo clean
	cargo clean
	rm -rf fuzz/target fuzz/artifacts

.PHONY: help demo psql stop test attacks test-core bench fuzz lint install clean
