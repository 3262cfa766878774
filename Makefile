# One environment in .venv serves every target. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# ONNX Runtime's CPU and GPU builds provide the same module, so an environment holds one of them:
# `serve` brings the CPU build (24 MB), `gpu` and `dev` the GPU build (256 MB), which also runs on a
# CPU. An environment that has the GPU build keeps it; `make demo RUNTIME=gpu` asks for it.
INSTALLED := $(VENV)/lib/python3*/site-packages
RUNTIME ?= $(if $(wildcard $(INSTALLED)/onnxruntime_gpu-*),gpu,serve)

KINDRED_PORT ?= 8000
ADDRESS := http://127.0.0.1:$(KINDRED_PORT)
export KINDRED_PORT

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## /\1\t/' | expand -t 12

.PHONY: demo
demo: $(VENV)/.$(RUNTIME)  ## index the photographs that ship with the project, and serve them
	@$(BIN)/kindred-index build demo/photographs --collection demo
	KINDRED_LOG_LEVEL=$${KINDRED_LOG_LEVEL:-warning} $(BIN)/kindred-serve &
	server=$$!
	# Ctrl-C reaches this shell; it asks the server to finish and waits until it has.
	trap 'kill -TERM $$server 2>/dev/null; wait $$server || true; exit 0' INT TERM
	until $(BIN)/python -c '
	import http.client
	connection = http.client.HTTPConnection("127.0.0.1", $(KINDRED_PORT), timeout=5)
	connection.request("GET", "/readyz")
	raise SystemExit(connection.getresponse().status != 200)' 2>/dev/null; do
		kill -0 $$server 2>/dev/null || { wait $$server; exit 1; }
		sleep 0.3
	done
	printf '%s\n' '' 'Kindred answers. Try:' '' \
		'  the page     $(ADDRESS)' \
		'  a search     curl -F file=@demo/photographs/beach0.jpg -F top_k=5 $(ADDRESS)/v1/collections/demo/search/file' \
		'  copies       curl -F file=@demo/photographs/beach0.jpg $(ADDRESS)/v1/collections/demo/duplicates/check/file' \
		'  every route  $(ADDRESS)/docs' '' \
		'Your own pictures, while this runs:  $(BIN)/kindred-index build FOLDER --collection NAME' \
		'Ctrl-C stops; "make demo" again goes on with what is there, in ./kindred-data.' ''
	wait $$server

.PHONY: test
test: $(VENV)/.dev  ## run the tests; ARGS="-k words" passes arguments to pytest
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: check
check: $(VENV)/.dev  ## lint, format, types, and who imports whom
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy index service trainer tests
	$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.dev  ## apply the formatter and the safe fixes
	@$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench-%: tests/benchmarks/%.py $(VENV)/.dev  ## run a benchmark, bench-indexing for one; ARGS="--help" tells more
	@$(BIN)/python $< $(ARGS)

# Every list takes its versions from dev's, so that what is tested is what is served. Pins already
# there are kept: `make lock UPGRADE=--upgrade` takes newer ones.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" $(UPGRADE) \
	--constraints requirements/constraints.in
.PHONY: lock
lock: | $(BIN)/uv  ## resolve requirements/*.txt anew from pyproject.toml
	@$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) pyproject.toml --extra dev -o requirements/dev.txt
	for extra in serve gpu train; do
		$(COMPILE) -c requirements/dev.txt pyproject.toml --extra $$extra -o requirements/$$extra.txt
	done

.PHONY: clean
clean:  ## remove the environment and what tools left behind; kindred-data stays
	@rm -rf $(VENV) build dist *.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find index service trainer tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Kindred needs Python 3.11 or 3.12: none found on PATH"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(BIN)/uv: | $(BIN)/python
	@$(PIP) install 'uv>=0.9'

# The stamps: an environment is brought up to date when its list or pyproject.toml has changed.
$(VENV)/.serve $(VENV)/.gpu $(VENV)/.dev: $(VENV)/.%: requirements/%.txt requirements/build.txt pyproject.toml | $(BIN)/python
	@echo "Installing requirements/$*.txt into $(VENV)"
	# The other build of ONNX Runtime goes first: uninstalling it later would take shared files along.
	if compgen -G "$(INSTALLED)/onnxruntime$(if $(filter serve,$*),_gpu)-[0-9]*" >/dev/null; then
		$(PIP) uninstall --yes onnxruntime onnxruntime-gpu
		rm -f $(VENV)/.serve $(VENV)/.gpu $(VENV)/.dev
	fi
	$(PIP) install --require-hashes -r requirements/build.txt -r $<
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@ $(if $(filter dev,$*),$(VENV)/.gpu)
