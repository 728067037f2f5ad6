# Two commands on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
TABA := $(VENV)/bin/taba
STORE ?= runs/demo
TEST_PROCESSES ?= 2

# --no-compile: half of the time; what is used is compiled when it is first imported.
INSTALL := $(VENV)/bin/pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e

.PHONY: demo test lint clean

# What taba needs; tests need more.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(TABA) run main-text --store $(STORE)
	$(TABA) run main-text --model photo-dit --set num_samples=64 --store $(STORE)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy taba_core

test: lint
	$(VENV)/bin/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(ARGS)

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
