# make serve     install what is missing and serve the demo; ARGS="--port 9000" passes flags on
# make test      lint, types and the whole test suite
# make lint      the first half of it
# make sanitize  the native kernels' tests, watched for memory errors and undefined behaviour
# make aot       compile every GPU kernel for every GPU, without one, and check what comes out
# make emulate   run them on an emulated AMD GPU: TINYGRAD=a checkout of tinygrad
# make gpu-check everything that needs a GPU, on a machine that has one: tests, then benchmarks
# make bench     benchmarks/serve.py, with ARGS: Motet and its peers, tokens per second
# make bench-peers     vLLM's CPU build for it, in an environment of its own
# make bench-kernels   benchmarks/kernels.py, with ARGS
# make bench-report    docs/performance.md from what they wrote with --json
# make fuzz      fuzz the readers of uploads for SECONDS=600
# make images    the container images; needs buildah

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SANITIZED := $(CURDIR)/build/sanitized
ARGS ?=
TINYGRAD ?=
SECONDS ?= 600

# Stamps live inside the environment, so that removing it removes them.
MADE := $(VENV)/.made
TO_SERVE := $(VENV)/.installed-to-serve
TO_DEVELOP := $(VENV)/.installed-to-develop
PEERS := .venv-peers
TO_FUZZ := $(VENV)/.installed-to-fuzz

# Where they cannot be compiled it says why, and torch serves.
MAKE_KERNELS = echo "Compiling the native CPU kernels (once; half a minute)"; \
    $(BIN)/python -m motet_kernels.cpu.build || true

.DEFAULT_GOAL := help
.PHONY: help serve test lint sanitize aot emulate gpu-check bench bench-peers bench-kernels bench-report fuzz images

help:
	@sed -n 's/^# make/make/p' Makefile

serve: $(TO_SERVE)
	@exec $(BIN)/motet serve --demo $(ARGS)

test: lint
	$(BIN)/pytest -q -n auto --dist worksteal $(ARGS)

lint: $(TO_DEVELOP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# libstdc++ comes along because torch throws, which the checks can follow only if it is there first.
# A report goes to standard error, so pytest must not hold that back (-s). Without a library of its
# own in the folder, the tests have run on another one, and checked nothing.
sanitize: $(TO_DEVELOP)
	@rm -rf $(SANITIZED)
	CXX=tests/support/sanitizing_compiler.sh MOTET_KERNEL_CACHE=$(SANITIZED) \
	    LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    $(BIN)/pytest -q -s -p no:faulthandler tests/kernels -k "avx or amx or portable" $(ARGS)
	@ls $(SANITIZED)/*.so

# A program of its own in each case: Triton's interpreter must be off.
aot: $(TO_DEVELOP)
	$(BIN)/python -m benchmarks.aot --page docs/kernels.md $(ARGS)
	$(BIN)/python -m benchmarks.roofline --page docs/kernels.md

emulate: $(TO_DEVELOP)
	@test -n "$(TINYGRAD)" || { echo "name a checkout of tinygrad: make emulate TINYGRAD=DIR" >&2; exit 1; }
	TINYGRAD=$(abspath $(TINYGRAD)) $(BIN)/pytest -q tests/emulated
	$(BIN)/python -m tests.emulated $(TINYGRAD) --page docs/kernels.md $(ARGS)

gpu-check: $(TO_DEVELOP)
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { \
	    echo "make gpu-check needs a CUDA device, and torch sees none" >&2; exit 1; }
	$(BIN)/pytest -q tests/gpu
	$(BIN)/pytest -q tests/kernels/test_*.py -k gpu
	TRITON_INTERPRET=1 $(BIN)/pytest -q tests/kernels/gpu tests/kernels/test_tuning_search.py \
	    tests/server/engine/test_sampler.py
	$(BIN)/python benchmarks/gpu_kernels.py $(ARGS)
	$(BIN)/python benchmarks/serve.py --systems motet

bench: $(TO_DEVELOP)
	$(BIN)/python benchmarks/serve.py $(ARGS)

bench-kernels: $(TO_DEVELOP)
	$(BIN)/python benchmarks/kernels.py $(ARGS)

bench-report: $(TO_DEVELOP)
	$(BIN)/python benchmarks/report.py $(ARGS)

bench-peers: $(PEERS)/.installed

# The general index has vision and audio packages that only load beside a CUDA torch; serving text
# needs none of them, and vLLM starts without.
$(PEERS)/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -r benchmarks/peers.txt $(ARGS)
	$(PEERS)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	@touch $@

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
	@$(MAKE_KERNELS)
	@touch $@

$(TO_DEVELOP): pyproject.toml | $(MADE)
	@echo "Installing Motet and its tests' needs into $(VENV)"
	@$(BIN)/python -m pip install -e '.[dev]'
	@$(MAKE_KERNELS)
	@touch $@ $(TO_SERVE)

# Apart from the rest: atheris has no wheel for every Python.
$(TO_FUZZ): pyproject.toml | $(TO_DEVELOP)
	@echo "Installing the fuzzer into $(VENV)"
	@$(BIN)/python -m pip install -e '.[dev,fuzz]'
	@touch $@
