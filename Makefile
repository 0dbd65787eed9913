# `make demo` and `make test` set up what they need on a fresh machine with python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow lint bench clean

help:
	@echo "make demo       compare selection methods on real data with wrong labels (about 2 minutes)"
	@echo "make test       run the tests"
	@echo "make test-slow  run the slow tests too (heavy third-party packages are installed first)"
	@echo "make lint       ruff and mypy"
	@echo "make bench      run the benchmarks whose figures the README quotes"

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[demo]"
	touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.thirdparty: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,thirdparty]"
	touch $@

demo: $(VENV)/.demo
	$(BIN)/lightning-select experiment=noisy_digits

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow and not gpu" --jaxtyping-packages=lightning_select,beartype.beartype

test-slow: $(VENV)/.thirdparty
	$(BIN)/python -m pytest -m "not gpu"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.demo
	$(BIN)/python examples/benchmarks/beds.py
	$(BIN)/python examples/benchmarks/overhead.py

clean:
	rm -rf $(VENV) build dist
