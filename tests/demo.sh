#!/bin/sh
# Shows what pepsal does on a satellite link: files up and down, direct and through pepsal, every byte checked.
#
#   ┌────────────────────┐      ┌──────────────────────────────────────┐                          ┌─────────────────────┐
#   │ client             │      │ router                               │                          │ server              │
#   │ satlink transfer   │      │ ip_forward, conntrack, MASQUERADE    │                          │ satlink serve       │
#   │                    │      │ pepsal run                           │ delay, rate, queue, loss │                     │
#   │ 192.168.1.2   lan0 ├─veth─┤ lan0 192.168.1.1   198.51.100.1 sat0 ├─tun─[ satlink link ]─tun─┤ sat0   198.51.100.2 │
#   └────────────────────┘      └──────────────────────────────────────┘                          └─────────────────────┘
#
# Everything that can be changed from here is inside these namespaces, which go when the script ends, however it ends.
# Addresses: RFC 1918 and the documentation range TEST-NET-2 (RFC 5737).

set -eu

usage() {
    cat <<'END'
usage: tests/demo.sh [options]        (as root; two and a half minutes and the build)

  --rtt MS            round trip of the satellite link          (600, geostationary)
  --down MBIT         rate towards the terminal, Mbit/s         (20)
  --up MBIT           rate from the terminal, Mbit/s            (5)
  --loss DOWN,UP      percent of packets lost on the lossy link (0.1,1)
  --size DOWN,UP      megabytes to move                         (6,4)
  --seed N            names the losses and the files' contents  (1)
  --congestion NAME   pepsal's congestion control               (bbr)
  --quick             only the lossy link, smaller files: under a minute
  --out DIR           where the plot and its data go            (target/demo)
  --help              this text

Installs missing Debian packages with apt-get, builds, then compares a link without losses and a lossy one.
Exit code: 0 if every byte was right and pepsal carried what it should, 1 if not, 2 for wrong usage.
END
}

die() {
    printf 'demo: %s\n' "$1" >&2
    exit "${2:-1}"
}

cd "$(dirname "$0")/.."
# shellcheck source=tests/setup.sh
. tests/setup.sh

# --- options ----------------------------------------------------------------------------------------------------

rtt=600 down=20 up=5 loss=0.1,1 size=6,4 seed=1 congestion=bbr quick='' out=''
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --quick)
        quick=1 size=2,1
        shift
        continue
        ;;
    --rtt | --down | --up | --loss | --size | --seed | --congestion | --out) ;;
    *) die "unknown option '$1'; see --help" 2 ;;
    esac
    case $1 in
    --rtt | --down | --up) pattern='^[0-9]+([.][0-9]+)?$' ;;
    --loss | --size) pattern='^[0-9]+([.][0-9]+)?,[0-9]+([.][0-9]+)?$' ;;
    --seed) pattern='^[0-9]{1,18}$' ;;
    --congestion) pattern='^[a-z0-9_]+$' ;;
    --out) pattern='.' ;;
    esac
    check_value "$pattern" "$@"
    eval "${1#--}=\$2"
    shift 2
done

[ "$(id -u)" = 0 ] || die 'run this as root: it makes network namespaces'
out=${out:-target/demo}

# --- what it needs, the build -----------------------------------------------------------------------------------

work=$(mktemp -d)
started=''
router=pepdemo$$-router client=pepdemo$$-client server=pepdemo$$-server

clean_up() {
    for pid in $started; do end "$pid"; done
    for namespace in "$client" "$router" "$server"; do
        if [ -e "/run/netns/$namespace" ]; then ip netns del "$namespace"; fi
    done
    rm -rf "$work"
}
clean_up_at_the_end

need ip iproute2 iptables-restore iptables || die 'cannot go on without these'
need_rust || die 'cannot build without Rust'
cargo build --release --locked --bin pepsal --example satlink || die 'the build failed'
pepsal=${CARGO_TARGET_DIR:-target}/release/pepsal
satlink=${CARGO_TARGET_DIR:-target}/release/examples/satlink

# --- the three machines -----------------------------------------------------------------------------------------

inside() { # NAMESPACE COMMAND...
    ip netns exec "$@"
}

