# Needs python3 (3.11 or newer) with venv and pip. `make` alone lists the verbs.

PYTHON ?= python3
VENV ?= .venv
# Pinned so that set-up is reproducible. Any torch>=2.10 works: make demo TORCH_VERSION=2.12.0
TORCH_VERSION ?= 2.13.0
WORKDIR ?= build/digits-wan
JOBS ?= 2
# One more than processors: many tests wait for processes of their own.
PYTEST_WORKERS ?= 3

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# What pip would do one by one, on all processors. Files that are not for this Python are left out, as pip does.
COMPILE := $(BIN)/python -m compileall -qq -j 0 "$(VENV)/lib" || true
# Some verbs side by side. The output of each comes in one piece, and one that fails fails the whole.
BESIDE := $(MAKE) --no-print-directory --jobs $(JOBS) $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
# A stamp is written when an install has finished; an interrupted one leaves none and is done again.
TORCH_STAMP := $(VENV)/.installed-torch-$(TORCH_VERSION)
DEMO_STAMP := $(VENV)/.installed-demo
DEV_STAMP := $(VENV)/.installed-dev
RIVALS_STAMP := $(VENV)/.installed-rivals
# Backwards, because the last ones take longest.
NOTEBOOKS := $(shell ls -r notebooks/*.ipynb)
EXECUTIONS := $(NOTEBOOKS:%=execute/%)

# Old releases of matplotlib and networkx warn, which would be errors in the tests.
COMPAT_TOOLS := "pytest>=8.3" pytest-timeout pytest-xdist hypothesis filelock ftfy "setuptools>=77" "scikit-image>=0.24"
COMPAT_TESTS := tests/cache tests/sparse tests/test_scheduled.py tests/test_wrapped_blocks.py tests/contract \
	-k "not contract or Wan or CogVideoX or HunyuanVideo"

.DEFAULT_GOAL := help
.PHONY: help demo test audit compat bench bench-gpu lint typecheck docs unit notebooks coverage train-demo-model clean $(EXECUTIONS)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(DEMO_STAMP) ## Set up .venv and run the embedded model against every preset
	$(BIN)/dit-accel demo

test: $(DEV_STAMP) ## Set up .venv and run every check: the six verbs below
	+$(BESIDE) lint typecheck docs audit $(EXECUTIONS)
	$(MAKE) --no-print-directory unit

lint: $(DEV_STAMP) ## Ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package is spread over three folders (see pyproject.toml); mypy is shown the tree that gets installed.
typecheck: $(DEV_STAMP) ## Mypy, strict, over the package with its pipelines
	rm -rf build/types
	mkdir -p build/types/dit_accel
	ln -s "$(CURDIR)"/dit_accel/* "$(CURDIR)/pipelines" "$(CURDIR)/offline_profiles" build/types/dit_accel/
	cd build/types && "$(abspath $(BIN))/mypy" --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p dit_accel

docs: $(DEV_STAMP) ## Check that generated figures are current, and build the documentation into build/site
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

unit: $(DEV_STAMP) ## Pytest, including the wheel and sdist checks
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

notebooks: $(DEV_STAMP) ## Execute every notebook, leaving the files as they are
	+$(BESIDE) $(EXECUTIONS)

$(EXECUTIONS): execute/%: $(DEV_STAMP)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python notebooks/execute.py $*

audit: $(DEV_STAMP) ## Known vulnerabilities of what is installed, and licences of what users install
	$(BIN)/python tests/security/audit.py

coverage: $(DEV_STAMP) ## Pytest, and how much of the package it runs, kernels and other processes included
	rm -rf build/coverage
	mkdir -p build/coverage
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 MPLBACKEND=Agg $(BIN)/coverage run -m pytest -n $(PYTEST_WORKERS) $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(RIVALS_STAMP) ## Measure everything beside the other methods: about a quarter of an hour on 2 cores
	$(BIN)/python benchmarks/bench.py

bench-gpu: $(DEMO_STAMP) ## Check and time everything on one GPU, at most 9 minutes
	$(BIN)/python benchmarks/gpu_suite.py

compat: $(DEV_STAMP) ## Lowest and newest dependencies in fresh environments (gigabytes; not part of test)
	rm -rf build/compat
	mkdir -p build/compat
	$(BIN)/uv pip compile pyproject.toml --extra report --resolution lowest-direct -q -o build/compat/low.txt
	$(BIN)/uv pip compile pyproject.toml --extra report -q -o build/compat/high.txt
	for end in low high; do \
	  $(BIN)/uv venv -q -p $(BIN)/python build/compat/$$end && \
	  $(BIN)/uv pip install -q -p build/compat/$$end/bin/python -r build/compat/$$end.txt $(COMPAT_TOOLS) && \
	  $(BIN)/uv pip install -q -p build/compat/$$end/bin/python --no-deps -e . "lpips>=0.1.4" "stlpips_pytorch>=0.0.2" && \
	  OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 MPLBACKEND=Agg build/compat/$$end/bin/python -m pytest -p no:xdist -q \
	    -W ignore::DeprecationWarning -W ignore::SyntaxWarning $(COMPAT_TESTS) || exit 1; \
	done

train-demo-model: $(DEMO_STAMP) ## Train the embedded model from nothing (about an hour on two cores; resumes)
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 \
		-m dit_accel.pipelines.digits_wan.train --workdir $(WORKDIR)

clean: ## Remove .venv, caches and build outputs, but no trained model
	test ! -f "$(VENV)/pyvenv.cfg" || rm -rf "$(VENV)"
	rm -rf build/types build/site build/lib build/bdist.* dist dit_accel.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(TORCH_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dit_accel needs Python 3.11 or newer.")'
	@echo "Setting up $(VENV) with torch $(TORCH_VERSION) (once)"
	$(PYTHON) -m venv "$(VENV)"
	$(PIP) torch==$(TORCH_VERSION)
	@rm -f "$(VENV)"/.installed-*
	@touch $@

# lpips and stlpips_pytorch serve as files of weights. Their requirement, torchvision, is neither used nor wanted: a
# build of it that does not match torch breaks diffusers. So they come without their dependencies.
$(DEMO_STAMP): $(TORCH_STAMP) pyproject.toml setup.py
	$(PIP) --editable ".[report]" "scikit-image>=0.24"
	$(PIP) --no-deps "lpips>=0.1.4" "stlpips_pytorch>=0.0.2"
	@$(COMPILE)
	@touch $@

$(DEV_STAMP): $(DEMO_STAMP)
	$(PIP) --editable ".[dev,docs,notebooks,report]"
	@$(COMPILE)
	@touch $@

$(RIVALS_STAMP): $(DEMO_STAMP)
	$(PIP) --editable ".[rivals]"
	@touch $@
