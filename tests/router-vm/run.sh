#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# pepsal on routers that are emulated as a whole: their processors, their memory, a kernel whose netfilter is complete.
# No hardware virtualisation is needed.
#
#   tests/router-vm/run.sh [--parts LIST] [--thorough] [--results FILE] [ARCH...]
#
# ARCH: x86_64, mipsel (these two by default), aarch64, armv7. Parts, each on a machine of its own:
#   scenarios   the tests of tests/scenarios, with the rules as nft queue expressions
#   crowd       64 MB of memory: an idle daemon's size; 512 connections of which 20 transfer; what the kernel needs
#   cost        instructions per MB and per connection, counted by the emulator: with and without pepsal
#   slots       16,384 connections at a time, on x86_64 with 1 GB; not by default
#
# --thorough: every scenario; cost with more sizes of packets and more transfers. Takes much longer.
#
# Ends with "N passed, N failed". Tables go to FILE (target/router-vm/results.md). What cannot be had here is said with
# "skipped: why", and is a failure when the environment variable CI is set.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/vm/vm.sh
. tests/vm/vm.sh

parts=scenarios,crowd,cost results=target/router-vm/results.md sizes='nic large' transfers=5 slowdown=1 all=''
# Instructions per MB through pepsal, in proportion to forwarding with conntrack and masquerading.
most=1.6
command="tests/router-vm/run.sh${*:+ $*}"
while [ $# -gt 0 ]; do
    case $1 in
    --parts) parts=${2-} && shift 2 ;;
    --thorough) sizes='nic large frames' transfers=10 slowdown=6 all=yes && shift ;;
    --results) results=${2-} && shift 2 ;;
    -*)
        sed -n 's/^#   tests/usage: tests/p' "$0" >&2
        exit 2
        ;;
    *) break ;;
    esac || exit 2
done
[ $# -gt 0 ] || set -- x86_64 mipsel

work=$(mktemp -d)
passed=0 failed=0 skipped=0
trap 'vm_end; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

target_of() { # ARCH
    case $1 in
    x86_64 | aarch64 | mipsel) printf '%s-unknown-linux-musl\n' "$1" ;;
    armv7) printf 'armv7-unknown-linux-musleabihf\n' ;;
    *) printf "run.sh: no machine '%s'\n" "$1" >&2 && exit 2 ;;
    esac
}

skip() {
    printf 'skipped: %s\n' "$1"
    skipped=$((skipped + 1))
}

# Daemon, scenarios and traffic for ARCH, linked statically, and the machine to run them on.
build() { # ARCH
    target=$(target_of "$1") || exit 2
    for what in --static '--example load' --scenarios; do
        if [ "$what" = --scenarios ]; then case ,$parts, in *,scenarios,*) ;; *) continue ;; esac fi
        # shellcheck disable=SC2086 # words
        nice cross/build.sh $what "$target" >"$work/build" 2>&1 || {
            tail -n 30 "$work/build" >&2
            skip "cross/build.sh $what $target has failed"
            return 1
        }
    done
    vm_prepare "$1" || { skip "no emulated $1 machine can be made here" && return 1; }
}

# --- what is asked of which machine --------------------------------------------------------------------------------

# Memory in MB, bound in seconds, which is for a machine that hangs; after them qemu's options. Sets settings.
plan() { # ARCH PART
    settings="part=$2"
    # icount: an instruction takes 2 ns, waiting takes none, so the machine's clock counts instructions and a busy host
    # makes no timeout of it. Malta's kernel measures its processor by the real-time clock, which must not be the host's
    # then; counted, it takes many times as long, so only its cost is.
    clock='-icount shift=1,sleep=off -rtc clock=vm'
    case $1,$2 in *,cost) ;; mipsel,*) clock='' settings="$settings real_time=yes" ;; esac
    case $2 in
    scenarios)
        # Both ends and the router at once: with less, two hundred connections take more than the kernel allows TCP
        # (tcp_mem, an eleventh), and it resets them.
        memory=1024 seconds=$((3600 * slowdown)) options="-smp 1 $clock"
        case $1 in
        x86_64 | aarch64) settings="$settings threads=1 slow=4" scenarios=$most_scenarios ;;
        *) memory=256 settings="$settings threads=1 slow=8" scenarios=$few_scenarios ;;
        esac
        [ -z "$all" ] || scenarios=''
        settings="$settings scenarios='$(printf '%s' "$scenarios" | tr '\n' ' ')'"
        ;;
    crowd)
        memory=64 seconds=3600 options="-smp 1 $clock"
        settings="$settings slots=1024 largest=1536 connections=512 kib=2048"
        ;;
    slots)
        memory=1024 seconds=$((3600 * slowdown)) options="-smp 1 $clock"
        settings="$settings slots=16384 largest=6144 connections=16384 kib=256"
        ;;
    cost)
        memory=128 seconds=$((3600 * slowdown)) options="-smp 1 $clock"
        settings="$settings sizes='$sizes' mib=2 transfers=$transfers rounds=100"
        ;;
    *) printf "run.sh: no part '%s'\n" "$2" >&2 && exit 2 ;;
    esac
    # The cloud kernel of Arm and x86 reserves more at boot than Malta's.
    case $1,$2 in x86_64,crowd | aarch64,crowd) memory=128 ;; esac
}

