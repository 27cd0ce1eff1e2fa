# Developer commands; `make help` lists them. Everything happens in .venv, which is made where it does not exist.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# Torch first and alone: a later, looser requirement would otherwise be free to choose another, larger build of it.
$(VENV)/torch.stamp:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch==2.13.0"
	@touch $@

$(VENV)/package.stamp: $(VENV)/torch.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/package.stamp
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

.PHONY: predict
predict: $(VENV)/package.stamp ## predict real video with the embedded model; writes outputs/prediction.gif
	$(BIN)/ivideogpt predict

.PHONY: test
test: $(VENV)/dev.stamp ## check lint and format, and run the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

.PHONY: format
format: $(VENV)/dev.stamp ## format, and fix what lint can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/package.stamp ## run the benchmarks; leave the machine alone meanwhile
	$(BIN)/python benchmarks/imports.py --output benchmarks/results/imports.json
	$(BIN)/python benchmarks/rollout.py --output benchmarks/results/rollout.json

.PHONY: clean
clean: ## remove the virtual environment and everything made
	rm -rf $(VENV) outputs build dist .pytest_cache .ruff_cache
