# make demo: everything from nothing to a film. make test: what CI asserts. See CONTRIBUTING.md for the rest.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# pip and setuptools say a lot that is of interest only when something fails.
quietly = $(BIN)/python -m pip install $(1) >$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }

.PHONY: install demo test slow lint types bench clean

install: $(VENV)/installed
test slow lint types: $(VENV)/installed-dev

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install it, or name another with make PYTHON=..."; exit 1; }
	@echo "making an environment in $(VENV) and installing: a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(call quietly,--upgrade pip)

# The lock file has exact versions of everything, test tools included; install takes from it what it needs.
$(VENV)/installed: $(VENV)/bin/python pyproject.toml requirements.lock
	@$(call quietly,--constraint requirements.lock --editable .)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(call quietly,--constraint requirements.lock --editable '.[dev]')
	@touch $@

demo: install
	@$(BIN)/rl-lab train cartpole
	@echo "first: source $(BIN)/activate"

test:
	$(BIN)/python -m pytest -n auto --dist loadgroup

slow:
	$(BIN)/python -m pytest -m slow --timeout 7200

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

# The table of the README: run it on a quiet machine.
bench: $(VENV)/installed
	@$(call quietly,--constraint requirements.lock --editable '.[bench]')
	$(BIN)/python scripts/bench.py

clean:
	rm -rf $(VENV) build dist *.egg-info
