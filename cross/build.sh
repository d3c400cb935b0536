#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# cross/build.sh [--static | --unit-tests | --scenarios | --example NAME] TARGET...
#
# Builds pepsal for routers, without a container engine. For each TARGET:
#   (no option)    target/TARGET/release/pepsal      what the packages ship: small, stripped, linked against the
#                                                    musl that every OpenWrt router has
#   --static       target/TARGET/static/pepsal       needs nothing on the machine: for an initramfs or a chroot
#   --unit-tests   target/TARGET/static/unit-tests   the unit tests, to be run on the target or under qemu-user
#   --scenarios    target/TARGET/static/scenarios    the tests of tests/scenarios, to be run on the target
#   --example NAME target/TARGET/static/NAME         an example of Cargo.toml: what tests run on the target
#
# README.md beside this file tells why it is done this way and what each step saves. Whatever is missing is fetched
# with apt-get and pip, into target/cross/; the Rust toolchain is used as it is and not changed. Two checkouts of the
# same sources give the same bytes.
set -eu
umask 022
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
work=$top/target/cross

# zig is here for two things: ld.lld, and the musl start files and libraries of every target. 0.16 replaced parts of
# musl, malloc among them, by its own code, which does not link on MIPS: stay with 0.15.
zig_version=0.15.2

known='mips-unknown-linux-musl mipsel-unknown-linux-musl armv7-unknown-linux-musleabihf aarch64-unknown-linux-musl x86_64-unknown-linux-musl'

say() { printf 'build.sh: %s\n' "$1" >&2; }
die() {
    say "$1"
    exit 1
}
usage() {
    printf 'usage: %s [--static | --unit-tests | --scenarios | --example NAME] TARGET...\nTARGET: %s\n' "$0" "$known" >&2
    exit 2
}

# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

# What cargo is asked for, and its file beside the program of routers.
mode=dynamic what=program kind=--bin name=pepsal file=pepsal
case ${1:-} in
--static) mode=static && shift ;;
--unit-tests) mode=static what=tests file=unit-tests && shift ;;
--scenarios) mode=static what=tests kind=--test name=scenarios file=scenarios && shift ;;
--example)
    [ $# -gt 1 ] || usage
    mode=static kind=--example name=$2 file=$2 && shift 2
    ;;
-*) usage ;;
esac
[ $# -gt 0 ] || usage
for target in "$@"; do
    case " $known " in
    *" $target "*) ;;
    *) usage ;;
    esac
done

# What each target is called by zig and by ld.lld, which CPU it has and what of it is used, where OpenWrt has its musl.
describe() {
    entry=_start hash=gnu feature=''
    case $1 in
    mips-*) zig_target=mips-linux-musleabi cpu=mips32r2+soft_float emulation=elf32btsmip loader=mips-sf ;;
    mipsel-*) zig_target=mipsel-linux-musleabi cpu=mips32r2+soft_float emulation=elf32ltsmip loader=mipsel-sf ;;
    armv7-*) zig_target=arm-linux-musleabihf cpu=generic+v7a+vfp3d16-neon emulation=armelf_linux_eabi loader=armhf ;;
    aarch64-*) zig_target=aarch64-linux-musl cpu=generic emulation=aarch64linux loader=aarch64 ;;
    x86_64-*) zig_target=x86_64-linux-musl cpu=x86_64 emulation=elf_x86_64 loader=x86_64 ;;
    esac
    # musl calls it __start on MIPS, and MIPS has no GNU hash table.
    case $1 in mips*) entry=__start hash=sysv ;; esac
    # Thumb-2, which every ARMv7-A has, and no choice between two kinds of atomics at run time: smaller.
    case $1 in
    armv7-*) feature=+thumb-mode ;;
    aarch64-*) feature=-outline-atomics ;;
    esac
    loader=/lib/ld-musl-$loader.so.1
}

# --- what it needs

for tool in cargo rustc; do
    command -v $tool >/dev/null || die "needs $tool (from rustup or Debian)"
done
mkdir -p "$work"

# Sets zig.
find_zig() {
    zig=$work/zig-$zig_version/bin/python3
    if [ ! -x "$work/zig-$zig_version/done" ]; then
        need python3 python3 || exit 1
        rm -rf "$work/zig-$zig_version"
        if ! python3 -m venv "$work/zig-$zig_version" >/dev/null 2>&1; then
            if ! install_packages python3-venv || ! python3 -m venv --clear "$work/zig-$zig_version" >/dev/null 2>&1; then
                die 'cannot make a Python environment (needs the package python3-venv)'
            fi
        fi
        three_times "$zig" -m pip install --quiet "ziglang==$zig_version" ||
            die "cannot have zig: pip does not find ziglang $zig_version"
        ln -s bin/python3 "$work/zig-$zig_version/done"
    fi
    zig=$("$zig" -c 'import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))')
}

