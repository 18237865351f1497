#!/bin/sh
# Starts the endpoint of the QUIC interop runner. In its image the simulator's scripts are there: routes are set up,
# and a client waits until the simulator runs. Elsewhere they are not, and the first argument may name another root
# for /www, /certs and /downloads.
set -eu

if [ -x /setup.sh ]; then
    /setup.sh
    if [ "${ROLE:-}" = client ]; then
        /wait-for-it.sh sim:57832 -s -t 30
    fi
fi
exec "${PYTHON:-python3}" -m quiche_h3.interop "$@"
