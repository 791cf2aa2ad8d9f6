# make demo | test | bench | lint        A new machine needs Python 3.11 (or 3.12, 3.13), git and a C compiler.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
JOBS   ?= 2

.PHONY: help demo test bench lint clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train three regimes of a small study and write runs/demo/report.html"
	@echo "make test    run the tests"
	@echo "make bench   measure speed against an eager baseline"
	@echo "make lint    ruff and mypy"

# Installed once; again only when what is to be installed has changed.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/grokscope run demo

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS)

bench: $(READY)
	$(BIN)/python -m benchmarks.run

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
