# make run    a recognizer from nothing      make test   all tests      make help   the rest
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: run test check audit format ui docs notebooks clean help

# The first Python of at least 3.11 that this machine has; PYTHON=/path/to/python3.12 overrides it.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
# Python that keeps what it compiled, for the many processes of the tests. Compiling the few modules that are used instead
# of all that are installed saves a minute.
COMPILED := env -u PYTHONDONTWRITEBYTECODE $(VENV)/bin/python
WARM := $(COMPILED) -c 'import kit.fit, kit.evaluation.report, stages.sft, mlflow'
ARGS ?=

run: $(VENV)/run.stamp  ## prepare data, train all stages, print error rates (ARGS="key=value ..." is passed on)
	$(VENV)/bin/python -m kit fit stage=sft $(ARGS)

test: $(VENV)/dev.stamp  ## run all tests (ARGS="tests/kit -k name" is passed on)
	$(COMPILED) -m pytest -q -n 2 --dist loadfile $(ARGS)

check: $(VENV)/dev.stamp  ## linter, formatter and type checker
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

audit: $(VENV)/dev.stamp  ## installed packages against constraints.txt and licenses, without the network
	$(VENV)/bin/python .ci/audit

format: $(VENV)/dev.stamp  ## mend what linter and formatter can mend by themselves
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

ui: $(VENV)/run.stamp  ## look at the runs in MLflow (ARGS="--port 5001" is passed on)
	@echo "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true \
		$(VENV)/bin/mlflow ui --workers 1 --backend-store-uri sqlite:///runs/mlflow.db $(ARGS)

docs: $(VENV)/docs.stamp  ## build the documentation into site/; a link that leads nowhere fails
	$(VENV)/bin/python -m zensical build --clean --strict

notebooks: $(VENV)/notebooks.stamp  ## run the notebooks on the newest runs here (ARGS="02 05" for some)
	$(VENV)/bin/python notebooks/execute.py $(ARGS)

clean:  ## remove the virtual environment and all caches; runs/ stays
	rm -rf $(VENV) cache .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "The first run or test makes .venv with Python >= 3.11 (PYTHON=python3.12 to choose) and installs into it (3 GB)."

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it or give PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Stamps: installed once, and again when the requirements change. What tests need includes what a run needs.
$(VENV)/run.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV), a minute or two ..."
	$(PIP) --editable .
	@$(WARM)
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV), a minute or two ..."
	$(PIP) --editable '.[dev]'
	@$(WARM)
	@touch $(VENV)/run.stamp $@

$(VENV)/docs.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing what the documentation needs into $(VENV) ..."
	$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/notebooks.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing what the notebooks need into $(VENV) ..."
	$(PIP) --editable '.[notebooks]'
	@touch $@
