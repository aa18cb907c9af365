# The entry point for everything in this repository. Targets set themselves up: `make test` and
# `make bench` create .venv, install into it and run; the second time they start immediately.
# Prerequisites: Python 3.11 to 3.13, GNU make, a POSIX shell and a package registry.

# Options of `bench`, one per line: name, help, default.
OPTIONS := crossmodal_bench/bench/options.py
is_variable := /^    [a-z_]+: .* = option./ && !/flag=/
BENCH_VARIABLES := $(shell awk -F ':' '$(is_variable) { print toupper($$1) }' $(OPTIONS))

VENV := .venv
STAMP := $(VENV)/.installed
python := $(VENV)/bin/python
PYTHON ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup bench reference doctor test test-slow perf lint types docs docs-tables coverage smoke docker-install-check clean

# A misspelt variable would otherwise be ignored silently, after hours of the wrong computation.
set_by_hand := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
unknown := $(filter-out $(BENCH_VARIABLES) PYTHON BASE GPU,$(set_by_hand))
ifneq ($(unknown),)
$(error Unknown variable: $(unknown); the variables are $(BENCH_VARIABLES) PYTHON BASE GPU)
endif
quoted = '$(subst ','\'',$($(1)))'
# Many environments export an unrelated BASE, which must be ignored.
of_perf := $(filter BASE GPU,$(set_by_hand))
base := $(if $(filter BASE,$(of_perf)),$(call quoted,BASE))
ifneq ($(of_perf),)
ifneq ($(filter-out perf,$(MAKECMDGOALS)),)
$(error $(of_perf) is a variable of perf, not of $(filter-out perf,$(MAKECMDGOALS)))
endif
endif
ifneq ($(filter-out 1,$(if $(filter GPU,$(of_perf)),$(GPU))),)
$(error GPU is '$(GPU)'; give GPU=1 to run the measurements that need a GPU)
endif

# DATA_ROOT=... becomes --data-root '...'. Only variables set by the user are passed on, including empty
# and invalid values: the program knows the defaults and rejects what it cannot use.
given := $(strip $(foreach name,$(BENCH_VARIABLES),$(if $(findstring undefined,$(origin $(name))),,$(name))))
option = --$(shell echo $(1) | tr A-Z_ a-z-) $(call quoted,$(1))
bench_options = $(foreach name,$(given),$(call option,$(name)))
ifneq ($(and $(filter reference,$(MAKECMDGOALS)),$(filter METHODS,$(given))),)
$(error reference takes no METHODS: it runs all rows of experiments/suites/reference.yaml; for some methods: make bench METHODS=$(METHODS) PRESET=paper)
endif

# ---- setting up -----------------------------------------------------------------------------------

# The stamp is written last and contains the checkout's path. If it is missing or from another checkout, or
# if the environment's Python no longer runs, .venv is incomplete: install again.
installed := $(shell [ "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd -P)" ] && $(python) -c '' 2>/dev/null && echo yes)
ifneq ($(installed),yes)
.PHONY: $(STAMP)
endif

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
CANDIDATES = $(if $(PYTHON),$(call quoted,PYTHON),python3.13 python3.12 python3.11 python3 python)

# Candidates are tested by running them: a version manager has shims for every version it has ever
# seen, and most of them fail. A Python that can also create environments is preferred.
create_environment = \
	good=; bare=; \
	for candidate in $(CANDIDATES); do \
	  "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1 || continue; \
	  if "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then good=$$candidate; break; fi; \
	  bare=$${bare:-$$candidate}; \
	done; \
	if [ -n "$$good" ]; then \
	  echo "Creating $(VENV) with $$("$$good" --version)"; \
	  "$$good" -m venv --clear $(VENV); \
	elif [ -n "$$bare" ]; then \
	  echo "$$bare cannot create environments, its venv module is incomplete: install the package that" \
	    "provides it (python3-venv on Debian and Ubuntu), or name another Python: make PYTHON=/path/to/python3" >&2; exit 1; \
	else \
	  echo "$(if $(PYTHON),PYTHON=$(PYTHON) is not a working Python 3.11 to 3.13,No working Python 3.11 to 3.13 was found):" \
	    "install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi

# pip writes a distribution's RECORD and INSTALLER after its files, but considers it installed as soon as
# its folder exists: one without both was interrupted, and must be removed. Names with ~ are folders that
# pip had moved aside at that moment.
drop_half_installed = \
	for folder in $(VENV)/lib/python3*/site-packages/*.dist-info; do \
	  if [ -d "$$folder" ] && ! { [ -f "$$folder/RECORD" ] && [ -f "$$folder/INSTALLER" ]; }; then \
	    echo "Removing the half-installed $${folder\#\#*/}"; rm -rf "$$folder"; \
	  fi; \
	done; \
	rm -rf $(VENV)/lib/python3*/site-packages/~*

$(STAMP): pyproject.toml
	@rm -f $(STAMP)
	@if ! { $(python) -c '$(SUPPORTED)' && $(python) -m pip --version; } >/dev/null 2>&1; then $(create_environment); fi
	@$(drop_half_installed)
	@echo "Installing into $(VENV): a few minutes and about 6 GB the first time"
	$(python) -m pip install --disable-pip-version-check -e '.[dev]'
	@pwd -P > $(STAMP)

