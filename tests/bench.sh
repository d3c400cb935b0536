#!/bin/sh
# Measures what pepsal costs a router, next to what could be used instead: plain forwarding, forwarding with
# masquerade, HAProxy, v2ray. All take part in every round, one after the other for each line of the table, so that
# ratios compare what was measured within seconds on the same machine. tests/bench/peers.sh has the set-up,
# tests/bench/main.rs the traffic and the report.
#
# Everything that can be changed from here is inside namespaces of its own, which go when the script ends, however it
# ends. Packages that are missing are installed; their services are not started.

set -eu

usage() {
    cat <<'END'
usage: tests/bench.sh [options]          (as root; about a quarter of an hour)

  --rounds N            rounds in which every peer takes its turn        (5)
  --ms N                milliseconds of one measurement                  (1000)
  --peers LIST          some of forward,masquerade,haproxy,v2ray,pepsal  (all)
  --also NAME=PROGRAM   another build of pepsal as another peer; may be repeated
  --lines LIST          some of large,MTU,trips,rate,hold,slots,calls    (all)
  --nice N              priority of all that is measured, on a machine that has other work (0, as started)
  --slack FACTOR        fail if a bound is missed by more than this factor
  --quick               fewer lines and rounds, --slack 4: under two minutes, for continuous integration
  --out DIR             where results.md and results.csv go              (target/bench)
  --help                this text

Exit code: 0 if every byte was right, pepsal made no more system calls for a connection than tests/bench/calls allows,
and no bound was missed by more than --slack; 1 if not, 2 for wrong usage.
END
}

die() {
    printf 'bench: %s\n' "$1" >&2
    exit "${2:-1}"
}

cd "$(dirname "$0")/.."
# shellcheck source=tests/setup.sh
. tests/setup.sh

# --- options ----------------------------------------------------------------------------------------------------

command="tests/bench.sh${*:+ $*}"
rounds=5 ms=1000 peers=forward,masquerade,haproxy,v2ray,pepsal also='' lines=large,MTU,trips,rate,hold,slots,calls
slack='' out=target/bench quick='' nice=0
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --quick)
        quick=1 rounds=3 ms=500 peers=forward,haproxy,v2ray,pepsal lines=large,MTU,trips,rate,hold,calls slack=4
        shift
        continue
        ;;
    --rounds | --ms | --peers | --also | --lines | --nice | --slack | --out) ;;
    *) die "unknown option '$1'; see --help" 2 ;;
    esac
    case $1 in
    --rounds | --ms) pattern='^[1-9][0-9]{0,5}$' ;;
    --nice) pattern='^-?[0-9]{1,2}$' ;;
    --slack) pattern='^[1-9][0-9]*([.][0-9]+)?$' ;;
    --peers) pattern='^(forward|masquerade|haproxy|v2ray|pepsal)(,(forward|masquerade|haproxy|v2ray|pepsal))*$' ;;
    --lines) pattern='^(large|MTU|trips|rate|hold|slots|calls)(,(large|MTU|trips|rate|hold|slots|calls))*$' ;;
    --also) pattern='^[a-z0-9]{1,12}=[^ ]+$' ;;
    --out) pattern='.' ;;
    esac
    check_value "$pattern" "$@"
    case $1 in
    --also) also="$also $2" ;;
    *) eval "${1#--}=\$2" ;;
    esac
    shift 2
done
wants() { # LINE
    case ,$lines, in *,"$1",*) ;; *) return 1 ;; esac
}

[ "$(id -u)" = 0 ] || die 'run this as root: it makes network namespaces'

# --- beginning and end ------------------------------------------------------------------------------------------

work=$(mktemp -d)
run=pepbench$$
started='' all_peers='' log=$work/log

begin() { # COMMAND...
    "$@" >>"$log" 2>&1 &
    begun=$!
    started="$started $begun"
}

# shellcheck disable=SC2317 # called by the trap
clean_up() {
    # shellcheck disable=SC2086 # one word per process
    [ -z "$started" ] || kill $started 2>/dev/null || true
    for process in $started; do end "$process"; done
    for peer in $all_peers; do
        for role in client router server; do
            if [ -e "/run/netns/$(name "$role" "$peer")" ]; then ip netns del "$(name "$role" "$peer")"; fi
        done
    done
    rm -rf "$work"
}
clean_up_at_the_end

