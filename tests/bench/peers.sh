# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154 # variables of the caller
# The machines and the programs that are compared; sourced by tests/bench.sh.
#
#   client 192.168.1.2 ── lan0 ── router ── wan0 ── server 198.51.100.2
#                    192.168.1.1      198.51.100.1
#
# Every peer has such a line of three namespaces for itself, so that no rule and no table of one peer costs another
# anything, and all can run at the same time: one that has nothing to do blocks in the kernel. Addresses: RFC 1918 and
# TEST-NET-2 (RFC 5737).
#
# Needs from its caller: $run (prefix of the names), $work (a directory), $bench (the traffic tool), $pepsal, die, and
# begin COMMAND..., which starts a process that is ended with the run and leaves its number in $begun.

name() { # ROLE PEER
    printf '%s-%s-%s\n' "$run" "$2" "$1"
}

set_in() { # NAMESPACE KEY VALUE
    # shellcheck disable=SC2016 # expands inside
    ip netns exec "$1" sh -c 'printf "%s\n" "$2" >"/proc/sys/net/$1"' sh "$2" "$3"
}

# An address whose routes use cubic, as Debian and OpenWrt do by default. By route, because a namespace may choose by
# sysctl only what the whole machine allows everyone.
address() { # NAMESPACE DEVICE ADDRESS NETWORK [GATEWAY]
    ip -n "$1" link set "$2" up
    ip -n "$1" addr add "$3/24" dev "$2" noprefixroute
    ip -n "$1" route add "$4/24" dev "$2" src "$3" congctl cubic
    [ $# -lt 5 ] || ip -n "$1" route add default via "$5" congctl cubic
}

make_machines() { # PEER
    client=$(name client "$1") router=$(name router "$1") server=$(name server "$1")
    for namespace in "$client" "$router" "$server"; do
        ip netns add "$namespace"
        ip -n "$namespace" link set lo up
        # Equal for all, whatever this machine was tuned to: the kernel's own defaults.
        set_in "$namespace" ipv4/tcp_rmem '4096 131072 6291456'
        set_in "$namespace" ipv4/tcp_wmem '4096 16384 4194304'
        set_in "$namespace" ipv4/tcp_no_metrics_save 1
        # Thousands of connections a second leave as many in TIME_WAIT.
        set_in "$namespace" ipv4/ip_local_port_range '1024 65535'
        set_in "$namespace" ipv4/tcp_tw_reuse 1
    done
    ip -n "$client" link add lan0 type veth peer name lan0 netns "$router"
    ip -n "$server" link add wan0 type veth peer name wan0 netns "$router"
    address "$router" lan0 192.168.1.1 192.168.1.0
    address "$router" wan0 198.51.100.1 198.51.100.0
    address "$client" lan0 192.168.1.2 192.168.1.0 192.168.1.1
    address "$server" wan0 198.51.100.2 198.51.100.0 198.51.100.1
    set_in "$router" ipv4/ip_forward 1
}

# Packets as large as the kernel makes them, or none larger than the MTU anywhere on the way.
packets() { # PEER large|MTU
    case $2 in
    large) switch=on ;;
    MTU) switch=off ;;
    esac
    for end in client:lan0 router:lan0 router:wan0 server:wan0; do
        # GRO is off by default on veth; then large packets come from the sender only, as they do here.
        ip netns exec "$(name "${end%:*}" "$1")" ethtool -K "${end#*:}" tso "$switch" gso "$switch" gro off >/dev/null ||
            die "cannot switch offloads $switch"
    done
}

iptables_in() { # PEER; rules on standard input
    ip netns exec "$(name router "$1")" iptables-restore -n || die "iptables refuses the rules of $1"
    # The end of a connection is remembered for one second, so that rates do not fill the table.
    set_in "$(name router "$1")" netfilter/nf_conntrack_tcp_timeout_time_wait 1
}

await_port() { # PEER PORT
    turns=100
    until ip netns exec "$(name router "$1")" ss -Hltn "sport = :$2" | grep -q .; do
        turns=$((turns - 1))
        [ $turns -gt 0 ] || { cat "$work/$1.log" >&2 && die "$1 does not start"; }
        sleep 0.1
    done
}

redirect() { # PEER
    iptables_in "$1" <<'END'
*nat
-A PREROUTING -i lan0 -p tcp -j REDIRECT --to-ports 5001
COMMIT
END
}

masquerade() { # PEER
    iptables_in "$1" <<'END'
*nat
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
END
}

# 0.0.0.0:0 is the address that the client wanted. Splice always, two threads, all else as Debian has it.
start_haproxy() { # PEER
    cat >"$work/haproxy.cfg" <<'END'
global
    nbthread 2
    maxconn 6000
defaults
    mode tcp
    timeout connect 20s
    timeout client 300s
    timeout server 300s
    option splice-request
    option splice-response
listen all
    bind :5001 transparent
    server original 0.0.0.0:0
END
    begin ip netns exec "$(name router "$1")" haproxy -db -q -f "$work/haproxy.cfg"
    await_port "$1" 5001
    redirect "$1"
}

start_v2ray() { # PEER
    cat >"$work/v2ray.json" <<'END'
{
  "log": { "loglevel": "none" },
  "inbounds": [ {
    "port": 5001, "protocol": "dokodemo-door",
    "settings": { "network": "tcp", "followRedirect": true }
  } ],
  "outbounds": [ { "protocol": "freedom" } ]
}
END
    begin ip netns exec "$(name router "$1")" v2ray -config "$work/v2ray.json"
    await_port "$1" 5001
    redirect "$1"
}

start_pepsal() { # PEER BINARY SLOTS
    begin ip netns exec "$(name router "$1")" "$2" run -c "$3" --drain 0
    await_port "$1" 5000
    ip netns exec "$(name router "$1")" "$2" rules --lan lan0 --wan wan0 --format iptables >"$work/rules" ||
        die "$1 prints no rules"
    iptables_in "$1" <"$work/rules"
}

# Makes everything that one peer needs; what its measurements need to know goes to $work/PEER.pids.
start_peer() { # PEER [BINARY]
    make_machines "$1"
    log=$work/server-$1.log
    begin ip netns exec "$(name server "$1")" "$bench" serve
    served_by=$begun
    proxy=''
    log=$work/$1.log
    case $1 in
    forward) ;;
    masquerade) masquerade "$1" ;;
    haproxy) start_haproxy "$1" && proxy=$begun ;;
    v2ray) start_v2ray "$1" && proxy=$begun ;;
    *) start_pepsal "$1" "${2:-$pepsal}" 6000 && proxy=$begun ;;
    esac
    printf '%s %s\n' "$served_by" "${proxy:-none}" >"$work/$1.pids"
}
