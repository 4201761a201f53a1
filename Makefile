# `make run` and `make test` do all the set-up on a fresh machine; `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help run forever test browser lint format dashboards alerts docs site types layers check faults stack-test bench first-job up down clean

# The first interpreter on the PATH that is new enough; PYTHON=… chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
AGENT_READY := .venv-agent/.ready
BENCH_READY := .venv-bench/.ready
SITE_READY := .venv-site/.ready
N ?= 500
ENGINE ?= spool

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer (and its venv module)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade 'pip>=25.1'
	$(BIN)/pip install -q --editable '.[example]' --group dev
	@touch $@

$(AGENT_READY): pyproject.toml | $(READY)
	$(PYTHON) -m venv --without-pip .venv-agent
	$(BIN)/pip --python .venv-agent install -q --group agent
	@touch $@

$(SITE_READY): pyproject.toml | $(READY)
	$(PYTHON) -m venv --without-pip .venv-site
	$(BIN)/pip --python .venv-site install -q --group site
	@touch $@

run: $(READY) ## The example service with traffic; ends by itself with a summary (N=500 jobs, ENGINE=postgres, KEEP=1: then serves the web page)
	@$(BIN)/python -m services.example_worker.demo --jobs $(N) --engine $(ENGINE) $(if $(KEEP),--keep)

forever: $(READY) ## The same, until Ctrl-C, with the web page
	@$(BIN)/python -m services.example_worker.demo --jobs $(N) --engine $(ENGINE) --forever

# Half of a test's time is waiting, so two cores carry six of them. What they import is compiled once, also where
# PYTHONDONTWRITEBYTECODE is set: each of a thousand interpreters would do it anew, and each of the four would rewrite
# the assertions of all tests.
test: export PYTHONDONTWRITEBYTECODE =
test: $(READY) $(AGENT_READY) ## All tests but the long ones
	@$(BIN)/python -m compileall -q framework services tests
	@$(BIN)/python -m pytest --numprocesses 6 --dist worksteal -m 'not browser'

browser: $(READY) ## The web page in Chromium: every page on three screens, accessibility, keyboard
	@$(BIN)/python -m pytest tests/web/test_browser.py

lint: $(READY) ## Style: ruff check and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(READY) ## Puts the style right where ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

dashboards: $(READY) ## Writes Grafana's dashboards from observability/grafana/dashboards.py
	@$(BIN)/python -m observability.grafana.dashboards

alerts: $(READY) ## Writes Prometheus' rules from the declarations of the example service
	@$(BIN)/worker alerts services.example_worker > observability/prometheus/alerts.yml.new
	@mv observability/prometheus/alerts.yml.new observability/prometheus/alerts.yml

docs: $(READY) ## Writes what docs/observability.md, docs/settings.md and docs/reference.md take from the code
	@$(BIN)/python -m docs.emitted
	@$(BIN)/python -m docs.settings
	@$(BIN)/python -m docs.reference

site: $(SITE_READY) ## The documentation as a site in build/site, with every link checked
	@.venv-site/bin/python -m docs.site

types: $(READY) ## mypy --strict over framework/
	@$(BIN)/mypy

layers: $(READY) ## Imports between the layers of ARCHITECTURE.md go down only
	@$(BIN)/lint-imports --no-logo

check: $(READY) ## The declarations of the example service
	@$(BIN)/worker check services.example_worker

faults: $(READY) ## The long fault suites: kills, power cuts, interleavings (BUDGET=minutes, ONLY=names; some parts need root)
	@$(BIN)/python -m tests.faults

stack-test: $(READY) ## Builds collector, Jaeger, Prometheus and VictoriaLogs with Go, runs the example against them, checks what they show
	@$(BIN)/python -m tests.stack

$(BENCH_READY): pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install -q --upgrade 'pip>=25.1'
	.venv-bench/bin/pip install -q --editable '.[bench]'
	@touch $@

bench: $(BENCH_READY) ## Ours and the peers side by side; QUICK=1 takes some two minutes
	@QUICK=$(QUICK) .venv-bench/bin/python -m bench

first-job: $(READY) ## Seconds from an empty directory to the first job that survives kill -9: plain, FastAPI, Django
	@$(BIN)/python -m bench.sixty_seconds

up: ## The compose stack: collector, Jaeger, Prometheus, VictoriaLogs, Grafana and the example (needs Docker)
	docker compose up --build --detach
	@echo "Jaeger http://127.0.0.1:16686  Grafana http://127.0.0.1:3000  Prometheus http://127.0.0.1:9090  Logs http://127.0.0.1:9428/select/vmui"

down: ## Ends the compose stack and removes its volumes
	docker compose down --volumes

clean: ## Removes the environment, caches and the demo's spool
	rm -rf .venv .venv-agent .venv-bench .venv-site var .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
