# The dev loop. Every target sets up what it needs; a second call is fast.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup setup-gpu demo test check bench clean

setup: $(READY)

# an environment that is already set up, for the CPU or for GPUs, is kept until its pins change
$(READY): infra/requirements/cpu.txt infra/install.sh pyproject.toml
	@if [ -f $(VENV)/.gpu ]; then $(MAKE) --no-print-directory setup-gpu; else $(MAKE) --no-print-directory install KIND=cpu; fi

setup-gpu:
	@if [ -f $(READY) ] && [ ! -f $(VENV)/.gpu ]; then rm -rf $(VENV); fi
	@$(MAKE) --no-print-directory install KIND=gpu
	@touch $(VENV)/.gpu

.PHONY: install
install:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages ($(KIND)) into $(VENV)"
	@infra/install.sh $(KIND)
	@touch $(READY)

demo: $(READY)
	$(BIN)/harvest run

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
