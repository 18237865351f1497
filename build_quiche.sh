#!/usr/bin/env bash
# Builds quiche's shared library and copies it, with its headers, to quiche_h3/_libs. `--help` tells the rest.
#
# Sources are fetched by `cargo vendor` with the checksums of Cargo.lock, patched by patches/*.patch, built
# offline. All of it happens in a cache outside the clone: `work-*` (sources and objects) is shared by every
# build with the same Cargo.lock and compiler, so that a changed patch rebuilds quiche but not BoringSSL;
# `lib-*` holds one result under the hash of all that went into it.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: build_quiche.sh [--debug | --system | --test | --check-tools |
                        --print-dir | --print-sources | --help]

Builds the patched quiche (third_party/quiche) once per state of its inputs and
copies libquiche and its headers to quiche_h3/_libs. Prints that directory.

  --debug          build with debug symbols, assertions and overflow checks
  --system         use an installed quiche: from QUICHE_PREFIX (lib/, include/)
                   or pkg-config. It lacks our patches, and the functions of
                   quiche_h3_extra.h answer "not supported"
  --test           run the tests of our patches on the patched sources
  --check-tools    look for the tools, and install them where that is allowed
  --print-dir      print the cache directory of the result, build nothing
  --print-sources  fetch quiche's unpatched sources, print their directory
  --help           this text

Environment:
  QUICHE_H3_CACHE  the cache (default: ${XDG_CACHE_HOME:-~/.cache}/quiche_h3)
  QUICHE_PREFIX    where an installed quiche lies, for --system
  PYTHON           the Python whose headers are needed (default: python3)
USAGE
}

readonly rust_minimum=1.88
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
readonly here crate=$here/third_party/quiche libs=$here/quiche_h3/_libs
readonly cache=${QUICHE_H3_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quiche_h3}

say() { printf 'build_quiche: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}

# ---- tools ------------------------------------------------------------------------------------------------

have() { command -v "$1" >/dev/null 2>&1; }

have_cxx() { have c++ || have g++ || have clang++; }

# What bindgen (of boring-sys) loads at run time.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return
    local dir file
    for dir in "$(llvm-config --libdir 2>/dev/null)" /usr/lib/llvm-*/lib /usr/lib /usr/lib64 /usr/local/lib \
        /usr/lib/*-linux-gnu /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib \
        /Library/Developer/CommandLineTools/usr/lib /usr/local/llvm*/lib; do
        for file in "$dir"/libclang.so* "$dir"/libclang-*.so* "$dir"/libclang.dylib; do
            [ -e "$file" ] && return
        done
    done
    return 1
}

have_header() { # name of a system header; CC may hold a launcher or options too
    printf '#include <%s>\n' "$1" | ${CC:-cc} -E -x c -I/usr/local/include -I/opt/homebrew/include - >/dev/null 2>&1
}

have_python_headers() {
    local dir
    dir=$("${PYTHON:-python3}" -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null) &&
        [ -f "$dir/Python.h" ]
}

