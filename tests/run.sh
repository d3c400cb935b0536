#!/bin/sh
# All tests of the project; README.md names this command. As root on a Debian machine, which may be new: what is
# missing is installed. Ends with "N passed, N failed" (steps; each step prints its own tests above).
#
#   tests/run.sh          everything
#   tests/run.sh quick    what needs no emulated machine and no cross build: a few minutes
#   tests/run.sh STEP...  only these steps
set -u
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tests/setup.sh
. tests/setup.sh

quick='format lint shell dependencies unit scenarios allocations package luci'
# The package's sizes want the cross builds.
all='format lint shell dependencies unit scenarios fade allocations sanitizer fuzz cross package package_router router_vm satlab luci soak demo'

step_format() { cargo fmt --all --check; }
step_lint() {
    cargo clippy --quiet --locked --all-targets --all-features -- -D warnings || return 1
    # The fuzz targets have the program for a library. Nothing is linked here, so the fuzzer itself need not be compiled.
    RUSTFLAGS='--cfg fuzzing' CUSTOM_LIBFUZZER_PATH=/nowhere/libFuzzer.a CARGO_TARGET_DIR=target/fuzz/lint \
        cargo clippy --quiet --locked --manifest-path tests/fuzz/Cargo.toml -- -D warnings
}
step_shell() {
    # Every file whose first line says that it is a shell script, or that shell scripts source it.
    git ls-files | while read -r file; do
        ! head -n 1 "$file" | grep -qE '^#!/bin/(sh|bash)|^# shellcheck shell=' || printf '%s\n' "$file"
    done | xargs shellcheck -x
}
step_dependencies() { tests/dependencies.sh; }
step_unit() { cargo test --quiet --locked --bins --examples; }
step_scenarios() { cargo test --locked --test scenarios -- --test-threads=2; }
# A rain fade of a minute, and the minute that TCP may wait after it.
step_fade() { cargo test --locked --test scenarios -- --ignored; }
# A daemon of its own that counts, so that the one under target/ stays what users build.
step_allocations() {
    cargo test --locked --target-dir target/allocations --features count-allocations --test scenarios allocations
}
# Unit tests and scenarios under AddressSanitizer: three minutes.
step_sanitizer() { tests/sanitizer.sh; }
# What reads foreign bytes, two minutes for each reader: eight minutes.
step_fuzz() { tests/fuzz/run.sh; }
step_package() { tests/package/run.sh; }
# The same on an emulated router with the real nft queue: a minute.
step_package_router() { tests/package/router.sh; }
# Scenarios, memory and cost on emulated routers, x86 and MIPS.
step_router_vm() { tests/router-vm/run.sh; }
# What pepsal gains on a satellite link, in an emulated machine: three minutes.
step_satlab() { tests/satlab/run.sh --quick; }
step_luci() { tests/luci/run.sh; }
# Real programs through pepsal for three minutes, from a seed that it prints, and then until all of them have ended.
step_soak() { tests/soak.sh --minutes 3; }
step_demo() { tests/demo.sh --quick; }
step_cross() { tests/cross.sh; }

case ${1:-all} in
all) steps=$all ;;
quick) steps=$quick ;;
*) steps=$* ;;
esac
for step in $steps; do
    case " $all " in
    *" $step "*) ;;
    *) printf "run.sh: no step '%s'; there are: %s\n" "$step" "$all" >&2 && exit 2 ;;
    esac
done

[ "$(id -u)" = 0 ] || printf 'run.sh: not root: tests that need network namespaces will be skipped\n' >&2
need git git ip iproute2 iptables-restore iptables nft nftables shellcheck shellcheck || exit 1
need_rust || exit 1

passed=0 failed='' failures=0
for step in $steps; do
    printf '\n=== %s\n' "$step"
    began=$(date +%s)
    if "step_$step" </dev/null; then
        passed=$((passed + 1))
        printf '=== %s: passed in %s s\n' "$step" $(($(date +%s) - began))
    else
        failures=$((failures + 1)) failed="$failed $step"
        printf '=== %s: FAILED\n' "$step"
    fi
done
[ -z "$failed" ] || printf '\nfailed:%s\n' "$failed"
printf '\n%s passed, %s failed\n' "$passed" "$failures"
[ "$failures" = 0 ]
