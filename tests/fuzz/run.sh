#!/bin/sh
# Fuzzes what reads hostile or foreign bytes (fuzz.rs says what has to hold), two targets at a time, from the inputs under
# corpus/. Fails on a crash and prints the input. What is found on the way is kept under target/fuzz/found.
#
#   tests/fuzz/run.sh [SECONDS [TARGET...]]     each target for so long (120); all of them
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/setup.sh
. tests/setup.sh

seconds=${1:-120}
[ $# = 0 ] || shift
all='syn queue handover netlink arguments control screen'
targets=${*:-$all}
host=$(uname -m)-unknown-linux-gnu
out=target/fuzz
programs=$out/$host/release

need g++ g++ || exit 1
need_rust || exit 1

# The same libraries as in the program.
packages() { sed -n '/^name = /{N; s/name = \(.*\)\nversion = \(.*\)/\1 \2/p;}' "$1" | sort; }
mkdir -p $out
packages Cargo.lock | grep -v '^"pepsal" ' >$out/packages
packages tests/fuzz/Cargo.lock | comm -23 $out/packages - >$out/other
if [ -s $out/other ]; then
    printf 'tests/fuzz/Cargo.lock has other versions of these:\n' >&2
    cat $out/other >&2
    exit 1
fi

# What cargo-fuzz gives the compiler, without its sanitizers: they want an unstable compiler, and nothing here is unsafe.
passes='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-trace-compares'
counters='-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table'
RUSTFLAGS="--cfg fuzzing $passes $counters -Ccodegen-units=1" CARGO_TARGET_DIR=$out cargo build --quiet --locked \
    --release --manifest-path tests/fuzz/Cargo.toml --target "$host" || exit 1

fuzz() { # TARGET
    mkdir -p "$out/found/$1"
    "$programs/$1" "-max_total_time=$seconds" -max_len=4096 -timeout=120 -rss_limit_mb=1024 -print_final_stats=1 \
        "-artifact_prefix=$out/$1-" "$out/found/$1" "tests/fuzz/corpus/$1" >"$out/$1.log" 2>&1
}

report() { # TARGET EXIT_CODE
    if [ "$2" = 0 ]; then
        runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$out/$1.log")
        edges=$(sed -n 's/^#.* cov: \([0-9]*\) .*/\1/p' "$out/$1.log" | tail -n 1)
        printf '%s: %s executions, %s edges, no crash\n' "$1" "$runs" "$edges"
        return 0
    fi
    printf '%s: CRASHED\n' "$1"
    grep -A 12 -E 'panicked|ERROR: libFuzzer' "$out/$1.log" | head -n 30
    grep -E '^(Base64|artifact_prefix)' "$out/$1.log"
    return 1
}

failed=0
# shellcheck disable=SC2086 # words
set -- $targets
while [ $# -gt 0 ]; do
    first=$1 second=${2:-}
    fuzz "$first" &
    process=$!
    code=0
    [ -z "$second" ] || { fuzz "$second" || code=$?; }
    first_code=0
    wait $process || first_code=$?
    report "$first" $first_code || failed=1
    [ -z "$second" ] || report "$second" $code || failed=1
    shift
    [ $# = 0 ] || shift
done
exit $failed
