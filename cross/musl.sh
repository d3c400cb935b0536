#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# cross/musl.sh TARGET: makes target/cross/root/TARGET/lib/ld-musl-*.so.1, the loader and C library that a router of
# this kind has, for qemu-user's -L. From Debian's source of musl 1.2.3, the version of OpenWrt 22.03: a program that
# runs with it asks for nothing that only a later musl has. Needs what cross/build.sh TARGET has fetched and built.
set -eu
export LC_ALL=C

top=$(dirname "$(cd "$(dirname "$0")" && pwd)")
work=$top/target/cross
version=1.2.3

die() {
    printf 'musl.sh: %s\n' "$1" >&2
    exit 1
}

[ $# -eq 1 ] || die 'usage: musl.sh TARGET'
case $1 in
mips-*) zig_target=mips-linux-musleabi cpu=mips32r2+soft_float emulation=elf32btsmip loader=mips-sf ;;
mipsel-*) zig_target=mipsel-linux-musleabi cpu=mips32r2+soft_float emulation=elf32ltsmip loader=mipsel-sf ;;
armv7-*) zig_target=arm-linux-musleabihf cpu=generic+v7a+vfp3d16-neon emulation=armelf_linux_eabi loader=armhf ;;
aarch64-*) zig_target=aarch64-linux-musl cpu=generic emulation=aarch64linux loader=aarch64 ;;
x86_64-*) zig_target=x86_64-linux-musl cpu=x86_64 emulation=elf_x86_64 loader=x86_64 ;;
*) die "does not know $1" ;;
esac

root=$work/root/$1
[ ! -e "$root/lib/ld-musl-$loader.so.1" ] || exit 0

# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"
need make make || exit 1

fetch_source() { # OPTIONS OF APT...
    { apt-get "$@" update && apt-get "$@" -o Acquire::Retries=3 --download-only source "musl=$version-*"; } ||
        apt-get "$@" --download-only source musl
}

# The source, by a private list of packages: few machines have source packages set up.
if [ ! -e "$work/musl-$version/configure" ]; then
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die 'cannot have the source of musl: no Debian mirror set up here'
    apt=$work/apt-musl
    rm -rf "$apt"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    cat >"$apt/source.sources" <<END
Types: deb-src
URIs: $mirror
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
    set -- "$1" -qq -o "Dir::Etc::sourcelist=$apt/source.sources" -o Dir::Etc::sourceparts=- \
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root
    target=$1
    shift
    (
        cd "$apt"
        three_times fetch_source "$@"
    ) >"$apt/log" 2>&1 || {
        tail -n 3 "$apt/log" >&2
        die 'cannot have the source of musl (Debian source package musl)'
    }
    tar -xf "$apt"/musl_*.orig.tar.gz -C "$work"
    rm -rf "$apt"
    [ -e "$work/musl-$version/configure" ] || die "Debian's source of musl is not version $version"
    set -- "$target"
fi

zig=$(find "$work" -path '*/site-packages/ziglang/zig' | head -n 1)
# What the compiler calls for 64-bit and floating-point arithmetic: zig's own copy would make memcpy and the like
# private to the library.
builtins=$(find "$work/build/$1-dynamic-program" -name 'libcompiler_builtins-*.rlib' 2>/dev/null | head -n 1)
if [ -z "$zig" ] || [ -z "$builtins" ]; then die "run cross/build.sh $1 first"; fi

build=$work/musl-build/$1
rm -rf "$build" "$root"
mkdir -p "$build" "$root/lib"
(
    cd "$build"
    export ZIG_GLOBAL_CACHE_DIR="$build/cache" ZIG_LOCAL_CACHE_DIR="$build/cache"
    # The sub-architecture decides about assembly files: '-sf' is in OpenWrt's name for it.
    case $loader in *-sf) suffix=-sf ;; *) suffix='' ;; esac
    case $1 in armv7-*) suffix=eabihf ;; esac
    "$work/musl-$version/configure" --target="${1%%-*}-linux-musl$suffix" --disable-static \
        CC="$zig cc -target $zig_target -mcpu=$cpu" AR="$zig ar" RANLIB="$zig ranlib" LIBCC=
    # The objects only; zig cc cannot leave its own run-time library out of a link.
    make -s -j2 CFLAGS=-w lib/libc.so || :
    hash=gnu
    case $1 in mips*) hash=sysv ;; esac
    # Complex numbers want functions that Rust's run-time library has not.
    find obj -name '*.lo' ! -path '*/complex/*' >objects
    [ -s objects ]
    "$zig" ld.lld -m "$emulation" -shared -e _dlstart --gc-sections --hash-style=$hash --no-undefined -z notext \
        --dynamic-list="$work/musl-$version/dynamic.list" -o "$root/lib/libc.so" @objects "$builtins"
) >"$build/log" 2>&1 || {
    tail -n 5 "$build/log" >&2
    die "cannot build musl for $1"
}
rm -rf "$build/cache" "$build/obj"
ln -s libc.so "$root/lib/ld-musl-$loader.so.1"
