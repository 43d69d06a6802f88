# Everything a newcomer needs. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
BENCH_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
OUT ?= benchmarks/results
STORE ?= store
CONFIG ?= deployments/smoke.yaml
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo up down test test-slow test-browser check bench bench-gpu docs lock format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: .venv/.complete ## make .venv from requirements.lock

install-dev: .venv/.complete-dev ## the same with the tools of make check and make test

# Each marker is written last: an interrupted installation goes on.
.venv/.complete: requirements.lock pyproject.toml deployments/install.py
	@$(PYTHON) deployments/install.py

.venv/.complete-dev: requirements.lock pyproject.toml deployments/install.py
	@$(PYTHON) deployments/install.py --dev

demo: install ## sample corpus to evaluated chat model, every stage, in about ten minutes
	$(BIN)/steel run $(CONFIG) --store $(STORE)

up: install ## start Prefect, MLflow and a worker on loopback, register the deployments
	$(BIN)/python -m flows.services.local up --store $(STORE)

down: install ## stop what `make up` has started
	$(BIN)/python -m flows.services.local down

test: install-dev ## run the quick tests
	$(BIN)/python -m pytest

test-slow: install-dev ## run the long tests too, and look for new cases
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -m "slow or not slow" --timeout 1800

test-browser: install-dev ## look at the pages of Prefect, MLflow and the report in Chromium
	$(BIN)/python -m pytest -m browser tests/browser

check: install-dev ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What a bare GPU machine has is enough: no .venv is made.
bench: ## do the benches run here? (quick; tiny sizes without a GPU)
	$(BENCH_PYTHON) -m benchmarks.bench_train --quick
	$(BENCH_PYTHON) -m benchmarks.kernels

bench-gpu: ## measure training step and kernels on this GPU, into $(OUT)
	$(BENCH_PYTHON) -m benchmarks.bench_train --json $(OUT)/train.json
	$(BENCH_PYTHON) -m benchmarks.kernels --json $(OUT)/kernels.json

docs: install ## write docs/configuration.md anew from the code
	$(BIN)/python -m flows.configuration_page

lock: ## resolve pyproject.toml anew into requirements.lock (then run every test)
	rm -rf .venv.lock && $(PYTHON) -m venv .venv.lock
	.venv.lock/bin/python -m pip install --quiet --upgrade "pip>=24"
	.venv.lock/bin/python -m pip install --progress-bar off --editable ".[dev,tokenizer,energy]"
	{ sed -n '/^#/p' requirements.lock; .venv.lock/bin/python -m pip freeze --exclude-editable \
	    | sed -E 's/\+cpu//; s/^triton==(.*)$$/triton==\1 ; platform_system == "Linux" and platform_machine == "x86_64"/'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock && rm -rf .venv.lock

format: install-dev ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the results of all runs (keeps .venv)
	rm -rf $(STORE) .steel