# The standard library of MIPS cannot be downloaded, and none is built for size: it is compiled here, from the source
# that belongs to the compiler. Sets RUSTC to a compiler that finds that source.
find_library() {
    real=$(rustc --print sysroot)
    if [ -e "$real/lib/rustlib/src/rust/library/Cargo.lock" ]; then
        library=$real/lib/rustlib/src/rust/library
        RUSTC=${RUSTC:-rustc}
        export RUSTC
        return
    fi
    release=$(rustc -vV | sed -n 's/^release: //p')
    library=$work/rust-src-$release/usr/src/rustc-$release/library
    [ -e "$library/Cargo.lock" ] || fetch_library
    # A sysroot of links to the real one, plus the source.
    sysroot=$work/sysroot-$release
    rm -rf "$sysroot"
    mkdir -p "$sysroot/lib/rustlib/src/rust"
    ln -s "$real/bin" "$sysroot/bin"
    for entry in "$real"/lib/* "$real"/lib/rustlib/*; do
        case $entry in
        */rustlib) ;;
        *) ln -s "$entry" "$sysroot/${entry#"$real"/}" ;;
        esac
    done
    ln -s "$library" "$sysroot/lib/rustlib/src/rust/library"
    cat >"$work/rustc" <<END
#!/bin/sh
exec rustc --sysroot "$sysroot" "\$@"
END
    chmod +x "$work/rustc"
    RUSTC=$work/rustc
    export RUSTC
}

# Debian has that source as a package: of the release the machine runs, or in the backports of the stable one. A
# private list of packages is used, the machine's own stays as it is.
fetch_library() {
    say "fetching rust-src $release"
    command -v apt-get >/dev/null ||
        die "cannot have the source of Rust's library (no apt-get here): rustup component add rust-src"
    apt=$work/apt
    rm -rf "$apt"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/unpacked"
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die "cannot have the source of Rust's library (no Debian mirror set up here): rustup component add rust-src"
    cat >"$apt/backports.sources" <<END
Types: deb
URIs: $mirror
Suites: trixie-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
    set -- -qq -o "Dir::Etc::sourcelist=$apt/backports.sources" -o Dir::Etc::sourceparts=- \
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root
    (
        cd "$apt"
        apt-get download -qq -o APT::Sandbox::User=root "rust-src=$release+*" 2>/dev/null ||
            three_times from_backports "$@"
    ) >"$apt/log" 2>&1 || {
        tail -n 3 "$apt/log" >&2
        die "cannot have the source of Rust $release's library: no such rust-src package; try rustup component add rust-src"
    }
    dpkg -x "$apt"/rust-src_*.deb "$apt/unpacked"
    [ -e "$apt/unpacked/usr/src/rustc-$release/library/Cargo.lock" ] || die 'the package rust-src has no library in it'
    rm -rf "$work/rust-src-$release"
    mv "$apt/unpacked" "$work/rust-src-$release"
    rm -rf "$apt"
}

from_backports() { # OPTIONS OF APT...
    apt-get "$@" update && apt-get "$@" -o Acquire::Retries=3 download "rust-src=$release+*"
}

# The start file and the C library of target $1. zig makes them when it links a program, and says where they are.
# What rustc would link besides them: of the unwinder only the name is needed, see README.md.
make_libraries() {
    libraries=$work/lib-$zig_version-$(cksum <"$here/unwind.c" | cut -d' ' -f1)/$1
    [ ! -e "$libraries/done" ] || return 0
    rm -rf "$libraries"
    mkdir -p "$libraries/dynamic" "$libraries/static"
    (
        cd "$libraries"
        export ZIG_GLOBAL_CACHE_DIR="$libraries/cache" ZIG_LOCAL_CACHE_DIR="$libraries/cache" ZIG_VERBOSE_LINK=1
        echo 'int main(void) { return 0; }' >main.c
        for linked in dynamic static; do
            pie=''
            [ $linked = static ] || pie=-pie
            # shellcheck disable=SC2086 # no word when static
            "$zig" cc -target "$zig_target" "-mcpu=$cpu" "-$linked" $pie -Os main.c -o main 2>log || {
                tail -n 5 log >&2
                exit 1
            }
            for word in $(grep '^ld.lld' log | tail -n 1); do
                case $word in
                */crt1.o | */Scrt1.o | */libc.so | */libc.a | */libzigc.a | */libcompiler_rt.a) cp "$word" $linked/ ;;
                esac
            done
        done
        unset ZIG_VERBOSE_LINK
        "$zig" cc -target "$zig_target" "-mcpu=$cpu" -Os -fPIC -ffunction-sections -c "$here/unwind.c" -o unwind.o
        [ -e dynamic/Scrt1.o ] && [ -e dynamic/libc.so ] && [ -e static/crt1.o ] && [ -e static/libc.a ]
        rm -rf cache main.c main log
    ) || die "zig cannot make the C library for $1"
    touch "$libraries/done"
}

