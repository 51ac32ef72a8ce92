# Every target sets up what it needs, in a virtual environment of its own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Spinning OpenMP threads on shared cores cost more than they give.
export OMP_NUM_THREADS ?= 1

.PHONY: train test lint clean help

help:
	@echo "make train            train MetaWeighting on four topic tasks (a few minutes on two cores)"
	@echo "make train ARGS=...   the same with overrides, e.g. ARGS='experiment=digits seed=1'"
	@echo "make test             lint, type-check, tests, doc examples"

train: $(VENV)/.run
	$(BIN)/lossrag train $(ARGS)

test: lint
	$(BIN)/python -m pytest -n 2 -q --durations=5 --cov --cov-report=term --cov-fail-under=90

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(LINKS)
	ln -sfn $(addprefix ../../../,$(FLOORS) $(wildcard lossrag/*.py lossrag/*.pyi lossrag/py.typed)) $(LINKS)
	cd build/typing && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache

# A type checker follows folders, not the mapping of an installed package: these links are the package as it is imported.
FLOORS := tasks models weighting lossbank experiments
LINKS := build/typing/lossrag

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[mirror]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache
