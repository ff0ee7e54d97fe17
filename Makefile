# make cerl    set up if needed, then train CERL on the default task; options in ARGS="--seed 1"
# make test    set up if needed, then run the fast tests
# `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= 2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Their own pins cannot be installed on a supported Python; the extra `environments` has what they need.
NO_DEPS := safety-gymnasium==1.0.0 gymnasium-robotics==1.2.2

.DEFAULT_GOAL := help
.PHONY: help setup cerl model-free bench test test-model-free lint types notebooks environments-venv test-environments check-tasks clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

setup: $(VENV)/.stamp ## build .venv (again when pyproject.toml has changed)

$(VENV)/.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "cerl-blocks needs Python >= 3.11; name one: make setup PYTHON=python3.11" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "$(PYTHON) -m venv does not work here; on Debian: apt-get install python3-venv" >&2; \
	    exit 1; }
	$(MAKE) --no-print-directory install-torch
	$(PIP) install --quiet -e '.[environments,recipes,dev]'
	$(PIP) install --quiet --no-deps $(NO_DEPS)
	@touch $@

# Without an NVIDIA GPU the CPU build, a tenth of CUDA's size: from the package index or a local mirror,
# else from PyTorch's own index, else (macOS; no such index in reach) the index's default build.
.PHONY: install-torch
install-torch:
	@if $(BIN)/python -c 'import torch, sys; sys.exit(torch.__version__.split("+")[0] != "$(TORCH)")' 2>/dev/null; then \
	    echo "torch $(TORCH) is installed"; \
	elif command -v nvidia-smi >/dev/null 2>&1 || [ "$$(uname -s)" = Darwin ]; then \
	    $(PIP) install --quiet "torch==$(TORCH)"; \
	else \
	    echo "no NVIDIA GPU found: installing torch's CPU build"; \
	    $(PIP) install --quiet "torch==$(TORCH)+cpu" 2>/dev/null \
	    || $(PIP) install --quiet --retries 0 --timeout 15 "torch==$(TORCH)+cpu" \
	        --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple 2>/dev/null \
	    || { echo "no CPU build in reach: installing the index's default build"; \
	        $(PIP) install --quiet "torch==$(TORCH)"; }; \
	fi

cerl: setup ## train CERL on the default task; e.g. make cerl ARGS="--seed 1"
	$(BIN)/python recipes/cerl_full.py $(ARGS)

# OmniSafe, as above, without its own pins.
$(VENV)/.model-free: $(VENV)/.stamp
	$(PIP) install --quiet "torch==$(TORCH)" -e '.[environments,recipes,model-free]'
	$(PIP) install --quiet --no-deps omnisafe==0.5.0
	@touch $@

model-free: $(VENV)/.model-free ## train OmniSafe's PPO-Lagrangian; e.g. make model-free ARGS="--seed 1"
	$(BIN)/python recipes/reference_ppo_lagrangian.py $(ARGS)

# TorchRL's rows of --compiled need a C++ compiler; without it: make bench ARGS=
bench: ARGS = --compiled
bench: setup ## time RSSM, updates and environments against their peers; look at memory
	$(PIP) install --quiet "torch==$(TORCH)" -e '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/rssm_observe.py $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/rssm_observe.py --sweep --rounds 7
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/behaviour_update.py $(ARGS) --rounds 15
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training_step.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training_step.py --sweep
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/memory.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/environment_steps.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/image_environment.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/image_environment_limit.py

test: setup ## run the fast tests; e.g. make test ARGS="-m slow"
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-model-free: $(VENV)/.model-free ## test the model-free reference, with OmniSafe
	$(BIN)/python -m pytest -n 2 $(ARGS) tests/recipes/test_reference_ppo_lagrangian.py

lint: setup ## ruff (lint and format) and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup ## pyright
	$(BIN)/pyright

notebooks: setup ## execute every notebook
	@if ls notebooks/*.ipynb >/dev/null 2>&1; then \
	    $(BIN)/python -m pytest --nbmake -p no:jaxtyping -o addopts= -o filterwarnings= \
	        --timeout=900 --nbmake-timeout=600 notebooks; \
	else echo "no notebooks"; fi

EXTRA ?= environments
VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ENVIRONMENTS_VENV = .venv-$(EXTRA)-$(VERSION)

# `pip install -e .[environments]` would bring torch along; this prints what the tests below need.
define ENVIRONMENT_REQUIREMENTS
import pathlib, tomllib
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
print("\n".join(extras["$(EXTRA)"]))
tools = ("jaxtyping", "lazy_loader", "beartype", "pytest", "hypothesis")
print("\n".join(r for r in project["dependencies"] + extras["dev"] if r.startswith(tools)))
endef
export ENVIRONMENT_REQUIREMENTS

environments-venv:
	@venv=$(ENVIRONMENTS_VENV) && \
	if [ ! $$venv/.stamp -nt pyproject.toml ]; then \
	    rm -rf $$venv && $(PYTHON) -m venv $$venv && \
	    $$venv/bin/python -c "$$ENVIRONMENT_REQUIREMENTS" > $$venv/requirements.txt && \
	    $$venv/bin/python -m pip install --quiet --disable-pip-version-check -r $$venv/requirements.txt && \
	    $$venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(NO_DEPS) && \
	    touch $$venv/.stamp; \
	fi

# The environment block alone, in its own .venv-environments-3.x and without torch: how Python 3.12 and
# 3.13 are tested, with NumPy 2 and MuJoCo 3. make test-environments PYTHON=python3.13
# With EXTRA=gymnasium-1 on Gymnasium 1, in .venv-gymnasium-1-3.x.
test-environments: environments-venv ## test the environment block alone, without torch; PYTHON=python3.13
	$(ENVIRONMENTS_VENV)/bin/python -m pytest --noconftest $(ARGS) blocks/environments tests/test_environments.py \
	    tests/test_robot_camera.py tests/test_safety_gymnasium_compat.py tests/test_safety_gymnasium_speed.py

# Gymnasium 0.28 is in .venv; the newest 1.x gets its own, without torch.
check-tasks: setup ## check a task of every family on Gymnasium 0.28 and 1.x; e.g. ARGS="Goal Velocity"
	PYTHONPATH=. $(BIN)/python tests/task_families.py $(ARGS)
	$(MAKE) --no-print-directory environments-venv EXTRA=gymnasium-1
	PYTHONPATH=. .venv-gymnasium-1-$(VERSION)/bin/python tests/task_families.py $(ARGS)
	.venv-gymnasium-1-$(VERSION)/bin/python -m pytest --noconftest tests/test_safety_gymnasium_compat.py

clean: ## remove what the targets above have built
	rm -rf .venv .venv-environments-* .venv-gymnasium-1-* build *.egg-info .pytest_cache .ruff_cache .hypothesis
