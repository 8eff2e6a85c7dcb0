# Every target sets up what it needs. VENV may be an environment outside the checkout that several clones share:
# commands run on this checkout all the same, whichever clone was installed into it last.
VENV ?= .venv
LIGHT_VENV ?= .venv-light
PYTHON ?= python3
ARGS ?=

PY := $(VENV)/bin/python
STAMP := $(VENV)/.colorize-setup
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

.DEFAULT_GOAL := help
.PHONY: help setup install light demo test test-all bench bench-before notebooks lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'Variables: VENV=$(VENV), PYTHON=$(PYTHON), ARGS (make test ARGS="-k cli -x", make demo ARGS="seed=1 run=again")'

setup: ## create the environment, or update it after pyproject.toml or requirements.lock changed
	@cat pyproject.toml requirements.lock | cmp -s - "$(STAMP)" || $(MAKE) --no-print-directory install

install: WHAT ?= -e ".[dev]"
install:
	@python="$(PYTHON)"; test ! -x "$(PY)" || python="$(PY)"; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		version=$$("$$python" --version 2>/dev/null) || version="not there"; \
		echo "colorize needs Python 3.11 or newer ($$python: $$version); say which: make setup PYTHON=python3.11" >&2; \
		exit 1; }
	@rm -f "$(STAMP)"
	@if command -v uv >/dev/null; then \
		set -x; \
		test -x "$(PY)" || uv venv --python "$(PYTHON)" "$(VENV)" || exit 1; \
		uv pip install --python "$(PY)" -c requirements.lock $(WHAT); \
	else \
		set -x; \
		test -x "$(PY)" || "$(PYTHON)" -m venv "$(VENV)" || exit 1; \
		"$(PY)" -m pip install --disable-pip-version-check -c requirements.lock $(WHAT); \
	fi
	@cat pyproject.toml requirements.lock > "$(STAMP)"

# All that colouring photos imports, with what that needs in turn: --no-deps leaves out PyTorch and Lightning.
LIGHT := antlr4-python3-runtime filelock flatbuffers hydra-core imagecodecs markdown-it-py mdurl numpy omegaconf \
	onnxruntime packaging Pillow protobuf Pygments PyYAML rich threadpoolctl tifffile

light: ## make .venv-light, without PyTorch, to colour photos only (ARGS="jpeglib gradio scipy": more for it)
	@$(MAKE) --no-print-directory install VENV=$(LIGHT_VENV) WHAT='--no-deps -e . $(LIGHT)'
	@test -z "$(ARGS)" || $(MAKE) --no-print-directory install VENV=$(LIGHT_VENV) WHAT='$(ARGS)'

demo: setup ## train the whole method in small, on drawn scenes: minutes on two CPU cores; ends with a gallery
	"$(PY)" -m colorize.pipeline recipe=demo run=demo $(ARGS)

# A process a core with one thread each: threads of one process that wait for each other spin, and slow the others down.
PYTEST := OMP_NUM_THREADS=1 "$(PY)" -m pytest -n auto --maxprocesses 4 --dist worksteal

test: setup ## run all but the slow tests
	$(PYTEST) $(ARGS)

test-all: setup ## run all tests
	$(PYTEST) -m "slow or not slow" $(ARGS)

bench: setup ## measure speed and memory, as ratios (ARGS="--quick": only check that the benchmarks run)
	@for file in $(filter-out benchmarks/before.py benchmarks/claims.py benchmarks/clips.py benchmarks/common.py benchmarks/fewer_bits.py benchmarks/fits.py benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do \
		printf '\n%s\n' "$$file"; "$(PY)" "$$file" $(ARGS) || exit 1; \
	done

# The first build that had the generator; its photos and films were computed as at d475ea7.
BEFORE ?= de8725d

bench-before: ## check out build/before, the build that benchmarks/before.py measures this one against
	test -d build/before || git worktree add --detach build/before $(BEFORE)

notebooks: setup ## run the notebooks anew and keep what they show, in small pictures
	"$(PY)" notebooks/execute.py

lint: setup ## check style and types
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m mypy

format: setup ## fix the style
	"$(PY)" -m ruff check --fix .
	"$(PY)" -m ruff format .

clean: ## remove caches and built files; keep runs and the environment
	rm -rf dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find colorize tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
