# Every target sets up what it needs: a machine with Python 3.11+, a C compiler and make is enough. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
GOLDEN ?= tests/parity/golden
DEMO := outputs/demo
CONTAINER ?= docker
VARIANT ?= cuda
TAG ?= 0.1.0
export PYTHONWARNINGS ?= default

.PHONY: help setup demo serve test test-deploy test-cluster checkov images lint format protos conformance bench endurance evaluate monitoring docs clean

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
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore tests/helm --ignore tests/cluster --ignore tests/web
	$(BIN)/python -m pytest -q tests/web

test-deploy: $(READY) $(BIN)/helm  ## Chart and images: rendered, checked against Kubernetes' schemas, linted
	$(BIN)/python -m pytest -q tests/helm

checkov: $(READY) $(BIN)/helm build/checkov/bin/checkov  ## Scan the rendered chart and the recipe of the images
	mkdir -p build/manifests
	for profile in gpu-cluster single-gpu cpu; do \
	  $(BIN)/helm template song deploy/helm/acestep --namespace music -f deploy/helm/acestep/profiles/$$profile.yaml > build/manifests/$$profile.yaml; \
	done
	build/checkov/bin/checkov --config-file deploy/checkov.yaml --directory build/manifests
	build/checkov/bin/checkov --config-file deploy/checkov.yaml --file deploy/Dockerfile

build/checkov/bin/checkov: # in an environment of its own: its versions are not ours
	$(PYTHON) -m venv build/checkov
	build/checkov/bin/pip install --quiet --disable-pip-version-check checkov==3.3.30

images:  ## Build all images: make images VARIANT=cuda TAG=0.1.0 REGISTRY=registry.example.com/music/ CONTAINER=docker
	for service in orchestrator cli; do \
	  $(CONTAINER) build -f deploy/Dockerfile --build-arg SERVICE=$$service -t $(REGISTRY)acestep-$$service:$(TAG) . || exit 1; \
	done
	for service in encoder diffusion vae embedded; do \
	  $(CONTAINER) build -f deploy/Dockerfile --build-arg SERVICE=$$service --build-arg VARIANT=$(VARIANT) \
	    -t $(REGISTRY)acestep-$$service:$(TAG)-$(VARIANT) . || exit 1; \
	done

$(BIN)/helm: $(READY)
	$(BIN)/python tests/helm/install_tools.py

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

endurance: $(READY)  ## Prove what only time and load can break, on real servers: some 40 minutes; prints JSON
	$(BIN)/python -m benchmarks.endurance $(RUNS)

evaluate: $(READY)  ## Measure how well a checkpoint makes music: make evaluate CHECKPOINT=DIR
	$(BIN)/python -m benchmarks.quality --checkpoint $(or $(CHECKPOINT),clients/checkpoint) --output outputs/quality

monitoring: $(READY)  ## Write the chart's alerts and dashboards
	$(BIN)/python deploy/monitoring.py

docs: $(READY)  ## Build the documentation site, links checked: outputs/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:  ## Remove what the targets made
	rm -rf $(VENV) outputs build .mypy_cache .ruff_cache .pytest_cache *.egg-info
