# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash disable=SC2154,SC2317
#
# Sourced by run.sh and router.sh: the daemon on a router whose firewall looks like one that fw4 made, with the includes as
# shipped.
#
#   client 192.168.1.2 ── br-lan ┐
#                                ├ router ── eth1 198.51.100.1 ── server 198.51.100.2
#   guest  192.168.2.2 ─ br-guest┘
#
# IPv6 likewise, in 2001:db8:1::/64, 2001:db8:2::/64 and 2001:db8:100::/64. Where this kernel has no nft queue expression
# the rules are `pepsal rules --format iptables`.

lan="$netns-lan" guest="$netns-guest" router="$netns-router" server="$netns-server"

in_ns() {
	where="$1"
	shift
	timeout 60 ip netns exec "$where" "$@"
}

join() {
	ip link add "$2" netns "$router" type veth peer name eth0 netns "$1"
	ip -n "$router" address add "$3.1/24" dev "$2"
	ip -n "$router" address add "$4::1/64" dev "$2" nodad
	ip -n "$router" link set "$2" up
	ip -n "$1" address add "$3.2/24" dev eth0
	ip -n "$1" address add "$4::2/64" dev eth0 nodad
	ip -n "$1" link set eth0 up
	ip -n "$1" link set lo up
}

build_network() {
	for name in "$lan" "$guest" "$router" "$server"; do
		ip netns add "$name" || return
	done
	ip -n "$router" link set lo up
	join "$lan" br-lan 192.168.1 2001:db8:1 && join "$guest" br-guest 192.168.2 2001:db8:2 &&
		join "$server" eth1 198.51.100 2001:db8:100 || return
	in_ns "$router" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
	for name in "$lan" "$guest"; do
		ip -n "$name" route add default via "$(ip -n "$name" -4 -o address show eth0 | sed 's/.*inet \([0-9.]*\)\.2\/.*/\1/').1"
	done
	ip -n "$lan" -6 route add default via 2001:db8:1::1
	ip -n "$guest" -6 route add default via 2001:db8:2::1
	ip -n "$server" -6 route add default via 2001:db8:100::1

	mkdir -p "$work/www/cgi-bin"
	echo hello >"$work/www/index.html"
	# A transfer that goes on until it is told to end.
	cat >"$work/www/cgi-bin/slow" <<-END
		#!/bin/sh
		printf 'Content-Type: text/plain\n\nbegin '
		for turn in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
			[ ! -e "$work/end" ] || break
			sleep 2
		done
		echo end
	END
	chmod 755 "$work/www/cgi-bin/slow"
	for name in "$lan" "$server"; do
		for port in 80 81 82; do
			ip netns exec "$name" busybox httpd -p "$port" -h "$work/www"
			ip netns exec "$name" busybox httpd -p "[::]:$port" -h "$work/www" 2>/dev/null
		done
	done
	return 0
}

# What fw4 makes of lan, wan and guest, in its order and with its chains' priorities: both zones may go to the wan, the
# guests get no further than that, and one port is forbidden on top.
write_ruleset() {
	cat >"$work/fw4.nft" <<END
table inet fw4
flush table inet fw4
table inet fw4 {
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		include "$top/openwrt/pepsal/files/pepsal.input.nft"
		ct state established,related accept
		meta l4proto { icmp, ipv6-icmp } accept
		iifname "br-lan" accept
		jump handle_reject
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		tcp dport 81 jump handle_reject
		iifname "br-lan" oifname "eth1" accept
		iifname "br-guest" oifname "eth1" accept
		jump handle_reject
	}
	chain handle_reject {
		meta l4proto tcp reject with tcp reset
		reject
	}
	chain dstnat {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "br-lan" tcp dport 8082 dnat ip to 198.51.100.2:80
	}
	chain srcnat {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "eth1" meta nfproto ipv4 masquerade
	}
	chain mangle_forward {
		type filter hook forward priority mangle; policy accept;
		oifname "eth1" tcp flags syn tcp option maxseg size set rt mtu
	}
}
include "$top/openwrt/pepsal/files/pepsal.ruleset.nft"
END
}

load_firewall() {
	in_ns "$router" nft -f "$work/fw4.nft"
}

