#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# tests/cross.sh [TARGET...]
#
# Builds pepsal for every kind of router and shows that the programs are what a router can run: size, kind of ELF file,
# float ABI, loader, libraries asked for. Then runs them, and the unit tests built for the target, on an emulated CPU
# (qemu-user): MIPS big-endian and little-endian, ARM, ARM64. Ends with "N passed, N failed".
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 1
. tests/setup.sh

targets='mips-unknown-linux-musl mipsel-unknown-linux-musl armv7-unknown-linux-musleabihf aarch64-unknown-linux-musl x86_64-unknown-linux-musl'
[ $# -eq 0 ] || targets=$*
# A program that hangs under the emulator ends here.
limit=1800

need readelf binutils strings binutils || exit 1
if ! command -v qemu-mips-static >/dev/null && ! command -v qemu-mips >/dev/null; then
    need qemu-mips-static qemu-user-static || exit 1
fi

passed=0 failed=0
ok() { printf 'ok: %s\n' "$1" && passed=$((passed + 1)); }
not_ok() { printf 'FAILED: %s\n' "$1" && failed=$((failed + 1)); }
# check NAME COMMAND...: the command's output is shown only when it fails.
check() {
    name="$target: $1"
    shift
    if said=$("$@" 2>&1); then
        ok "$name"
    else
        not_ok "$name"
        printf '%s\n' "$said" | tail -n 20 | sed 's/^/    /'
    fi
}

# What a router of this kind has room for and can load: the issue's budgets, and OpenWrt's names.
describe() {
    flags=''
    case $1 in
    mips-*) most=350000 cpu=mips class=ELF32 bytes='big endian' machine=MIPS loader=mips-sf flags=mips32r2 ;;
    mipsel-*) most=350000 cpu=mipsel class=ELF32 bytes='little endian' machine=MIPS loader=mipsel-sf flags=mips32r2 ;;
    armv7-*) most=280000 cpu=arm class=ELF32 bytes='little endian' machine=ARM loader=armhf flags='hard-float ABI' ;;
    aarch64-*) most=280000 cpu=aarch64 class=ELF64 bytes='little endian' machine=AArch64 loader=aarch64 ;;
    x86_64-*) most=350000 cpu=x86_64 class=ELF64 bytes='little endian' machine=X86-64 loader=x86_64 ;;
    esac
    qemu=qemu-$cpu-static
    command -v "$qemu" >/dev/null || qemu=qemu-$cpu
}

within() { [ "$1" -le "$2" ] || { echo "$1 bytes, budget $2" && false; }; }

# has FILE READELF-OPTION TEXT...: every text is in readelf's answer.
has() {
    file=$1 answer=$(readelf -W "$2" "$1")
    shift 2
    for text in "$@"; do
        printf '%s\n' "$answer" | grep -qF -- "$text" || {
            printf "no '%s' in %s:\n%s\n" "$text" "$file" "$answer"
            return 1
        }
    done
}

# Soft float on MIPS, VFP registers for arguments on ARM: another ABI than the router's musl would load and then
# compute nonsense.
float_abi() {
    case $target in
    mips*) has "$program" -A 'Soft float' ;;
    armv7*) has "$program" -A 'VFP registers' && ! has "$program" -A 'NEONv' >/dev/null ;;
    esac
}

only_libc() {
    needed=$(readelf -dW "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    [ "$needed" = libc.so ] || { printf 'asks for: %s\n' "$needed" && false; }
}

# A relocation of code would need pages that are writable and executable; a jail refuses them.
no_text_relocations() { ! has "$program" -d TEXTREL >/dev/null; }

no_paths() {
    ! strings -n 6 "$1" | grep -F -e "$PWD" -e "${CARGO_HOME:-$HOME/.cargo}" -e "$HOME/"
}

stripped() { ! readelf -SW "$program" | grep -E '\.(symtab|pdr|comment|debug_[a-z]+)\b'; }

emulated() { timeout "$limit" "$qemu" -L "target/cross/root/$target" "$@"; }

help_is_shown() { emulated "$program" --help | grep -q '^Usage: pepsal' && emulated "$program" run --help | grep -q -e '--handshake'; }

# The rules are the same text whatever CPU writes them.
rules_are_the_same() {
    for format in nft iptables ip6tables; do
        set -- rules --lan lo --wan lo --format $format --exclude-port 22,8000-8010 --exclude-server 192.0.2.0/24
        emulated "$program" "$@" >"$scratch/there" && "$here" "$@" >"$scratch/here" &&
            cmp "$scratch/there" "$scratch/here" || return 1
    done
}

# Threads, signals and the queue's netlink socket are reached: without privileges or kernel support it ends with a
# message and exit code 1, not with a signal.
fails_with_a_message() {
    emulated "$program" run -v --device pepsal-none >"$scratch/said" 2>&1
    code=$?
    if [ $code != 1 ] || ! grep -q '^pepsal: cannot ' "$scratch/said"; then
        echo "exit code $code" && cat "$scratch/said" && return 1
    fi
}

unit_tests() {
    # One test after the other in one process: a child would need the emulator's name, and no binary here unwinds.
    RUSTC_BOOTSTRAP=1 timeout "$limit" "$qemu" "target/$target/static/unit-tests" \
        -Z unstable-options --force-run-in-process --test-threads=1 >"$scratch/tests" 2>&1 ||
        { cat "$scratch/tests" && return 1; }
    grep '^test result' "$scratch/tests"
}

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
cargo build --quiet --locked --bin pepsal || exit 1
here=$PWD/${CARGO_TARGET_DIR:-target}/debug/pepsal
[ -x "$here" ] || here=${CARGO_TARGET_DIR:-target}/debug/pepsal

for target in $targets; do
    describe "$target"
    program=target/$target/release/pepsal
    rm -f "$program"
    check 'builds' cross/build.sh "$target"
    [ -x "$program" ] || continue
    size=$(wc -c <"$program")
    check "$size bytes are within the budget of $most" within "$size" "$most"
    check 'is an ELF file for this CPU' has "$program" -h "$class" "$bytes" "$machine" 'DYN (' "$flags"
    check 'has the float ABI of OpenWrt' float_abi
    check 'asks for the loader of OpenWrt' has "$program" -l "interpreter: /lib/ld-musl-$loader.so.1]"
    check 'asks for no library but libc' only_libc
    check 'has no relocations in code' no_text_relocations
    check 'has nothing left to strip' stripped
    check 'names no directory of this machine' no_paths "$program"
    check "musl for qemu-user" cross/musl.sh "$target"
    check '--help' help_is_shown
    check 'rules' rules_are_the_same
    check 'run without what it needs' fails_with_a_message
    # The machine's own kind has its unit tests elsewhere.
    [ "$cpu" != x86_64 ] || continue
    check 'unit tests build' cross/build.sh --unit-tests "$target"
    check 'unit tests' unit_tests
done

printf '\n%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
