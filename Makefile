# Everything there is to do with a checkout. `make demo` and `make test` are all the set-up that a fresh machine needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PREFIX ?= /usr/local
DESTDIR ?=
# Release artefacts carry the Swift runtime: they start faster and need no toolchain where they run.
RELEASE := swift build -c release -Xswiftc -static-stdlib
DEMI := .build/release/demi
BASELINE := .build/baseline/epoll-echo
# What `make demo`, `make bench` and `make fuzz` pass on, for example DEMO_ARGUMENTS="--quick".
DEMO_ARGUMENTS ?=
BENCH_ARGUMENTS ?=
FUZZ_ARGUMENTS ?=

.PHONY: help demo test quick-test bench install docs release library packetdrill baseline setup clean sanitize fuzz

help: ## Say what there is to do.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

release: ## Build the tool, optimised, with the Swift runtime inside.
	@$(RELEASE) --product demi 2>&1 | Scripts/quiet-build

library: ## Build libdemikernel.so and its .pc file into .build/library.
	@Scripts/build-library

packetdrill: ## Build the library through which packetdrill drives our stack: demikernel-packetdrill(7).
	@Scripts/build-packetdrill

baseline: $(BASELINE) ## Build the plain-epoll echo in C that ours is measured against.

$(BASELINE): $(wildcard Benchmarks/baseline/*.c Benchmarks/baseline/*.h)
	@mkdir -p $(dir $@)
	@$$(command -v gcc || command -v clang || command -v cc) -std=c11 -O2 -Wall -Wextra -o $@ Benchmarks/baseline/*.c

demo: release $(BASELINE) ## Build, and watch a PDPIX echo beside the same echo on plain epoll.
	@$(DEMI) demo --baseline $(BASELINE) $(DEMO_ARGUMENTS)

setup: ## Install the Debian packages that the tests need (root or sudo).
	@Scripts/setup

test: setup ## Every test: style, Swift, C ABI, tool, hot path, budgets, sanitizers.
	@Scripts/test

quick-test: ## The Swift tests alone, debug build.
	@swift build --build-tests && swift test --skip-build --parallel

sanitize: ## The Swift tests under the address and the thread sanitizer.
	@Scripts/sanitize

fuzz: ## Every fuzzing target, as in `make test`; Scripts/fuzz --help says more.
	@Scripts/fuzz $(FUZZ_ARGUMENTS)

bench: release $(BASELINE) ## Print the performance tables.
	@$(DEMI) bench $(BENCH_ARGUMENTS)
	@$(DEMI) demo --baseline $(BASELINE) $(DEMO_ARGUMENTS)

install: release library ## Install library, headers, tool, .pc file and manual pages below PREFIX (DESTDIR is honoured).
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" Scripts/install

docs: ## Write the manual pages and the API reference as HTML into .build/docs.
	@Scripts/docs

clean: ## Remove what was built.
	@rm -rf .build .build-asan .build-tsan .build-fuzz