# ---- commands -------------------------------------------------------------------------------------

help: ## This text
	@echo "Usage: make TARGET [VARIABLE=value ...]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-22s %s\n", $$1, $$2 }' Makefile
	@echo
	@awk -F '"' '$(is_variable) { split($$1, words, /[ :]+/); value = $$3 ~ /None/ ? "" : $$4; \
	  printf "  %-22s %s%s\n", toupper(words[2]), $$2, value == "" ? "" : " (" value ")" }' $(OPTIONS)
	@echo "  BASE                   a revision that perf alternates with this checkout"
	@echo "  GPU                    1: perf runs the measurements that need a GPU, in ten minutes"
	@echo "  PYTHON                 the Python for .venv (the newest found of 3.13, 3.12 and 3.11)"

setup: $(STAMP) ## Create .venv and install into it (every other target does this by itself)

# make turns every failure into its own status 2. The program's own status is in make's last line,
# right below the program's last message: "Error 1": a job failed, "Error 2": bad input,
# "Error 75": interrupted, run it again to resume.
bench: $(STAMP) ## Train, test and rank: make bench DATASET=flickr8k DATA_ROOT=data SEEDS=3
	$(VENV)/bin/crossmodal-bench bench $(bench_options)

# An estimate is printed before the first job. Run it again to resume interrupted or failed jobs; nothing is
# submitted until every job that has its data has finished.
reference: $(STAMP) ## Run the papers' rows (days on a GPU; DATASET=flickr30k for one) into results/, for a pull request
	$(VENV)/bin/crossmodal-bench bench $(bench_options) --methods reference
	$(VENV)/bin/crossmodal-bench submit --suite reference $(if $(RUNS),$(call option,RUNS))

doctor: $(STAMP) ## Check what this machine can do, what is missing, and how to fix it: make doctor DATASET=flickr30k
	$(VENV)/bin/crossmodal-bench doctor $(foreach name,$(filter DATASET DATA_ROOT RUNS,$(given)),$(call option,$(name)))

# One single-threaded process per core: nested thread pools would slow each other down.
test: $(STAMP) ## Run the tests
	OMP_NUM_THREADS=1 $(python) -m pytest -q -n auto --dist worksteal

test-slow: $(STAMP) ## Also run the tests that take minutes: kills, restarts, thousands of broken files
	OMP_NUM_THREADS=1 $(python) -m pytest -q -n auto --dist worksteal -m "slow or not slow" --timeout 3600

# Measures CPU seconds on one thread, which other load on the machine still blurs.
perf: $(STAMP) ## Run all speed benchmarks, in five minutes; make perf BASE=v1.0 compares with another revision, in twenty
	$(python) benchmarks/$(if $(filter GPU,$(of_perf)),gpu.py --compile,perf.py$(if $(base), --base $(base)))

lint: $(STAMP) types ## Check style, format, types and which package imports which
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(VENV)/bin/lint-imports

types: $(STAMP) ## Check types
	$(python) -m mypy

docs: $(STAMP) ## Build the documentation's site, strictly, with the leaderboard of results/, into site/
	$(python) tools/docs_site.py

docs-tables: $(STAMP) ## Write the tables of README and docs that come from results/ and docs/perf.json
	$(python) tools/docs_tables.py

coverage: $(STAMP) ## Run the tests and show which lines they do not run
	OMP_NUM_THREADS=1 $(python) -m pytest -q -n auto --dist worksteal --cov --cov-report=term --cov-report=xml

# clip trains nothing and needs published weights; the tests run it on tiny generated ones.
trained = $(subst $() ,$(comma),$(filter-out clip,$(basename $(notdir $(wildcard experiments/methods/*.yaml)))))
comma := ,

smoke: $(STAMP) ## Train every method, or METHODS, on tiny synthetic data and check that each beats chance (JOBS at a time: 2)
	@runs=$$(mktemp -d) && echo "Records go to $$runs, which is removed on success" && \
	$(VENV)/bin/crossmodal-bench bench --dataset synthetic-tiny --methods $(if $(METHODS),$(call quoted,METHODS),$(trained)) --preset smoke \
	  --jobs $(if $(JOBS),$(call quoted,JOBS),2) --wandb off --runs "$$runs" --check-chance && rm -rf "$$runs"

docker-install-check: $(STAMP) ## Run the Dockerfiles' pip lines in a fresh environment (minutes)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && trap 'exit 1' INT TERM && \
	sed -n 's/^RUN .*\(python -m pip install .*\)$$/\1/p' docker/Dockerfile docker/Dockerfile.cpu | sort -u > "$$folder/lines" && \
	[ -s "$$folder/lines" ] && $(python) -m venv "$$folder/venv" && \
	PATH="$$folder/venv/bin:$$PATH" sh -ex "$$folder/lines" && \
	cd "$$folder" && venv/bin/crossmodal-bench --help > /dev/null && \
	ls venv/lib/python3*/site-packages/crossmodal_bench/experiments/methods > /dev/null && \
	echo "The Dockerfiles' install lines work"

clean: ## Remove .venv, caches and build outputs; never runs/ or data/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache site docs/leaderboard .coverage* coverage.xml
	find benchmarks crossmodal_bench experiments tests tools -type d -name __pycache__ -prune -exec rm -rf {} +
