# make demo   makes the environment, then runs the main job on an embedded database
# make test   makes the environment with the test tools and the servers it needs, then runs every test
# make check  lint, types, import floors and the fast tests
# make bench  what a night costs after 1 % of the rows changed: three engines, beside restic and borg (under 20 minutes)
# make bench-full      other shares and kinds of change, larger databases; goes on where it was interrupted
# make bench-file      first snapshot, second one and restore of one SQLite file, beside restic, borg and zstd
# make bench-servers   the same for PostgreSQL and MariaDB, beside their own tools
# make bench-retention plan, prune, status and a list of 1,000 to 10,000 snapshots
# make bench-records look records up: query by key and by scan, find over 30 snapshots; ROWS=1000000
# make bench-worst-day diff, find, query and recover on a PostgreSQL database of ten million rows
# make bench-daemon    200 sources: an idle daemon, status, page, metrics and queue beside 20,000 runs
# make soak   a simulated month of 200 sources, then a real daemon that is killed again and again (a quarter of an hour)
# make lock   resolves the pinned versions again (needs uv)

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
TEST_WORKERS ?= 2
SHELL = /bin/sh

.PHONY: demo test check bench bench-full bench-file bench-servers bench-retention bench-records bench-worst-day bench-daemon soak lock clean help needs
help:
	@sed -n 's/^# make/make/p' Makefile

needs:
	@command -v git >/dev/null || { echo "git is missing: install it first (Debian: apt-get install git)" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer, or say PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: Python 3.11 or newer is needed; say PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv: install it first (Debian: apt-get install python3-venv)" >&2; exit 1; }

# The lock has two parts: what backupd runs on, then a marker line, then what its tests need.
$(VENV)/core.done: pyproject.toml requirements.lock | needs
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed '/^# ---- test tools/,$$d' requirements.lock > $(VENV)/core.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $(VENV)/core.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@$(BIN)/python -m compileall -q backupd cli  # as an installer does: where Python may not write, it would compile at each start
	@touch $@

$(VENV)/test.done: $(VENV)/core.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	@touch $@

demo: $(VENV)/core.done
	@$(BIN)/backupctl demo ./backupd-demo

check: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadgroup -m "not slow and not s3server"

test: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup

NIGHTS = $(BIN)/python tests/bench/nights.py --results tests/bench/RESULTS.md

bench: $(VENV)/test.done
	$(NIGHTS)

bench-full: $(VENV)/test.done
	$(NIGHTS) --churn 0.1,1,5 --how scattered,clustered,everywhere --resume nights.json
	$(NIGHTS) --size 4g --nights 3 --engines sqlite --tools ours --resume nights.json
	$(NIGHTS) --size 10g --nights 2 --engines sqlite --tools ours --resume nights.json

bench-file: $(VENV)/test.done
	$(BIN)/python tests/bench/run.py

bench-servers: $(VENV)/test.done
	$(BIN)/python tests/bench/servers.py

bench-retention: $(VENV)/test.done
	$(BIN)/python tests/bench/retention.py

bench-records: $(VENV)/test.done
	$(BIN)/python -m tests.bench.records $(ROWS)

bench-worst-day: $(VENV)/test.done
	$(BIN)/python tests/bench/worstday.py

bench-daemon: $(VENV)/test.done
	$(BIN)/python tests/bench/daemon.py

soak: $(VENV)/test.done
	$(BIN)/python tests/soak/month.py
	$(BIN)/python tests/soak/processes.py

lock:
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 pyproject.toml --extra web --extra apprise --group build -o core.lock.tmp
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 pyproject.toml --extra web --extra apprise --extra duckdb --group build --group test -c core.lock.tmp -o all.lock.tmp
	$(PYTHON) tests/split_lock.py core.lock.tmp all.lock.tmp > requirements.lock
	rm -f core.lock.tmp all.lock.tmp

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
