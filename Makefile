# `make demo` and `make test` each work alone on a fresh machine: they make .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test format clean

demo: .venv/demo
	rm -rf runs/demo
	$(BIN)/mapsto train --out runs/demo

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/dev: .venv/demo
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
