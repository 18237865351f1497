#!/bin/sh
# Builds quic-go's own interop endpoints, unchanged, and prints the directory they are in. Built once: it is cached
# outside the clone. Exits 127 where there is no Go.
set -eu
cd "$(dirname "$0")"
cache=${QUICHE_H3_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quiche_h3}
hash=$(cat go.mod go.sum build.sh | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
programs=$cache/interop-quic-go-$hash
if [ ! -d "$programs" ]; then
    for go in go /usr/local/go/bin/go missing; do
        command -v "$go" >/dev/null 2>&1 && break
    done
    if [ "$go" = missing ]; then
        echo "the quic-go endpoint needs Go (apt-get install golang-go)" >&2
        exit 127
    fi
    mkdir -p "$programs.$$"
    for role in client server; do
        CGO_ENABLED=0 "$go" build -trimpath -o "$programs.$$/$role" "github.com/quic-go/quic-go/interop/$role" >&2
    done
    mv "$programs.$$" "$programs"
fi
echo "$programs"
