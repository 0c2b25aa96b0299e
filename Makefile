# PYTHON is the interpreter of an environment with jitvm's test extra: pip install -e '.[test]'
PYTHON ?= python3

.PHONY: check test test-all boot bench bench-gdb

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/test_layers.py

test:
	$(PYTHON) -m pytest -q -m "not slow and not packaging" --ignore=tests/perf

test-all:
	$(PYTHON) -m pytest -rs

boot:
	$(PYTHON) -m jitvm boot

bench:
	$(PYTHON) -m jitvm bench

bench-gdb:
	$(PYTHON) -m jitvm.bench.gdb_bench
