#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# What tests/router-vm/run.sh runs inside the machine: /main PART. Each check prints "test NAME ... ok" or
# "test NAME ... FAILED (why)"; figures are lines that begin with "memory", "slots", "rss" or "cost", for run.sh's tables.
set -u
export PEPSAL_BIN=/pepsal BED_RULES=nft CI=1 RUST_BACKTRACE=0

# What run.sh wants, as assignments: the part, and for it
part='' scenarios='' threads=1 slow=1 # arguments of the scenarios' harness
real_time=''                          # not empty: the clock is not icount's
slots=0 largest=0                     # crowd, slots: of the daemon; kB that it may take when idle
connections=0 kib=0                   # how many connections, KiB of each of their transfers
sizes='' mib=0 transfers=0 rounds=0   # cost: packet sizes, MiB of a transfer, how many; connections of 1 KiB
# shellcheck source=/dev/null
. /settings

failures=0
ok() { printf 'test %s ... ok\n' "$1"; }
failed() { # NAME WHY
    printf 'test %s ... FAILED (%s)\n' "$1" "$2"
    failures=$((failures + 1))
}

# Polls: until COMMAND succeeds, at most SECONDS.
until_true() { # SECONDS COMMAND...
    turns=$(($1 * 10))
    shift
    until "$@"; do
        turns=$((turns - 1))
        [ "$turns" -gt 0 ] || return 1
        sleep 0.1
    done
}

