#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# What tests/satlab/run.sh runs inside the machine: the runs that /runs lists, one after the other.
#
#   client -- terminal == modem ~~~~ modem == hub -- server
#           lan                                  wan
#
# Each is a network namespace. A modem queues what goes to the sky: a token bucket of one packet at the link's rate, and
# before it a drop-tail queue of one bandwidth-delay product in bytes. So packets leave one by one, evenly, as a modem
# clocks them out, which netem's own rate does as well, but netem's queue would hold the packets in flight too. What
# comes from the sky is then delayed by half the round trip and perhaps lost, by netem: a lost packet has had its time
# on the link. The modems are hosts of their own so that no queue meets packets that are still larger than the link's
# (TCP hands up to 64 KiB at once to the first queue; a loss there would be a loss of many).
#
# Output, one line for each run: row SEED CASE MODE NAME VALUE [NAME VALUE ...]; before it
# point SEED CASE MODE SECONDS BYTES for the receiver's count, trace ... for samples of the satellite's sockets.
set -u

pepsal_options='' trace=''
# shellcheck source=/dev/null
. /settings

hosts='client term tmodem gmodem hub server'

in_netns() { # HOST COMMAND...
    name=$1
    shift
    ip netns exec "$name" "$@"
}

link() { # HOST DEVICE NUMBER NET
    ip -n "$1" link set "$2" address "02:00:00:00:0$4:0$3"
    ip -n "$1" address add "10.$4.0.$3/24" dev "$2"
    ip -n "$1" link set "$2" up
    # Nobody asks for an address: the answer would be delayed like all that leaves by that device.
    other=$((3 - $3))
    ip -n "$1" neighbour add "10.$4.0.$other" lladdr "02:00:00:00:0$4:0$other" dev "$2" nud permanent
    # Packets as they are on a wire.
    in_netns "$1" ethtool -K "$2" tso off gso off gro off >/dev/null
}

cable() { # HOST DEVICE HOST DEVICE NET
    ip link add "$2" netns "$1" type veth peer name "$4" netns "$3"
    link "$1" "$2" 1 "$5"
    link "$3" "$4" 2 "$5"
}

network() {
    for host in $hosts; do
        ip netns add "$host"
        ip -n "$host" link set lo up
        # No transfer learns from the one before.
        in_netns "$host" sh -c 'echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save; echo 1 >/proc/sys/net/ipv4/ip_forward'
    done
    cable term lan client eth 1
    cable term sat tmodem term 2
    cable tmodem sky gmodem sky 3
    cable gmodem hub hub sat 4
    cable hub wan server eth 5
    ip -n client route add default via 10.1.0.1
    ip -n term route add default via 10.2.0.2
    ip -n tmodem route add default via 10.3.0.2
    ip -n gmodem route add 10.2.0.0/24 via 10.3.0.1
    ip -n gmodem route add default via 10.4.0.2
    ip -n hub route add default via 10.4.0.1
    ip -n server route add default via 10.5.0.1
    in_netns term nft -f - <<'END_OF_RULES'
table inet outbound {
    chain srcnat {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "sat" masquerade
    }
}
END_OF_RULES
}

sky() { # add|change LOSS
    for way in 'gmodem hub' 'tmodem term'; do
        # A new one counts from zero.
        [ "$1" = change ] || in_netns "${way% *}" tc qdisc delete dev "${way#* }" root 2>/dev/null
        # The queue's limit is to be no limit.
        in_netns "${way% *}" tc qdisc "$1" dev "${way#* }" root netem delay "$((rtt * 500))us" loss "$2%" limit 1000000
    done
}

# Rates are those of IP packets: without the 14 bytes of Ethernet that a veth has.
modem() { # HOST MBIT
    in_netns "$1" tc qdisc delete dev sky root 2>/dev/null
    in_netns "$1" tc qdisc add dev sky root stab overhead -14 linklayer ethernet \
        tbf rate "${2}mbit" burst 1540 limit $(($2 * rtt * 125))
}

