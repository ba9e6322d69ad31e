# Everything a person does with this checkout, each one word. `make` alone lists the words.
#
#   make demo PYTHON=python3.12     another interpreter for .venv (3.11 or 3.12)
#   make demo CORES=2               fewer cores

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
            if $$p -c '$(SUPPORTED)' 2>/dev/null; then echo $$p; exit; fi; done; echo python3)
VENV ?= .venv
CORES ?= all

BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
export PATH := $(BIN):$(PATH)

# What the installation is made from: when one of these changes, it is made again.
SOURCES := pyproject.toml constraints.txt $(wildcard setup.py) \
           $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)

# A lock that dies with its process: two makes at once take turns, and a killed one blocks nobody.
LOCK = $(if $(shell command -v flock),flock $(1))

.DEFAULT_GOAL := help
.PHONY: help demo demo-full install install-dev test test-all lint format bench constraints clean check-python

help: ## List what make can do
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS='	' read -r word what; do \
	   printf '  make %-12s %s\n' "$$word" "$$what"; done

demo: install ## Run the whole pipeline on rendered videos and print the result table
	@$(call LOCK,Snakefile) snakemake --cores $(CORES) results/demo/mAP.tsv results/demo/report.html
	@echo
	@python -m avfusion.report.table results/demo/mAP.tsv
	@echo
	@echo "Table: results/demo/mAP.tsv   Pictures: results/demo/report.html (open it in a browser)"

demo-full: install ## The same with every detector, every fusion and three seeds (a longer run)
	@$(call LOCK,Snakefile) snakemake --cores $(CORES) results/demo/mAP-full.tsv results/demo/report-full.html
	@echo
	@python -m avfusion.report.table results/demo/mAP-full.tsv
	@echo
	@echo "Table: results/demo/mAP-full.tsv   Pictures: results/demo/report-full.html (open it in a browser)"

test: lint ## Check style and types, and run the tests that take minutes
	pytest -m "not slow and not gpu"

test-all: lint ## Run every test, also the slow ones and those that need a GPU (skipped without one)
	pytest

lint: install-dev ## Check style, types and the workflow, changing nothing
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	mypy
	snakemake --lint

format: install-dev ## Put style right where a program can
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules

bench: install-dev ## Measure speed; every benchmark prints a table (on a GPU: benchmarks/gpu_session.sh)
	@set -e; for name in ops_cpu evaluation pgcn_step flow features store training workflow; do \
	   echo "== benchmarks/$$name.py"; python "benchmarks/$$name.py"; done

install: ## Install what the demo needs into .venv
	@$(call LOCK,Makefile) $(MAKE) -s --no-print-directory $(VENV)/.installed

install-dev: install ## Install what the tests need as well
	@$(call LOCK,Makefile) $(MAKE) -s --no-print-directory $(VENV)/.installed-dev

# pip takes a half unpacked package for an installed one. An installation that was cut short therefore leaves
# .incomplete behind and no stamp, and the next one begins anew.
$(VENV)/.installed: $(SOURCES)
	@$(MAKE) --no-print-directory check-python
	@echo "Installing into $(VENV) (minutes the first time)"
	@if [ ! -e $(VENV)/pyvenv.cfg ] || [ -e $(VENV)/.incomplete ]; then rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(VENV)/.incomplete && rm -f $(VENV)/.installed*
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt setuptools ninja torch
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[workflow]'
	@rm $(VENV)/.incomplete && touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@touch $(VENV)/.incomplete && rm -f $(VENV)/.installed*
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[workflow,dev]'
	@rm $(VENV)/.incomplete && touch $(VENV)/.installed $@

check-python:
	@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
	   echo "AVFusion needs Python 3.11 or 3.12, and $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo not there)." >&2; \
	   echo "Name another one, for example: make demo PYTHON=python3.12" >&2; exit 1; }

constraints: check-python ## Pin the newest versions that pyproject.toml allows (asks the package index)
	@set -e; new=$$(mktemp -d); trap 'rm -rf "$$new"' EXIT; \
	$(PYTHON) -m venv "$$new/venv"; \
	"$$new/venv/bin/pip" install setuptools ninja torch; \
	"$$new/venv/bin/pip" install --no-build-isolation '.[workflow,dev]'; \
	grep '^#' constraints.txt > "$$new/constraints.txt"; \
	"$$new/venv/bin/pip" freeze --all --exclude avfusion --exclude pip | sed 's/+[a-z0-9]*$$//' | sort -f >> "$$new/constraints.txt"; \
	cp "$$new/constraints.txt" constraints.txt

clean: ## Remove .venv, what was built, and the demo's files; other datasets' files stay
	rm -rf $(VENV) build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf results/demo resources/demo logs/demo benchmarks/jobs/demo
	find src -name '*.so' -delete
