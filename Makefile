# The front door. `make demo` and `make test` prepare the machine first; that costs nothing when done.
#
# Needs: Debian 12 or later, Python 3.11 or later, git, make, gcc. As root, missing Debian packages are installed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
BENCH  ?= *

# what the programs need, then what only the tests need
APT_RUN  := iproute2 libnftables1 iputils-ping procps util-linux
APT_TEST := curl nftables tcpdump tshark linux-libc-dev libc6-dev gcc mandoc libcap2-bin iperf3 \
	iptables \
	openiked strongswan-charon libcharon-extra-plugins strongswan-swanctl \
	libstrongswan-standard-plugins crun golang-github-containers-common

.PHONY: help setup demo test lint check fuzz bench soak matrix test-lowest lock docs wheel clean

help:
	@echo "make setup        prepare this machine: Debian packages (as root), $(VENV)"
	@echo "make demo         the FAQ's first example with real packets, explained as it happens"
	@echo "make test         checks and all tests"
	@echo "make lint         ruff, formatting, strict types, import rules"
	@echo "make fuzz         hostile octets for FUZZ_SECONDS (60; 0: for ever), then property tests"
	@echo "                  with FUZZ_EXAMPLES (1000; 0: none); keeps what it finds as test cases"
	@echo "make soak         kills everything in the middle of transfers, hundreds of times (SOAK_KILLS=N)"
	@echo "make matrix       every algorithm in every mode over every family, both ways, judged by scapy"
	@echo "make bench        what is fast and how fast; each line is JSON (BENCH=scale: that one alone)"
	@echo "make test-lowest  the tests with the oldest libraries that pyproject.toml allows"
	@echo "make docs         write docs/library-reference.md from the docstrings"
	@echo "make wheel        build the wheel and try it in an environment of its own"

setup: $(VENV)/.ready

$(VENV)/.apt: Makefile
	@./tools/apt $(APT_RUN) $(APT_TEST) \
		$$($(PYTHON) -c 'import ensurepip' 2>/dev/null || echo python3-venv)
	@mkdir -p $(VENV) && touch $@

$(VENV)/.ready: $(VENV)/.apt pyproject.toml requirements/test.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: apt-get install python3"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { echo "venv is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/test.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: setup
	@$(BIN)/pfkey lab --demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n $(JOBS) --dist worksteal

fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds $${FUZZ_SECONDS:-60} $(FUZZ_TARGETS)
	@test "$${FUZZ_EXAMPLES:-1000}" = 0 || FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-1000} \
		$(BIN)/pytest -n $(JOBS) -m "not root" tests/pfkey tests/keyd --timeout 0

soak: setup
	SOAK_KILLS=$${SOAK_KILLS:-300} $(BIN)/pytest tests/netns/test_soak.py

matrix: setup
	MATRIX=full $(BIN)/pytest tests/netns/test_matrix.py

bench: setup
	@for b in bench/bench_$(BENCH).py; do $(BIN)/python $$b || exit 1; done

test-lowest: setup
	@test -x .venv-lowest/bin/pip || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check -r requirements/test.lock
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check -r requirements/lowest.lock
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	.venv-lowest/bin/pytest -n $(JOBS) --dist worksteal

lock: setup
	{ sed -n 1p requirements/test.lock; $(BIN)/pip freeze --exclude-editable | grep -viE '^(pip|setuptools)='; } > requirements/test.lock.new
	mv requirements/test.lock.new requirements/test.lock

docs: setup
	$(BIN)/python tools/reference.py > docs/library-reference.md.new
	mv docs/library-reference.md.new docs/library-reference.md

wheel: setup
	@./tools/wheel $(BIN)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz .venv-lowest
