#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The linker that cross/build.sh gives to rustc: zig's ld.lld, with the start file and the C library that zig made for
# the target. rustc's own idea of what to link is dropped: it would name libgcc_s, of which an aborting program uses
# nothing, and look for libraries of a toolchain that is not here.
set -eu
count=$#
while [ "$count" -gt 0 ]; do
    argument=$1
    shift
    count=$((count - 1))
    case $argument in
    -flavor | gnu) ;;
    -lc | -lgcc_s | -lunwind) ;;
    -pie | -no-pie | -static | -static-pie | --no-dynamic-linker | -Bstatic | -Bdynamic | --as-needed | --no-as-needed) ;;
    --eh-frame-hdr) ;;
    *) set -- "$@" "$argument" ;;
    esac
done

# --icf folds functions of equal code. Rust promises nothing about the addresses of functions.
set -- -m "$PEPSAL_EMULATION" --entry "$PEPSAL_ENTRY" --hash-style="$PEPSAL_HASH" -O2 --icf=all --build-id=none \
    -T "$(dirname "$0")/link.ld" "$@"
libraries=$PEPSAL_LIBRARIES
case $PEPSAL_MODE in
dynamic)
    exec "$PEPSAL_ZIG" ld.lld -pie --dynamic-linker "$PEPSAL_LOADER" "$libraries/dynamic/Scrt1.o" "$@" \
        "$libraries/unwind.o" --as-needed "$libraries/dynamic/libc.so"
    ;;
static)
    exec "$PEPSAL_ZIG" ld.lld -static "$libraries/static/crt1.o" "$@" "$libraries/unwind.o" "$libraries/static/libc.a" \
        "$libraries/static/libzigc.a" "$libraries/static/libcompiler_rt.a"
    ;;
esac