have_rust() {
    local version
    have cargo && version=$(rustc --version 2>/dev/null) || return 1
    version=${version#rustc }
    version=${version%%[ -]*}
    [ "$(printf '%s\n' "$rust_minimum" "$version" | sort -V | head -n 1)" = "$rust_minimum" ]
}

# One Debian package name per missing tool.
missing_packages() {
    have cmake || echo cmake
    have make || echo make
    have_cxx || echo g++
    have patch || echo patch
    have pkg-config || echo pkg-config
    have_libclang || echo libclang-dev
    have_header ev.h || echo libev-dev
    have_python_headers || echo python3-dev
}

as_root_on_debian() { [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ] && have apt-get; }

apt_install() {
    say "installing with apt-get: $*"
    {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends "$@"
    } </dev/null >&2 || say "apt-get failed"
}

install_rust() {
    if ! have rustup && [ -n "$(apt-cache search --names-only '^rustup$' 2>/dev/null)" ]; then
        apt_install rustup
    fi
    have rustup && rustup toolchain install stable --profile minimal </dev/null >&2 || true
}

check_tools() {
    local packages advice=()
    packages=$(missing_packages | xargs)
    if [ -n "$packages" ] && as_root_on_debian; then
        # shellcheck disable=SC2086  # a list of words
        apt_install $packages
        packages=$(missing_packages | xargs)
    fi
    if ! have_rust && as_root_on_debian; then
        install_rust
    fi
    # A toolchain that rustup holds but does not use by default will do.
    if ! have_rust && have rustup && rustup run stable rustc --version >/dev/null 2>&1; then
        export RUSTUP_TOOLCHAIN=stable
    fi
    if [ -n "$packages" ]; then
        advice+=("missing (Debian package names): $packages")
        advice+=("  install them: sudo apt-get install $packages")
    fi
    if ! have_rust; then
        advice+=("missing: Rust $rust_minimum or newer (found: $(rustc --version 2>/dev/null || echo none))")
        if have rustup; then
            advice+=("  install it: rustup toolchain install stable && rustup default stable")
        else
            advice+=("  install it with rustup (see rustup.rs); Debian's own Rust is too old")
        fi
    fi
    [ ${#advice[@]} -eq 0 ] && return
    printf 'build_quiche: %s\n' "${advice[@]}" >&2
    exit 1
}

# ---- inputs -----------------------------------------------------------------------------------------------

sha256() { if have sha256sum; then sha256sum; else shasum -a 256; fi | cut -c 1-"${1:-64}"; }

# Names and contents of the files given, as one stream.
stream_of() {
    local file
    for file; do
        [ -f "$file" ] || continue # a glob that matched nothing
        printf '%s %s\n' "${file#"$here"/}" "$(wc -c <"$file")"
        cat "$file"
    done
}

rust_identity() { rustc -vV 2>/dev/null || echo none; }

work_key() {
    {
        rust_identity
        echo "${CARGO_BUILD_TARGET:-}"
        stream_of "$crate"/Cargo.lock
    } | sha256 16
}

lib_key() {
    {
        rust_identity
        echo "$profile ${CARGO_BUILD_TARGET:-} ${RUSTFLAGS:-} ${CFLAGS:-} ${CXXFLAGS:-}"
        stream_of "$crate"/Cargo.toml "$crate"/Cargo.lock "$crate"/src/*.rs "$crate"/include/*.h \
            "$crate"/patches/*.patch "$here/build_quiche.sh"
    } | sha256
}

# ---- sources ----------------------------------------------------------------------------------------------

run_cargo() {
    (
        cd "$work/crate"
        CARGO_TARGET_DIR=$work/target cargo --config 'source.crates-io.replace-with="vendored"' \
            --config "source.vendored.directory=\"$work/vendor\"" "$@"
    ) </dev/null >&2
}

fetch_sources() {
    [ -d "$work/pristine" ] && return
    say "fetching the sources that Cargo.lock names"
    rm -rf "$work/vendor"
    (cd "$crate" && cargo vendor --quiet --locked --versioned-dirs "$work/vendor") </dev/null >/dev/null
    local quiche
    quiche=$(cd "$work/vendor" && echo quiche-[0-9]*)
    cp -R "$work/vendor/$quiche" "$work/pristine.new"
    echo "$quiche" >"$work/quiche-name"
    mv "$work/pristine.new" "$work/pristine"
}

# The wrapper crate is built from a copy: cargo goes by time stamps, and another clone that shares `work-*` has
# its own. What changed is new here.
copy_crate() {
    local state
    state=$(stream_of "$crate"/Cargo.* "$crate"/src/*.rs "$crate"/tests/*/*.rs | sha256)
    [ "$(cat "$work/copied" 2>/dev/null)" = "$state" ] && return
    rm -rf "$work/crate" "$work/copied"
    mkdir "$work/crate"
    cp -R "$crate"/Cargo.toml "$crate"/Cargo.lock "$crate"/src "$crate"/tests "$work/crate/"
    echo "$state" >"$work/copied"
}

# Puts the patched quiche in place of the vendored one. Cargo takes vendored sources for unchanging, hence
# the clean; the "files" checksums go, the package's own (compared with Cargo.lock) stays.
patch_sources() {
    local state quiche patch
    state=$(stream_of "$crate"/patches/*.patch | sha256)
    [ "$(cat "$work/patched" 2>/dev/null)" = "$state" ] && return
    quiche=$work/vendor/$(cat "$work/quiche-name")
    rm -rf "$quiche" "$work/patched"
    cp -R "$work/pristine" "$quiche"
    for patch in "$crate"/patches/*.patch; do
        [ -f "$patch" ] || continue
        say "applying ${patch##*/}"
        patch -d "$quiche" -p1 -F0 -N -s --no-backup-if-mismatch <"$patch" >&2 ||
            die "${patch##*/} does not fit ${quiche##*/}: see third_party/quiche/patches/README.md"
    done
    sed -i.orig 's/"files":{[^}]*}/"files":{}/' "$quiche/.cargo-checksum.json"
    rm -f "$quiche/.cargo-checksum.json.orig"
    run_cargo clean --quiet --locked --offline --package quiche --profile release
    run_cargo clean --quiet --locked --offline --package quiche --profile debugging
    echo "$state" >"$work/patched"
}

# ---- build ------------------------------------------------------------------------------------------------

lib_suffix() { if [ "$(uname)" = Darwin ]; then echo dylib; else echo so; fi; }

# The name that programs ask the loader for.
lib_name() { if [ "$(uname)" = Darwin ]; then echo libquiche.0.dylib; else echo libquiche.so.0; fi; }

build() {
    local name target
    say "building quiche ($profile); the first time takes some minutes"
    run_cargo build --quiet --profile "$profile" --locked --offline
    target=$work/target/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}$profile
    rm -rf "$built.new"
    mkdir -p "$built.new/include"
    name=$(lib_name)
    cp "$target/libquiche_h3_native.$(lib_suffix)" "$built.new/$name"
    [ "$(uname)" != Darwin ] || install_name_tool -id "@rpath/$name" "$built.new/$name"
    cp "$work/vendor/$(cat "$work/quiche-name")/include/quiche.h" "$crate"/include/*.h "$built.new/include/"
    mv "$built.new" "$built"
}

set_paths() {
    work=$cache/work-$(work_key)
    built=$cache/lib-$(lib_key)
}

with_sources() {
    check_tools
    set_paths # again: the compiler may be new
    mkdir -p "$work"
    # BSD and macOS have no flock: there, two first builds at once are the user's to avoid.
    exec 9>"$work/lock"
    ! have flock || flock 9
    set_paths # what is built is what is there now, after the wait
    fetch_sources
    copy_crate
    patch_sources
    "$@"
}

run_tests() {
    QUICHE_SOURCES=$work/vendor/$(cat "$work/quiche-name") run_cargo test --release --locked --offline
}

build_once() { [ -d "$built" ] || build; } # another process may have built it while we waited

# Copies the files of one directory into quiche_h3/_libs, touching nothing that is right already.
install_libs() {
    local from=$1 name header
    name=$(lib_name)
    mkdir -p "$libs/include"
    if ! cmp -s "$from/$name" "$libs/$name"; then
        # A new file, never new bytes in a library that a running process has mapped.
        cp "$from/$name" "$libs/$name.new.$$"
        mv "$libs/$name.new.$$" "$libs/$name"
    fi
    for header in "$from"/include/*.h; do
        cmp -s "$header" "$libs/include/${header##*/}" || cp "$header" "$libs/include/"
    done
    echo "$libs"
}

# An installed quiche, copied like our own, so that the wheel and the rpath need no second way.
use_system() {
    local include libdir name
    if [ -n "${QUICHE_PREFIX:-}" ]; then
        include=$QUICHE_PREFIX/include
        libdir=$QUICHE_PREFIX/lib
    elif have pkg-config && pkg-config --exists quiche; then
        include=$(pkg-config --variable=includedir quiche)
        libdir=$(pkg-config --variable=libdir quiche)
    else
        die "--system: no installed quiche found; set QUICHE_PREFIX, or PKG_CONFIG_PATH to where quiche.pc lies"
    fi
    from=$(mktemp -d "${TMPDIR:-/tmp}/quiche.XXXXXX") # not local: the trap needs it
    trap 'rm -rf "$from"' EXIT
    mkdir "$from/include"
    name=$(lib_name)
    cp -L "$libdir/$name" "$from/$name" 2>/dev/null ||
        cp -L "$libdir/libquiche.$(lib_suffix)" "$from/$name" 2>/dev/null ||
        die "--system: no libquiche in $libdir"
    cp "$include/quiche.h" "$from/include/" 2>/dev/null || die "--system: no quiche.h in $include"
    { echo '#define QUICHE_H3_NO_EXTRA 1' && cat "$crate/include/quiche_h3_extra.h"; } >"$from/include/quiche_h3_extra.h"
    say "using the installed quiche of $libdir: without our patches"
    install_libs "$from"
}

main() {
    local action=build
    profile=release
    while [ $# -gt 0 ]; do
        case $1 in
            --debug) profile=debugging ;;
            --system) action=system ;;
            --test) action='test' ;;
            --print-dir | --print-sources) action=${1#--} ;;
            --check-tools) action=check-tools ;;
            -h | --help)
                usage
                exit
                ;;
            *)
                usage >&2
                exit 2
                ;;
        esac
        shift
    done
    set_paths
    case $action in
        system) use_system ;;
        print-dir) echo "$built" ;;
        print-sources) with_sources echo "$work/pristine" ;;
        check-tools) check_tools ;;
        test)
            with_sources run_tests
            ;;
        build)
            [ -d "$built" ] || with_sources build_once
            install_libs "$built"
            ;;
    esac
}

main "$@"
