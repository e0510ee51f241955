# The two commands that matter are `make demo` and `make test`; each prepares .venv on first use.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_OUT ?= runs/demo
PLOTS_OUT ?= runs/plots.png

VENV := .venv
BENCH_VENV := .venv-bench
MINIMUM_VENV := .venv-minimum
SLOW_BENCHMARKS := $(addprefix benchmarks/,binary_vae.py compression.py disentangling.py drmm.py evidence.py \
	evidence_peers.py gan.py gcn.py geco.py hard_attention.py looks_linear.py mnist_vae.py networks.py \
	semi_supervised.py structured_output.py tumour.py variational_phylogeny.py)
# Set-up runs again when pyproject.toml or the choice of PyTorch changes.
TORCH_KEY := $(shell printf '%s' '$(TORCH)' | cksum | cut -d' ' -f1)
READY := $(VENV)/.ready-$(TORCH_KEY)
DOCS_READY := $(VENV)/.docs-$(TORCH_KEY)
BENCH_READY := $(BENCH_VENV)/.ready-$(TORCH_KEY)
MINIMUM_READY := $(MINIMUM_VENV)/.ready-$(TORCH_KEY)

# One thread per test process: the workers share the cores, and results do not depend on their number.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 SMOKE_TEST=1 MPLBACKEND=Agg
PYTEST := $(TEST_ENV) $(VENV)/bin/python -m pytest

.PHONY: help setup demo test test-slow test-minimum lint format types plots bench bench-slow docs docs-check clean

help:
	@echo "make setup      prepare .venv (PYTHON=$(PYTHON), TORCH=$(TORCH))"
	@echo "make demo       race three gradient estimators on the bundled digits; results in $(DEMO_OUT)/"
	@echo "make test       the tests, doctests and tutorials that take seconds"
	@echo "make test-slow  the tests that take minutes"
	@echo "make test-minimum  the same tests with the oldest versions declared, in $(MINIMUM_VENV)"
	@echo "make lint       ruff and the import contracts; 'make format' repairs what can be repaired"
	@echo "make types      mypy"
	@echo "make plots      every plot that the commands write, in one picture, $(PLOTS_OUT)"
	@echo "make bench      side-by-side benchmarks, in an environment of their own ($(BENCH_VENV))"
	@echo "make bench-slow the benchmarks that take hours and continue where they were stopped"
	@echo "make docs       the HTML documentation, in docs/_build/html"
	@echo "make docs-check open its pages in headless Chromium, if there is one, and follow its links"
	@echo "make clean      remove the environments and everything built"

setup: $(READY)

# $(1): the environment's folder.
define create_venv
	@command -v '$(PYTHON)' >/dev/null || { echo "'$(PYTHON)' was not found: install Python 3.11 or newer, or name one, as in 'make PYTHON=/path/to/python3.12 ...'" >&2; exit 2; }
	@'$(PYTHON)' -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, $(PYTHON) is {v}: name another, as in make PYTHON=/path/to/python3.12")'
	'$(PYTHON)' -m venv '$(1)'
	'$(1)/bin/python' -m pip install --quiet --upgrade pip
	'$(1)/bin/python' -m pip install '$(TORCH)'
endef

$(READY): pyproject.toml
	$(call create_venv,$(VENV))
	$(VENV)/bin/python -m pip install --editable '.[all]' --group dev
	rm -f $(VENV)/.ready-* && touch $@

$(DOCS_READY): $(READY)
	$(VENV)/bin/python -m pip install --group docs
	touch $@

# Peers change global settings of torch when imported, so they never enter .venv.
$(BENCH_READY): pyproject.toml
	$(call create_venv,$(BENCH_VENV))
	$(BENCH_VENV)/bin/python -m pip install --editable '.[all]' --group bench
	rm -f $(BENCH_VENV)/.ready-* && touch $@

# The oldest versions that pyproject.toml admits; PyTorch is $(TORCH) here too.
$(MINIMUM_READY): pyproject.toml .ci/minimum.py
	$(call create_venv,$(MINIMUM_VENV))
	$(MINIMUM_VENV)/bin/python .ci/minimum.py > $(MINIMUM_VENV)/constraints.txt
	$(MINIMUM_VENV)/bin/python -m pip install --editable '.[all]' --group dev --constraint $(MINIMUM_VENV)/constraints.txt
	rm -f $(MINIMUM_VENV)/.ready-* && touch $@

demo: $(READY)
	$(VENV)/bin/python -m pyro_ext.cli.demo --out $(DEMO_OUT)

# $(1): the environment's folder.
define run_fast_tests
	$(TEST_ENV) $(1)/bin/python -m pytest -n $(WORKERS) -m "not slow and not serial" $(PYTEST_ARGS)
	$(TEST_ENV) $(1)/bin/python -m pytest -m "serial and not slow" $(PYTEST_ARGS)
endef

test: $(READY)
	$(call run_fast_tests,$(VENV))

test-minimum: $(MINIMUM_READY)
	$(call run_fast_tests,$(MINIMUM_VENV))

test-slow: $(READY)
	$(PYTEST) -n $(WORKERS) -m "slow and not serial" $(PYTEST_ARGS)
	$(PYTEST) -m "slow and serial" $(PYTEST_ARGS) || [ $$? -eq 5 ]  # 5: there are none

lint: $(READY)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/lint-imports

format: $(READY)
	$(VENV)/bin/python -m ruff check --fix .
	$(VENV)/bin/python -m ruff format .

types: $(READY)
	$(VENV)/bin/python -m mypy

plots: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/support/contact_sheet.py --out $(PLOTS_OUT)

bench: $(BENCH_READY)
	for script in $(filter-out $(SLOW_BENCHMARKS),$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BENCH_VENV)/bin/python "$$script"; done

bench-slow: $(BENCH_READY)
	for script in $(SLOW_BENCHMARKS); do echo "== $$script"; $(BENCH_VENV)/bin/python "$$script"; done

docs: $(DOCS_READY)
	$(VENV)/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html

docs-check: docs
	$(VENV)/bin/python docs/check_pages.py

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(MINIMUM_VENV) build dist *.egg-info docs/_build docs/{reference,commands,models,benchmarks,tutorials,bibliography.rst}
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find pyro_ext tests tutorials benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
