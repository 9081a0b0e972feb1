PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
AGAINST = --against keras,lightning,skorch,sklearn,numpy,c,products,recording

.PHONY: run test sweep bench atlas lint types clean

run: .venv/ready ## train the default recipe in both frameworks and show what happened
	.venv/bin/lockstep run

test: .venv/ready-to-develop ## all tests but the slow sweeps
	.venv/bin/pytest --numprocesses auto --dist worksteal -q

sweep: .venv/ready-to-develop ## the slow, exhaustive tests
	.venv/bin/pytest --numprocesses auto --dist worksteal -q -m sweep

bench: .venv/ready-to-bench ## every contender on every workload, with ratios and bars
	.venv/bin/lockstep bench W1 W1-adamw W3 $(AGAINST) --rounds 9
	.venv/bin/lockstep bench W2 $(AGAINST) --rounds 3

atlas: .venv/ready-to-develop ## run every page of docs/atlas and write its figures and the index
	.venv/bin/python -m parity_tests.run_atlas

lint: .venv/ready-to-develop
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: .venv/ready-to-develop
	.venv/bin/mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lockstep needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[all]'
	touch $@

.venv/ready-to-develop: .venv/ready
	$(PIP) --editable '.[dev]'
	touch $@

.venv/ready-to-bench: .venv/ready
	$(PIP) --editable '.[all,peers]'
	touch $@

clean:
	rm -rf .venv runs
