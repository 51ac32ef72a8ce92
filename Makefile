# Every target sets up what it needs, in a virtual environment of its own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Spinning OpenMP threads on shared cores cost more than they give.
export OMP_NUM_THREADS ?= 1

# Real corpora, where the checkout has them beside it: the tests of real data need them.
ifneq ($(wildcard ../shared/data),)
tests coverage test-slow: export LOSSRAG_DATA ?= $(abspath ../shared/data)
endif
FLOORS := tasks models weighting lossbank experiments
LINKS := build/typing/lossrag
PYTEST := $(BIN)/python -m pytest -n 2 -q --durations=5

.PHONY: train test tests coverage test-slow test-gpu lint types docs clean help

help:
	@echo "make train            train MetaWeighting on four topic tasks (a few minutes on two cores)"
	@echo "make train ARGS=...   the same with overrides, e.g. ARGS='experiment=digits seed=1'"
	@echo "make test             lint, type-check, tests, doc examples"
	@echo "make tests            tests and doc examples alone"
	@echo "make coverage         the same tests, which lines they reach (twice the time)"
	@echo "make test-slow        the tests that take minutes each"
	@echo "make test-gpu         the tests that need CUDA, against the CPU"
	@echo "make docs             the site of the docs, in docs/_build/html"

train: $(VENV)/.run
	$(BIN)/lossrag train $(ARGS)

# Side by side: mypy has one process, and leaves a core to the tests.
test: $(VENV)/.dev
	$(MAKE) -j 2 lint tests

tests: $(VENV)/.dev
	$(PYTEST) -m "not slow"

# Apart: a tracer doubles the time of the tests.
coverage: $(VENV)/.dev
	$(PYTEST) -m "not slow" --cov --cov-report=term:skip-covered --cov-fail-under=90

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow

# Of their own: one process, as they share the device. GPU_DEVICE=cpu tries the tests themselves.
test-gpu: $(VENV)/.dev
	LOSSRAG_TEST_DEVICE=$(or $(GPU_DEVICE),cuda) $(BIN)/python -m pytest -q -p no:benchmark --durations=5 tests/gpu

lint: $(VENV)/.dev types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd build/typing && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache

# Type checkers and editors follow folders, not the mapping of an installed package: this is the package as it is imported.
types:
	mkdir -p $(LINKS)
	cp lossrag/*.py lossrag/*.pyi lossrag/py.typed $(LINKS)
	ln -sfn $(addprefix ../../../,$(FLOORS)) $(LINKS)

# Warnings are errors. The pages of the public names are made anew: of one that is gone none may stay.
docs: $(VENV)/.docs
	rm -rf docs/_api docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -j 2 -b html docs docs/_build/html
	@echo "written to docs/_build/html/index.html"

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[mirror]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	# It asks for an old cloudpickle, and for what its other launcher needs.
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps hydra-ray-launcher
	touch $@

$(VENV)/.docs: $(VENV)/.run
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build docs/_api docs/_build *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache
