#!/bin/sh
# Build a Go peer and print the path of the program: build.sh [DIRECTORY [MODFILE]], of this directory's siblings; else
# the quic-go peer. Built once: it is cached outside the clone under the hash of its sources. Exits 127 where there is
# no Go.
set -eu
cd "$(dirname "$0")/../${1:-go}"
modfile=${2:-go.mod}
cache=${QUICHE_H3_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quiche_h3}
hash=$(cat "$modfile" "${modfile%.mod}.sum" *.go | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
program=$cache/interop-${1:-go}-$hash/interop
if [ ! -x "$program" ]; then
    for go in go /usr/local/go/bin/go missing; do
        command -v "$go" >/dev/null 2>&1 && break
    done
    if [ "$go" = missing ]; then
        echo "the Go peers need Go (https://go.dev/dl/, or: apt-get install golang-go)" >&2
        exit 127
    fi
    mkdir -p "${program%/*}"
    CGO_ENABLED=0 "$go" build -trimpath -modfile="$modfile" -o "$program.$$" . >&2
    mv "$program.$$" "$program"
fi
echo "$program"