set_in() { # NAMESPACE KEY VALUE
    # shellcheck disable=SC2016 # expands inside
    inside "$1" sh -c 'printf "%s\n" "$2" >"/proc/sys/net/$1"' sh "$2" "$3"
}

# The emulator stands for a modem, which does not wait for a processor that others keep busy.
first='chrt --fifo 1'
$first true 2>/dev/null || first='nice -n -10'

make_machines() {
    for namespace in "$client" "$router" "$server"; do
        ip netns add "$namespace"
        ip -n "$namespace" link set lo up
        # The kernel's own defaults, whatever this machine was tuned to.
        set_in "$namespace" ipv4/tcp_rmem '4096 131072 6291456'
        set_in "$namespace" ipv4/tcp_wmem '4096 16384 4194304'
        # No transfer learns from the one before.
        set_in "$namespace" ipv4/tcp_no_metrics_save 1
    done

    ip -n "$client" link add lan0 type veth peer name lan0 netns "$router"
    ip -n "$client" addr add 192.168.1.2/24 dev lan0
    ip -n "$router" addr add 192.168.1.1/24 dev lan0
    ip -n "$client" link set lan0 up
    ip -n "$router" link set lan0 up
    ip -n "$client" route add default via 192.168.1.1
    set_in "$router" ipv4/ip_forward 1
    inside "$router" iptables -t nat -A POSTROUTING -o sat0 -j MASQUERADE

    # Not by way of inside: a function in the background is a shell of its own, and $! would be that shell.
    ip netns exec "$server" "$satlink" serve --listen 0.0.0.0:5001 --progress "$work/progress" &
    started="$started $!"
}

start_link() { # LOSS_DOWN LOSS_UP
    # shellcheck disable=SC2086 # a command in words
    $first "$satlink" link --terminal "$router/sat0" --gateway "$server/sat0" --seed "$seed" \
        --delay "$(awk "BEGIN { print $rtt / 2 }")" --down-rate "$down" --up-rate "$up" \
        --down-loss "$1" --up-loss "$2" >"$work/counts" &
    link=$!
    started="$started $link"
    await_device sat0 "$router"
    await_device sat0 "$server"
    for namespace in "$router" "$server"; do
        # No router solicitations: they would take numbers in the sequence of losses.
        [ ! -e /proc/sys/net/ipv6 ] || set_in "$namespace" ipv6/conf/sat0/disable_ipv6 1
        # The transmit queue is only the way into the emulator, which has the link's own queue.
        ip -n "$namespace" link set sat0 txqueuelen 10000 up
    done
    ip -n "$router" addr add 198.51.100.1/24 dev sat0
    ip -n "$server" addr add 198.51.100.2/24 dev sat0
}

await_device() { # DEVICE NAMESPACE
    turns=300
    until ip -n "$2" link show "$1" >/dev/null 2>&1; do
        [ $turns -gt 0 ] || die "$1 does not appear in $2"
        sleep 0.1
        turns=$((turns - 1))
    done
}

start_pepsal() {
    ip netns exec "$router" "$pepsal" run -v -C "$congestion" --control "$work/control" >"$work/pepsal.log" 2>&1 &
    pepsal_pid=$!
    started="$started $pepsal_pid"
    turns=300
    # Its device is there before its queue is: a SYN that came in between would go direct.
    until grep -q '^pepsal: ready' "$work/pepsal.log"; do
        kill -0 $pepsal_pid 2>/dev/null || turns=0
        [ $turns -gt 0 ] || { cat "$work/pepsal.log" >&2 && die 'pepsal does not start'; }
        sleep 0.1
        turns=$((turns - 1))
    done
    # pepsal makes rules only for devices that exist.
    start_link 0 0
    # This kernel may lack nft's queue expression; iptables has had NFQUEUE everywhere for long.
    inside "$router" "$pepsal" rules --lan lan0 --wan sat0 --format iptables >"$work/rules" || die 'pepsal prints no rules'
    inside "$router" iptables-restore -n <"$work/rules" || die 'iptables-restore refuses the rules of pepsal'
    end "$link"
}

# --- the transfers ----------------------------------------------------------------------------------------------