# The bound: the same transfer, all parties together, packets as Ethernet devices make them; tables.awk says why.
cheap_enough() { # ARCH
    awk -v "most=$most" '
        $1 == "cost" && $2 == "nic" && $6 == "busy" { spent[$3, $4] = $7 }
        END {
            split("up down", ways, " ")
            for (i = 1; i <= 2; i++) {
                if (!spent["masquerade", ways[i]] || !spent["pepsal", ways[i]]) exit 1
                ratio = spent["pepsal", ways[i]] / spent["masquerade", ways[i]]
                if (ratio > worst) worst = ratio
            }
            bad = worst > most
            printf "test cost::at_most_%s_times_forwarding_with_masquerade ... %s\n", most, bad ? "FAILED (" worst ")" : "ok"
            exit bad
        }
    ' "target/router-vm/$1-cost/report"
}

# One of each kind that the kernel has a part in, and in turn IPv4 and IPv6, deferred and early: every instruction is
# emulated, and what all the others show, they show in the namespaces of tests/run.sh.
most_scenarios='bulk::up_and_down::v4_deferred bulk::up_and_down::v6_early bulk::both_directions_at_once::v6_deferred
bulk::both_directions_at_once::v4_early bulk::many_connections::v4_deferred bulk::many_connections::v6_early
bulk::server_speaks_first::v4_early firewall::exclusions::v6 firewall::guest_zone::v4_deferred
firewall::rules_loaded_twice firewall::strict_reverse_path_filter::v4 firewall::translated_destination::v6_early
firewall::what_is_dropped_stays_dropped::v4_deferred half_close::client_ends_first::v6_deferred
handshake::client_with_ecn::v4_early handshake::repeated_while_queued::v6_deferred limits::most_slots
limits::slots_full::v4_deferred limits::slots_full::v6_early marks::mark::v6_deferred marks::masquerade::v4_early
refusal::closed_port::v4_deferred refusal::closed_port::v6_early refusal::deferred_unreachable
reset::amid_a_transfer::v4_early restart::killed::v4_deferred restart::killed::v6_early
same_port::three_servers_at_once::v4 satellite::best_congestion transparent::server_sees_the_client::v6_deferred
transparent::server_sees_the_client::v4_early'
few_scenarios='bulk::up_and_down bulk::both_directions_at_once::v4_deferred bulk::both_directions_at_once::v6_early
limits::most_slots limits::slots_full::v4_deferred limits::slots_full::v6_early refusal::closed_port::v6_deferred
refusal::closed_port::v4_early restart::killed::v4_deferred restart::killed::v6_early'

one_part() { # ARCH PART
    plan "$1" "$2"
    printf '\n--- %s: %s\n' "$1" "$2"
    static=target/$(target_of "$1")/static
    rm -rf "$work/files"
    mkdir -p "$work/files"
    cp tests/router-vm/guest.sh "$work/files/main"
    cp "$static/pepsal" "$static/load" "$work/files/"
    [ "$2" != scenarios ] || cp "$static/scenarios" "$work/files/"
    printf '%s\n' "$settings" >"$work/files/settings"
    vm_image "$1" "$work/files" "$work/image" || return 1
    out=target/router-vm/$1-$2
    began=$(date +%s)
    # What failed while this machine stood still is no verdict.
    for turn in 1 2 3; do
        code=0
        # shellcheck disable=SC2086 # words
        vm_run "$1" "$work/image" "$out" "$memory" "$seconds" $options || code=$?
        if [ "$code" = 0 ] || [ $turn = 3 ] || ! grep -q '^stalled for ' "$out/report"; then break; fi
        printf -- '--- %s: %s: again\n' "$1" "$2"
    done
    good=$(grep -c '^test .* \.\.\. ok$' "$out/report")
    bad=$(grep -c '^test .* \.\.\. FAILED' "$out/report")
    # Whatever ended the machine early is a failure, even if no test had the time to say so.
    [ "$code" = 0 ] || [ "$bad" -gt 0 ] || bad=1
    [ "$((good + bad))" -gt 0 ] || bad=1
    if [ "$2" = cost ] && ! cheap_enough "$1"; then bad=$((bad + 1)); elif [ "$2" = cost ]; then good=$((good + 1)); fi
    passed=$((passed + good)) failed=$((failed + bad))
    if [ "$bad" -gt 0 ]; then
        printf -- '--- end of the console of %s: %s (exit code %s)\n' "$1" "$2" "$code"
        tail -n 40 "$out/console"
    fi
    printf -- '--- %s: %s: %s passed, %s failed in %s s\n' "$1" "$2" "$good" "$bad" $(($(date +%s) - began))
}

for arch in "$@"; do
    build "$arch" || continue
    for part in $(printf '%s\n' "$parts" | tr , ' '); do
        # Elsewhere there is no machine with as much memory as quick.
        if [ "$part" != slots ] || [ "$arch" = x86_64 ]; then one_part "$arch" "$part"; fi
    done
done
[ -z "${CI-}" ] || failed=$((failed + skipped))

mkdir -p "$(dirname "$results")"
for arch in "$@"; do
    for part in crowd slots cost; do
        if [ -s "target/router-vm/$arch-$part/report" ]; then sed "s/^/$arch /" "target/router-vm/$arch-$part/report"; fi
    done
done | awk -v command="$command" -v "most=$most" -f tests/router-vm/tables.awk >"$results"
printf '\n'
cat "$results"
printf '\n%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
