#!/bin/sh
# The browsers of the tests, from the system's packages: installed as root on Debian, else named. Without them their
# tests are skipped.
set -eu
missing=
command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing="$missing chromium"
command -v firefox-esr >/dev/null || command -v firefox >/dev/null || missing="$missing firefox-esr"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then
    echo "installing with apt-get:$missing" >&2
    {
        apt-get update -qq
        # shellcheck disable=SC2086  # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends $missing
    } </dev/null >&2 || echo "apt-get failed: the tests of$missing will be skipped" >&2
else
    echo "not installed, their tests will be skipped (Debian's names):$missing" >&2
fi
