#!/bin/sh
exec "${0%/*}/../go_build.sh" "${0%/*}" github.com/quic-go/webtransport-go/interop
