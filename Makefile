# `make serve` and `make test` do all set-up themselves: tools (installed with apt-get as root on Debian, else
# named), a virtual environment in .venv, quiche (built once, cached outside the clone), the extension modules.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 4433
# Options for pytest, for example: make test-quick PYTEST='-k routing -x'
PYTEST ?= -q
# Options for `make interop`: INTEROP=--help has them.
INTEROP ?=
# Options for the benchmarks: `python -m bench --help` has them.
BENCH  ?=
# Options for the fuzzer: `python -m fuzz --help` in tests has them.
FUZZ   ?= --inputs 1000000

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# An absolute path: recipes may change directory, and the tests start programs by it.
bin := $(abspath $(VENV))/bin
# rustup's own place, which not every non-interactive shell has in its PATH
export PATH := $(PATH):$(HOME)/.cargo/bin

.NOTPARALLEL:

.PHONY: help
help: ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

.PHONY: serve
serve: build ## serve examples/hello.py on https://localhost:4433 with a development certificate
	@exec $(bin)/quiche-h3 serve examples/hello.py:server --dev-cert --port $(PORT)

.PHONY: test
test: build lint test-quiche ## run every test, the slow ones too
	@tests/install.sh
	@$(bin)/python -m pytest $(PYTEST)

.PHONY: test-quick
test-quick: build ## run the tests that take less than two minutes together
	@$(bin)/python -m pytest $(PYTEST) -m "not slow"

.PHONY: test-quiche
test-quiche: build ## run the tests of our patches to quiche
	@./build_quiche.sh --test

.PHONY: fuzz-asan
fuzz-asan: build ## fuzz under AddressSanitizer; FUZZ='--inputs 1000000', for example
	@PYTHON=$(bin)/python tests/fuzz/asan.sh $(FUZZ)

.PHONY: lint
lint: build ## check style and types
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy

.PHONY: bench
bench: build ## compare with other servers; BENCH='--quick --only 1x100', for example
	@$(bin)/python -m bench $(BENCH)

.PHONY: bench-micro
bench-micro: build ## time the parts of a request, and compare with the baseline
	@$(bin)/python -m pytest bench/micro --benchmark-storage=file://bench/micro/baseline \
	    --benchmark-compare --benchmark-columns=min,median $(PYTEST)

.PHONY: interop
interop: build ## run the QUIC interop runner's table of cases; INTEROP='--case retry', for example
	@PYTHONPATH=tests:. $(bin)/python -m interop.matrix $(INTEROP)

.PHONY: build
build: $(VENV)/.installed ## bring the extension modules up to date
	@$(bin)/python setup.py --quiet build_ext --inplace >/dev/null

.PHONY: wheel
wheel: build ## make a wheel and an sdist in dist/
	@$(bin)/python -m build --no-isolation

.PHONY: clean
clean: ## remove what was built, but the cache outside the clone
	rm -rf build dist *.egg-info $(VENV) quiche_h3/_libs .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find quiche_h3 \( -name '*.so' -o -name '*.dylib' \) -delete

# ---- set-up: again only when what it depends on has changed -------------------------------------------------

$(VENV)/.installed: pyproject.toml MANIFEST.in $(VENV)/.created
	@PYTHON=$(bin)/python ./build_quiche.sh --check-tools
	@$(bin)/python -m pip install --quiet --disable-pip-version-check 'setuptools>=77' 'Cython>=3.1'
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
	    --editable '.[dev,uvloop]'
	@touch $@

# Debian keeps ensurepip in a package of its own.
$(VENV)/.created:
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null && \
	    [ "$$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 python3-venv; \
	fi </dev/null >&2
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m virtualenv --quiet $(VENV) || \
	    { echo "no virtual environment: sudo apt-get install python3-venv, or pip install virtualenv" >&2; exit 1; }
	@touch $@
