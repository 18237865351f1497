#!/bin/sh
# Builds the Rust endpoint of the folder given and prints the directory its program is in. Built once: it is cached
# outside the clone. Exits 127 where there is no Rust.
set -eu
cd "$1"
cache=${QUICHE_H3_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quiche_h3}
name=${PWD##*/}
hash=$(cat Cargo.toml Cargo.lock src/*.rs | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
programs=$cache/interop-$name-$hash
if [ ! -d "$programs" ]; then
    if ! command -v cargo >/dev/null 2>&1; then
        echo "the $name endpoint needs Rust (rustup)" >&2
        exit 127
    fi
    CARGO_TARGET_DIR=$cache/interop-target cargo build --quiet --release --locked >&2
    mkdir -p "$programs.$$"
    cp "$cache/interop-target/release/$name-endpoint" "$programs.$$/"
    mv "$programs.$$" "$programs"
fi
echo "$programs"
