# Thin: what each target needs, and the one way it is run. `make` alone lists the targets.
#
# One profile for everything and always the whole workspace, so that RocksDB's C++ is compiled once.

FLAGS   := --release --locked --workspace
TARGET  := $(or $(CARGO_TARGET_DIR),target)
PART    := bash tests/scripts/part.sh
TEST    := cargo test $(FLAGS) --no-fail-fast
# Real processes, one test at a time: some of them measure, and two cores carry three nodes at once.
PROCESS := -- --test-threads=1
PATHS   := --test spine --test bad_input --test readme --test daemon --test owner --test lan
# Cargo leaves the tests of real processes out unless they are named, and names do not go with `--tests`: two commands.
NAMED   := $(PATHS) --test kills --test disks --test backlog --test compose
KILLS   ?= 200
BACKLOG ?= 100000
IMAGE   ?= waypost
CUTS    ?= 20
SECONDS ?= 60
SEED    ?= 1
SEEDS   ?= 1000
LONG    ?= 0
FROM    ?= 0
FRESH   ?= 0
SMALL   ?= 40000
LARGE   ?= 2000
SINGLE  ?= 500
FILE    ?= 1024
export KILLS CUTS BACKLOG

# Bugs on purpose are in no other build: a cargo invocation of their own, and what it leaves is never the daemon's.
MUTANTS := cargo build --release --locked -p waypost-sim --features planted --bin mutants

.PHONY: help setup build demo test test-unit test-kills test-disks test-paths test-backlog test-compose image test-sim \
        test-fuzz check fix torture fuzz bench soak mutants mutants-recorded

help:
	@echo 'make demo             three real nodes, a kill -9 in the middle, live and in plain words'
	@echo 'make test             all tests'
	@echo 'make build            the daemon, $(TARGET)/release/waypost'
	@echo 'make check            format, lints, documentation, rules, licences, versions; writes nothing'
	@echo 'make fix              what a tool can mend: format and lints'
	@echo 'make fuzz SECONDS=n   every decoder and the inbound stream, n seconds; SEED=n, FUZZ="--target frames"'
	@echo 'make mutants          bugs planted in the engine: the simulator must find each; writes $(TARGET)/mutants.md'
	@echo 'make torture KILLS=n  the kill test with n kills instead of $(KILLS)'
	@echo 'make test-backlog BACKLOG=n  n messages for a node that is away instead of $(BACKLOG), and a gibibyte'
	@echo 'make image            a container image around the daemon built here; IMAGE=name instead of $(IMAGE)'
	@echo 'make bench            how fast three nodes are, up to 5 minutes; $(TARGET)/bench/latest.json; SMALL=n LARGE=n SINGLE=n FILE=MiB, 0: none'
	@echo 'make soak SEEDS=n     n simulated worlds over all cores, LONG=n long ones, FROM=n, FRESH=n drawn now'
	@echo 'make test-unit test-sim test-fuzz test-kills test-paths test-compose mutants-recorded  parts of make test'
	@echo 'make test-disks CUTS=n  full, damaged, rolled back disks, and n power cuts instead of $(CUTS); wants root'

setup:
	@bash tests/scripts/setup.sh

# The mark of when the build began tells the tests that what stands there is current, even if cargo had nothing to do.
build: setup
	@echo 'Building. Once, everything: about half an hour on two cores. Later: only what changed.'
	@mkdir -p $(TARGET)/release && touch $(TARGET)/release/waypost.building
	cargo build $(FLAGS) --bins --tests
	cargo build $(FLAGS) $(NAMED)
	@mv $(TARGET)/release/waypost.building $(TARGET)/release/waypost.built

demo: build
	@$(PART) demo 3 $(TARGET)/release/demo

test: build test-unit test-sim test-fuzz test-kills test-disks test-paths test-backlog test-compose mutants-recorded

test-unit: build
	@$(PART) 'unit and property tests' 8 $(TEST)

# 460 short worlds and 40 long ones: always the same but for a few that nobody has seen; which, is printed.
test-sim: build
	@$(PART) 'simulator' 6 $(TARGET)/release/soak --seeds 420 --long 36 --fresh 40

test-fuzz: build
	@$(PART) 'fuzz' 3 $(TARGET)/release/fuzz --seconds 60 --seed 1

test-kills: build
	@$(PART) 'kills' 7 $(TEST) --test kills $(PROCESS) --nocapture

test-disks: build
	@$(PART) 'disks' 9 $(TEST) --test disks $(PROCESS) --nocapture

test-paths: build
	@$(PART) 'bodies, bad input, README, daemon, network' 8 $(TEST) $(PATHS) $(PROCESS)

test-backlog: build
	@$(PART) 'backlogs' 6 $(TEST) --test backlog $(PROCESS) --nocapture

test-compose: build
	@$(PART) 'containers' 5 $(TEST) --test compose $(PROCESS) --nocapture

# Around the binary that was built here: no registry is asked for anything.
image: build
	bash node/image/build.sh $(TARGET)/release/waypost $(IMAGE)

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

# Any number of worlds, over all cores, with a table; FRESH=n draws more from the clock.
soak: build
	$(TARGET)/release/soak --seeds $(SEEDS) --long $(LONG) --from $(FROM) --fresh $(FRESH)

# Wants a machine with nothing else to do: it says so itself when the disk is busy.
bench: build
	$(TARGET)/release/bench --small $(SMALL) --large $(LARGE) --single $(SINGLE) --file $(FILE)

fuzz: setup
	cargo run --release --locked -p waypost-sim --bin fuzz -- --seconds $(SECONDS) --seed $(SEED) $(FUZZ)

mutants: setup
	$(MUTANTS)
	$(TARGET)/release/mutants

# For CI: each on the seed that showed it before, and a few more.
mutants-recorded: setup
	@$(PART) 'planted bugs' 9 sh -c '$(MUTANTS) && $(TARGET)/release/mutants --recorded'
