# `make` lists what there is.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
# Two processes of one thread each: two threads in each of two processes are slower than one.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: help install run test test-slow test-long lint format benchmark clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: .venv/installed  ## make .venv with segtrain and all it needs

.venv/installed: pyproject.toml constraints.txt
	@echo "installing into .venv: PyTorch and what else is needed, some minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dev,parallel,slurm,search,export]'
	touch $@

run: install  ## train on the generated dataset, a minute on two CPU cores
	$(BIN)/segtrain $(ARGS)

test: install lint  ## lint and run the tests, six minutes on two CPU cores
	$(TEST) -m 'not slow and not long'

test-slow: install  ## more tests of the same code: trainings, kills, guides, five minutes
	$(TEST) -m 'slow and not long'

test-long: install  ## the tests that take minutes each
	$(TEST) -m long -o timeout=3600

lint: install  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## fix style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: install  ## speed and memory as ratios, side by side
	$(BIN)/python scripts/benchmark.py

clean:  ## remove .venv and what tools left; outputs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
