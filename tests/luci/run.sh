#!/bin/sh
# Tests of openwrt/luci-app-pepsal (run.mjs says which), and the size of its package. Arguments go to run.mjs.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=tests/setup.sh
. tests/setup.sh

# Routers have little flash.
MOST=15000

need node nodejs chromium chromium git git
node tests/luci/run.mjs "$@"

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
ipk=$(openwrt/ipk.sh all "$out")
size=$(wc -c <"$ipk")
echo "size of the package: $size bytes, of $MOST allowed"
[ "$size" -le "$MOST" ]
