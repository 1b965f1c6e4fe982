# `make demo` and `make test` need nothing but Python 3.11: they make .venv and install the pinned versions first.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait asleep: on a busy machine, threads that spin take the cores from those that work.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lint bench clean

demo: .venv/installed
	$(BIN)/python scripts/train_retrieval.py

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python scripts/benchmark.py

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info
