#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Measures what pepsal gains on satellite links: in an emulated machine with Debian's own kernel, whose clock is the
# number of instructions that it has executed. So how busy this machine is plays no part, and a second of waiting costs
# nothing. No KVM is needed. Two runs with one seed are alike, but not always to the packet.
#
#   tests/satlab/run.sh [--quick] [--only PATTERN[,PATTERN]] [--modes LIST] [--seeds N] [--pepsal 'OPTIONS']
#                       [--pepsal-bin PATH] [--trace] [--out DIR]
#
# --quick        few cases, with bounds; this is what tests/run.sh does
# --only         cases whose name contains a PATTERN: geo-20/5-up-10MB-loss1; geo-; exchange
# --modes        of cubic, bbr (both ends with that, no PEP), terminal, both (pepsal there, the ends with cubic)
# --seeds        runs where chance has a part (3)
# --pepsal       more options for 'pepsal run'
# --pepsal-bin   a static x86_64 binary instead of the one that is built here
# --trace        samples of all sockets (ss -tin) every half second, in DIR/trace; trace.awk picks the satellite's senders
# --out          where the results go (target/satlab): results.csv, results.md, bars.svg, sequence.svg, of which those in
#                tests/satlab are copies. Several commands with one --out add up.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/vm/vm.sh
. tests/vm/vm.sh

quick='' only='' modes='' seeds='' pepsal_options='' pepsal='' trace='' out=target/satlab
usage() {
    sed -n 's/^# *\(--.*\|tests.*\|  *\[--.*\)/\1/p' "$0" >&2
    exit 2
}
command="tests/satlab/run.sh${*:+ $*}"
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=--quick seeds=1 modes=cubic,terminal,both out=target/satlab/quick && shift && continue ;;
    --trace) trace=yes && shift && continue ;;
    --only | --modes | --seeds | --pepsal | --pepsal-bin | --out) [ $# -ge 2 ] || usage ;;
    *) usage ;;
    esac
    case $1 in
    --only) only=$2 ;;
    --modes) modes=$2 ;;
    --seeds) seeds=$2 ;;
    --pepsal) pepsal_options=$2 ;;
    --pepsal-bin) pepsal=$2 ;;
    --out) out=$2 ;;
    esac
    shift 2
done

need_rust && vm_prepare x86_64 || exit 1
target=x86_64-unknown-linux-musl
if [ -z "$pepsal" ]; then
    nice cross/build.sh --static $target >&2 || exit 1
    pepsal=target/$target/static/pepsal
fi
nice cross/build.sh --example satlab $target >&2 || exit 1
satlab=target/$target/static/satlab

work=$(mktemp -d)
workers=''
finish() {
    for worker in $workers; do kill "$worker" 2>/dev/null; done
    # A worker that waits for its machine hears of it when that has ended.
    for file in "$work"/out*/process; do [ ! -e "$file" ] || kill "$(cat "$file")" 2>/dev/null; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# What later jobs take is what the first took.
cp "$pepsal" "$work/pepsal" && cp "$satlab" "$work/satlab" && cp tests/satlab/guest.sh "$work/main" || exit 1

# shellcheck disable=SC2086 # each is one word or none
"$satlab" cases $quick ${only:+--only "$only"} ${modes:+--modes "$modes"} ${seeds:+--seeds "$seeds"} >"$work/runs" || exit 1
jobs=$(tail -n 1 "$work/runs" | cut -d' ' -f1)
printf '%s runs in %s machines\n' "$(wc -l <"$work/runs")" "$jobs" >&2

# One machine: its runs have one seed.
one_job() { # JOB
    files=$work/files$1
    mkdir -p "$files" "$work/out$1"
    awk -v job="$1" '$1 == job { $1 = ""; sub(/^ /, ""); print }' "$work/runs" >"$files/runs"
    cp "$work/pepsal" "$work/satlab" "$work/main" "$files/" || return 1
    printf "pepsal_options='%s' trace='%s'\n" "$pepsal_options" "$trace" >"$files/settings"
    # The same bytes each time take the same number of instructions to unpack.
    find "$files" -exec touch -d @0 {} +
    vm_image x86_64 "$files" "$work/image$1" || return 1
    # Without ERMS the kernel copies eight bytes with an instruction, not one.
    # An instruction takes 1 ns: a router's worth of speed for each of the six hosts, whom one processor plays all.
    # seed: of the machine's random numbers, netem's among them (its kernel has no seed of netem's own).
    vm_run x86_64 "$work/image$1" "$work/out$1" 512 6000 -cpu max,erms=off,fsrm=off -smp 1 -icount shift=0,sleep=off \
        -rtc base=2026-01-01,clock=vm -seed "$(head -n 1 "$files/runs" | cut -d' ' -f1)" >/dev/null
    rm -f "$work/image$1" "$work/out$1/process"
    grep -v '^point\|^trace' "$work/out$1/report" >&2
}

# As many machines as there are processors. Each worker takes the job that comes next.
cores=$(nproc)
worker() { # FIRST
    trap 'exit 1' INT TERM HUP
    job=$1
    while [ "$job" -le "$jobs" ]; do
        one_job "$job"
        job=$((job + cores))
    done
}
number=0
while [ $number -lt "$cores" ] && [ $number -lt "$jobs" ]; do
    number=$((number + 1))
    worker $number &
    workers="$workers $!"
done
for worker in $workers; do wait "$worker"; done
workers=''

# What was measured before stays until it is measured again.
mkdir -p "$out" && touch "$out/rows" "$out/points" || exit 1
cat "$work"/out*/report >"$work/report"
for kind in row point; do
    awk -v kind="$kind" '
        FNR == NR { if ($1 == "row") again[$2, $3, $4]; next }
        $1 == kind && (FILENAME != ARGV[2] || !(($2, $3, $4) in again))
    ' "$work/report" "$out/${kind}s" "$work/report" >"$work/${kind}s" && cp "$work/${kind}s" "$out/${kind}s" || exit 1
done
grep '^trace' "$work/report" >"$out/trace"
printf '%s   # %s\n' "$command" "$(git describe --always --dirty 2>/dev/null)" >>"$out/commands"
"$satlab" report "$out" || exit 1

wanted=$(wc -l <"$work/runs") got=$(grep -c '^row' "$work/report")
printf '%s of %s runs; %s/results.md\n' "$got" "$wanted" "$out" >&2
if [ "$got" != "$wanted" ]; then
    grep '^failed' "$work/report"
    tail -n 20 "$work"/out*/console >&2
    exit 1
fi
[ -z "$quick" ] || "$satlab" report --quick "$out"