load_rules() {
	if [ -n "$nft_queue" ]; then
		in_ns "$router" "$pepsal" rules "$@" | in_ns "$router" nft -f -
	else
		in_ns "$router" "$pepsal" rules "$@" --format iptables | in_ns "$router" iptables-restore -n &&
			in_ns "$router" "$pepsal" rules "$@" --format ip6tables | in_ns "$router" ip6tables-restore -n
	fi
}

stop_firewall_test() {
	[ -z "${daemon:-}" ] || kill "$daemon" 2>/dev/null
	for name in "$lan" "$guest" "$router" "$server"; do
		for pid in $(ip netns pids "$name" 2>/dev/null); do
			kill "$pid" 2>/dev/null
		done
		ip netns delete "$name" 2>/dev/null
	done
}
# Checks run in subshells, so the daemon is started outside of them. It gets the rights that procd gives it: those of the
# capability file and no others, not root's, and no way to new ones.
start_daemon() {
	rights="-all$(sed -n 's/^\t\t"CAP_\(.*\)",\?$/,+\1/p' "$top/openwrt/pepsal/files/pepsal.capabilities" |
		sort -u | tr -d '\n' | tr '[:upper:]' '[:lower:]')"
	# What runs of an upgraded program has no name any more.
	rm -f "$work/pepsal" "$work/daemon.log"
	cp "$pepsal" "$work/pepsal"
	chmod 755 "$work" "$work/pepsal"
	# As the init script leaves the device for its group, and a directory for its control socket.
	[ -c "$work/tun" ] || mknod -m 660 "$work/tun" c 10 200
	chgrp 333 "$work/tun"
	mkdir -p "$work/run/daemon"
	chmod 750 "$work/run/daemon"
	chown 333:333 "$work/run/daemon"
	ln -sfn daemon/control "$work/run/control"
	# shellcheck disable=SC2016 # for the shell inside
	ip netns exec "$router" sh -c '
		mount --bind "$1/tun" /dev/net/tun &&
			exec setpriv --reuid 333 --regid 333 --clear-groups --no-new-privs \
				--inh-caps "$2" --ambient-caps "$2" --bounding-set "$2" "$1/pepsal" run -v --drain 20 --control "$1/run/daemon/control"' \
		sh "$work" "$rights" >/dev/null 2>"$work/daemon.log" &
	daemon=$!
}

rights_are_the_files() {
	grep -E '^(Uid|Cap|NoNewPrivs|Seccomp)' "/proc/$daemon/status"
	grep -q '^Uid:[[:space:]]333' "/proc/$daemon/status" && grep -q '^CapEff:[[:space:]]*0000000000001000$' "/proc/$daemon/status" &&
		grep -q '^NoNewPrivs:[[:space:]]*1$' "/proc/$daemon/status" && grep -q '^Seccomp:[[:space:]]*2$' "/proc/$daemon/status"
}

status_for_root() {
	"$pepsal" status --json --control "$work/run/control" | grep '"stolen"'
}

# eventually COMMAND...: it succeeds within half a minute
eventually() {
	turns=60
	until "$@"; do
		[ "$turns" -gt 0 ] || return
		turns=$((turns - 1))
		sleep 0.5
	done
}

daemon_is_up() {
	eventually grep -q '^pepsal: ready' "$work/daemon.log" && return
	cat "$work/daemon.log"
	return 1
}

fetch() {
	in_ns "$1" busybox wget -q -O - "http://$2"
}

stolen() {
	grep -c '^pepsal: stole' "$work/daemon.log"
}

# split FROM URL: it works, and through the daemon. whole: it works, and past the daemon.
split() {
	before="$(stolen)"
	[ "$(fetch "$1" "$2")" = hello ] && [ "$(stolen)" = $((before + 1)) ]
}

whole() {
	before="$(stolen)"
	[ "$(fetch "$1" "$2")" = hello ] && [ "$(stolen)" = "$before" ]
}

# forbidden FROM URL: refused, at once, and the daemon does not see it.
forbidden() {
	before="$(stolen)"
	complaint="$(in_ns "$1" busybox wget -q -O - "http://$2" 2>&1)" && return 1
	echo "$complaint"
	case "$complaint" in
	*refused* | *nreachable*) ;;
	*) return 1 ;;
	esac
	[ "$(stolen)" = "$before" ]
}

begin_transfer() {
	rm -f "$work/end" "$work/slow"
	fetch "$lan" 198.51.100.2/cgi-bin/slow >"$work/slow" &
	transfer=$!
	eventually test -s "$work/slow"
	cat "$work/slow"
}

