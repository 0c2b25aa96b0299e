# PYTHON is the interpreter of an environment with jitvm's test extra: pip install -e '.[test]'
PYTHON ?= python3
# The tests start some 300 processes, which would compile all modules again where the environment forbids bytecode.
PYTEST = PYTHONDONTWRITEBYTECODE= $(PYTHON) -m pytest
# A process a core; what a module's tests share is made once as long as they stay in one, so only idle ones take others'.
PARALLEL = -n auto --maxprocesses 4 --dist worksteal

.PHONY: check test test-all warm boot bench bench-gdb golden isa picture

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/test_layers.py

# The fast set: each test, each value of each of its parameters (tests/fast_set.py), a share of each sweep; pyproject.toml says
# what is slow.  It may take two minutes on two cores, once everything is compiled: `--durations=30` shows what became too long.
test: warm
	$(PYTEST) -q $(PARALLEL) -m "not slow and not packaging" --ignore=tests/perf

test-all: warm
	$(PYTEST) -rs $(PARALLEL)

# What every process of tests begins with: they would all make it, at the same time, where the cache is empty.
warm:
	$(PYTHON) -c "from jitvm.bare import accelerator; accelerator()"

boot:
	$(PYTHON) -m jitvm boot

bench:
	$(PYTHON) -m jitvm bench

bench-gdb:
	$(PYTHON) -m jitvm.bench.gdb_bench

# writes the counts of tests/engine/golden.json anew; look at the diff
golden:
	$(PYTHON) -m tests.engine.golden

# writes how each instruction form is proved anew; `jitvm isa` shows it
isa:
	$(PYTHON) -m tests.isa.proofs

# draws README's picture from a run of Debian's kernel
picture:
	$(PYTHON) -m tests.boot.picture linux.svg
