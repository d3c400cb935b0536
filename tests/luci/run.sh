#!/bin/sh
# Tests of openwrt/luci-app-pepsal (run.mjs says which), and the size of its package. Arguments go to run.mjs.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=tests/setup.sh
. tests/setup.sh

# Routers have little flash.
MOST=15000

need node nodejs chromium chromium git git ip iproute2
need_rust

out=$(mktemp -d)
netns=pepsal-luci-$$
daemon=''
cleanup() {
    [ -z "$daemon" ] || end "$daemon"
    ip netns delete "$netns" 2>/dev/null || true
    rm -rf "$out"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

# A daemon for run.mjs to ask. It sees no connections: those of the pages are recorded.
cargo build --quiet --locked
PEPSAL_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug/pepsal
if [ "$(id -u)" = 0 ] && ip netns add "$netns"; then
    ip netns exec "$netns" "$PEPSAL_BIN" run --control "$out/control" >"$out/log" 2>&1 &
    daemon=$!
    turns=300
    while [ $turns -gt 0 ] && [ ! -S "$out/control" ]; do
        sleep 0.1
        turns=$((turns - 1))
    done
    [ -S "$out/control" ] || cat "$out/log"
    export PEPSAL_BIN PEPSAL_CONTROL="$out/control"
fi

node tests/luci/run.mjs "$@"

ipk=$(openwrt/ipk.sh all "$out")
size=$(wc -c <"$ipk")
echo "size of the package: $size bytes, of $MOST allowed"
[ "$size" -le "$MOST" ]
