# Every target sets up what it needs; running one twice does no harm.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-all install lint type bench clean

quickstart: $(VENV)/installed-core
	$(BIN)/r1jax train --config=configs/r1_zero_tiny.py --workdir=runs/r1_zero_tiny

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

test-all: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "not oracle and not aot"

install: $(VENV)/installed-dev

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/bin/python:
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "r1jax needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-core: $(VENV)/bin/python setup.py
	@echo "installing r1jax into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/bin/python setup.py
	@echo "installing r1jax and its test tools into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/bin/python setup.py
	@echo "installing r1jax and its development tools into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) runs
