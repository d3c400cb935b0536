#!/bin/sh
# Makes OpenWrt's own uci and jshn, from the sources that the crate libuci-sys carries, and prints the folder with them and
# jshn.sh. Once made they stay, until the lock file names another version.
set -eu
cd "$(dirname "$0")/../../.."
# shellcheck source=tests/setup.sh
. tests/setup.sh

lock=tests/package/userland/Cargo.lock
made="${CARGO_TARGET_DIR:-$PWD/target}/userland"
if cmp -s $lock "$made/complete"; then
    printf '%s\n' "$made"
    exit
fi
need_rust >&2
[ -e /usr/include/json-c/json.h ] || install_packages libjson-c-dev

manifest=tests/package/userland/Cargo.toml
crate=$(cargo metadata --quiet --locked --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" \
    --manifest-path $manifest | grep -o '"manifest_path":"[^"]*/libuci-sys-[^"]*/Cargo.toml"' | cut -d '"' -f 4)
crate=${crate%/Cargo.toml}
uci=$crate/uci ubox=$crate/libubox

rm -rf "$made"
mkdir -p "$made/include"
ln -s "$ubox" "$made/include/libubox"
# What their CMake would find out.
: >"$made/include/uci_config.h"
# Static, as they go into roots that have other libraries.
compile() { # PROGRAM SOURCE...
    program=$1
    shift
    cc -w -std=gnu99 -DJSONC -DUCI_PREFIX='"/"' -I "$made/include" -I "$uci" -I /usr/include/json-c \
        -static -o "$made/$program" "$@" -ljson-c
}
compile uci "$uci"/cli.c "$uci"/libuci.c "$uci"/file.c "$uci"/util.c "$uci"/delta.c "$uci"/parse.c "$uci"/blob.c \
    "$ubox"/blob.c "$ubox"/blobmsg.c "$ubox"/utils.c "$ubox"/avl.c "$ubox"/avl-cmp.c "$ubox"/vlist.c "$ubox"/md5.c
compile jshn "$ubox"/jshn.c "$ubox"/blobmsg_json.c "$ubox"/blob.c "$ubox"/blobmsg.c "$ubox"/utils.c "$ubox"/avl.c \
    "$ubox"/avl-cmp.c
cp "$ubox/sh/jshn.sh" "$made/"
cp $lock "$made/complete"
printf '%s\n' "$made"
