# make serve     install what is missing and serve the demo; ARGS="--port 9000" passes flags on
# make test      lint, types and the whole test suite
# make lint      the first half of it
# make bench     benchmarks/serve.py, with ARGS
# make fuzz      fuzz the readers of uploads for SECONDS=600
# make images    the container images; needs buildah

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
SECONDS ?= 600

# Stamps live inside the environment, so that removing it removes them.
MADE := $(VENV)/.made
TO_SERVE := $(VENV)/.installed-to-serve
TO_DEVELOP := $(VENV)/.installed-to-develop
TO_FUZZ := $(VENV)/.installed-to-fuzz

.DEFAULT_GOAL := help
.PHONY: help serve test lint bench fuzz images

help:
	@sed -n 's/^# make/make/p' Makefile

serve: $(TO_SERVE)
	@exec $(BIN)/motet serve --demo $(ARGS)

test: lint
	$(BIN)/pytest -q $(ARGS)

lint: $(TO_DEVELOP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(TO_DEVELOP)
	$(BIN)/python benchmarks/serve.py $(ARGS)

fuzz: $(TO_FUZZ)
	$(BIN)/python -m tests.fuzz.run $(SECONDS)

images:
	docker/build.sh $(ARGS)

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Motet needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Not quiet: where torch has to be downloaded, pip's progress bar is all there is to see.
$(TO_SERVE): pyproject.toml | $(MADE)
	@echo "Installing Motet into $(VENV) (once; minutes where torch has to be downloaded)"
	@$(BIN)/python -m pip install -e .
	@touch $@

$(TO_DEVELOP): pyproject.toml | $(MADE)
	@echo "Installing Motet and its tests' needs into $(VENV)"
	@$(BIN)/python -m pip install -e '.[dev]'
	@touch $@ $(TO_SERVE)

# Apart from the rest: atheris has no wheel for every Python.
$(TO_FUZZ): pyproject.toml | $(TO_DEVELOP)
	@echo "Installing the fuzzer into $(VENV)"
	@$(BIN)/python -m pip install -e '.[dev,fuzz]'
	@touch $@
