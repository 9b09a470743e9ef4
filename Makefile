# Thin: what each target needs, and the one way it is run. `make` alone lists the targets.
#
# One profile for everything and always the whole workspace, so that RocksDB's C++ is compiled once.

FLAGS   := --release --locked --workspace
TARGET  := $(or $(CARGO_TARGET_DIR),target)
PART    := bash tests/scripts/part.sh
TEST    := cargo test $(FLAGS) --no-fail-fast
# Real processes, one test at a time: some of them measure, and two cores carry three nodes at once.
PROCESS := -- --test-threads=1
PATHS   := --test spine --test bad_input --test readme
# Cargo leaves the tests of real processes out unless they are named, and names do not go with `--tests`: two commands.
NAMED   := $(PATHS) --test kills
KILLS   ?= 30
export KILLS

.PHONY: help setup build demo test test-unit test-kills test-paths check fix torture

help:
	@echo 'make demo             three real nodes, a kill -9 in the middle, live and in plain words'
	@echo 'make test             all tests'
	@echo 'make build            the daemon, $(TARGET)/release/waypost'
	@echo 'make check            format, lints, documentation, rules, licences, versions; writes nothing'
	@echo 'make fix              what a tool can mend: format and lints'
	@echo 'make torture KILLS=n  the kill test with n kills instead of $(KILLS)'

setup:
	@bash tests/scripts/setup.sh

# The mark of when the build began tells the tests that what stands there is current, even if cargo had nothing to do.
build: setup
	@echo 'Building. Once, RocksDB: 15 to 20 minutes on two cores. Later: only what changed.'
	@mkdir -p $(TARGET)/release && touch $(TARGET)/release/waypost.building
	cargo build $(FLAGS) --bins --tests
	cargo build $(FLAGS) $(NAMED)
	@mv $(TARGET)/release/waypost.building $(TARGET)/release/waypost.built

demo: build
	@$(PART) demo 2 $(TARGET)/release/demo

test: build test-unit test-kills test-paths

test-unit: build
	@$(PART) 'unit and property tests' 4 $(TEST)

test-kills: build
	@$(PART) 'kills' 5 $(TEST) --test kills $(PROCESS) --nocapture

test-paths: build
	@$(PART) 'bodies, bad input, README' 4 $(TEST) $(PATHS) $(PROCESS)

check: build
	@bash tests/scripts/setup.sh lints
	cargo fmt --all --check
	cargo clippy $(FLAGS) --all-targets -- -D warnings
	cargo clippy $(FLAGS) $(NAMED) -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc $(FLAGS) --no-deps
	$(TARGET)/release/check

fix: setup
	@bash tests/scripts/setup.sh lints
	cargo clippy $(FLAGS) --all-targets --fix --allow-dirty --allow-staged
	cargo clippy $(FLAGS) $(NAMED) --fix --allow-dirty --allow-staged
	cargo fmt --all

torture: build
	$(TEST) --test kills $(PROCESS) --nocapture
