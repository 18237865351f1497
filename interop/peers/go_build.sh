#!/bin/sh
# Builds an implementation's own interop endpoints, unchanged: go_build.sh FOLDER PACKAGE, where PACKAGE has the
# programs `client` and `server` below it. Prints the directory they are in. Built once: it is cached outside the
# clone. Exits 127 where there is no Go.
set -eu
cd "$1"
cache=${QUICHE_H3_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quiche_h3}
name=${PWD##*/}
hash=$(cat go.mod go.sum ../go_build.sh | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
programs=$cache/interop-$name-$hash
if [ ! -d "$programs" ]; then
    for go in go /usr/local/go/bin/go missing; do
        command -v "$go" >/dev/null 2>&1 && break
    done
    if [ "$go" = missing ]; then
        echo "the $name endpoint needs Go (apt-get install golang-go)" >&2
        exit 127
    fi
    mkdir -p "$programs.$$"
    for role in client server; do
        CGO_ENABLED=0 "$go" build -trimpath -o "$programs.$$/$role" "$2/$role" >&2
    done
    mv "$programs.$$" "$programs"
fi
echo "$programs"