air() { # LOSS
    for way in 'client eth' 'term lan'; do
        host=${way% *} device=${way#* }
        in_netns "$host" tc qdisc delete dev "$device" root 2>/dev/null
        segments=65535
        [ "$1" = 0 ] || segments=1
        # TCP's own packets are to be lost one by one here too.
        ip -n "$host" link set "$device" gso_max_segs $segments
        [ "$1" = 0 ] || in_netns "$host" tc qdisc add dev "$device" root netem delay 1ms loss "$1%" limit 10000
    done
}

congestion() { # NAME
    for host in client server; do
        in_netns "$host" sh -c "echo $1 >/proc/sys/net/ipv4/tcp_congestion_control"
    done
}

start_pepsal() { # HOST LAN WAN SIDE
    # shellcheck disable=SC2086 # words
    in_netns "$1" /pepsal rules --lan "$2" --wan "$3" >/tmp/rules && in_netns "$1" nft -f /tmp/rules || return 1
    in_netns "$1" nft -f - <<'END_OF_RULES' || return 1
table inet seen {
    counter syns {
    }
    chain injected {
        type filter hook prerouting priority -300; policy accept;
        iifname "pepsal0" counter name syns
    }
}
END_OF_RULES
    # exec: $! is to be the daemon itself.
    # shellcheck disable=SC2086 # words
    (exec ip netns exec "$1" /pepsal run -v --control "/tmp/control.$1" --satellite "$4" --rate-up "$up" --rate-down "$down" --rtt "$rtt" \
        $pepsal_options >"/tmp/pepsal.$1" 2>&1) &
    daemons="$daemons $!"
    turns=100
    until grep -qs ready "/tmp/pepsal.$1"; do
        turns=$((turns - 1))
        [ "$turns" -gt 0 ] || return 1
        sleep 0.1
    done
}

# SYNs that come in from the TUN device are those that pepsal has stolen.
has_stolen() { # HOST
    stolen=$(in_netns "$1" nft list counter inet seen syns | sed -n 's/.*packets \([0-9]*\).*/\1/p')
    [ "${stolen:-0}" -gt 0 ]
}

stop_pepsal() {
    for daemon in $daemons; do
        kill -9 "$daemon" 2>/dev/null
        wait "$daemon" 2>/dev/null
    done
    for host in $peps; do
        in_netns "$host" nft delete table inet pepsal
        in_netns "$host" nft delete table inet seen
    done
}

# How the link's sky treated packets: dropped by the queues, lost by chance.
dropped() { # HOST DEVICE
    in_netns "$1" tc -s qdisc show dev "$2" | sed -n 's/.*dropped \([0-9]*\),.*/\1/p' | head -n 1
}

# The hosts of the satellite's senders. Few processes: the emulated processor has other work.
sample_sockets() { # FILE
    case $mode in
    cubic | bbr) senders='client server' ;;
    terminal) senders='term server' ;;
    both) senders='term hub' ;;
    esac
    while :; do
        read -r now _ </proc/uptime
        for host in $senders; do
            printf 'at %s %s\n' "$now" "$host"
            in_netns "$host" ss -tinHO state established
        done
        sleep 0.5
    done >"$1"
}

one_run() {
    label="$seed $case $mode"
    daemons='' peps='' why=''
    sky add "$loss" && modem tmodem "$up" && modem gmodem "$down" && air "$wifi" || why='no link'
    case $mode in
    cubic | bbr) congestion "$mode" ;;
    terminal) congestion cubic && peps=term ;;
    both) congestion cubic && peps='term hub' ;;
    esac
    for host in $peps; do
        case $host in
        term) start_pepsal term lan sat server ;;
        hub) start_pepsal hub sat wan client ;;
        esac || why="pepsal does not start: $(tail -n 1 "/tmp/pepsal.$host")"
    done
    sampler='' rain=''
    if [ -n "$trace" ]; then sample_sockets /tmp/trace & sampler=$!; fi
    if [ "$outage" != - ]; then (sleep 5 && sky change 100 && sleep 30 && sky change "$loss") & rain=$!; fi
    rm -f /tmp/series
    # shellcheck disable=SC2086 # words
    [ -n "$why" ] || timeout 900 /satlab traffic --client /run/netns/client --server /run/netns/server --to 10.5.0.2 \
        --series /tmp/series $words >/tmp/result 2>/tmp/complaint || why=$(tail -n 1 /tmp/complaint)
    [ -z "$sampler" ] || kill "$sampler"
    [ -z "$rain" ] || wait "$rain"
    for host in $peps; do
        [ -n "$why" ] || has_stolen "$host" || why="pepsal on $host has stolen nothing"
    done
    if [ -n "$trace" ]; then
        awk -v label="$label" '
            $1 == "at" { if (!began) began = $2; at = sprintf("%.1f %s", $2 - began, $3); next }
            { print "trace", label, at, $0 }
        ' /tmp/trace
    fi
    if [ -z "$why" ]; then
        [ "$seed" != 1 ] || [ ! -s /tmp/series ] || sed "s|^|point $label |" /tmp/series
        printf 'row %s limit %s %s queue_drops %s lost %s\n' "$label" "$limit" "$(tr '\n' ' ' </tmp/result | sed 's/ $//')" \
            "$(dropped tmodem sky)+$(dropped gmodem sky)" "$(dropped gmodem hub)+$(dropped tmodem term)"
    else
        printf 'failed %s %s\n' "$label" "$why"
        for host in $peps; do tail -n 20 "/tmp/pepsal.$host"; done
        code=1
    fi
    stop_pepsal
    # What is still under way is gone before the next run.
    sleep 5
}

modprobe -a sch_tbf sch_netem tcp_bbr tcp_hybla tcp_diag
network
code=0
while read -r seed case mode rtt down up loss wifi limit outage words; do
    one_run </dev/null
done </runs
exit $code
