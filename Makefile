# Everything a contributor does. Needs make and Python 3.11 or newer; the rest is installed into $(VENV).
#   make serve PORT=8000        make test PYTEST_ARGS="-k leases -x"        make check VENV=/tmp/venv

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(name))))
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 9997
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# A stamp says that the environment has what pyproject.toml asked for when it was made: a second run is instant.
ENGINES := $(VENV)/.installed-engines
DEV := $(VENV)/.installed-dev

.PHONY: help serve test test-engines check format bench demo-models clean
.DEFAULT_GOAL := help

help: ## show this
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*##/\t/' | expand -t 16

serve: $(ENGINES) ## serve the demo models on http://$(HOST):$(PORT)
	$(BIN)/xinfer-local --host $(HOST) --port $(PORT) --model demo-chat --model demo-embed --model demo-rerank

test: $(ENGINES) $(DEV) ## run all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Each engine in an environment of its own, one after the other. llama.cpp is compiled: some minutes.
TESTED_ENGINES ?= transformers mlx sglang vllm llama.cpp

test-engines: $(ENGINES) $(DEV) ## build the environments of all engines and run their tests
	$(BIN)/python tools/engine_tests.py $(TESTED_ENGINES) --home $(VENV)/engines --pytest="$(PYTEST_ARGS)"

check: $(DEV) ## lint, format, types, layers, shape of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/house

format: $(DEV) ## format the code and fix what can be fixed by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV) ## measure what the server costs per request and per streamed chunk
	$(BIN)/python bench/overhead.py

demo-models: $(ENGINES) ## make the demo models of xinfer/catalog/demo anew (minutes)
	$(BIN)/python tools/demo_models.py

clean: ## remove what builds and tools left behind (not $(VENV))
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python found: install Python 3.11 or newer, or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11: install a newer one, or say make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(ENGINES): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable '.[transformers,sentence-transformers]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@
