# Everything from a bare clone with Python 3.11 and pip: `make demo` or `make test`, in either order, any number of times.
PYTHON ?= python3.11
ROWS ?= 300000
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test test-fast lint lock clean

setup: $(STAMP)

# Rebuilt only when a pinned package or the project's own metadata changes: the second set-up takes no time.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11, or say PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up .venv: 185 pinned packages, about 2 GB, a few minutes the first time"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q ctr features serving
	@touch $(STAMP)

demo: setup
	$(BIN)/python -m ctr.demo --rows $(ROWS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint
	$(BIN)/python -m pytest

# The tier that starts no training and no server: half a minute.
test-fast: setup
	$(BIN)/python -m pytest -m "not processes"

# Pins anew every package, with hashes and without naming where it came from.
lock:
	$(PYTHON) -m venv .venv/lock && .venv/lock/bin/pip install --quiet pip-tools
	.venv/lock/bin/pip-compile --quiet --upgrade --allow-unsafe --extra dev --generate-hashes --strip-extras --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options -o requirements.lock pyproject.toml

clean:
	rm -rf .venv demo .pytest_cache .ruff_cache
