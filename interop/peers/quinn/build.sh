#!/bin/sh
exec "${0%/*}/../cargo_build.sh" "${0%/*}"
