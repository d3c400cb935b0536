#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck disable=SC2034,SC2317 # what firewall.sh reads, and calls
#
# What router.sh runs inside the machine: firewall.sh, with the service in place of its own ways.
set -u

work=/tmp/work top=/package netns=t pepsal=/usr/sbin/pepsal
passed=0 failed=0
mkdir -p "$work"
printf 'pepsal:x:333:333::/var/run/pepsal:/bin/false\n' >>/etc/passwd
printf 'pepsal:x:333:\n' >>/etc/group

check() { # NAME COMMAND...
	name=$1
	shift
	if complaint=$("$@" 2>&1); then
		passed=$((passed + 1))
		printf 'ok: %s\n' "$name"
	else
		failed=$((failed + 1))
		printf 'FAILED: %s\n%s\n' "$name" "$complaint"
	fi
}

skip() {
	check "$1" false
	printf '    %s\n' "$2"
}

# shellcheck source=tests/package/firewall.sh
. "$top/firewall.sh"

# busybox' timeout would take its own ip.
in_ns() { # NAMESPACE COMMAND...
	where=$1
	shift
	timeout 60 /sbin/ip netns exec "$where" "$@"
}

# As the router's rc.common does it, in its ash.
service() {
	in_ns "$router" busybox ash /etc/rc.common /etc/init.d/pepsal "$1" </dev/null
}

load_rules() { # --lan br-lan,br-guest --wan eth1 [--exclude-port LIST]
	{
		printf "config pepsal 'main'\n\toption enabled '1'\n\toption log_level 'debug'\n"
		printf "config link\n\tlist lan 'lan'\n\tlist lan 'guest'\n\tlist wan 'wan6'\n"
		printf "\toption rate_up '50'\n\toption rate_down '50'\n\toption rtt '100'\n"
		[ -z "${6:-}" ] || printf "config exclude\n\toption port '%s'\n" "$6"
	} >/etc/config/pepsal
	service reload && cat /state/procd && grep -q '^instance' /state/procd &&
		grep -q '"br-lan", "br-guest"' /var/run/pepsal/rules.nft && in_ns "$router" nft list table inet pepsal
}

service_is_stopped() {
	service stop
}

service_is_started() {
	service start
}

# What procd was told to run.
start_daemon() {
	command=$(sed -n 's/^command //p' /state/procd)
	rm -f "$work/daemon.log"
	# shellcheck disable=SC2086 # words; exec: $! is to be the daemon itself
	(exec ip netns exec "$router" $command 2>"$work/daemon.log") &
	daemon=$!
}

status_for_root() {
	ls -l /var/run/pepsal /var/run/pepsal/daemon
	"$pepsal" status --json | grep '"stolen"'
}

service_stops() {
	service stop && ! in_ns "$router" nft list table inet pepsal && [ ! -e /var/run/pepsal ] && stopped_is_end_to_end || return
	# local, main and default are the kernel's own.
	for family in -4 -6; do
		in_ns "$router" ip "$family" rule
		! in_ns "$router" ip "$family" rule | grep -v 'lookup \(local\|main\|default\)' || return
	done
}

firewall_flush() {
	in_ns "$router" nft flush ruleset && load_firewall && in_ns "$router" nft list table inet pepsal && load_firewall
}

service_without_queue() {
	[ -n "$nft_queue" ]
}

test_firewall
check 'firewall: this kernel queues for nft' service_without_queue
check 'firewall: the rules are there again after a flush and a start of the firewall' firewall_flush
check 'service: stop leaves nothing' service_stops
stop_firewall_test
printf '\n%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
