# PYTHON=… names another interpreter, ARGS=… goes to the quickstart, PYTEST_ARGS=… to pytest.
export PYTHON TORCH_INDEX
bin := .venv/bin
first_party := flywheel tests benchmarks tools

.PHONY: help setup quickstart test test-all check format lock lean clean

help:
	@echo "make setup        make .venv and install the locked packages"
	@echo "make quickstart   set up, then train a tiny model on a CPU (about ten minutes)"
	@echo "make test         set up, then run the tests"
	@echo "make test-all     every test, the slow ones too; the result goes to test-results/"
	@echo "make check        formatting, lint, types"
	@echo "make format       format and fix what can be fixed"
	@echo "make lock         write requirements*.lock from what .venv holds"
	@echo "make lean         install Lean 4, its REPL and its kernel checker where flywheel finds them (needs the network)"
	@echo "make clean        remove .venv, build output and caches (not runs/)"

setup:
	@tools/setup.sh run

.PHONY: setup-dev
setup-dev:
	@tools/setup.sh dev

quickstart: setup
	$(bin)/python -m flywheel.train quickstart $(ARGS)

test: setup-dev
	$(bin)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-all: SHELL := /bin/bash
test-all: setup-dev
	@mkdir -p test-results
	@set -o pipefail; result=test-results/$$(date +%F).txt; \
	{ echo "commit $$(git rev-parse HEAD 2>/dev/null || echo unknown)$$(git diff --quiet HEAD 2>/dev/null || echo ', changed')"; \
	  echo "$$(date -u +%FT%TZ), $$(nproc) CPUs, $$($(bin)/python --version), $$(nvidia-smi -L 2>/dev/null || echo no GPU)"; } | tee $$result; \
	$(bin)/python -m pytest -rs --durations=20 $(PYTEST_ARGS) 2>&1 | tee -a $$result; status=$$?; \
	echo "result: $$result"; exit $$status

check: setup-dev
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy $(first_party)

format: setup-dev
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

lock: setup-dev
	$(bin)/python tools/lock.py

lean:
	@tools/install_lean.sh

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