# Connections opened, accepted, and segments sent by the router's own TCP; what it only forwards is not among them.
router_tcp() {
    # shellcheck disable=SC2016 # fields of awk
    inside "$router" awk '$1 == "Tcp:" && seen++ { print $6, $7, $12 }' /proc/net/snmp
}

# Says what the router's own TCP did since FROM: split (one connection in, one out, the bytes sent), none, or odd.
router_did() { # FROM_OPENED FROM_ACCEPTED FROM_SENT SIZE
    # shellcheck disable=SC2046 # three words
    set -- "$@" $(router_tcp)
    awk -v opened=$(($5 - $1)) -v accepted=$(($6 - $2)) -v sent=$(($7 - $3)) -v size="$4" 'BEGIN {
        # 1460: the most that a segment holds at an MTU of 1500.
        if (opened == 1 && accepted == 1 && sent * 1460 >= size) print "split"
        else if (opened == 0 && accepted == 0) print "none"
        else print "odd: " opened " opened, " accepted " accepted, " sent " segments"
    }'
}

show() { # text of the line that is being worked on
    if [ -t 2 ]; then printf '\r\033[K%s' "$1" >&2; fi
}

# One transfer over a link made new, so that the n-th packet has the same fate each time. Leaves the time in $seconds.
transfer() { # LOSS_NAME LOSS_DOWN LOSS_UP DIRECTION VIA
    name=$1-$4-$5
    case $4 in
    down) megabytes=${size%,*} ;;
    up) megabytes=${size#*,} ;;
    esac
    bytes=$(awk "BEGIN { printf \"%d\", $megabytes * 1000000 }")
    phase=$phase+
    label=$(printf '[%d/%d] %-8s  %-4s  %-6s' ${#phase} "$phases" "$1" "$4" "$5")
    start_link "$2" "$3"
    from=$(router_tcp)
    printf '  0\n' >"$work/progress"
    ip netns exec "$client" "$satlink" transfer "$4" --server 198.51.100.2:5001 --size "$bytes" --seed "$seed${#phase}" \
        --csv "$out/$name.csv" --progress "$work/progress" >"$work/seconds" 2>"$work/fault" &
    moving=$!
    started="$started $moving"
    turns=6000
    while kill -0 $moving 2>/dev/null; do
        [ $turns -gt 0 ] || die "$label took longer than the twenty minutes it may"
        show "$label $(cat "$work/progress") %"
        sleep 0.2
        turns=$((turns - 1))
    done
    if ! wait $moving; then
        show ''
        [ "$5" = direct ] || cat "$work/pepsal.log" >&2
        die "$label: $(cat "$work/fault")"
    fi
    seconds=$(cat "$work/seconds")
    end "$link"
    show ''
    printf '%s %6.1f s, every byte right\n' "$label" "$seconds" >&2

    # shellcheck disable=SC2086 # three words
    did=$(router_did $from "$bytes")
    case $5:$did in
    direct:none | pepsal:split) ;;
    pepsal:*) cat "$work/pepsal.log" >&2 && die "pepsal did not carry '$label' (router's TCP: $did)" ;;
    *) die "the router's TCP had a part in '$label' ($did)" ;;
    esac
    printf '%s %s %s %s\n' "$1" "$4" "$5" "$(cat "$work/counts")" >>"$work/links"
    printf '%s %s %s %s %s\n' "$1" "$4" "$5" "$megabytes" "$seconds" >>"$work/results"
}

transfers() { # VIA
    for direction in down up; do
        if [ -z "$quick" ]; then transfer lossless 0 0 $direction "$1"; fi
        transfer lossy "${loss%,*}" "${loss#*,}" $direction "$1"
    done
}

# --- what came of it --------------------------------------------------------------------------------------------