# --- what it needs, the build -----------------------------------------------------------------------------------

set -- ip iproute2 iptables-restore iptables ethtool ethtool
case ,$peers, in *,haproxy,*) set -- "$@" haproxy haproxy ;; esac
case ,$peers, in *,v2ray,*) set -- "$@" v2ray v2ray ;; esac
if wants calls; then set -- "$@" strace strace; fi
need "$@" || die 'cannot go on without these'
need_rust || die 'cannot build without Rust'
cargo build --release --locked --bin pepsal --example bench || die 'the build failed'
pepsal=${CARGO_TARGET_DIR:-target}/release/pepsal
bench=${CARGO_TARGET_DIR:-target}/release/examples/bench
# shellcheck source=tests/bench/peers.sh
. tests/bench/peers.sh

# The build is done; all that starts from here inherits it.
[ "$nice" = 0 ] || renice -n "$nice" -p $$ >/dev/null || die "cannot change the priority to $nice"

# --- measurements -----------------------------------------------------------------------------------------------

mkdir -p "$out"
# Every single measurement, for those who want to look closer.
rows=${CARGO_TARGET_DIR:-target}/bench-rows.csv
: >"$rows"

show() {
    if [ -t 2 ]; then printf '\r\033[K%s' "$1" >&2; fi
}

# One measurement of one peer; its rows are appended. What another proxy does wrong is written down and measured anew
# once; what pepsal does wrong ends the run.
measure() { # ROUND PEER LINE COMMAND...
    round=$1 peer=$2 line=$3
    shift 3
    show "round $round: $line: $peer"
    read -r served_by proxy <"$work/$peer.pids"
    with_proxy=''
    [ "$proxy" = none ] || with_proxy="--proxy $proxy"
    for attempt in first last; do
        # shellcheck disable=SC2086 # two words or none
        timeout 120 ip netns exec "$(name client "$peer")" "$bench" --tag "$round,$peer,$line" $with_proxy \
            --server-process "$served_by" "$@" >"$work/measured" 2>"$work/fault" && break
        show ''
        printf '%s through %s, round %s: %s\n' "$line" "$peer" "$round" "$(tail -n 1 "$work/fault")" |
            tee -a "$work/faults" >&2
        case $peer in
        haproxy | v2ray) [ $attempt = first ] || return 0 ;;
        *)
            cat "$work/server-$peer.log" >&2
            tail -n 5 "$work/$peer.log" >&2
            exit 1
            ;;
        esac
    done
    cat "$work/measured" >>"$rows"
}

# Every peer in turn.
everyone() { # ROUND LINE COMMAND...
    at=$1 of=$2
    shift 2
    for each in $order; do measure "$at" "$each" "$of" "$@"; done
}

# Each round begins with another peer: who comes first finds other caches and clocks than who comes last.
rotate() {
    # shellcheck disable=SC2086 # one word per peer
    set -- $order
    first=$1
    shift
    order="$*${*:+ }$first"
}

bulk() { # ROUND large|MTU
    for each in $order; do packets "$each" "$2"; done
    for flows in 1 16; do
        for way in $ways; do
            everyone "$1" "bulk $2 $flows $way" bulk --flows $flows --way "$way" --ms "$ms"
        done
    done
    [ "$2" = large ] || for each in $order; do packets "$each" large; done
}

one_round() { # ROUND
    if wants large; then bulk "$1" large; fi
    if wants MTU; then bulk "$1" MTU; fi
    for connections in 1 16; do
        if wants trips; then everyone "$1" "trips $connections" trips --connections $connections --ms "$ms"; fi
        if wants rate; then everyone "$1" "rate $connections" rate --parallel $connections --ms "$ms"; fi
    done
    if wants hold; then everyone "$1" 'hold ' hold --steps "$steps" --ms "$ms"; fi
}

