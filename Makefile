# Every target makes the environment first; nothing has to be installed but Python 3.11.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: env report test lint types docs mutants accuracy bench clean

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

report: env
	mkdir -p out
	$(BIN)/costmodel report --force -o out/report.html
	$(BIN)/costmodel explore --force -o out/explorer.html

test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# On the installed wheel, from outside the root: what users get, and no folder shadows a package.
types: env
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/typed .
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml \
	  --cache-dir ../../.mypy_cache --package costmodel

# Names are documented as the wheel has them: no folder of the root is one of its packages.
# Not --quiet: that hides warnings from strict, which then lets dead links pass.
docs: env
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	rm -rf build/site
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/site .
	$(BIN)/mkdocs build

mutants: env
	$(BIN)/python tests/mutants.py

accuracy: env
	$(BIN)/python -m costmodel.validation.accuracy
	$(BIN)/python -m costmodel.validation.posted

bench: env
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/sweeps.py

# Made again only where pyproject or the pins have changed.
env: $(READY)
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf .venv build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis
