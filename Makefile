# Every target sets up what it needs: a machine with Python 3.11+, a C compiler and make is enough. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
GOLDEN ?= tests/parity/golden
DEMO := outputs/demo
export PYTHONWARNINGS ?= default

.PHONY: help setup demo serve test lint format protos test-cluster conformance bench evaluate docs clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

setup: $(READY)  ## Create .venv with everything for users and developers

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all,dev]"
	touch $@

demo: $(READY)  ## Make a song with four service processes: outputs/demo/song.wav
	$(BIN)/acestep demo --output $(DEMO)

serve: $(READY)  ## Serve all stages in one process on port 7860; CHECKPOINT=DIR instead of the one that comes along
	$(BIN)/acestep serve --embedded --port 7860 $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

test: $(READY)  ## Run every test, parity with the reference included
	$(BIN)/python -m pytest -q

test-cluster: $(READY)  ## The chart on a Kubernetes control plane: KUBECONFIG, or one of our own, built and kept (docs/cluster.md)
	$(BIN)/python -m pytest -q -m cluster tests/cluster

lint: $(READY)  ## Formatting, lints, types, generated code, contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python protos/check.py

format: $(READY)  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: $(READY)  ## Regenerate acestep_rpc/v1 from protos/
	$(BIN)/python protos/generate.py --transcoding deploy/helm/acestep/files/api.binpb

conformance: $(READY)  ## Hold the stages against recordings of the reference: make conformance GOLDEN=DIR
	$(BIN)/python -m tests.parity.conformance $(GOLDEN)

bench: $(READY)  ## Measure stages and transformer; prints JSON
	$(BIN)/python -m benchmarks.bench

evaluate: $(READY)  ## Measure how well a checkpoint makes music: make evaluate CHECKPOINT=DIR
	$(BIN)/python -m benchmarks.quality --checkpoint $(or $(CHECKPOINT),clients/checkpoint) --output outputs/quality

docs: $(READY)  ## Build the documentation site, links checked: outputs/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:  ## Remove what the targets made
	rm -rf $(VENV) outputs build .mypy_cache .ruff_cache .pytest_cache *.egg-info
