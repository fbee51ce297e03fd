# Every target creates the environment (.venv of this checkout) if it is missing.

.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PIPENV_VENV_IN_PROJECT := 1
export PIPENV_IGNORE_VIRTUALENVS := 1
export PIPENV_VERBOSITY := -1
RUN := .venv/bin/python
TESTS = $(RUN) -m pytest -n 2 --dist worksteal
# a PYTHON that is named on the command line runs `make gpu` as it is, without the environment
NAMED := $(findstring command line,$(origin PYTHON))

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: .venv/ready  ## create the environment in .venv (about 2 minutes)

.venv/ready: Pipfile
	@$(PYTHON) -m pipenv --version >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet pipenv
	$(PYTHON) -m pipenv --python $(PYTHON) install --skip-lock --categories "packages dev-packages serve cluster"
	@touch $@

demo: .venv/ready  ## train and test everything on bundled data (about 12 minutes on 2 cores)
	$(RUN) scripts/demo.py

demo-split: .venv/ready  ## split the demo's models between a device's half and a server (after demo)
	$(RUN) scripts/demo_split.py

lint: .venv/ready  ## check style, types, security (ruff, mypy, bandit) and the configs
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m bandit -q -c pyproject.toml -r scripts configs
	$(RUN) scripts/validate.py

audit: .venv/ready  ## ask which locked versions have known vulnerabilities (needs a network)
	@$(RUN) .ci/lock.py --audit

lock: .venv/ready  ## renew constraints.txt: all packages that the Pipfile brings, with hashes
	$(RUN) .ci/lock.py

test: lint  ## lint, and run the tests but those of tens of seconds (about 12 minutes on 2 cores)
	$(TESTS) -m 'not slow'

test-all: lint  ## lint, and run all tests (about 14 minutes on 2 cores)
	$(TESTS)

coverage: .venv/ready  ## run all tests and say which lines of the library they run
	$(TESTS) --cov --cov-report=term:skip-covered

bench: .venv/ready  ## time everything against the published way (about 15 minutes on 2 cores)
	$(RUN) scripts/benchmark.py

gpu: $(if $(NAMED),,.venv/ready)  ## test and time it on a CUDA GPU (about 6 minutes; OUT=folder, PYTHON=python)
	$(if $(NAMED),$(PYTHON),$(RUN)) scripts/gpu.py $(if $(OUT),--out $(OUT))

tables: .venv/ready  ## write the published results and pictures into README.md and imgs
	$(RUN) scripts/report.py --published --readme README.md --images imgs
	$(RUN) scripts/draw_architecture.py --out imgs

clean:  ## remove the demo's data, checkpoints and logs
	rm -rf resource/data resource/ckpt/digit_scenes logs/digit_scenes

.PHONY: help env demo demo-split lint audit lock test test-all coverage bench gpu tables clean
