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

.PHONY: setup constraints servers test test-fast test-lowest test-newest torture coverage check docs dist \
	format demo bench bench-check clean

setup: $(VENV)/.dev

$(VENV)/.python:
	@echo "Making a virtual environment in $(VENV) ..."
	@scripts/venv $(VENV) $(PYTHON)
	@touch $@

# All that is installed here has the versions of constraints.txt, pip and what builds the package, too.
# So it is the same on each day. What users install is as wide as pyproject.toml says.
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt \
	--build-constraint constraints.txt

$(VENV)/.pip: constraints.txt $(VENV)/.python
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.pip
	$(INSTALL) --editable '.[dev]'
	touch $@

# The demo needs a fifth of what the tests need, and nothing more if theirs is there.
$(VENV)/.demo: pyproject.toml $(VENV)/.pip
	@echo "Installing what the demo needs into $(VENV), once ..."
	@$(HAS_DEV) || $(INSTALL) --editable '.[demo]'
	@touch $@

HAS_DEV = test $(VENV)/.dev -nt pyproject.toml && test $(VENV)/.dev -nt $(VENV)/.pip

# The newest versions that go together, for all Pythons, and beside them those with tests/lowest.txt.
# ARGS="--upgrade-package redis" moves one of them, ARGS=--no-upgrade only adds what is missing.
COMPILE = printf 'pip\nuv\n' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'make constraints' \
	pyproject.toml -

constraints: $(VENV)/.pip
	$(INSTALL) uv
	$(COMPILE) --all-extras --output-file constraints.txt $(or $(ARGS),--upgrade)
	cp constraints.txt constraints-lowest.txt  # uv keeps of it what goes together with lowest.txt
	$(COMPILE) --extra test --constraint tests/lowest.txt --output-file constraints-lowest.txt

servers: $(VENV)/.python
	scripts/servers $(VENV)/servers

# All tests of a file run in one process: what they share is started once.
TESTS = -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
PYTEST = $(BIN)/python $(TESTS)

test: setup servers
	$(PYTEST) $(ARGS)

# Unit tests, and the conformance suites over memory and one Redis: less than a minute.
test-fast: setup servers
	$(PYTEST) --one-server tests/unit tests/conformance $(ARGS)

# The same against the oldest versions of the dependencies that are supported, in a virtual
# environment beside the other. constraints-lowest.txt has these, and of all else what goes together
# with them. import-linter is no part of it, nor are libraries that need a later
# redis-py, whose sessions are accepted.
LOWEST := $(VENV)-lowest

$(LOWEST)/.test: pyproject.toml constraints-lowest.txt
	scripts/venv $(LOWEST) $(PYTHON)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --upgrade pip
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt \
		--build-constraint constraints-lowest.txt --editable '.[test]'
	touch $@

test-lowest: $(LOWEST)/.test
	scripts/servers $(LOWEST)/servers
	$(LOWEST)/bin/python $(TESTS) \
		--ignore tests/unit/test_architecture.py --ignore tests/interop/test_moving_in.py \
		tests/unit tests/conformance tests/interop tests/integration/test_cluster.py \
		tests/integration/test_tracebacks.py $(ARGS)

# All tests against what the registry has today, in a virtual environment of its own. Before they run
# it is said which versions aren't those of constraints.txt. What fails here is a task for us.
NEWEST := $(VENV)-newest

$(NEWEST)/.python:
	scripts/venv $(NEWEST) $(PYTHON)
	touch $@

test-newest: $(NEWEST)/.python
	$(NEWEST)/bin/python -m pip install --quiet --upgrade pip
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	scripts/servers $(NEWEST)/servers
	@$(NEWEST)/bin/python scripts/versions.py
	$(NEWEST)/bin/python $(TESTS) $(ARGS)

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

$(VENV)/.docs: pyproject.toml $(VENV)/.pip
	$(HAS_DEV) || $(INSTALL) --editable '.[docs]'
	touch $@

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What is released: dist/ gets the sdist, the wheel and an SBOM, and each file is installed and tried.
$(VENV)/.dist: $(VENV)/.dev
	$(INSTALL) --editable '.[dist]'
	touch $@

dist: $(VENV)/.dist
	$(BIN)/python -m tests.distributions

demo: $(VENV)/.demo
	@$(if $(ARGS),,echo "Starting a Redis of its own, and the demo. ARGS='--redis redis://localhost' uses yours.")
	@$(BIN)/redis-sessions demo $(ARGS)

# Other libraries are needed only here. ARGS=overhead: one of them; ARGS=report: the README's tables.
$(VENV)/.bench: $(VENV)/.dev
	$(INSTALL) --editable '.[bench]'
	touch $@

bench: $(VENV)/.bench servers
	$(BIN)/python -m benchmarks $(ARGS)

# Whether this tree is slower than its budgets and benchmarks/results/recorded.json say.
bench-check: $(VENV)/.bench servers
	$(BIN)/python -m benchmarks check $(ARGS)

clean:
	rm -rf .venv* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache \
		.coverage* htmlcov dist build site .cache
