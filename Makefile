# Hedgerow. `make` alone lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := PYTHONPATH=. $(BIN)/python
PROTOS := $(shell find protos -name '*.proto')
STUBS := $(VENV)/.stubs
PROFILE ?=
IN_PROFILE = $(addprefix --profile ,$(PROFILE))
READY := $(VENV)/.ready
AUDIT := .venv-audit
AUDIT_READY := $(AUDIT)/.ready
PROMTOOL := $(VENV)/prometheus/usr/bin/promtool

.DEFAULT_GOAL := help
.PHONY: help demo test check format up down status right-sizing stubs fuzz-rpc bench-core bench-client bench-rpc bench-suite load soak simulate audit image-sizes reference clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt hashes.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r hashes.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@

$(AUDIT_READY): audit/requirements.txt
	test -d $(AUDIT) || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r audit/requirements.txt
	touch $@

$(STUBS): $(READY) $(PROTOS)
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. $(PROTOS)
	touch $@

stubs: $(STUBS) ## Generate the Python stubs from protos/.

# There is no wheel of it. The package of Debian or Ubuntu is unpacked, not installed: that starts no daemon, and needs root only
# where apt has no list of packages yet and must get one (`apt-get update`).
$(PROMTOOL): | $(READY)
	@mkdir -p $(VENV)/prometheus && cd $(VENV)/prometheus && get="apt-get -qq -o APT::Sandbox::User=root" \
	  && { $$get download prometheus 2>/dev/null || { $$get update && $$get download prometheus; }; } \
	  && dpkg-deb -x prometheus_*.deb . && rm -f prometheus_*.deb && touch usr/bin/promtool \
	  || echo "Debian's package prometheus cannot be had: the tests that need it will fail"

reference: $(STUBS) ## Write docs/reference/ anew from the comments of protos/.
	$(PY) docs/reference/build.py

demo: $(STUBS) ## Run the main job on real data, from raw records to an audited prediction (report in var/demo/).
	$(PY) -m examples.credit.demo $(IN_PROFILE)

test: $(STUBS) $(PROMTOOL) ## Run every test (TESTS=tests/unit: those alone).
	$(PY) -m pytest $(TESTS)

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

up: $(STUBS) ## Start the suite and print how to reach it (HEDGEROW_PORT_BASE=9100 moves its ports, PROFILE=distributed replicates).
	$(PY) -m suite up --detach $(IN_PROFILE)

down: $(STUBS) ## Stop the suite.
	$(PY) -m suite down $(IN_PROFILE)

status: $(STUBS) ## Show each service's health.
	$(PY) -m suite status $(IN_PROFILE)

right-sizing: $(STUBS) ## Measure the running suite for SECONDS=30 and advise requests and limits (var/right-sizing.json).
	$(PY) -m suite.right_sizing --seconds $(or $(SECONDS),30)

fuzz-rpc: $(STUBS) ## Send mutated frames to the fast lane for SECONDS=300, from SEED=1 on.
	$(PY) -m tests.integration.rpc_lane.test_rpc_lane_fuzz $(or $(SECONDS),300) $(or $(SEED),1)

bench-core: $(STUBS) ## Measure the interceptor chain against a bare grpc.aio echo (var/bench/core.json).
	$(PY) -m benchmarks.core

bench-client: $(STUBS) ## Measure what a call costs a Python client (var/bench/client.json).
	$(PY) -m benchmarks.rpc.client_cost

bench-rpc: $(STUBS) ## Measure the fast lane against grpc.aio (var/bench/rpc.json).
	$(PY) -m benchmarks.rpc

audit: $(READY) $(AUDIT_READY) ## Look for vulnerabilities, insecure code and secrets, and list what is installed (var/audit/).
	$(PY) -m audit

image-sizes: $(READY) ## Report the installed size of each service's extra.
	$(PY) deploy/docker/sizes.py

bench-suite: $(STUBS) ## Measure the suite up to and beyond saturation, and over time (var/bench/suite.json; SECONDS= shortens).
	$(PY) -m benchmarks.suite $(if $(SECONDS),--soak-seconds $(SECONDS) --point-seconds $(SECONDS))

load: $(STUBS) ## Put load on every service for 5 minutes, with a rotation and a kill in the middle (var/load/; SECONDS= WORKERS= SHAPE=).
	$(PY) -m loadtests --seconds $(or $(SECONDS),300) --workers $(or $(WORKERS),1) --shape $(or $(SHAPE),ramp)

soak: $(STUBS) ## Put steady load on every service for DURATION=10m and see that memory stays flat (var/soak/).
	$(PY) -m loadtests --shape soak --kill '' --seconds $(or $(SECONDS),$(DURATION),10m) --workers $(or $(WORKERS),1) --report var/soak

simulate: $(STUBS) ## Replay a day's load against the autoscaling policies (var/simulator/).
	$(PY) -m simulator

clean: ## Remove the environment, the stubs and everything the suite keeps.
	rm -rf $(VENV) $(AUDIT) var build *.egg-info
	find hedgerow -name '*_pb2.py*' -delete
