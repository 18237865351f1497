#!/bin/sh
# The browsers and other peers of the tests, from the system's packages: installed as root on Debian, else named.
# Without them their tests are skipped.
set -eu
PATH=$PATH:/usr/sbin
missing=
need() { # PACKAGE PROGRAM...: any of the programs will do
    package=$1
    shift
    for program; do
        ! command -v "$program" >/dev/null || return 0
    done
    missing="$missing $package"
}
need chromium chromium google-chrome
need firefox-esr firefox-esr firefox
need ngtcp2-client gtlsclient
need ngtcp2-server gtlsserver
need iproute2 ip
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then
    echo "installing with apt-get:$missing" >&2
    {
        apt-get update -qq
        # shellcheck disable=SC2086  # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends $missing
    } </dev/null >&2 || echo "apt-get failed: the tests that need$missing will be skipped" >&2
else
    echo "not installed, the tests that need them will be skipped (Debian's names):$missing" >&2
fi