# What opkg makes of an upgrade, as far as the service is concerned; procd's part is to stop the daemon before, to start the
# new one after, and to send the old one its signal a second time then.
service_is_stopped() { :; }
service_is_started() { :; }

upgrade_keeps_connections() {
	daemon_is_up && grep -h connections "$work/daemon.log" && ! kill -0 "$1" 2>/dev/null || return
	grep -q '^pepsal: took 1 connections over from pid' "$work/daemon.log" || return
	touch "$work/end"
	eventually grep -q end "$work/slow"
	[ "$(cat "$work/slow")" = 'begin end' ] && split "$lan" 198.51.100.2/
}

reload_keeps_connections() {
	begin_transfer
	[ -s "$work/slow" ] && load_firewall && load_rules --lan br-lan,br-guest --wan eth1 --exclude-port 82
	loaded=$?
	touch "$work/end"
	wait "$transfer" && [ "$loaded" = 0 ] || return
	[ "$(cat "$work/slow")" = 'begin end' ] && split "$lan" 198.51.100.2/
}

# Reset by the daemon: no SYN of it was stolen.
no_open_proxy() {
	before="$(stolen)"
	! fetch "$lan" 192.168.1.1:5000/ 2>/dev/null && [ "$(stolen)" = "$before" ]
}

stopped_is_end_to_end() {
	[ "$(fetch "$lan" 198.51.100.2/)" = hello ] && [ "$(fetch "$guest" '[2001:db8:100::2]/')" = hello ]
}

# run.sh's turn, and that of router.sh, which has other ways to load the rules and to start the daemon.
test_firewall() {
	nft_queue=''
	build_network >"$work/network.log" 2>&1 || {
		skip firewall "cannot make the namespaces: $(cat "$work/network.log")"
		return
	}
	! echo 'table inet probe { chain probe { queue flags bypass to 5000; }; }' |
		in_ns "$router" nft -c -f - 2>/dev/null || nft_queue=1
	write_ruleset
	check 'firewall: includes as shipped load, nothing in /var/run/pepsal' load_firewall
	check 'firewall: works before the daemon' test "$(fetch "$lan" 198.51.100.2/)" = hello
	check 'firewall: rules load' load_rules --lan br-lan,br-guest --wan eth1
	check 'firewall: rules without a daemon let everything pass' test "$(fetch "$lan" 198.51.100.2/)" = hello
	start_daemon
	check 'firewall: daemon starts' daemon_is_up
	check 'firewall: daemon has CAP_NET_ADMIN alone, and its system calls are filtered' rights_are_the_files
	check 'firewall: root reaches the daemon by the link' status_for_root
	check 'firewall: lan to wan is split' split "$lan" 198.51.100.2/
	check 'firewall: lan to wan is split, IPv6' split "$lan" '[2001:db8:100::2]/'
	check 'firewall: guest to wan is split, though its input is rejected' split "$guest" 198.51.100.2/
	check 'firewall: guest to wan is split, IPv6' split "$guest" '[2001:db8:100::2]/'
	check 'firewall: guest to lan stays forbidden' forbidden "$guest" 192.168.1.2/
	check 'firewall: guest to lan stays forbidden, IPv6' forbidden "$guest" '[2001:db8:1::2]/'
	check 'firewall: guest to the router stays forbidden' forbidden "$guest" 192.168.2.1:5000/
	check 'firewall: a port that forward rejects stays forbidden' forbidden "$lan" 198.51.100.2:81/
	check 'firewall: a connection redirected elsewhere passes whole' whole "$lan" 198.51.100.9:8082/
	check 'firewall: the listener is no open proxy' no_open_proxy
	check 'firewall: reload keeps live connections' reload_keeps_connections
	check 'firewall: an excluded port passes whole' whole "$lan" 198.51.100.2:82/
	begin_transfer >/dev/null
	service_is_stopped
	old="$daemon"
	kill "$old"
	sleep 1
	service_is_started
	start_daemon
	kill "$old"
	wait "$old"
	check 'firewall: the old daemon of an upgrade ends in order' test "$?" = 0
	check 'firewall: an upgrade keeps live connections' upgrade_keeps_connections "$old"
	wait "$transfer"
	kill "$daemon"
	wait "$daemon" 2>/dev/null
	daemon=''
	check 'firewall: without the daemon again end to end' stopped_is_end_to_end
}
