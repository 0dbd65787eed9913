# `make demo` and `make test` set up what they need on a fresh machine with python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
THIRDPARTY := $(VENV)/thirdparty
RESULTS := examples/benchmarks/results
# Where shapes are checked at run time, besides by their tests: the methods.
CHECKED := lightning_select.scores,lightning_select.selectors,lightning_select.weightings

.PHONY: help demo test test-slow test-wheel matrix soak lint bench docs audit clean

help:
	@echo "make demo       compare selection methods on real data with wrong labels (about 2 minutes)"
	@echo "make test       run the tests"
	@echo "make test-slow  run the slow tests too (heavy third-party packages are installed first)"
	@echo "make test-wheel  run the tests from the installed wheel, outside of the repository"
	@echo "make matrix     run the tests with the oldest and the newest Python, torch, Lightning and Hydra (hours, gigabytes)"
	@echo "make soak       10,000 cases made up at random, then 200,000 training steps (about an hour)"
	@echo "make lint       ruff and mypy"
	@echo "make bench      run the benchmarks whose figures the README quotes"
	@echo "make docs       the pages as a site, in build/site"
	@echo "make audit      known vulnerabilities of what the tests install, and the metadata of the wheel"

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

# An environment of its own: beside a CPU build of torch, the registry's torchvision cannot be imported, and Lightning
# imports it where it is installed. `python -m tests.thirdparty` mends that for as long as it runs.
$(VENV)/.thirdparty: $(VENV)/.made pyproject.toml constraints.txt
	$(PYTHON) -m venv $(THIRDPARTY)
	$(THIRDPARTY)/bin/python -m pip install -q --upgrade pip
	$(THIRDPARTY)/bin/python -m pip install -q -c constraints.txt torch
	$(THIRDPARTY)/bin/python -m pip install -q -c constraints.txt -e ".[dev,thirdparty]"
	touch $@

demo: $(VENV)/.demo
	$(BIN)/lightning-select experiment=noisy_digits

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu" --jaxtyping-packages=$(CHECKED),beartype.beartype

test-slow: $(VENV)/.dev $(VENV)/.thirdparty
	$(BIN)/python -m pytest -n 2 -m "not gpu" --ignore=tests/thirdparty
	$(THIRDPARTY)/bin/python -m tests.thirdparty

test-wheel: $(VENV)/.dev
	$(BIN)/python -m tests.installed -n 2 --jaxtyping-packages=$(CHECKED),beartype.beartype

matrix: $(VENV)/.made
	$(BIN)/python -m tests.versions

soak: $(VENV)/.dev
	status=0; \
	$(BIN)/python examples/benchmarks/soak.py --json $(RESULTS)/soak.json || status=1; \
	$(BIN)/python -m tests.fuzz || status=1; \
	exit $$status

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

# Asks PyPI's advisories; AUDIT="-s osv" asks those of osv.dev.
audit: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[audit]"
	rm -rf build/dist
	$(BIN)/python -m build -q --no-isolation --outdir build/dist .
	$(BIN)/twine check --strict build/dist/*
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt $(AUDIT)

bench: $(VENV)/.demo
	status=0; \
	$(BIN)/python examples/benchmarks/beds.py --json $(RESULTS)/beds.json || status=1; \
	$(BIN)/python examples/benchmarks/overhead.py --json $(RESULTS)/overhead.json || status=1; \
	for name in draws history rlvr_bed info_batch divbs uds_scoring filter_cost peer_review grpo; do \
		$(BIN)/python examples/benchmarks/$$name.py --json $(RESULTS)/$$name.json || status=1; \
	done; \
	$(BIN)/python examples/benchmarks/uds_sft.py --json $(RESULTS)/uds_sft_made_up.json || status=1; \
	$(BIN)/python examples/benchmarks/lm_reweighting.py --json $(RESULTS)/lm_reweighting_made_up.json || status=1; \
	for name in mislabelled time_to_accuracy; do \
		$(BIN)/python examples/benchmarks/$$name.py --json $(RESULTS)/$${name}_digits.json || status=1; \
	done; \
	exit $$status

clean:
	rm -rf $(VENV) build dist
