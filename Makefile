# `make` prints what there is. Everything built lies outside the checkout, so that a second clone is fast.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millstream
export CARGO_TARGET_DIR ?= $(CACHE)/target
# As e2e/run: with the other setting, each target would compile all of our crates again.
export CARGO_INCREMENTAL ?= 0
# A fully optimised build. The dependencies always are (see Cargo.toml), so this only compiles our own crates again.
OPT := CARGO_PROFILE_DEV_OPT_LEVEL=3 CARGO_PROFILE_DEV_DEBUG_ASSERTIONS=false CARGO_PROFILE_DEV_OVERFLOW_CHECKS=false

# Always `--workspace` with the targets named, never `-p`: a package that is built alone gets other features of the dependencies, and
# with them another build of most of them.

# Pods on a broker of its own, unless one runs.
define SOAK_KAFKA
eval "$$(e2e/lab/env)"; if [ -z "$${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then e2e/lab/kafka-up >/dev/null; trap 'e2e/lab/kafka-down --kill --wipe' EXIT; eval "$$(e2e/lab/env)"; fi; \
  MINUTES=$(or $(MINUTES),10) cargo test --workspace --locked --test kafka_pods -- --ignored soak --nocapture
endef

help: ## print this
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: ## install what is missing, then run the main job on real data: flights.csv, delay per airport and hour
	@e2e/lab/setup build
	@cargo build --workspace --bin millstream
	@rm -rf examples/flights/out .millstream/flight-delays
	@$(CARGO_TARGET_DIR)/debug/millstream run examples/flights/delays.yaml

test: ## everything: checks, unit tests, then tests on real Kafka, S3 and Kubernetes (about half an hour on two cores, the caches warm)
	@e2e/run all

check: ## format, lint, spelling, licences, generated files, unit tests; writes nothing and needs no server
	@e2e/run check

fix: ## format, apply the lints' and the spelling's suggestions, write the generated files again
	@e2e/lab/setup build tools
	@cargo fmt --all
	@cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	@$(CACHE)/programs/tools/bin/typos --write-changes
	@$(MAKE) generate

lab: ## start real Kafka, S3 and Kubernetes for trying things by hand; prints the environment to use
	@e2e/lab/up

lab-down: ## end them and remove their data
	@e2e/lab/down

e2e: ## the tests that need the lab, against what runs or is named by KAFKA_BOOTSTRAP_SERVERS and KUBECONFIG
	@e2e/run e2e

crash: ## cut every step of a start, a commit, a checkpoint, a savepoint and a rescale on real Kafka and S3, before, after and with its answer lost
	@e2e/lab/setup build kafka s3
	@cargo test --workspace --locked --test kafka_crash --no-run
	@eval "$$(e2e/lab/env)"; if [ -z "$${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then e2e/lab/kafka-up >/dev/null; e2e/lab/s3-up >/dev/null; trap e2e/lab/down EXIT; eval "$$(e2e/lab/env)"; fi; \
	  cargo test --workspace --locked --test kafka_crash -- --ignored --nocapture --test-threads 1 --skip points_of_a_ch

faults: ## break real parts under a job: sleeping processes, three brokers killed in turn, cut connections, S3, clocks, disk, memory, poison (ten minutes)
	@e2e/lab/setup build kafka s3
	@cargo test --workspace --locked --test kafka_faults --no-run
	@eval "$$(e2e/lab/env)"; if [ -z "$${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then e2e/lab/kafka-up >/dev/null; e2e/lab/s3-up >/dev/null; trap e2e/lab/down EXIT; eval "$$(e2e/lab/env)"; fi; \
	  cargo test --workspace --locked --test kafka_faults -- --ignored --nocapture --test-threads 1

mutants: ## plant each known kind of bug and show which test finds it (needs Kafka, brings its own; 5 minutes)
	@e2e/lab/setup build kafka
	@cargo test --workspace --locked --lib --test cli --test kafka_commit --test kafka_crash --test kafka_pods --test simulation --test model --no-run
	@eval "$$(e2e/lab/env)"; if [ -z "$${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then e2e/lab/kafka-up >/dev/null; trap 'e2e/lab/kafka-down --kill --wipe' EXIT; eval "$$(e2e/lab/env)"; fi; \
	  e2e/mutants

soak: ## simulate SEEDS= seeds or MINUTES= minutes FROM= a seed; KAFKA=1: pods on a real broker, killed and rescaled for MINUTES=
	@e2e/lab/setup build $(if $(KAFKA),kafka)
	@cargo test --workspace --locked --test $(if $(KAFKA),kafka_pods,simulation) --no-run
	@$(if $(KAFKA),$(SOAK_KAFKA),SEEDS=$(SEEDS) MINUTES=$(MINUTES) FROM=$(FROM) cargo test --workspace --locked --test simulation -- whatever_breaks --nocapture)

bench: ## measure; prints tables and writes docs/src/benchmarks.md. ROWS="kafka stall": only these, and no page (12 minutes for all)
	@e2e/lab/setup build kafka s3
	@$(OPT) cargo build --workspace --bin millstream --bin bench
	@bench/run $(ROWS)

images: ## build the images millstream and millstream-operator as OCI archives, without a container engine
	@e2e/lab/setup build
	@$(OPT) cargo build --workspace --bin millstream --bin millstream-operator
	@images/build

generate: ## write the CRDs, the chart's copy of them, the reference pages and manifests/install.yaml again
	@e2e/lab/setup build
	@cargo build --workspace --bin generate --bin millstream-reference
	@$(CARGO_TARGET_DIR)/debug/generate
	@$(CARGO_TARGET_DIR)/debug/millstream-reference
	@manifests/render

docs: ## build the book
	@e2e/lab/setup tools
	@docs/check-links
	@$(CACHE)/programs/tools/bin/mdbook build docs --dest-dir $(CACHE)/book
	@echo "$(CACHE)/book/index.html"

.PHONY: help demo test check fix lab lab-down e2e crash faults mutants soak bench images generate docs
