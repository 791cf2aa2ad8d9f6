# make demo | test | wheel | bench | lint        A new machine needs Python 3.11 (or 3.12, 3.13), git and a C compiler.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
JOBS   ?= 2
EXTRAS ?= dev

.PHONY: help demo test wheel bench lint clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train three regimes of a small study and write runs/demo/report.html"
	@echo "make test    run the tests"
	@echo "make wheel   build the wheel and try it in an empty environment, outside the source tree"
	@echo "make bench   measure speed against an eager baseline"
	@echo "make lint    ruff and mypy"

# Installed once; again only when what is to be installed has changed.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: $(READY)
	$(BIN)/grokscope run demo

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# The wheel alone must be enough: what it depends on is borrowed, grokscope itself is not to be seen.
wheel: $(READY)
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w build/wheel .
	$(BIN)/python -m venv build/wheel/empty
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$(build/wheel/empty/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth
	build/wheel/empty/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index \
		--force-reinstall build/wheel/*.whl
	cd / && $(CURDIR)/build/wheel/empty/bin/python -c "import grokscope, pathlib; \
		here = pathlib.Path(grokscope.__file__).parent; \
		assert here.is_relative_to('$(CURDIR)/build/wheel'), here; \
		assert (here / 'py.typed').exists()"
	cd / && $(CURDIR)/build/wheel/empty/bin/grokscope show demo > /dev/null

bench: $(READY)
	$(BIN)/python -m benchmarks.run

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
