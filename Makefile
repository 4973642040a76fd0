# `make` lists what there is.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install run test test-fast lint format benchmark clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: .venv/installed  ## make .venv with segtrain and all it needs

.venv/installed: pyproject.toml constraints.txt
	@echo "installing into .venv: PyTorch and what else is needed, some minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dev,parallel]'
	touch $@

run: install  ## train on the generated dataset, under a minute on two CPU cores
	$(BIN)/segtrain $(ARGS)

test: install lint  ## lint and run every test
	$(BIN)/python -m pytest

test-fast: install  ## the tests that take no training through the console script
	$(BIN)/python -m pytest -m 'not slow'

lint: install  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: install  ## speed and memory as ratios, side by side
	$(BIN)/python scripts/benchmark.py

clean:  ## remove .venv and what tools left; outputs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