# --- the build

# Flags are joined by the character that cargo splits them at, so that paths may have blanks.
flag() { flags=$flags${flags:+$(printf '\037')}$1; }

build() {
    describe "$1"
    make_libraries "$1"
    build=$work/build/$1-$mode-$what
    # cargo does not know that the recipe is an input.
    recipe=$(cat "$here/build.sh" "$here/link.sh" "$here/link.ld" | cksum)
    if [ "$(cat "$build/recipe" 2>/dev/null)" != "$recipe" ]; then
        rm -rf "$build"
        mkdir -p "$build"
        printf '%s\n' "$recipe" >"$build/recipe"
    fi

    flags=''
    flag -Clinker-flavor=ld.lld
    flag -Clink-self-contained=no
    # Without unwinding nobody reads the tables for it.
    flag -Cforce-unwind-tables=no
    # Nothing of this machine in the result.
    flag "--remap-path-prefix=$library=/rust/library"
    flag "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    flag "--remap-path-prefix=$top=/pepsal"
    [ -z "$feature" ] || flag "-Ctarget-feature=$feature"
    # What is left of a panic is a trap: src/sys.rs, `tell_last_words`.
    [ $kind != --bin ] || [ $what = tests ] || { flag -Zunstable-options && flag -Cpanic=immediate-abort; }
    case $mode in
    dynamic) flag -Ctarget-feature=-crt-static && flag -Crelocation-model=pic ;;
    static) flag -Ctarget-feature=+crt-static && flag -Crelocation-model=static ;;
    esac

    linker=CARGO_TARGET_$(printf %s "$1" | tr 'a-z-' 'A-Z_')_LINKER
    export "$linker=$here/link.sh"
    export PEPSAL_ZIG="$zig" PEPSAL_LIBRARIES="$libraries" PEPSAL_MODE="$mode" PEPSAL_EMULATION="$emulation" \
        PEPSAL_ENTRY="$entry" PEPSAL_HASH="$hash" PEPSAL_LOADER="$loader"
    set -- "$1" --quiet --locked --manifest-path "$top/Cargo.toml" --target "$1" --target-dir "$build" \
        $kind "$name"
    target=$1
    shift
    out=$top/target/$target/release/pepsal
    [ $mode = dynamic ] || out=$top/target/$target/static/$file

    # -Z needs this with a stable compiler.
    export RUSTC_BOOTSTRAP=1
    unset RUSTFLAGS
    if [ $what = tests ]; then
        # dev: the daemon, which cargo builds along with the scenarios.
        CARGO_ENCODED_RUSTFLAGS=$flags cargo test "$@" --no-run -Z build-std=std,panic_abort,test \
            -Z panic-abort-tests --config 'profile.dev.panic="abort"' --config 'profile.test.panic="abort"' \
            --config profile.test.debug=false --config profile.test.opt-level=1 --message-format=json-render-diagnostics >"$build/messages"
        result=$(sed -n '/"test":true},"features"/s/.*"executable":"\([^"]*\)".*/\1/p' "$build/messages" | tail -n 1)
    else
        CARGO_ENCODED_RUSTFLAGS=$flags cargo build "$@" --profile openwrt -Z build-std=std,panic_abort \
            -Z build-std-features=optimize_for_size
        case $kind in
        --example) result=$build/$target/openwrt/examples/$name ;;
        *) result=$build/$target/openwrt/$name ;;
        esac
    fi
    [ -x "$result" ] || die "cargo left no program for $target"
    mkdir -p "$(dirname "$out")"
    cp "$result" "$out.new"
    mv "$out.new" "$out"
    printf '%s %s\n' "$(wc -c <"$out")" "${out#"$top"/}"
}

find_zig
find_library
for target in "$@"; do build "$target"; done
