PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
QUICK = $(addprefix parity_tests/,recipe schedules data_prep files report own_loops repository diagnose/test_compare.py diagnose/test_causes.py twins/test_ladder.py)
AGAINST = --against keras,lightning,skorch,sklearn,numpy,c,products,recording

.PHONY: run check test latest sweep bench weigh atlas pages docs lint types clean

run: .venv/ready ## train the default recipe in both frameworks and show what happened
	.venv/bin/lockstep run

check: .venv/ready-to-develop lint types ## lint, types and the quick tests, before a commit
	.venv/bin/pytest --numprocesses auto --dist worksteal -q -m 'not sweep and not slow' $(QUICK)

test: .venv/ready-to-develop ## all tests but the slow sweeps
	.venv/bin/pytest --numprocesses auto --dist worksteal -q

latest: .venv-latest/ready ## the tests with the newest releases that pyproject.toml allows, and what they move in the atlas
	.venv-latest/bin/pytest --numprocesses auto --dist worksteal -q
	.venv-latest/bin/lockstep atlas --check

sweep: .venv/ready-to-sweep ## the slow, exhaustive tests, with every preset against its library
	.venv/bin/pytest --numprocesses auto --dist worksteal -q -m sweep

bench: .venv/ready-to-bench ## every contender on every workload, with ratios and bars
	.venv/bin/lockstep bench W1 W1-adamw W3 $(AGAINST) --rounds 9
	.venv/bin/lockstep bench W2 $(AGAINST) --rounds 3

weigh: .venv/ready ## what recording a loop of 27 M parameters costs, and one of 124 M finds
	.venv/bin/python -m benchmarks.recording
	.venv/bin/python -m benchmarks.recording --size 124M --updates 6

atlas: .venv/ready-to-develop ## run every page of docs/atlas and write its figures and the index
	.venv/bin/python -m tools.atlas

pages: .venv/ready-to-develop ## write docs/catalogue.md and docs/library_defaults.md anew
	.venv/bin/python -m tools.catalogue
	.venv/bin/python -m tools.library_defaults

docs: .venv/ready-for-docs ## build the site of docs/ into site/
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet
	@echo 'the site is in site/: .venv/bin/python -m http.server --directory site'

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

.venv-latest/ready: pyproject.toml
	rm -rf .venv-latest
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -P tools/install_newest.py
	touch $@

# timm's schedulers need torch alone; the rest of it would need torchvision, which the package index has for CUDA only
.venv/ready-to-sweep: .venv/ready-to-develop
	$(PIP) --editable '.[dev,libraries]'
	$(PIP) --no-deps timm
	touch $@

.venv/ready-to-bench: .venv/ready
	$(PIP) --editable '.[all,peers]'
	touch $@

.venv/ready-for-docs: .venv/ready
	$(PIP) --editable '.[all,docs]'
	touch $@

clean:
	rm -rf .venv .venv-latest .pytest_cache runs site
