#!/usr/bin/env bash
# Sees to what the build needs beyond Rust: a C++ compiler and libclang, both for RocksDB. Installs what is missing where
# it may, says so, and otherwise names the exact command. With `lints`: the two Rust components `make check` uses.
set -euo pipefail

packages='build-essential libclang-dev'
install="apt-get update && apt-get install -y --no-install-recommends $packages"

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

has_rust() {
    command -v cargo >/dev/null || fail 'Rust is missing: see https://rustup.rs, then run this again.'
    local here=${BASH_SOURCE[0]%/*}/../.. need have
    need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/Cargo.toml")
    have=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$need" "$have" | sort -V | head -n 1)" = "$need" ] ||
        fail "Rust $have is too old, $need is needed: rustup update stable"
}

has_compiler() {
    command -v make >/dev/null && { command -v c++ || command -v g++ || command -v clang++; } >/dev/null
}

any() {
    local path
    for path in "$@"; do [ -e "$path" ] && return 0; done
    return 1
}

# The library alone will not do: it needs the compiler's own headers beside it.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && any "$LIBCLANG_PATH" && return 0
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null || true; } | grep -q 'libclang[-.0-9]*\.so' ||
        any /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/local/lib/libclang*.so* || return 1
    any /usr/lib/llvm-*/lib/clang/*/include/stddef.h /usr/lib/clang/*/include/stddef.h /usr/lib64/clang/*/include/stddef.h
}

install_packages() {
    command -v apt-get >/dev/null ||
        fail 'A C++ compiler, make and libclang with its headers are needed, and this is no Debian-like system:' \
            "install what here is called $packages there, then run this again."
    local run
    if [ "$(id -u)" = 0 ]; then
        run=(env)
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        run=(sudo -n env)
    else
        fail 'RocksDB is C++ and its bindings need libclang. Type this, then run this again:' "    sudo sh -c '$install'"
    fi
    echo "Installing $packages (for RocksDB; about a minute): $install"
    "${run[@]}" DEBIAN_FRONTEND=noninteractive sh -c "$install" </dev/null
}

lints() {
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return 0
    command -v rustup >/dev/null || fail 'rustfmt and clippy are missing: install them beside your cargo.'
    echo 'Installing rustfmt and clippy: rustup component add rustfmt clippy'
    rustup component add rustfmt clippy
}

has_rust
[ "${1:-}" = lints ] && { lints; exit; }
{ has_compiler && has_libclang; } || install_packages
