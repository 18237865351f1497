#!/bin/sh
exec "${0%/*}/../go_build.sh" "${0%/*}" github.com/quic-go/quic-go/interop