results_table() {
    awk -v rtt="$rtt" -v down="$down" -v up="$up" -v loss="$loss" '
        BEGIN {
            split(loss, percent, ",")
            rate["down"] = down; rate["up"] = up
            lost["lossy down"] = percent[1]; lost["lossy up"] = percent[2]
            lost["lossless down"] = lost["lossless up"] = 0
            # A download waits for the connection and the answer, an upload for the connection and its own way.
            trips["down"] = 2; trips["up"] = 1.5
        }
        {
            key = $1 " " $2
            if (!(key in size)) order[++keys] = key
            size[key] = $4; seconds[key, $3] = $5
        }
        function rule(n, line) { while (n-- > 0) line = line "─"; return line }
        function cell(key, s) { return sprintf("%6.2f  %7.1f", size[key] * 8 / s, s) }
        END {
            print "  direction  link                    file     direct           through pepsal   gain   physical limit"
            print "                                              Mbit/s  seconds  Mbit/s  seconds         Mbit/s  seconds"
            print "  " rule(9) "  " rule(22) "  " rule(7) "  " rule(15) "  " rule(15) "  " rule(5) "  " rule(15)
            for (n = 1; n <= keys; n++) {
                key = order[n]; split(key, word, " "); way = word[2]
                # 1448 bytes of every 1500 are payload: IPv4, TCP, timestamps.
                limit = size[key] * 8 / rate[way] * 1500 / 1448 + trips[way] * rtt / 1000
                printf "  %-9s  %-22s  %4g MB  %s  %s  %4.1fx  %s\n", way "load",
                    rate[way] " Mbit/s, " lost[key] " % loss", size[key],
                    cell(key, seconds[key, "direct"]), cell(key, seconds[key, "pepsal"]),
                    seconds[key, "direct"] / seconds[key, "pepsal"], cell(key, limit)
            }
        }' "$work/results"
}

links_table() {
    awk '
        BEGIN {
            print "                           packets up                    packets down"
            print "  transfer                 sent    lost  queue full      sent    lost  queue full"
        }
        {
            for (n = 4; n <= NF; n++) {
                if ($n == "up" || $n == "down") way = $n
                else { count[way, $n] = $(n + 1); n++ }
            }
            printf "  %-8s  %-4s  %-6s  %7d %7d %11d   %7d %7d %11d\n", $1, $2, $3,
                count["up", "packets"], count["up", "lost"], count["up", "overflowed"],
                count["down", "packets"], count["down", "lost"], count["down", "overflowed"]
            late = count["up", "late_us"] > late ? count["up", "late_us"] : late
            late = count["down", "late_us"] > late ? count["down", "late_us"] : late
            refused += count["up", "refused"] + count["down", "refused"]
        }
        END {
            printf "  The emulator was never more than %.1f ms behind its schedule", late / 1000
            if (late > 20000) printf " (busy machine: take the figures with care)"
            printf ".\n"
            if (refused) printf "  %d packets were refused on arrival: the figures are worth nothing.\n", refused
        }' "$work/links"
}

plot() {
    set --
    for direction in down up; do
        for kind in lossless lossy; do
            [ -e "$out/$kind-$direction-pepsal.csv" ] || continue
            case $direction in
            down) way=Download rate=$down percent=${loss%,*} ;;
            up) way=Upload rate=$up percent=${loss#*,} ;;
            esac
            [ $kind = lossy ] || percent=0
            set -- "$@" --panel \
                "$way, $percent % loss;$rate;$out/$kind-$direction-direct.csv;$out/$kind-$direction-pepsal.csv"
        done
    done
    "$satlink" plot --title "Satellite link: round trip $rtt ms, $down Mbit/s down, $up Mbit/s up" \
        --out "$out/throughput.svg" "$@"
}

# --- the run ----------------------------------------------------------------------------------------------------

mkdir -p "$out"
rm -f "$out"/loss*-*-*.csv "$out/throughput.svg"
phase=''
phases=8
[ -z "$quick" ] || phases=4
make_machines
transfers direct
start_pepsal
transfers pepsal
plot

cat <<END

Satellite link: round trip $rtt ms, $down Mbit/s down, $up Mbit/s up, a queue of one bandwidth-delay product each.

$(results_table)

Every byte was compared with what was sent. Seconds: from the client's connect() to the last byte at the receiver.
The n-th packet of a direction met the same fate direct and through pepsal (seed $seed).
pepsal ran on the terminal's router, so it is the TCP sender over the satellite for uploads (with $congestion, where the
client has cubic). For downloads that sender is still the far server with cubic: a router at this end cannot
speed up what the server sends, and no gain is to be expected there.

$(links_table)

Throughput over time: $out/throughput.svg
END
