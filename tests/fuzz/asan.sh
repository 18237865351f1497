#!/bin/bash
# Fuzzes with the extension modules under AddressSanitizer: tests/fuzz/asan.sh [options of python -m fuzz].
# PYTHON names the interpreter. quiche is not instrumented, but its memory comes from the malloc that is watched.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
copy=$root/build/asan # a copy of the sources: nothing that is instrumented gets into the package itself
python=${PYTHON:-python3}
mkdir -p "$copy"
tar -C "$root" --exclude='*.so*' --exclude='*.dylib' --exclude=__pycache__ -cf - \
    build_quiche.sh setup.py pyproject.toml README.md MANIFEST.in quiche_h3 third_party tests | tar -C "$copy" -xf -
cd "$copy"
export CFLAGS="${CFLAGS:-} -fsanitize=address -fno-omit-frame-pointer -g1 -O1" LDFLAGS="${LDFLAGS:-} -fsanitize=address"
PYTHONPATH=$copy "$python" setup.py --quiet build_ext --inplace >&2
cd tests
# The interpreter gives little of what it holds back at its end.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:handle_abort=1 PYTHONMALLOC=malloc PYTHONPATH=$copy:$copy/tests
LD_PRELOAD=$(${CC:-cc} -print-file-name=libasan.so) exec "$python" -m fuzz "$@"