# How many system calls the proxy makes, by strace, for the only purpose of counting them.
count_calls() { # PEER LINE UNIT COMMAND...
    peer=$1 line=$2 unit=$3
    shift 3
    read -r served_by proxy <"$work/$peer.pids"
    [ "$proxy" != none ] || return 0
    show "system calls: $line: $peer"
    log=$work/log
    begin strace -c -f -p "$proxy" -o "$work/calls"
    tracer=$begun
    turns=50
    while grep -q '^TracerPid:[[:space:]]*0$' /proc/"$proxy"/task/*/status; do
        turns=$((turns - 1))
        [ $turns -gt 0 ] || die 'strace does not attach'
        sleep 0.1
    done
    timeout 120 ip netns exec "$(name client "$peer")" "$bench" --tag "0,$peer,$line" "$@" >"$work/counted" ||
        die "$line through $peer failed under strace"
    kill -INT "$tracer"
    wait "$tracer" || true
    # "megabytes" or "connections" of the traffic, "calls" of strace's last line.
    units=$(sed -n "s/.*,$unit,//p" "$work/counted")
    calls=$(awk '$NF == "total" { print $4 }' "$work/calls")
    case $unit in
    megabytes) metric=calls_mb ;;
    connections) metric=calls_connection ;;
    esac
    awk "BEGIN { printf \"1,$peer,$line,$metric,%f\n\", $calls / $units }" >>"$rows"
    [ "$peer,$unit" != pepsal,connections ] || explain_calls "$units"
}

# Every call with the reason for it. One that is made more often than tests/bench/calls allows, or that has no reason
# there, is written down as a fault of pepsal.
explain_calls() { # CONNECTIONS
    awk -v units="$1" -v too_many="$work/too-many-calls" '
        FNR == NR && /^[a-z]/ {
            most[$1] = $2
            why = $0
            sub(/^[^ ]+ +[^ ]+ +/, "", why)
            reason[$1] = why
        }
        FNR == NR || $4 !~ /^[0-9]+$/ { next }
        # What the daemon does once a second is no part of a connection.
        $4 / units < 0.05 || $NF == "total" { next }
        {
            name = $NF
            each = $4 / units
            printf "| %s | %.2f | %s | %s |\n", name, each, most[name], reason[name]
            if (each > most[name] + 0) printf "%s: %.2f for one connection, at most %s\n", name, each, most[name] + 0 >too_many
        }
    ' tests/bench/calls "$work/calls" >"$work/calls-of-pepsal"
}

# What a fresh pepsal takes as routers get it, where this machine can build that: small, with musl. Linked statically,
# so that all of it counts, also what a router's programs share.
router_build() {
    target=$(uname -m)-unknown-linux-musl
    show 'building as for routers'
    cross/build.sh --static "$target" >>"$work/cross" 2>&1 || {
        printf 'slots: no build for routers, because cross/build.sh --static %s failed: %s\n' "$target" \
            "$(tail -n 1 "$work/cross")" | tee -a "$work/faults" >&2
        return 1
    }
    router_pepsal=target/$target/static/pepsal
}

# A pepsal that has never seen a connection, with few and with many slots; and all of the many in use.
slots() {
    all_peers="$all_peers slots"
    make_machines slots
    log=$work/server-slots.log
    begin ip netns exec "$(name server slots)" "$bench" serve
    log=$work/slots.log
    # Two descriptors each, and some; where no more are allowed, fewer slots.
    most=16384
    # shellcheck disable=SC3045 # -n is not in POSIX, but in every shell of Debian
    descriptors=$(ulimit -n)
    [ "$descriptors" = unlimited ] || [ "$descriptors" -ge 34000 ] || most=$(((descriptors - 1000) / 2))
    if router_build; then
        for capacity in 1024 $most; do
            show "slots: $capacity, as routers get it"
            start_pepsal slots "$router_pepsal" "$capacity"
            "$bench" --tag "1,pepsal,slots free (musl) $capacity" --proxy "$begun" memory >>"$rows"
            end_slots "$begun"
        done
    fi
    for capacity in 1024 $most; do
        show "slots: $capacity"
        start_pepsal slots "$pepsal" "$capacity"
        fresh=$begun
        "$bench" --tag "1,pepsal,slots free $capacity" --proxy "$fresh" memory >>"$rows"
        if [ "$capacity" = "$most" ]; then
            timeout 120 ip netns exec "$(name client slots)" "$bench" --tag '1,pepsal,slots used ' --proxy "$fresh" \
                hold --steps "$capacity" --ms 0 >>"$rows" || die "pepsal does not hold $capacity connections"
        fi
        end_slots "$fresh"
    done
}

end_slots() { # PROCESS
    end "$1"
    ip netns exec "$(name router slots)" iptables -t nat -F
    ip netns exec "$(name router slots)" iptables -t security -F
}

# --- the run ----------------------------------------------------------------------------------------------------

ways='up down' steps=10,1000,4000
[ -z "$quick" ] || ways=down steps=10,1000
for peer in $(printf '%s\n' "$peers" | tr , ' ') $also; do
    all_peers="$all_peers ${peer%%=*}"
    case $peer in
    *=*) start_peer "${peer%%=*}" "${peer#*=}" ;;
    *) start_peer "$peer" ;;
    esac
done
order=$all_peers
for each in $order; do packets "$each" large; done

number=0
while [ $number -lt "$rounds" ]; do
    number=$((number + 1))
    one_round $number
    rotate
done
if wants calls; then
    [ -z "$quick" ] || order=pepsal
    for each in $order; do
        if [ -n "$quick" ]; then
            count_calls "$each" 'rate 16' connections rate --parallel 16 --ms 500
            continue
        fi
        count_calls "$each" 'bulk large 1 down' megabytes bulk --flows 1 --way down --ms 1000
        count_calls "$each" 'bulk large 16 down' megabytes bulk --flows 16 --way down --ms 1000
        count_calls "$each" 'rate 16' connections rate --parallel 16 --ms 1000
    done
fi
if wants slots; then slots; fi
show ''

{
    printf '# What pepsal costs a router\n\n'
    # shellcheck disable=SC2016 # Markdown
    printf 'Made by `%s` with %s rounds, on %s.\n' "$command" "$rounds" "$(date -u +%Y-%m-%d)"
    printf '%s cores (%s), Linux %s' "$(nproc)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(uname -r)"
    if command -v haproxy >/dev/null; then printf ', HAProxy %s' "$(haproxy -v | sed -n '1s/HAProxy version \([^ ]*\).*/\1/p')"; fi
    if command -v v2ray >/dev/null; then printf ', V2Ray %s' "$(v2ray -version | sed -n '1s/V2Ray \([^ ]*\).*/\1/p')"; fi
    cat <<'END'
.

Median of the rounds, lowest and highest in brackets; a ratio is the median of the rounds' ratios. `large`: segments as
the kernel makes them (TSO and GSO on); `MTU`: no packet larger than 1500 bytes anywhere. `bulk`: number of flows, and
up (from the client) or down. `trips`: 64 bytes there and back on standing connections. `rate`: connections one after
the other, or 16 at a time, each with 1 KiB there and back. `hold`: that many idle connections, and one with round trips.
Every byte was compared. CPU of all parties: client, router, proxy, server. All with cubic, IPv4.
END
    if [ -s "$work/faults" ]; then
        printf '\nMeasurements that failed, and were made anew once:\n\n'
        sed 's/^/- /' "$work/faults"
    fi
} >"$work/heading"
result=0
"$bench" report --rows "$rows" --heading "$work/heading" --markdown "$out/results.md" --csv "$out/results.csv" \
    ${slack:+--slack "$slack"} || result=1
if [ -s "$work/calls-of-pepsal" ]; then
    {
        printf '\n## System calls of pepsal for one connection\n\n'
        # shellcheck disable=SC2016 # Markdown
        printf 'On the line `rate 16`; more than allowed, or a call without a reason in tests/bench/calls, fails.\n\n'
        printf '| call | per connection | at most | why |\n|---|---:|---:|---|\n'
        cat "$work/calls-of-pepsal"
    } | tee -a "$out/results.md"
fi
if [ -s "$work/too-many-calls" ]; then
    sed 's/^/bench: /' "$work/too-many-calls" >&2
    result=1
fi
exit $result
