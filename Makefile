# The two commands of a fresh clone are `make demo` and `make test`; each makes its own .venv.
# PYTHON=/path/to/python picks another interpreter for that .venv.

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.daskptycho-installed
DOCS_STAMP := $(VENV)/.daskptycho-docs-installed
LONG_STAMP := $(VENV)/.daskptycho-long-installed
EXTRAS := cloud,dashboard,dev,fftw,formats,slurm
# Too large to install for every run of the tests.
LONG_EXTRAS := nvrtc,tiled
PIP := $(RUN) -m pip --disable-pip-version-check
# The oldest and the newest Python that pyproject.toml names, and the oldest release of Dask that it allows. Each
# Python has an environment of its own; that of the oldest one has the oldest Dask.
OLDEST_PYTHON := 3.11
NEWEST_PYTHON := 3.13
OLDEST_DASK := 2025.1.0
OLDEST := build/oldest
NEWEST := build/newest
# What pip installs in an environment besides the package; the oldest Dask holds there.
PINS :=
SOURCES := daskptycho tests benchmarks workflows docs
CANDIDATES := $(or $(PYTHON),python3.11 python3)
SUPPORTED := import sys; sys.exit(sys.version_info < (3, 11))
# Whether a Python is of a version, as in 3.13; and the shell's search for one, on the PATH and among pyenv's.
IS = import sys; sys.exit('.'.join(map(str, sys.version_info[:2])) != '$(1)')
FIND = for python in python$(1) python3 $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(1).*/bin/python; do \
	    if "$$python" -c "$(call IS,$(1))" >/dev/null 2>&1; then echo "$$python"; break; fi; done
# What the tests run with, in one line.
VERSIONS := import platform, dask, numpy, scipy; \
	print(f'Testing with Python {platform.python_version()}, Dask {dask.__version__}, \
	NumPy {numpy.__version__}, SciPy {scipy.__version__}')

TESTS ?= tests
# Test files run in parallel on up to four cores; PYTEST_FLAGS="-n 0" runs them one after the other.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile
# Long tests start servers and kill processes: a test that fails is run once more, and pytest says so.
ONCE_MORE := --reruns 1
PYTEST_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-oldest test-newest lint format docs clean

help:
	@echo "make demo    simulate a scan, reconstruct it with and without sync, leave pictures in demo/"
	@echo "make test    run the tests"
	@echo "make test-long  run the tests that take minutes"
	@echo "make test-oldest  run the tests on the oldest Python and Dask that are supported"
	@echo "make test-newest  run the tests on the newest Python that is supported"
	@echo "make lint    ruff and mypy"
	@echo "make docs    build the documentation into build/docs"
	@echo "make format  let ruff rewrite the sources"
	@echo "make clean   remove what the other targets made, .venv included"

demo: $(STAMP)
	@$(RUN) -m daskptycho demo demo
	@echo "The pictures are in $(CURDIR)/demo"

test: $(STAMP)
	@$(RUN) -c "$(VERSIONS)"
	@$(RUN) -m pytest $(SIDE_BY_SIDE) $(PYTEST_FLAGS) $(TESTS)

test-long: $(LONG_STAMP)
	@$(RUN) -m pytest -m long $(ONCE_MORE) $(PYTEST_FLAGS) $(TESTS)

test-oldest: $(STAMP)
	@python=$$($(call FIND,$(OLDEST_PYTHON))); \
	if [ -z "$$python" ]; then \
	    echo "Python $(OLDEST_PYTHON), the oldest that is supported, is not here:" \
	         "the oldest Dask is tested on $$($(RUN) --version)."; \
	    python=$(abspath $(RUN)); \
	fi; \
	$(MAKE) --no-print-directory test VENV=$(OLDEST) PYTHON="$$python" \
	    PINS="dask==$(OLDEST_DASK) distributed==$(OLDEST_DASK)"

test-newest: $(STAMP)
	@python=$$($(call FIND,$(NEWEST_PYTHON))); \
	if [ -z "$$python" ]; then \
	    echo "Python $(NEWEST_PYTHON), the newest that is supported, is not here:" \
	         "the tests run on $$($(RUN) --version) only."; \
	    $(MAKE) --no-print-directory test; \
	elif $(RUN) -c "$(call IS,$(NEWEST_PYTHON))"; then \
	    $(MAKE) --no-print-directory test; \
	else \
	    $(MAKE) --no-print-directory test VENV=$(NEWEST) PYTHON="$$python"; \
	fi

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# Every warning is an error, and so is a reference to a name that the package does not have.
docs: $(DOCS_STAMP)
	@$(RUN) -m sphinx -W --keep-going -n -q -d build/doctrees docs build/docs
	@echo "The documentation is in $(CURDIR)/build/docs/index.html"

$(DOCS_STAMP): $(STAMP)
	@echo "Installing what the documentation is built with"
	@$(PIP) install --quiet --editable ".[docs]"
	@touch $@

# The stamp is written last, so that an interrupted installation is repeated. A .venv that works is
# completed in place; one whose Python is missing is replaced.
$(STAMP): pyproject.toml
	@set -e; \
	rm -f $@; \
	if ! $(RUN) -c pass 2>/dev/null; then \
	    python=; \
	    for candidate in $(CANDIDATES); do \
	        if "$$candidate" -c "$(SUPPORTED)" >/dev/null 2>&1; then python=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "daskptycho needs Python 3.11 or newer; tried: $(CANDIDATES)." \
	             "Install it, or name it with 'make PYTHON=/path/to/python3.11 ...'." >&2; \
	        exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $(VENV) || { \
	        echo "$$python could not make a virtual environment:" \
	             "install its venv module (python3-venv on Debian and Ubuntu) and call make again." >&2; \
	        rm -rf $(VENV); \
	        exit 1; \
	    }; \
	elif ! $(RUN) -c "$(SUPPORTED)"; then \
	    echo "$(VENV) holds $$($(RUN) --version), and daskptycho needs Python 3.11 or newer:" \
	         "remove $(VENV) and call make again." >&2; \
	    exit 1; \
	fi; \
	$(PIP) --version >/dev/null 2>&1 || $(RUN) -m ensurepip --default-pip >/dev/null; \
	echo "Installing daskptycho and its dependencies into $(VENV) (minutes the first time)"; \
	$(PIP) install --quiet $(PINS) --editable ".[$(EXTRAS)]"; \
	touch $@

$(LONG_STAMP): $(STAMP)
	@echo "Installing what the long tests need in addition"
	@$(PIP) install --quiet --editable ".[$(EXTRAS),$(LONG_EXTRAS)]"
	@touch $@

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
