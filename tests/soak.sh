#!/bin/sh
# Real programs move checked bytes through pepsal while the router is treated badly: the daemon is killed, ended, stalled,
# taken over from and started with other options, the link is gone for a while, interfaces go down and up, rules are
# flushed and loaded.
#
#   ┌───────────────────────┐      ┌──────────────────────────────┐                          ┌──────────────────────────┐
#   │ client                │      │ router                       │                          │ server                   │
#   │ curl scp ssh git      │      │ ip_forward, conntrack        │ delay, rate, queue, loss │ nginx sshd git-daemon    │
#   │ iperf3 WebSocket      │      │ pepsal run                   │                          │ iperf3 WebSocket         │
#   │ 192.168.1.2      lan0 ├─veth─┤ lan0 192.168.1.1             │                          │                          │
#   │ 2001:db8:1::2         │      │      198.51.100.1       sat0 ├─tun─[ satlink link ]─tun─┤ sat0 198.51.100.2        │
#   └───────────────────────┘      └──────────────────────────────┘                          └──────────────────────────┘
#
# tests/soak has the load, the disturbances, the checks and the report (Rust, tests/soak/main.rs tells what is where).
# Everything that can be changed from here is inside these namespaces, which go when the script ends, however it ends.
# Addresses: RFC 1918, TEST-NET-2 (RFC 5737) and the documentation prefix of IPv6 (RFC 3849).

set -eu

usage() {
    cat <<'END'
usage: tests/soak.sh [options]        (as root)

  --minutes N   how long, the checks after it not included     (3)
  --seed S      names the sequence of disturbances             (another one each time, printed)
  --out DIR     where the daemon's log and the report go       (target/soak)
  --help        this text

Installs missing Debian packages with apt-get and builds. Exit code: 0 if every byte was right, every failed transfer is
explained by a disturbance that may end connections, and nothing leaked; 1 if not, 2 for wrong usage.
END
}

die() {
    printf 'soak: %s\n' "$1" >&2
    exit "${2:-1}"
}

cd "$(dirname "$0")/.."
# shellcheck source=tests/setup.sh
. tests/setup.sh

minutes=3 seed='' out=target/soak
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --minutes | --seed | --out) ;;
    *) die "unknown option '$1'; see --help" 2 ;;
    esac
    case $1 in
    --minutes) pattern='^[0-9]{1,4}([.][0-9]+)?$' ;;
    --seed) pattern='^[0-9]{1,18}$' ;;
    --out) pattern='.' ;;
    esac
    check_value "$pattern" "$@"
    eval "${1#--}=\$2"
    shift 2
done
seed=${seed:-$(date +%s)}

[ "$(id -u)" = 0 ] || die 'run this as root: it makes network namespaces'

# --- beginning and end ------------------------------------------------------------------------------------------

work=$(mktemp -d)
run=pepsoak$$
router=$run-router client=$run-client server=$run-server
started=''

# shellcheck disable=SC2317 # called by the trap
clean_up() {
    for process in $started; do end "$process"; done
    for namespace in "$client" "$router" "$server"; do
        [ -e "/run/netns/$namespace" ] || continue
        # What the services and the load have started.
        for process in $(ip netns pids "$namespace"); do kill -KILL "$process" 2>/dev/null || true; done
        ip netns del "$namespace"
    done
    rm -rf "$work"
}
clean_up_at_the_end

need ip iproute2 iptables-restore iptables nft nftables nginx nginx-light sshd openssh-server scp openssh-client git git \
    curl curl iperf3 iperf3 openssl openssl || die 'cannot go on without these'
# Debian's own Python: another one that is found first does not know Debian's modules.
python=/usr/bin/python3
$python -c 'import websockets' 2>/dev/null || install_packages 'python3 python3-websockets' ||
    die 'cannot go on without these'
need_rust || die 'cannot build without Rust'
cargo build --release --locked --bin pepsal --example satlink --example soak || die 'the build failed'
built=${CARGO_TARGET_DIR:-target}/release

# --- the three machines -----------------------------------------------------------------------------------------

inside() { # NAMESPACE COMMAND...
    ip netns exec "$@"
}

set_in() { # NAMESPACE KEY VALUE
    # shellcheck disable=SC2016 # expands inside
    inside "$1" sh -c 'printf "%s\n" "$2" >"/proc/sys/net/$1"' sh "$2" "$3"
}

begin() { # NAMESPACE COMMAND...
    # Not by way of inside: a function in the background is a shell of its own, and $! would be that shell.
    ip netns exec "$@" >>"$work/services.log" 2>&1 &
    started="$started $!"
}

await() { # WHAT COMMAND...
    what=$1
    shift
    turns=300
    until "$@" >/dev/null 2>&1; do
        [ $turns -gt 0 ] || { cat "$work/services.log" >&2 && die "$what does not come up"; }
        sleep 0.1
        turns=$((turns - 1))
    done
}

plug() { # NAMESPACE DEVICE IPV4 IPV6
    ip -n "$1" addr add "$3/24" dev "$2"
    ip -n "$1" addr add "$4/64" dev "$2" nodad
    ip -n "$1" link set "$2" up
}

for namespace in "$client" "$router" "$server"; do
    ip netns add "$namespace"
    ip -n "$namespace" link set lo up
    # Duplicate address detection keeps addresses, link-local ones too, unusable for a second or more.
    set_in "$namespace" ipv6/conf/all/accept_dad 0
    set_in "$namespace" ipv6/conf/default/accept_dad 0
    set_in "$namespace" ipv4/tcp_no_metrics_save 1
