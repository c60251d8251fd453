# Every target works from a fresh clone: what it needs is installed into .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
export DVC_NO_ANALYTICS := true

.DEFAULT_GOAL := help
.PHONY: help install retrain repro test check format report ui images lock clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(INSTALLED): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 10) <= sys.version_info < (3, 14), "graft needs Python 3.10 to 3.13; say which: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

install: $(INSTALLED) ## create .venv with the locked requirements

data: $(INSTALLED)
	$(BIN)/graft import digits data

retrain: $(INSTALLED) data ## run the whole chain on this machine and print candidates and decision
	@$(BIN)/graft retrain $(ARGS)

repro: $(INSTALLED) data ## the same chain through DVC
	$(BIN)/dvc repro

test: $(INSTALLED) ## run all tests that this machine allows
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(INSTALLED) ## formatting, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy graft components pipelines
	$(BIN)/lint-imports

format: $(INSTALLED) ## rewrite to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: ## say where the last run's report is, and open it where there is a desktop
	@test -e runs/latest/report.html || { echo "no report yet: run 'make retrain' first"; exit 1; }
	@echo "$(CURDIR)/runs/latest/report.html"
	@$(PYTHON) -m webbrowser -t "file://$(CURDIR)/runs/latest/report.html" >/dev/null 2>&1 || true

ui: $(INSTALLED) ## serve the local MLflow on http://127.0.0.1:5000
	$(BIN)/mlflow server --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

# BASE: the base image, best with its digest. INDEX, TORCH_INDEX: mirrors of PyPI and of PyTorch's wheels.
# NETWORK: while building, `host` where the engine has no bridge.
NAME ?= graft-python
TARGET ?= cpu
BASE ?= python:3.11-slim-bookworm
NETWORK ?= default
COMMIT = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
CHANGES = $(shell test -z "$$(git status --porcelain --untracked-files=no 2>/dev/null)" || echo changes)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
KIND = $(TARGET:cpu=)
TAGS = $(shell echo $(COMMIT) | cut -c1-12)$(CHANGES:%=-%) $(VERSION) latest

images: ## build the image that runs steps, and its list of parts; TARGET=cuda for GPUs, BASE=, INDEX=
	docker build --file infra/images/Dockerfile --target $(TARGET) --network $(NETWORK) \
		--build-arg BASE=$(BASE) --build-arg COMMIT=$(COMMIT)$(CHANGES:%=+%) --build-arg VERSION=$(VERSION) \
		$(if $(INDEX),--build-arg INDEX=$(INDEX)) $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) \
		$(foreach tag,$(TAGS),--tag $(NAME):$(tag)$(KIND:%=-%)) .
	container=$$(docker create $(NAME):latest$(KIND:%=-%)) && \
		docker cp $$container:/opt/graft/code/sbom.cdx.json infra/images/sbom-$(TARGET).json; \
		status=$$?; docker rm $$container >/dev/null; exit $$status

lock: ## renew requirements.txt from pyproject.toml (needs uv)
	(head -1 requirements.txt; uv pip compile --quiet --universal --python-version 3.10 --group dev \
		--no-annotate --no-header pyproject.toml | grep -vE '^(nvidia-|cuda-|triton)') > requirements.txt.new
	mv requirements.txt.new requirements.txt

clean: ## remove runs and what steps keep for reuse; data, models and .venv stay
	rm -rf runs .graft retraining.yaml
