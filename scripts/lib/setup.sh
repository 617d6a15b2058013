# shellcheck shell=bash
# Sourced by the other scripts: packages, toolchain, build. Safe to run again and again.

# In CI each step says when it began, in seconds: that is where its minutes go.
: "${DORMOUSE_BEGAN:=$(date +%s)}"
export DORMOUSE_BEGAN
say() {
    local since=
    [ -z "${CI:-}" ] || since="[$(($(date +%s) - DORMOUSE_BEGAN)) s] "
    printf '\033[1m%s%s\033[0m\n' "$since" "$*" >&2
    # What CI printed is gone when it has passed.
    [ -z "${DORMOUSE_TIMES_FILE:-}" ] || printf '%s%s\n' "$since" "$*" >>"$DORMOUSE_TIMES_FILE"
}
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# need_packages PACKAGE...: installs those that are missing.
need_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || die "packages are missing: ${missing[*]} (install them, or run this as root)"
    say "installing packages: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# What the build needs: RocksDB is compiled from source, its bindings are made by libclang.
need_build_packages() {
    need_packages build-essential clang libclang-dev cmake pkg-config git fuse3 ca-certificates
}

need_rust() {
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    local wanted
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if ! command -v cargo >/dev/null; then
        # Debian 13 and newer have rustup; before that, only a compiler that is too old.
        if apt-cache show rustup >/dev/null 2>&1; then
            need_packages rustup
            rustup default stable >/dev/null
        else
            die "Rust $wanted or newer is needed: install it with rustup, then run this again"
        fi
    fi
    local found
    found=$(rustc --version | cut -d' ' -f2)
    printf '%s\n%s\n' "$wanted" "$found" | sort -V -C || die "Rust $wanted or newer is needed, found $found"
}

need_fuse() {
    [ -e /dev/fuse ] || modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || die "/dev/fuse is missing: load the kernel module (modprobe fuse) or hand the device into this container"
}

# What building and running all tests needs.
need_test_tools() {
    need_build_packages
    need_packages python3 python3-venv curl procps attr acl sqlite3 util-linux e2fsprogs
    need_rust
    need_fuse
}

# Builds the binary; the first time compiles RocksDB, which takes ten minutes on two cores.
# With an example, for cargo then chooses the features of dependencies as it does for tests: a build of the binary alone and one
# of the tests after it would compile a hundred crates twice.
build() {
    [ -d target/release/build ] || say "first build: RocksDB from source takes about ten minutes on two cores"
    cargo build --release --locked --bins --example null_fs "$@"
}

# Builds the fuzz targets into target/fuzz, with the coverage that libfuzzer wants. The flags are those of cargo-fuzz
# without its address sanitizer, which stable Rust lacks; a target is named, so that build scripts are built without them.
build_fuzz() {
    local host flags
    host=$(rustc -vV | sed -n 's/^host: //p')
    flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
    flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
    [ "$host" != x86_64-unknown-linux-gnu ] || flags+=" -Ctarget-cpu=x86-64-v2"
    RUSTFLAGS=$flags cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml --bins \
        --target "$host" --target-dir target/fuzz
    ln -sfn "$host/release" target/fuzz/bin
}
