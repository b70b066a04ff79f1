# The commands of README.md and CONTRIBUTING.md. `make help` lists them.
SHELL := /bin/bash
PROFILE ?= release
DEB_ARCH := amd64

.PHONY: help setup build demo deb deb-dev test test-fast test-clients test-ns test-vm test-all lint bench fuzz clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the Debian packages that building needs
	@scripts/setup.sh

build: setup ## build everything (release)
	cargo build --release
	packaging/fetch-nats.sh

demo: ## a three-node mesh on this machine and a service on it: kill every ployzd, both go on, adopted, clean up
	@scripts/setup.sh demo
	cargo build --profile $(if $(filter dev,$(PROFILE)),dev,$(PROFILE)) -p ployzd -p ployzctl -p ployz-wireguard -p ployz-gateway -p ployz-dns --bins
	PLOYZ_PROFILE=$(PROFILE) scripts/demo.sh

deb: setup ## dist/ployz_<version>_amd64.deb
	packaging/build-deb.sh

deb-dev: setup
	PLOYZ_PROFILE=dev packaging/build-deb.sh

lint: ## formatting, clippy, shellcheck, dependency rules, words
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
	scripts/check-tree.sh

test-fast: setup ## unit, property, golden and contract tests: minutes, no nodes
	scripts/test-fast.sh

test-clients: ## real clients (curl, nghttp, h2load, a WebSocket, openssl, gRPC, testssl.sh) against the gateway
	cargo build -p ployz-gateway
	scripts/test-gateway-clients.sh

test-ns: deb-dev ## every scenario on native nodes (lane ns)
	scripts/test-nodes.sh ns

test-vm: deb-dev ## the core scenarios on virtual machines (lane vm)
	scripts/test-nodes.sh vm

test: ## everything CI runs
	scripts/test.sh

test-all: ## everything CI runs and the scenarios that are too long for it
	PLOYZ_ALL=1 scripts/test.sh

bench: build ## measurements, with the machine's description
	scripts/bench.sh

fuzz: setup ## every fuzz target for FUZZ_SECONDS (60); what is found becomes a seed that test-fast replays
	fuzz/run.sh

clean: ## remove what was built
	cargo clean
	rm -rf dist
