# rdlm, a lock manager over HTTP. `make run` and `make test` are the places to start.

PREFIX ?= /usr/local
DESTDIR ?=
PORT ?= 8888
CARGO ?= cargo

# The static build for this machine; for example TARGET=x86_64-unknown-linux-musl for another.
TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
BUILT = $(firstword $(wildcard $(TARGET_DIR)/*/release/rdlm))
TARGET ?= $(or $(shell rustc --print host-tuple 2>/dev/null),$(notdir $(BUILT:/release/rdlm=)))
BINARY = $(TARGET_DIR)/$(TARGET)/release/rdlm
BINDIR = $(DESTDIR)$(PREFIX)/bin
UNITDIR = $(DESTDIR)/etc/systemd/system
MANDIR = $(DESTDIR)$(PREFIX)/share/man/man1
BASHDIR = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
ZSHDIR = $(DESTDIR)$(PREFIX)/share/zsh/site-functions
# There only while systemd runs this machine.
SYSTEMD = /run/systemd/system
FISHDIR = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d

# What prints the manual page and the completions. Where TARGET is of another kind of machine, it
# has to be one that was built for this machine.
RDLM ?= $(BINARY)

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

# What packages have as the time of their files: the day of the release, or that of the last
# commit where there is none yet.
RELEASED := $(shell sed -n 's/^## .* (\(.*\))$$/\1/p' CHANGELOG.md | head -1)
SOURCE_DATE_EPOCH ?= $(shell date -ud '$(RELEASED)' +%s 2>/dev/null || git log -1 --format=%ct)
export SOURCE_DATE_EPOCH := $(SOURCE_DATE_EPOCH)

.PHONY: all toolchain run test test-browser test-clients test-python test-terraform test-upgrade tiny-http \
    screenshots check deny judge schedules fmt bench torture torture-ha ha fuzz install install-systemd deb \
    dist sbom-tools reproducible image test-packages uninstall clean

# `auditable build` has the list of dependencies in the binary.
BUILD ?= build

all: toolchain
	$(CARGO) fetch --locked --target $(TARGET)
	$(CARGO) $(BUILD) --locked --release --target $(TARGET) \
	    --config "$$(packaging/rustflags.sh $(TARGET))"

# Says what a build for musl lacks, before Cargo says it in many words.
toolchain:
	@case "$(TARGET)" in *-musl) \
	    test -e "$$(rustc --print target-libdir --target $(TARGET) 2>/dev/null)" || { \
	        echo "there is no Rust for $(TARGET): rustup target add $(TARGET)" >&2; exit 1; }; \
	    test -n "$$CC$$(command -v musl-gcc)" || { \
	        echo "there is no musl-gcc, which the C in a dependency needs:" \
	             "apt-get install musl-tools" >&2; exit 1; };; \
	esac

run: all
	$(BINARY) serve --port $(PORT)

test:
	$(CARGO) test --locked

# The status page in headless Chromium; installs what is missing of it, if it may.
test-browser:
	$(CARGO) build --locked
	tests/browser/run.sh

# Real clients through the life of a lock, and real proxies before the server, on the loopback.
# What is installed is tested, libraries of PyPI and npm are put into target/; says what it skipped.
test-clients:
	$(CARGO) build --locked
	python3 tests/clients/run.py $$(ls -t $(TARGET_DIR)/*/debug/rdlm | head -1) $(TARGET_DIR)/test-clients

# The Python client: types, lints, and its tests on every Python that is installed.
test-python:
	$(CARGO) build --locked
	clients/python/check.sh

# A rolling upgrade from version 1.0.0, which is built from its commit, once, in some minutes.
OLD_COMMIT = f4a2555
OLD_DIR = $(abspath $(TARGET_DIR))/rdlm-1.0.0

test-upgrade: $(OLD_DIR)/rdlm
	RDLM_1_0_0=$(OLD_DIR)/rdlm $(CARGO) test --locked --test tests -- \
	    --ignored --nocapture rolling_upgrade

$(OLD_DIR)/rdlm:
	rm -rf $(OLD_DIR)/source
	mkdir -p $(OLD_DIR)/source
	git archive $(OLD_COMMIT) | tar -x -C $(OLD_DIR)/source
	printf '\n[workspace]\n' >> $(OLD_DIR)/source/Cargo.toml
	cd $(OLD_DIR)/source && CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$(OLD_DIR)/target \
	    timeout 1800 $(CARGO) build --locked --bin rdlm
	cp $$(ls -t $(OLD_DIR)/target/*/debug/rdlm | head -1) $@
	rm -rf $(OLD_DIR)/target

# A real Terraform; it is installed from PyPI into target/.
test-terraform:
	$(CARGO) build --locked
	tests/terraform/run.sh $$(ls -t $(TARGET_DIR)/*/debug/rdlm | head -1) $(TARGET_DIR)/test-terraform

# Which tests of the edge fail with the library tiny_http in place of rdlm's own listener.
tiny-http:
	$(CARGO) build --locked --example tiny_http
	$(CARGO) test --locked --no-run --test tests
	-@RDLM_SERVER=$$(ls -t $(TARGET_DIR)/*/debug/examples/tiny_http | head -1) timeout 900 \
	    $(CARGO) test --locked --quiet --test tests -- --format pretty http_conformance edge 2>&1 | \
	    grep -E '^test (http_conformance|edge|result)' | sort

# The pictures in docs/.
screenshots:
	$(CARGO) build --locked
	tests/browser/run.sh SCREENSHOTS

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) check --locked --manifest-path fuzz/Cargo.toml
	$(CARGO) fmt --check --manifest-path tests/judge/Cargo.toml
	$(CARGO) test --locked
	$(MAKE) judge
	$(MAKE) schedules
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(MAKE) deny; \
	else echo "skipped: make deny, which installs cargo-deny: some minutes of compiling"; fi

# Licences, sources and versions of the dependencies, as .cargo/deny.toml has it, and what is known of
# holes in them, if the list of those can be had.
deny:
	$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check licenses bans sources
	@if timeout 60 $(CARGO) deny fetch db >/dev/null 2>&1; \
	then $(CARGO) deny --locked check --disable-fetch advisories; \
	else echo "skipped: advisories: their database cannot be fetched"; fi

# Judges the histories of single locks that the tests have recorded last, by a checker of
# linearizability that others wrote, which is tried on broken histories first.
JUDGE = --locked --manifest-path tests/judge/Cargo.toml --target-dir $(TARGET_DIR)/judge
HISTORIES = $(TARGET_DIR)/*/torture/single-$(or $(STORE),*).json
AT_LEAST ?= 100

judge:
	$(CARGO) test --quiet $(JUDGE)
	$(CARGO) run --quiet $(JUDGE) -- $(AT_LEAST) $(HISTORIES)

# The races of the lock core under a model checker, each in so many orders of its threads by
# each of two schedulers.
ORDERS ?= 300

schedules:
	RUSTFLAGS='--cfg shuttle' RDLM_ORDERS=$(ORDERS) \
	    $(CARGO) test --locked -p rdlm-lock --lib --target-dir $(TARGET_DIR)/shuttle schedules

fmt:
	$(CARGO) fmt

# Beside redis-server and etcd where they are installed; says what it skipped.
bench:
	$(CARGO) build --locked --release --example tiny_http
	$(CARGO) bench --locked --bench lock_servers

# Kills of the server, damaged files, made-up requests, slow clients, and mixed load with
# clients that are killed: half an hour and more. Says what it skipped because it is not
# installed. Then TIME (as 90s, 30m, 2h) of histories that are judged by rules, after servers
# that are broken on purpose have shown that the rules catch them.
MINUTES ?= 20
KILLS ?= 300
PROPTEST_CASES ?= 10000
TIME ?= 30m
# Of histories of single locks, for `make judge`.
RECORD ?= 6m

torture: all
	RDLM_CRASH_ROUNDS=$(KILLS) $(CARGO) test --locked --release crash -- --nocapture
	RDLM_EXHAUSTIVE=1 $(CARGO) test --locked --release -p rdlm-lock --lib journal
	PROPTEST_CASES=$(PROPTEST_CASES) $(CARGO) test --locked --release -p rdlm-lock --lib model
	$(MAKE) schedules ORDERS=20000
	tests/scripts/schemathesis.sh
	tests/scripts/slowhttptest.sh
	$(CARGO) bench --locked --bench soak -- --minutes $(MINUTES)
	$(CARGO) test --locked --release --test torture every_mutant -- --ignored --nocapture
	RDLM_TORTURE_TIME=$(TIME) $(CARGO) test --locked --release --test torture -- \
	    --exact torture --ignored --nocapture
	RDLM_TORTURE_TIME=$(RECORD) $(CARGO) test --locked --release --test torture \
	    single_locks_on_disk
	$(MAKE) judge STORE=disk AT_LEAST=2000

# The same with three servers on three etcd, after servers that are broken on purpose; needs
# etcd and etcdctl.
torture-ha:
	$(CARGO) test --locked --release --test torture each_mutant_of_several -- --ignored --nocapture
	RDLM_TORTURE_TIME=$(TIME) $(CARGO) test --locked --release --test torture -- \
	    --exact torture_ha --ignored --nocapture
	RDLM_TORTURE_TIME=$(RECORD) $(CARGO) test --locked --release --test torture \
	    single_locks_on_etcd
	$(MAKE) judge STORE=etcd AT_LEAST=2000

# Two servers on an etcd of three members on this machine, for a try-out; Ctrl-C ends all.
ha: all
	tests/scripts/ha.sh $(BINARY)

# A minute for each target; needs cargo-fuzz and a nightly toolchain.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS = $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))

fuzz:
	@set -e; for target in $(FUZZ_TARGETS); do \
	    mkdir -p fuzz/corpus/$$target; \
	    echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
	    $(CARGO) +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=70000 -print_final_stats=1; \
	done

# Without a toolchain, as under sudo, it takes what `make` has built.
install:
	if command -v $(CARGO) >/dev/null; then $(MAKE) all; fi
	@test -x $(BINARY) || { echo "there is no $(BINARY): run make first" >&2; exit 1; }
	install -d $(BINDIR) $(MANDIR) $(BASHDIR) $(ZSHDIR) $(FISHDIR)
	install -m 755 $(BINARY) $(BINDIR)/rdlm
	ln -sf rdlm $(BINDIR)/rdlm-daemon
	$(RDLM) man > $(MANDIR)/rdlm.1
	$(RDLM) completions bash > $(BASHDIR)/rdlm
	$(RDLM) completions zsh > $(ZSHDIR)/_rdlm
	$(RDLM) completions fish > $(FISHDIR)/rdlm.fish
	ln -sf rdlm.1 $(MANDIR)/rdlm-daemon.1
	chmod 644 $(MANDIR)/rdlm.1 $(BASHDIR)/rdlm $(ZSHDIR)/_rdlm $(FISHDIR)/rdlm.fish

# Locks are then in /var/lib/rdlm, and the server is started with the host.
install-systemd: install
	install -d $(UNITDIR)
	sed 's|/usr/local|$(PREFIX)|' packaging/rdlm.service > $(UNITDIR)/rdlm.service
	chmod 644 $(UNITDIR)/rdlm.service
	if test -z "$(DESTDIR)" && test -d $(SYSTEMD); then \
	    systemctl daemon-reload && systemctl enable --now rdlm; fi

# target/rdlm_VERSION_ARCH.deb; beside the build if CARGO_TARGET_DIR says where that is.
deb: all
	packaging/deb.sh

# What is published: the binary with its pages, the package, and the list of what both are made
# of (SBOM, CycloneDX), each with its checksum.
DIST = $(TARGET_DIR)/dist
NAME = rdlm-$(VERSION)-$(TARGET)

dist: sbom-tools
	$(MAKE) deb BUILD='auditable build'
	rm -rf $(DIST)
	install -d $(DIST)/$(NAME)/completions
	install -m 755 $(BINARY) $(DIST)/$(NAME)/rdlm
	install -m 644 README.md LICENSE CHANGELOG.md packaging/rdlm.service $(DIST)/$(NAME)
	cp -r docs $(DIST)/$(NAME)
	$(RDLM) man > $(DIST)/$(NAME)/rdlm.1
	$(RDLM) completions bash > $(DIST)/$(NAME)/completions/rdlm.bash
	$(RDLM) completions zsh > $(DIST)/$(NAME)/completions/_rdlm
	$(RDLM) completions fish > $(DIST)/$(NAME)/completions/rdlm.fish
	tar -C $(DIST) --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw \
	    --mtime=@$(SOURCE_DATE_EPOCH) -cf - $(NAME) | gzip -9n > $(DIST)/$(NAME).tar.gz
	rm -r $(DIST)/$(NAME)
	cp $(TARGET_DIR)/rdlm_$(VERSION)_*.deb $(DIST)
	$(CARGO) cyclonedx -q --format json --spec-version 1.5 --target $(TARGET) --override-filename $(NAME).cdx
	sed 's|file://$(CURDIR)|file:///rdlm|' $(NAME).cdx.json > $(DIST)/$(NAME).cdx.json
	rm $(NAME).cdx.json
	cd $(DIST) && sha256sum * > SHA256SUMS

sbom-tools:
	$(CARGO) auditable --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-auditable
	$(CARGO) cyclonedx --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-cyclonedx

# Builds what is published twice, from two directories, and compares it byte by byte.
reproducible:
	packaging/reproducible.sh

# What packaging/Dockerfile says, with buildah or docker: make image BUILDER=docker. The name is
# that in packaging/kubernetes.yaml.
BUILDER ?= buildah

image: all
	rm -rf $(TARGET_DIR)/image && mkdir -p $(TARGET_DIR)/image/data
	cp $(BINARY) packaging/Dockerfile $(TARGET_DIR)/image/
	$(BUILDER) build -t rdlm:$(VERSION) -t rdlm:latest $(TARGET_DIR)/image

# Installs and purges the package in a root directory of its own, builds and runs the image; as root.
test-packages: deb
	packaging/test.sh

# Stopped first: otherwise a deleted program would go on serving.
uninstall:
	if test -z "$(DESTDIR)" && test -d $(SYSTEMD) && test -e $(UNITDIR)/rdlm.service; then \
	    systemctl disable --now rdlm; fi
	rm -f $(BINDIR)/rdlm $(BINDIR)/rdlm-daemon $(UNITDIR)/rdlm.service
	rm -f $(MANDIR)/rdlm.1 $(MANDIR)/rdlm-daemon.1 $(BASHDIR)/rdlm $(ZSHDIR)/_rdlm $(FISHDIR)/rdlm.fish
	if test -z "$(DESTDIR)" && test -d $(SYSTEMD); then systemctl daemon-reload; fi

clean:
	$(CARGO) clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts
