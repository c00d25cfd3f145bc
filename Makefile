# make demo    virtual environment, installation, then `panda demo` in ./demo
# make test    the whole test suite
# make clean   remove the environment, the demo's results and the caches
# Another interpreter: make demo PYTHON=/path/to/python3.12
# More tests at once: make test WORKERS=8 (each takes about 3 GB)

VENV := .venv
BIN := $(VENV)/bin
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  if $$p -c '$(SUITABLE)' 2>/dev/null; then echo $$p; break; fi; done)

WORKERS ?= 2

.PHONY: demo test browser clean

demo: $(VENV)/installed
	@mkdir -p demo && cd demo && ../$(BIN)/panda demo

test: $(VENV)/installed-dev browser
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

$(VENV)/installed: setup.py pyproject.toml
	@if ! "$(PYTHON)" -c '$(SUITABLE)' 2>/dev/null; then \
	  echo "panda_jax needs Python 3.11 or newer with its venv module, and $(or $(PYTHON),python3) is not that" >&2; \
	  echo "(on Debian and Ubuntu: apt-get install python3.11-venv; elsewhere: make PYTHON=/path/to/python3.11)." >&2; \
	  exit 1; fi
	@test -x $(BIN)/python || { echo "Creating a virtual environment in $(VENV)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "Installing panda_jax and what it needs into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing the test tools"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The viewer test drives a real browser. Without one, and without the right to install it, that test skips itself.
browser:
	@if ! { { command -v chromium || command -v chromium-browser || command -v google-chrome; } \
	      && command -v chromedriver; } >/dev/null \
	    && test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
	  echo "Installing Chromium for the viewer test"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq --yes --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 \
	  || echo "Chromium could not be installed; the viewer test will skip itself"; fi

clean:
	rm -rf $(VENV) demo build dist .pytest_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