# Where the machine's clock is that of the machine that emulates it: says when it has jumped, because that one had no time for
# this one. A client then repeats its SYN before anybody could answer it.
watch_clock() {
    while :; do
        read -r before _ </proc/uptime
        sleep 0.2
        read -r after _ </proc/uptime
        late=$((${after%.*}${after#*.} - ${before%.*}${before#*.} - 20))
        [ "$late" -lt 50 ] || printf 'stalled for %s0 ms\n' "$late"
    done
}

# --- the network: client 10.77.1.2 -- lan router wan -- server 10.77.3.2, and the same in IPv6 -------------------

link() { # HOST DEVICE NUMBER NET
    ip -n "$1" address add "10.77.$4.$3/24" dev "$2"
    ip -n "$1" address add "fd77:$4::$3/64" dev "$2" nodad
    ip -n "$1" link set "$2" up
}

cable() { # HOST DEVICE HOST DEVICE NET
    ip link add "$2" netns "$1" type veth peer name "$4" netns "$3"
    link "$1" "$2" 1 "$5"
    link "$3" "$4" 2 "$5"
}

network() {
    for host in client router server; do
        ip netns add "$host"
        ip -n "$host" link set lo up
        # Each connection is to begin like the first.
        in_netns "$host" sh -c 'echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save'
    done
    cable router lan client eth 1
    cable router wan server eth 3
    ip -n client route add default via 10.77.1.1
    ip -n server route add default via 10.77.3.1
    # A cable from client to server past the router, to know what the ends themselves cost.
    ip link add past netns client type veth peer name past netns server
    link client past 1 9
    link server past 2 9
    in_netns router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
    in_netns server /load serve 0.0.0.0:7000 2>/tmp/serve &
    until_true 120 listens
}

in_netns() { # HOST COMMAND...
    name=$1
    shift
    ip netns exec "$name" "$@"
}

# Port 7000, as /proc writes it.
# shellcheck disable=SC2317 # until_true calls it
listens() {
    in_netns server grep -q ':1B58 ' /proc/net/tcp
}

masquerade() {
    in_netns router nft -f - <<'END'
table inet outbound {
    chain srcnat {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "wan" masquerade
    }
}
END
}

start_pepsal() { # OPTION...
    in_netns router /pepsal rules --lan lan --wan wan --format nft >/tmp/rules && in_netns router nft -f /tmp/rules || return 1
    # exec: $! is to be the daemon itself.
    (exec ip netns exec router /pepsal run -v "$@" 2>/tmp/pepsal.log) &
    pepsal=$!
    until_true 120 grep -qs ready /tmp/pepsal.log
}

stop_pepsal() {
    kill -9 "$pepsal" 2>/dev/null
    wait "$pepsal" 2>/dev/null
    in_netns router nft delete table inet pepsal
}

stolen_so_far() { in_netns router nft list counter inet seen syns | sed -n 's/.*packets \([0-9]*\).*/\1/p'; }

# SYNs that come in from the TUN device are those that pepsal has stolen.
count_stolen() {
    in_netns router nft -f - <<'END'
table inet seen {
    counter syns {
    }
    chain injected {
        type filter hook prerouting priority -300; policy accept;
        iifname "pepsal0" counter name syns
    }
}
END
}

# VmRSS of status may be some dozen pages behind.
rss() { sed -n 's/^Rss:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$1/smaps_rollup"; }

# --- parts --------------------------------------------------------------------------------------------------------

run_scenarios() {
    export BED_SLOW="$slow"
    # shellcheck disable=SC2086 # words
    /scenarios --test-threads="$threads" $scenarios 2>&1 && return
    # A panic ends a test at once there; what its daemon said lies about.
    for log in /tmp/pep*.log; do
        [ ! -s "$log" ] || { printf -- '--- %s\n' "$log" && tail -n 40 "$log"; }
    done
    return 1
}

# A router with little memory, or with as many slots as there can be: an idle daemon, then connections, of which some
# transfer.
run_crowd() { # PREFIX OF THE FIGURES
    # For the ends: a socket each. The daemon asks for its own.
    # shellcheck disable=SC3045 # the machine's shell has it
    ulimit -n 40000
    network
    masquerade
    # A split connection is two to conntrack, so 512 fill the 1024 entries that the kernel deems right for so little
    # memory; for a router that is too few without pepsal, too. An entry takes a third of a kilobyte, when in use.
    echo $((4 * slots)) >/proc/sys/net/netfilter/nf_conntrack_max
    count_stolen
    start_pepsal -c "$slots" || { cat /tmp/pepsal.log && failed daemon_starts 'see its log' && return; }
    kilobytes=$(rss "$pepsal")
    [ "$1" != memory ] || printf 'rss %s\n' "$kilobytes"
    if [ "$kilobytes" -le "$largest" ]; then
        ok "$1::idle_daemon_with_${slots}_slots"
    else
        failed "$1::idle_daemon_with_${slots}_slots" "$kilobytes kB RSS, at most $largest"
    fi
    if in_netns client /load crowd 10.77.3.2:7000 "$connections" 20 "$kib" "$pepsal" >/tmp/crowd 2>&1; then
        ok "$1::${connections}_connections_20_transfers"
    else
        failed "$1::${connections}_connections_20_transfers" 'see below'
    fi
    sed "s/^memory/$1/" /tmp/crowd
    stolen=$(stolen_so_far)
    # Not one more either: that would be one that was lost and tried again.
    if [ "$stolen" = "$connections" ] && ! grep -E 'did not reach|cannot' /tmp/pepsal.log; then
        ok "$1::each_was_stolen_once"
    else
        failed "$1::each_was_stolen_once" "$stolen of $connections"
    fi
    if dmesg | grep -iE 'out of memory|oom-kill|page allocation failure|segfault|oops|call trace|table full'; then
        failed "$1::kernel_is_content" 'see its messages above'
    else
        ok "$1::kernel_is_content"
    fi
    [ "$failures" = 0 ] || tail -n 100 /tmp/pepsal.log /tmp/serve
}

offload() { # HOST DEVICE SETTING...
    host=$1 device=$2
    shift 2
    in_netns "$host" ethtool -K "$device" "$@" >/dev/null
}

# large: segments as the kernel makes them. nic: what a router's Ethernet devices do: frames of 1500 bytes on the
# wire, merged on their way in (GRO), cut up again on their way out. frames: 1500 bytes everywhere.
packets() { # large|nic|frames
    case $1 in
    large) ends='tso on gso on gro off' router='tso on gso on gro off' ;;
    nic) ends='tso off gso off gro on' router='tso off gso on gro on' ;;
    frames) ends='tso off gso off gro off' router='tso off gso off gro off' ;;
    esac
    for end in client server; do
        for device in eth past; do
            # shellcheck disable=SC2086 # words
            offload "$end" "$device" $ends
        done
    done
    for device in lan wan; do
        # shellcheck disable=SC2086 # words
        offload router "$device" $router
    done
}

bulk_cost() { # PATH ADDRESS
    for size in $sizes; do
        packets "$size"
        for way in up down; do
            spent=$(in_netns client /load bulk "$2:7000" "$mib" "$way" "$transfers" 2>&1)
            printf 'cost %s %s %s %s %s\n' "$size" "$1" "$way" "$mib" "$spent"
        done
    done
}

rate_cost() { # PATH ADDRESS
    packets large
    spent=$(in_netns client /load rate "$2:7000" "$rounds" 2>&1)
    printf 'cost connections %s - 1 %s\n' "$1" "$spent"
}

run_cost() {
    network
    count_stolen
    bulk_cost direct 10.77.9.2
    rate_cost direct 10.77.9.2
    bulk_cost forward 10.77.3.2
    rate_cost forward 10.77.3.2
    masquerade
    bulk_cost masquerade 10.77.3.2
    rate_cost masquerade 10.77.3.2
    for kind in pepsal early copy; do
        options='' expected=$rounds
        [ "$kind" != early ] || options='--handshake early'
        # A daemon without privileges then gets no pipe, and what finds no pipe is copied.
        [ "$kind" != copy ] || echo 1 >/proc/sys/fs/pipe-user-pages-hard
        # shellcheck disable=SC2086 # words
        start_pepsal $options || { cat /tmp/pepsal.log && failed "cost::$kind" 'the daemon does not start' && return; }
        before=$(stolen_so_far)
        # How a connection began makes no difference to its bytes; how they are moved makes none to its beginning.
        if [ "$kind" = early ]; then rate_cost "$kind" 10.77.3.2; else
            bulk_cost "$kind" 10.77.3.2
            expected=$transfers
        fi
        [ "$kind" != pepsal ] || rate_cost "$kind" 10.77.3.2
        stolen=$(($(stolen_so_far) - before))
        if [ "$stolen" -ge "$expected" ]; then ok "cost::${kind}_went_through_pepsal"; else
            failed "cost::${kind}_went_through_pepsal" "only $stolen connections"
        fi
        pipes=$(find "/proc/$pepsal/fd" -type l -exec ls -l {} + | grep -c 'pipe:')
        case $kind,$pipes in
        pepsal,0) failed cost::pepsal_splices 'it has no pipes' ;;
        copy,0) ok cost::copy_does_not_splice ;;
        copy,*) failed cost::copy_does_not_splice "it has $pipes ends of pipes" ;;
        pepsal,*) ok cost::pepsal_splices ;;
        esac
        stop_pepsal
    done
}

code=0
watcher=''
if [ -n "$real_time" ]; then watch_clock & watcher=$!; fi
case $part in
scenarios) run_scenarios || code=$? ;;
crowd) run_crowd memory ;;
slots) run_crowd slots ;;
cost) run_cost ;;
esac
[ "$failures" = 0 ] || code=1
[ -z "$watcher" ] || kill "$watcher"
exit $code
