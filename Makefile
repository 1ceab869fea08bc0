# Hedgerow. `make` alone lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := PYTHONPATH=. $(BIN)/python
PROTOS := $(shell find protos -name '*.proto')
STUBS := $(VENV)/.stubs
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check format up down status stubs fuzz-rpc bench-core bench-rpc clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt hashes.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r hashes.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@

$(STUBS): $(READY) $(PROTOS)
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. $(PROTOS)
	touch $@

stubs: $(STUBS) ## Generate the Python stubs from protos/.

demo: $(STUBS) ## Run the main job on real data, from raw records to an audited prediction (report in var/demo/).
	$(PY) -m examples.credit.demo

test: $(STUBS) ## Run every test.
	$(PY) -m pytest

check: $(STUBS) ## Format, lint, types, import rules and contract.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYTHONPATH=. $(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint
	@tag=$$(git describe --tags --abbrev=0 2>/dev/null); if [ -n "$$tag" ]; then \
	  echo "buf breaking against $$tag"; $(BIN)/buf breaking protos --against ".git#tag=$$tag,subdir=protos"; \
	else echo "no tag yet: nothing that the contract could break"; fi

format: $(STUBS) ## Format the code and apply safe fixes.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

up: $(STUBS) ## Start the suite and print how to reach it (HEDGEROW_PORT_BASE=9100 moves its ports).
	$(PY) -m suite up --detach

down: $(STUBS) ## Stop the suite.
	$(PY) -m suite down

status: $(STUBS) ## Show each service's health.
	$(PY) -m suite status

fuzz-rpc: $(STUBS) ## Send mutated frames to the fast lane for SECONDS=300, from SEED=1 on.
	$(PY) -m tests.integration.rpc_lane.test_rpc_lane_fuzz $(or $(SECONDS),300) $(or $(SEED),1)

bench-core: $(STUBS) ## Measure the interceptor chain against a bare grpc.aio echo (var/bench/core.json).
	$(PY) -m benchmarks.core

bench-rpc: $(STUBS) ## Measure the fast lane against grpc.aio (var/bench/rpc.json).
	$(PY) -m benchmarks.rpc

clean: ## Remove the environment, the stubs and everything the suite keeps.
	rm -rf $(VENV) var build *.egg-info
	find hedgerow -name '*_pb2.py*' -delete
