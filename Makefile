CONFIG ?= configs/local.yaml
PYTHON ?=
UPGRADE ?=
SEED ?= 1
CHAOS_S ?= 600
SOAK_S ?= 1800
export PYTHON UPGRADE
# Every worker and every process that a test starts would compile the project's files again.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
INSTALL := @sh tools/python.sh tools/install.py
# Without the tests on real Ray: every worker would import what only those tests need.
PYTEST_UNIT = $(BIN)/pytest --ignore tests/serve --ignore tests/faults --numprocesses auto --dist worksteal

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help advisories install install-dev serve stop test unit thorough coverage serve-tests lint faults chaos fuzz hostile soak bench \
	gpu-check docs openapi \
	engine-arguments lock clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

install: ## Put the pinned runtime into .venv (PYTHON=python3.12 picks the Python)
	$(INSTALL) cpu

install-dev: ## The same, and the test tools
	$(INSTALL) cpu dev

serve: install ## Serve on this machine's CPU (CONFIG=configs/local.yaml)
	@exec $(BIN)/serve-app up $(CONFIG)

stop: ## Stop what `make serve` started
	@if [ -x $(BIN)/serve-app ]; then exec $(BIN)/serve-app down; \
	else echo "Nothing to stop: .venv holds no serve-app, so none was started from here."; fi

test: lint thorough serve-tests ## Everything: lint, unit tests, tests on real Ray and vLLM

unit: install-dev ## The fast tests only
	@$(PYTEST_UNIT) -m "not slow"

thorough: install-dev ## The fast tests with more examples, and the slow ones
	@$(PYTEST_UNIT) --hypothesis-profile thorough

coverage: install-dev ## The same, and which branches of the serving code they miss
	@$(PYTEST_UNIT) --hypothesis-profile thorough --cov --cov-report=term

serve-tests: install-dev ## The tests that start real Ray and real vLLM
	@$(BIN)/pytest -m "serve and not faults"

lint: install-dev ## Ruff, mypy, the import contracts and the locks
	@$(BIN)/python tools/check_locks.py
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy serve_app tools
	@$(BIN)/lint-imports --no-logo

advisories: install-dev ## Known vulnerabilities of what the locks pin (asks pypi.org)
	@for lock in cpu gpu dev; do $(BIN)/uvx --quiet pip-audit==2.10.1 --no-deps --disable-pip \
	--progress-spinner off -r requirements/$$lock.txt || exit 1; done

faults: install-dev ## Every fault and drain under load; the table goes into docs/guarantees.md
	@exec $(BIN)/python -m tests.faults

chaos: install-dev ## Random kills under load for CHAOS_S seconds (CHAOS_S=600, SEED=1)
	@exec $(BIN)/python -m tests.faults.chaos --seconds $(CHAOS_S) --seed $(SEED)

fuzz: install-dev ## 10,000 valid and broken calls, to the gateway alone and to the service (SEED=1)
	@exec $(BIN)/python -m tests.fuzz --seed $(SEED)

hostile: install-dev ## Absurd bodies and hostile connections against the service, beside other clients
	@exec $(BIN)/python -m tests.hostile

soak: install-dev ## SOAK_S seconds of mixed traffic (SOAK_S=1800): memory, descriptors, latency; writes docs/soak.md
	@exec $(BIN)/python -m tests.soak --seconds $(SOAK_S) --seed $(SEED)

bench: install ## What the router costs, against bare vLLM
	@exec $(BIN)/serve-app bench overhead

docs: install-dev ## Build the documentation into site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html"

gpu-check: ## One 141 GB GPU: plan and doctor against it, the router beside bare vLLM (docs/gpu-check.md)
	@if nvidia-smi -L > /dev/null 2>&1; then exec sh tools/gpu_check.sh; \
	else $(MAKE) --no-print-directory install && exec $(BIN)/serve-app bench gpu; fi

openapi: install ## Write serve_app/gateway/openapi.json, the document of GET /openapi.json
	@$(BIN)/python tools/openapi.py

engine-arguments: install ## Write serve_app/config/engine_arguments.json from the pinned vLLM
	@$(BIN)/python tools/engine_arguments.py

lock: ## Resolve pyproject.toml into requirements/ (UPGRADE=1 takes newer versions)
	@sh tools/python.sh tools/lock.py

clean: ## Remove .venv, caches and build artefacts
	rm -rf .venv build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
