# `make` lists the targets. See CONTRIBUTING.md for how they are used.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# The inner loop: tests/**/test_NAME.py of these, of test_worlds those of catch only. They compile one world and train
# nothing. A name whose file is not there is an error, so that the list follows the tests.
QUICK := record rng trig checkpoint files stats progress thread_tuner ratings tables tensorboard_tags worlds
QUICK_ONLY := not test_worlds or catch

# pip says a lot that is of interest only when something fails; of the rest, what takes long is shown.
quietly = scripts/install.sh $(VENV)/install.log $(BIN)/python $(1)

.PHONY: help install demo tournament quick test slow cov format lint types docs bench clean
.DEFAULT_GOAL := help

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## make an environment in .venv and install rl_lab in it
quick test slow cov format lint types: $(VENV)/installed-dev
docs: $(VENV)/installed-docs

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install it, or name another with make PYTHON=..."; exit 1; }
	@echo "making an environment in $(VENV) and installing: two or three minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(call quietly,--upgrade pip)

# The lock file has exact versions of everything, test tools included; install takes from it what it needs.
$(VENV)/installed: $(VENV)/bin/python pyproject.toml requirements.lock
	@$(call quietly,--constraint requirements.lock --editable .)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(call quietly,--constraint requirements.lock --editable '.[dev]')
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	@$(call quietly,--constraint requirements.lock --editable '.[docs]')
	@touch $@

demo: install ## install, train PPO on CartPole, evaluate it and record videos
	@$(BIN)/rl-lab train cartpole
	@echo "first: source $(BIN)/activate"

# A league's main agent as it was after a tenth and a third of its training and as it is, against four that need none.
# Openings of four random moves: agents that draw nothing would else play the same game each time.
SEED ?= 0
tournament: install ## train a league and let its snapshots meet search and scripts; SEED=N
	@stamp=$$(date +%Y%m%d-%H%M%S); league=runs/league-$$stamp; out=runs/tournaments/league-$$stamp; \
	$(BIN)/rl-lab train connect_four_league seed=$(SEED) video=false run_dir=$$league && \
	$(BIN)/rl-lab tournament connect_four main=$$league \
		middle=$$league/league/main@1916928 early=$$league/league/main@638976 \
		random scripted minimax:depth=1 mcts:simulations=1000 \
		--pairs 200 --opening 4 --anchor random --workers 2 --seed $(SEED) --dir $$out && \
	$(BIN)/rl-lab tournament report $$out --anchor random

quick: ## the inner loop: fast tests, under 90 seconds
	@files=; for name in $(QUICK); do \
		file=$$(find tests -name "test_$$name.py"); \
		[ -n "$$file" ] || { echo "Makefile: QUICK names test_$$name.py, which is not in tests/"; exit 1; }; \
		files="$$files $$file"; \
	done; \
	$(BIN)/python -m pytest -n 2 -q -m "not slow" -k "$(QUICK_ONLY)" $$files

test: ## all tests but the slow ones: 15 to 20 minutes on two cores
	$(BIN)/python -m pytest -n auto

slow: ## the tests that train for minutes: half an hour and more
	$(BIN)/python -m pytest -m slow --timeout 7200

cov: ## all tests but the slow ones, with the lines that they miss, in htmlcov/
	$(BIN)/python -m pytest -n auto --cov=rl_lab --cov-report=term --cov-report=html

format: ## format the code, and repair what the linter can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: ## format, linter and import rules, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: ## type check, strict
	$(BIN)/mypy

# Material prints a notice about its successor at each build; docs/decisions.md has it.
docs: ## build the documentation and the API reference into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

# The figures of docs/benchmarks.md: half an hour, on a quiet machine.
bench: $(VENV)/installed ## measure the benchmarks again
	@$(call quietly,--constraint requirements.lock --editable '.[bench,sbx]')
	$(BIN)/python scripts/bench.py

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist site htmlcov .coverage *.egg-info
