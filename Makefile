# Everything runs in .venv, which the first target makes from the lock file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Several processes share the cores while tests run: threads that wait should sleep, not spin.
SHARED := OMP_WAIT_POLICY=passive
# For `make simulate`; GENERATOR=liveness plays one kind of schedule only.
SCHEDULES ?= 1000
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test check containers bench simulate mutants coverage lint types imports fast lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml
	@echo "milepost: setting up $(VENV) with exact versions from requirements.lock (about two minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## seven nodes, one of them a liar, verify a real training run and catch a poisoned one
	@echo "milepost: running the demo"
	$(BIN)/milepost demo

test: $(STAMP)  ## everything that CI runs: all tests, slow and end-to-end ones included
	@echo "milepost: all tests (sixteen to twenty minutes on two cores, as root for the network namespaces; the first time Triton and Ray are installed, more than a gigabyte)"
	$(SHARED) $(BIN)/pytest -n 2 --dist worksteal -m "not e2e and not containers"
	$(SHARED) $(BIN)/pytest -n 2 --dist loadfile -m e2e

check: lint types imports fast  ## lint, types, import rules and fast tests, under two minutes

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy strict
	$(BIN)/mypy

imports: $(STAMP)  ## who may import whom
	$(BIN)/lint-imports

fast: $(STAMP)  ## tests that neither train nor start processes
	$(SHARED) $(BIN)/pytest -q -n 2 -m "not slow and not e2e"

containers: $(STAMP)  ## seven nodes in containers, as the guide tells it; brings a Docker engine up where none is
	$(BIN)/pytest -v -m containers --durations=0 tests/containers

bench: $(STAMP)  ## measured ratios: recorder overhead, block latency, submit to verdict
	$(BIN)/python -m tests.bench

simulate: $(STAMP)  ## schedules with faults and liars against the laws of the ledger: SCHEDULES=3000 SEED=7
	$(BIN)/python -m tests.simulation --schedules $(SCHEDULES) --seed $(SEED) $(if $(GENERATOR),--generator $(GENERATOR))

mutants: $(STAMP)  ## would the tests notice? runs them against every seeded protocol bug, about four minutes
	$(SHARED) $(BIN)/python -m tests.mutants

coverage: $(STAMP)  ## branches of the ledger that its own tests take, at least 98 %
	$(BIN)/pytest -q -m "not slow" tests/consensus \
		--cov=milepost_consensus --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=98

lock: $(STAMP)  ## write the exact versions of this environment to requirements.lock
	@$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -v ' @ ' > requirements.lock

clean:  ## remove what running left behind
	rm -rf $(VENV) milepost-demo milepost-dev .mypy_cache .pytest_cache .ruff_cache
