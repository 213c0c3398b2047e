# The whole of the daily work; each target makes the environment it needs.
#
#     make test                       the tests, with coverage
#     make test PYTEST_ARGS="-k head" some of them (the coverage bar will not be met)
#     make test-servers               the tests against nginx, Apache, Squid and others
#     make test-network               the tests on a network that fails; as root
#     make test-places                the tests inside gunicorn, uWSGI, waitress and Apache, and on dask
#     make test-gui                   the tests of the examples with a window, in Tk and Qt
#     make soak                       two minutes of mixed requests, judged by what is left of them
#     make check                      types, lint, import layers
#     make docs                       the documentation, as a site in site/
#     make demo                       the demonstration
#     make dist                       the sdist and the wheel of the last commit, the same bytes every time
#     make bench                      our speed and that of our peers; it takes long
#     make bench BENCH_ARGS="--only W1 --rounds 3"
#     make bench-growth               how our cost grows with the size and the number of things
#     make clean                      forget environments, caches and builds
#
# JOBS is the number of processes that "make test" runs its tests in.
# PYTHON is the interpreter the environments are made of; after changing it run "make clean".

PYTHON ?= python3
PYTEST_ARGS ?=
JOBS ?= 3
BENCH_ARGS ?=
SOAK_ARGS ?= --seconds 120

VENV := .venv
DEMO_VENV := .venv-demo
PLACES_VENV := .venv-places
GUI_VENV := .venv-gui
BENCH_VENV := .venv-bench
DOCS_VENV := .venv-docs
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.PHONY: test test-servers test-network test-places test-gui soak check docs demo dist bench bench-growth clean

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest -m "not servers" -n $(JOBS) --dist worksteal --cov --cov-report=term $(PYTEST_ARGS)

test-servers: $(VENV)/.servers
	.ci/install-servers
	$(VENV)/bin/python -m pytest tests/servers -m servers -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-network: $(VENV)/.test
	$(VENV)/bin/python -m pytest tests/network -m network -n 4 --dist worksteal $(PYTEST_ARGS)

test-places: $(PLACES_VENV)/.places
	.ci/install-places
	$(PLACES_VENV)/bin/python -m pytest tests/places -m places -n 2 --dist loadgroup $(PYTEST_ARGS)

test-gui: $(GUI_VENV)/.gui
	.ci/install-gui $(GUI_VENV)/bin/python
	$(GUI_VENV)/bin/python -m pytest tests/gui -m gui $(PYTEST_ARGS)

soak: $(VENV)/.test
	$(VENV)/bin/python -m tests.soak $(SOAK_ARGS)

check: $(VENV)/.dev
	$(VENV)/bin/mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports

# -W: a warning is an error, as is a link that leads nowhere and anything that a page would load from outside.
docs: $(DOCS_VENV)/.docs
	rm -rf site
	$(DOCS_VENV)/bin/python -m sphinx --quiet -W --keep-going -b html -d $(DOCS_VENV)/doctrees docs site
	$(DOCS_VENV)/bin/python docs/check_site.py site

demo: $(DEMO_VENV)/.demo
	$(DEMO_VENV)/bin/python examples/demo.py

dist: $(VENV)/.dev
	$(VENV)/bin/python .ci/build

bench: $(BENCH_VENV)/.bench
	$(BENCH_VENV)/bin/python benchmarks/run.py $(BENCH_ARGS)

bench-growth: $(BENCH_VENV)/.bench
	$(BENCH_VENV)/bin/python benchmarks/growth.py $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(PLACES_VENV) $(GUI_VENV) $(BENCH_VENV) $(DOCS_VENV)
	rm -rf site build dist clientrequest.egg-info .coverage .coverage.* htmlcov
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find benchmarks clientrequest docs examples fuzz tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# An environment is made anew when setup.cfg changes; the stamp is the last step, so a broken one never counts.
# setuptools warns of what is meant to be so: this folder is what is imported.
STAMPS := $(VENV)/.test $(VENV)/.servers $(VENV)/.dev $(PLACES_VENV)/.places $(GUI_VENV)/.gui $(DEMO_VENV)/.demo \
    $(DOCS_VENV)/.docs $(BENCH_VENV)/.bench
$(STAMPS): export PYTHONWARNINGS = ignore:Editable installation

$(VENV)/.test: setup.cfg
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(VENV)/bin/python $(PIP_INSTALL) --editable ".[test]"
	@touch $@

$(VENV)/.servers: $(VENV)/.test
	$(VENV)/bin/python $(PIP_INSTALL) --editable ".[servers]"
	@touch $@

$(PLACES_VENV)/.places: setup.cfg
	$(PYTHON) -m venv --clear $(PLACES_VENV)
	$(PLACES_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(PLACES_VENV)/bin/python $(PIP_INSTALL) --editable ".[places]"
	@touch $@

$(GUI_VENV)/.gui: setup.cfg
	$(PYTHON) -m venv --clear $(GUI_VENV)
	$(GUI_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(GUI_VENV)/bin/python $(PIP_INSTALL) --editable ".[gui]"
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(VENV)/bin/python $(PIP_INSTALL) --editable ".[dev]"
	@touch $@

$(DEMO_VENV)/.demo: setup.cfg
	$(PYTHON) -m venv --clear $(DEMO_VENV)
	$(DEMO_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(DEMO_VENV)/bin/python $(PIP_INSTALL) --editable ".[demo]"
	@touch $@

$(DOCS_VENV)/.docs: setup.cfg
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python $(PIP_INSTALL) --editable ".[docs]"
	@touch $@

$(BENCH_VENV)/.bench: setup.cfg
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python $(PIP_INSTALL) --editable ".[bench]"
	@touch $@
