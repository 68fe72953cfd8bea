# Everything sets itself up: `make demo` and `make test` work in a fresh checkout.
#
#   PYTHON=python3.13    another Python than the first that runs
#   VENV=.venv313        another virtual environment
#   ARGS="-k cookie"     further arguments for pytest, the benchmarks or the demo
#   JOBS=1               how many processes the tests run in, by default two more than there are cores
#   ALLOW_MISSING=1      `make test` succeeds although a server or browser is missing

VENV ?= .venv
PYTHON ?=
ARGS ?=
# Tests often wait for a server or a browser: one for each core would leave it idle meanwhile.
JOBS ?= $(shell expr 2 + `getconf _NPROCESSORS_ONLN`)
BIN := $(VENV)/bin

# With it, each process that a test starts would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup servers test test-fast test-lowest torture coverage check docs dist format demo bench bench-check clean

setup: $(VENV)/.dev

$(VENV)/.python:
	@echo "Making a virtual environment in $(VENV) ..."
	@scripts/venv $(VENV) $(PYTHON)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The demo needs a fifth of what the tests need, and nothing more if theirs is there.
$(VENV)/.demo: pyproject.toml $(VENV)/.python
	@echo "Installing what the demo needs into $(VENV), once ..."
	@test $(VENV)/.dev -nt pyproject.toml || $(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

servers: $(VENV)/.python
	scripts/servers $(VENV)/servers

# All tests of a file run in one process: what they share is started once.
PYTEST = $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

test: setup servers
	$(PYTEST) $(ARGS)

# Unit tests, and the conformance suites over memory and one Redis: less than a minute.
test-fast: setup servers
	$(PYTEST) --one-server tests/unit tests/conformance $(ARGS)

# The same against the oldest versions of the dependencies that are supported, in a virtual
# environment beside the other. import-linter is no part of it, nor are libraries that need a later
# redis-py, whose sessions are accepted.
LOWEST := $(VENV)-lowest

$(LOWEST)/.test: pyproject.toml tests/lowest.txt
	scripts/venv $(LOWEST) $(PYTHON)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python -m pip install --quiet --constraint tests/lowest.txt --editable '.[test]'
	touch $@

test-lowest: $(LOWEST)/.test
	scripts/servers $(LOWEST)/servers
	$(LOWEST)/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder \
		--ignore tests/unit/test_architecture.py --ignore tests/interop/test_moving_in.py \
		tests/unit tests/conformance tests/interop tests/integration/test_cluster.py $(ARGS)

# What takes minutes: long histories, requests cancelled by the 100,000, a soak; all interleavings.
torture: setup servers
	$(BIN)/python -m tests.torture $(ARGS)
	$(BIN)/python -m tests.explorer

coverage: setup servers
	$(PYTEST) --cov $(ARGS)

# pyright runs on its wheel's Node.js (the system's may be too old), and asks nobody for a newer self.
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYRIGHT_PYTHON_GLOBAL_NODE=off PYRIGHT_PYTHON_IGNORE_WARNINGS=1 \
		$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell *.md docs benchmarks/*.md examples redis_sessions
	$(BIN)/python scripts/docs.py

# The documentation site, into site/. Pages link each other, so it is read over http:
# `python -m http.server -d site`. ARGS="--version 0.1 --into pages": beside other versions.
docs: $(VENV)/.docs
	$(BIN)/python scripts/docs.py $(ARGS)

$(VENV)/.docs: pyproject.toml $(VENV)/.python
	test $(VENV)/.dev -nt pyproject.toml || $(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What is released: dist/ gets the sdist, the wheel and an SBOM, and each file is installed and tried.
$(VENV)/.dist: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --editable '.[dist]'
	touch $@

dist: $(VENV)/.dist
	$(BIN)/python -m tests.distributions

demo: $(VENV)/.demo
	@$(if $(ARGS),,echo "Starting a Redis of its own, and the demo. ARGS='--redis redis://localhost' uses yours.")
	@$(BIN)/redis-sessions demo $(ARGS)

# Other libraries are needed only here. ARGS=overhead: one of them; ARGS=report: the README's tables.
$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

bench: $(VENV)/.bench servers
	$(BIN)/python -m benchmarks $(ARGS)

# Whether this tree is slower than its budgets and benchmarks/results/recorded.json say.
bench-check: $(VENV)/.bench servers
	$(BIN)/python -m benchmarks check $(ARGS)

clean:
	rm -rf .venv* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache \
		.coverage* htmlcov dist build site .cache