done
set_in "$router" ipv4/ip_forward 1
set_in "$router" ipv6/conf/all/forwarding 1
# As every router's firewall has. The kernel tracks connections, and so translates their addresses, only as long as
# there is any rule that needs it: without this, flushing the rules of pepsal would cut off all split connections.
inside "$router" nft -f - <<END
table inet firewall {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state established,related accept
    }
}
END

ip -n "$client" link add lan0 type veth peer name lan0 netns "$router"
plug "$client" lan0 192.168.1.2 2001:db8:1::2
plug "$router" lan0 192.168.1.1 2001:db8:1::1
ip -n "$client" route add default via 192.168.1.1
ip -n "$client" route add default via 2001:db8:1::1

# The emulator stands for a modem, which does not wait for a processor that others keep busy.
first='chrt --fifo 1'
$first true 2>/dev/null || first='nice -n -10'
# shellcheck disable=SC2086 # a command in words
$first "$built/examples/satlink" link --terminal "$router/sat0" --gateway "$server/sat0" --delay 40 --down-rate 40 \
    --up-rate 20 --down-loss 0.05 --up-loss 0.05 >"$work/counts" 2>>"$work/services.log" &
started="$started $!"
await 'the link' ip -n "$router" link show sat0
await 'the link' ip -n "$server" link show sat0
for namespace in "$router" "$server"; do ip -n "$namespace" link set sat0 txqueuelen 10000; done
plug "$router" sat0 198.51.100.1 2001:db8:3::1
plug "$server" sat0 198.51.100.2 2001:db8:3::2
ip -n "$server" route add default via 198.51.100.1
ip -n "$server" route add default via 2001:db8:3::1

# --- the services -----------------------------------------------------------------------------------------------

mkdir -p "$work/web/down" "$work/web/up" "$work/body" "$work/git"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/web.key" -out "$work/web.crt" -days 2 -subj /CN=soak \
    -addext 'subjectAltName=IP:198.51.100.2,IP:2001:db8:3::2' 2>/dev/null || die 'openssl makes no certificate'
cat >"$work/nginx.conf" <<END
user root;
daemon off;
pid $work/nginx.pid;
worker_processes 2;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path $work/body;
    proxy_temp_path $work/body;
    fastcgi_temp_path $work/body;
    uwsgi_temp_path $work/body;
    scgi_temp_path $work/body;
    # An outage is no reason to give up.
    client_header_timeout 600;
    client_body_timeout 600;
    send_timeout 600;
    sendfile on;
    server {
        listen 80;
        listen [::]:80;
        listen 443 ssl http2;
        listen [::]:443 ssl http2;
        ssl_certificate $work/web.crt;
        ssl_certificate_key $work/web.key;
        root $work/web;
        location /up/ {
            dav_methods PUT;
            client_max_body_size 0;
        }
    }
}
END
begin "$server" nginx -e "$work/services.log" -c "$work/nginx.conf"

ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$work/key"
printf '198.51.100.2,2001:db8:3::2 %s\n' "$(cut -d' ' -f1,2 "$work/host_key.pub")" >"$work/known_hosts"
# Without PAM sshd lets nobody in whose password is locked, with it some containers let nobody in.
case $(getent shadow root | cut -d: -f2) in !*) pam=yes ;; *) pam=no ;; esac
cat >"$work/sshd.conf" <<END
HostKey $work/host_key
AuthorizedKeysFile $work/key.pub
PidFile none
StrictModes no
UsePAM $pam
PermitRootLogin prohibit-password
PasswordAuthentication no
LoginGraceTime 0
MaxStartups 1000
PrintMotd no
Subsystem sftp internal-sftp
END
cat >"$work/ssh.conf" <<END
Host *
    User root
    IdentityFile $work/key
    IdentitiesOnly yes
    UserKnownHostsFile $work/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    # What it has said to the server when it fails, for who reads faults.txt.
    LogLevel DEBUG1
END
# sshd serves nobody when /run/sshd is not there, and another run may remove what it has made: this one has a /run of its
# own, in the mount namespace in which ip starts it.
# shellcheck disable=SC2016 # expands inside
begin "$server" sh -c 'mount -t tmpfs -o mode=755 run /run && mkdir -m 755 /run/sshd && exec "$@"' sh \
    "$(command -v sshd)" -D -e -f "$work/sshd.conf"

begin "$server" git daemon --base-path="$work/git" --export-all --reuseaddr
begin "$server" $python tests/soak/echo.py serve 9001
for port in 80 443 22 9418 9001; do
    await "port $port of the server" inside "$server" sh -c "ss -Hltn 'sport = :$port' | grep -q ."
done

# --- the run ----------------------------------------------------------------------------------------------------

mkdir -p "$out"
rm -f "$out/state.txt" "$out/faults.txt"
printf 'soak: %s minutes, seed %s (repeat with --minutes %s --seed %s)\n' "$minutes" "$seed" "$minutes" "$seed"
"$built/examples/soak" --run "$run" --work "$work" --pepsal "$built/pepsal" --minutes "$minutes" --seed "$seed" \
    --out "$out" &
soak=$!
started="$soak $started"
code=0
wait $soak || code=$?
[ $code = 0 ] || { tail -n 20 "$work/services.log" | cut -c 1-300 >&2; }
exit $code
