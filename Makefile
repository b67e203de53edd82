# make demo: everything from nothing to a film. make test: what CI asserts. See CONTRIBUTING.md for the rest.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# pip and setuptools say a lot that is of interest only when something fails.
quietly = $(BIN)/python -m pip install $(1) >$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }

.PHONY: install demo tournament test slow lint types bench clean

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

# A league's main agent as it was after a tenth and a third of its training and as it is, against four that need none.
# Openings of four random moves: agents that draw nothing would else play the same game each time.
SEED ?= 0
tournament: install
	@stamp=$$(date +%Y%m%d-%H%M%S); league=runs/league-$$stamp; out=runs/tournaments/league-$$stamp; \
	$(BIN)/rl-lab train connect_four_league seed=$(SEED) video=false run_dir=$$league && \
	$(BIN)/rl-lab tournament connect_four main=$$league \
		middle=$$league/league/main@1916928 early=$$league/league/main@638976 \
		random scripted minimax:depth=1 mcts:simulations=1000 \
		--pairs 200 --opening 4 --anchor random --workers 2 --seed $(SEED) --dir $$out && \
	$(BIN)/rl-lab tournament report $$out --anchor random

test:
	$(BIN)/python -m pytest -n auto --dist loadgroup

slow:
	$(BIN)/python -m pytest -m slow --timeout 7200

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

# The figures of docs/benchmarks.md and the README: half an hour, on a quiet machine.
bench: $(VENV)/installed
	@$(call quietly,--constraint requirements.lock --editable '.[bench,sbx]')
	$(BIN)/python scripts/bench.py

clean:
	rm -rf $(VENV) build dist *.egg-info
