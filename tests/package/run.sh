#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Tests of the OpenWrt package. One line for each check, and at the end how many passed. What a machine cannot run is
# skipped, except where CI is set. tests/package/run.sh --accept writes the expected files anew.
#
#   lint       shell files for a router's ash
#   package    what ipk.sh packs, twice the same, and within its size
#   service    the init script, run for real in a root with OpenWrt's own uci and stand-ins (userland/), in a
#              network namespace
#   firewall   the daemon's rules and the shipped includes in a namespace, next to a ruleset like fw4's (firewall.sh)
#
# router.sh has the service and the firewall together on an emulated router, whose nft has the queue expression.
#
# PEPSAL_BIN is the program for the tests; without it one is built.

# Checks are called by name; firewall.sh has its own turn.
# shellcheck disable=SC1091,SC2317

set -u
export LC_ALL=C
here="$(cd "$(dirname "$0")" && pwd)"
top="$(cd "$here/../.." && pwd)"
accept="${1:-}"
passed=0 failed=0
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

# check NAME COMMAND...: what the command prints is shown only if it fails
check() {
	name="$1"
	shift
	if complaint="$("$@" 2>&1)"; then
		passed=$((passed + 1))
		echo "ok: $name"
	else
		failed=$((failed + 1))
		echo "FAILED: $name"
		echo "$complaint" | sed 's/^/    /'
	fi
}

skip() {
	if [ -n "${CI:-}" ]; then
		failed=$((failed + 1))
		echo "FAILED: $1: $2"
	else
		echo "skipped: $1: $2"
	fi
}

# expect FILE: compares standard input with a file of cases/
expect() {
	[ "$accept" != --accept ] || {
		cat >"$here/cases/$1"
		return
	}
	diff -u "$here/cases/$1" -
}

work="$(mktemp -d)"
netns="pepsal-package-$$"
cleanup() {
	ip netns delete "$netns" 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

# --- lint

lint() {
	shellcheck -s dash "$@"
}

if need shellcheck shellcheck; then
	for file in openwrt/ipk.sh openwrt/pepsal/test.sh openwrt/pepsal/files/pepsal.init openwrt/pepsal/files/pepsal.defaults; do
		check "shellcheck $file" lint "$top/$file"
	done
	check 'shellcheck tests/package' lint "$here/run.sh" "$here/firewall.sh" "$here/guest.sh" \
		"$here/userland/rc.common" "$here"/userland/bin/* "$here"/userland/lib/*
else
	skip shellcheck 'it is not installed'
fi

if need busybox busybox; then
	for file in openwrt/pepsal/test.sh openwrt/pepsal/files/pepsal.init openwrt/pepsal/files/pepsal.defaults; do
		check "ash syntax of $file" busybox ash -n "$top/$file"
	done
else
	skip 'ash syntax' 'busybox is not installed'
fi

# --- package

pepsal="${PEPSAL_BIN:-}"
if [ -z "$pepsal" ]; then
	(cd "$top" && cargo build --quiet) || exit 1
	pepsal="${CARGO_TARGET_DIR:-$top/target}/debug/pepsal"
fi
export PEPSAL_BIN="$pepsal"
# ipk.sh's own choice, which a commit between two builds would change.
SOURCE_DATE_EPOCH="$(git -C "$top" log -1 --format=%ct 2>/dev/null || echo 0)"
export SOURCE_DATE_EPOCH

declared_files_exist() {
	sed -n 's|^.*\(\./files/[^ ]*\).*|\1|p' "$top/openwrt/pepsal/Makefile" >"$work/declared"
	[ -s "$work/declared" ] || return
	while read -r file; do
		[ -f "$top/openwrt/pepsal/$file" ] || echo "declared, not there: $file"
	done <"$work/declared" >"$work/wrong"
	for file in "$top"/openwrt/pepsal/files/*; do
		grep -qx "./files/${file##*/}" "$work/declared" || echo "there, not declared: $file"
	done >>"$work/wrong"
	cat "$work/wrong"
	[ ! -s "$work/wrong" ]
}

version_is_the_crate_s() {
	crate="$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$top/Cargo.toml")"
	grep -qx "PKG_VERSION:=$crate" "$top/openwrt/pepsal/Makefile" &&
		[ "$("$pepsal" --version)" = "pepsal $crate" ]
}

json() {
	if command -v python3 >/dev/null; then
		python3 -m json.tool "$1" >/dev/null
	else
		grep -q '"ambient"' "$1"
	fi
}

pack() {
	"$top/openwrt/ipk.sh" "$1" "$2"
}

unpack() {
	mkdir -p "$work/ipk/control" "$work/ipk/data"
	tar -xzf "$1" -C "$work/ipk"
	tar -xzf "$work/ipk/control.tar.gz" -C "$work/ipk/control"
	tar -xpzf "$work/ipk/data.tar.gz" -C "$work/ipk/data"
}

# Sizes and times depend on the build, so they are no part of what is expected.
ipk_contents() {
	{
		tar -tzf "$1"
		tar -tvzf "$work/ipk/data.tar.gz" | awk '{ print $1, $2, $NF }'
		sed 's/^\(Installed-Size\|SourceDateEpoch\): [0-9]\+$/\1: NUMBER/' "$work/ipk/control/control"
		for file in conffiles postinst prerm postrm; do
			echo "== $file"
			sed 's/^/    /' "$work/ipk/control/$file"
		done
		(cd "$work/ipk/control" && find . -type f -printf '%m %p\n' | sort -k 2)
	} | expect ipk.expected
}

installed_size_is_right() {
	[ "$(sed -n 's/^Installed-Size: //p' "$work/ipk/control/control")" = "$(gzip -dc "$work/ipk/data.tar.gz" | wc -c)" ]
}

identical() {
	sleep 1
	touch "$top/openwrt/pepsal/files/pepsal.config"
	pack mips_24kc "$work/second" && cmp "$1" "$work/second/${1##*/}"
}

usage_of_ipk() {
	! pack vax "$work/first" && ! "$top/openwrt/ipk.sh" mips_24kc && ! PEPSAL_BIN=/nonexistent pack mips_24kc "$work/first"
}

# LuCI's package has the files of its folder and no more, for everybody to read, and its version is the service's.
luci_contents() {
	luci="$(pack all "$work/luci")" && mkdir -p "$work/luci/control" "$work/luci/data" || return
	tar -xzf "$luci" -C "$work/luci"
	tar -xzf "$work/luci/control.tar.gz" -C "$work/luci/control"
	tar -xpzf "$work/luci/data.tar.gz" -C "$work/luci/data"
	cat "$work/luci/control/control"
	(
		cd "$top/openwrt/luci-app-pepsal" || exit
		find htdocs root ucode -type f 2>/dev/null | sed 's|^htdocs/|./www/|; s|^root/|./|; s|^ucode/|./usr/share/ucode/luci/|' | sort
	) >"$work/luci/wanted"
	(cd "$work/luci/data" && find . -type f | sort) | diff "$work/luci/wanted" - &&
		[ -z "$(find "$work/luci/data" \( -type d ! -perm 755 -o -type f ! -perm 644 -a -type f ! -perm 755 \) -print)" ] &&
		grep -qx "Version: $(sed -n 's/^Version: //p' "$work/ipk/control/control")" "$work/luci/control/control" &&
		grep -qx 'Architecture: all' "$work/luci/control/control" && grep -q '^Depends: .*pepsal' "$work/luci/control/control" &&
		busybox ash -n "$work/luci/control/postinst-pkg"
}

luci_identical() {
	first="$(cksum <"$luci")"
	sleep 1
	luci="$(pack all "$work/luci")" && [ "$first" = "$(cksum <"$luci")" ]
}

small_enough() {
	echo "$1 bytes, of $2 allowed"
	[ "$1" -le "$2" ]
}

check 'files of the Makefile' declared_files_exist
check 'version of the Makefile' version_is_the_crate_s
check 'capability file' json "$top/openwrt/pepsal/files/pepsal.capabilities"
ipk="$(pack mips_24kc "$work/first")"
unpack "$ipk"
check 'contents of the ipk' ipk_contents "$ipk"
check 'installed size in the ipk' installed_size_is_right
check 'two ipks are identical' identical "$ipk"
check 'ipk.sh refuses what it cannot do' usage_of_ipk
if [ -e "$top/openwrt/luci-app-pepsal/Makefile" ]; then
	check "contents of LuCI's ipk" luci_contents
	luci="$(echo "$work"/luci/*.ipk)"
	check "two of LuCI's ipks are identical" luci_identical
fi
rm "$work/ipk/data/usr/sbin/pepsal"
check 'size of everything but the program' small_enough \
	"$(tar -czf - -C "$work/ipk/data" . | wc -c)" 10000

# What routers have room for; the programs are cross/build.sh's.
while read -r arch triple most; do
	program="$top/target/$triple/release/pepsal"
	if [ -e "$program" ]; then
		ipk="$(PEPSAL_BIN="$program" pack "$arch" "$work/sizes")"
		size="$(wc -c <"$ipk")"
		check "size of the ipk for $arch: $size" small_enough "$size" "$most"
	else
		skip "size of the ipk for $arch" "cross/build.sh $triple has not run"
	fi
done <<'END'
mips_24kc mips-unknown-linux-musl 180000
mipsel_24kc mipsel-unknown-linux-musl 180000
arm_cortex-a7_neon-vfpv4 armv7-unknown-linux-musleabihf 140000
aarch64_cortex-a53 aarch64-unknown-linux-musl 180000
x86_64 x86_64-unknown-linux-musl 200000
END

# --- service

# A root as the package's data makes it, with what OpenWrt has: its own, or a stand-in.
make_root() {
	root="$work/root"
	mkdir -p "$root/bin" "$root/sbin" "$root/usr/bin" "$root/usr/sbin" "$root/usr/share/libubox" "$root/lib/functions" \
		"$root/tmp" "$root/var/run" "$root/proc" "$root/sys" "$root/dev/net" "$root/state"
	cp -a "$work/ipk/data/." "$root/"
	cp "$pepsal" "$root/usr/sbin/pepsal"
	busybox="$(command -v busybox)"
	cp "$busybox" "$root/bin/busybox"
	for library in $(ldd "$pepsal" "$busybox" 2>/dev/null | grep -o '/[^ ]*' | grep -v ':$' | sort -u); do
		mkdir -p "$root${library%/*}"
		cp -L "$library" "$root$library"
	done
	sed '/^#/d' "$here/userland/applets" | tr ' ' '\n' | while read -r applet; do
		[ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
	done
	for tool in "$here"/userland/bin/*; do
		rm -f "$root/bin/${tool##*/}"
		cp "$tool" "$root/bin/"
	done
	mv "$root/bin/validate_data" "$root/sbin/"
	cp "$userland/uci" "$root/sbin/"
	cp "$userland/jshn" "$root/usr/bin/"
	cp "$userland/jshn.sh" "$root/usr/share/libubox/"
	cp "$here/userland/rc.common" "$root/etc/"
	cp "$here/userland/lib/functions.sh" "$root/lib/"
	cp "$here/userland/lib/network.sh" "$here/userland/lib/procd.sh" "$root/lib/functions/"
	cp "$here/cases/firewall" "$here/cases/network" "$root/etc/config/"
	echo 'root:x:0:0:root:/root:/bin/ash' >"$root/etc/passwd"
	echo 'pepsal:x:333:333:pepsal:/var/run/pepsal:/bin/false' >>"$root/etc/passwd"
	printf 'root:x:0:\npepsal:x:333:\n' >"$root/etc/group"
	mknod -m 600 "$root/dev/net/tun" c 10 200
	mknod -m 666 "$root/dev/null" c 1 3
}

# in_root COMMAND...: in the root and in a namespace that has the devices
in_root() {
	# shellcheck disable=SC2016 # for the shell inside
	timeout 60 ip netns exec "$netns" sh -c '
		root="$1"
		shift
		mount --bind /sys "$root/sys" && mount --bind /proc "$root/proc" &&
			exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"' sh "$root" "$@"
}

service() {
	in_root /etc/init.d/pepsal "$@" 2>/dev/null
}

# fresh CONFIG: the state of a router that has this configuration and has not started the service
fresh() {
	rm -rf "$root/state" "$root/var/run/pepsal"
	mkdir -p "$root/state/nft"
	cp "$1" "$root/etc/config/pepsal"
	cp "$here/cases/interfaces" "$root/state/"
	: >"$root/state/nft/fw4"
	: >"$root/state/log"
	printf '#!/bin/sh\n' >"$root/sbin/ujail"
	chmod 755 "$root/sbin/ujail"
	chown root:root "$root/dev/net/tun"
}

# What was told to whom. The rules without their comments, which belong to the daemon.
state() {
	for file in log procd fw4; do
		echo "== $file"
		cat "$root/state/$file" 2>/dev/null
	done
	echo "== $1 of the firewall"
	grep -v '^[[:space:]]*#' "$root/state/nft/pepsal" 2>/dev/null
	return 0
}

golden() {
	fresh "$here/cases/$1.pepsal"
	service start
	state rules | expect "$1.expected"
}

nothing_runs() {
	! [ -e "$root/state/nft/pepsal" ] && ! [ -e "$root/var/run/pepsal" ] && ! grep -qs '^instance' "$root/state/procd"
}

# with_value SECTION OPTION VALUE: a good configuration but for that value
with_value() {
	for section in main sat ex; do
		case "$section" in
		main)
			printf "config pepsal 'main'\n"
			[ "$1.$2" = main.enabled ] || printf "\toption enabled '1'\n"
			;;
		sat) printf "config link 'sat'\n\tlist lan 'lan'\n\tlist wan 'wan'\n" ;;
		ex) printf "config exclude 'ex'\n\tlist port '443'\n" ;;
		esac
		[ "$section" != "$1" ] || case "$2" in
		# In the middle: validate_data's exit status is about the last item.
		lan) printf "\tlist lan '%s'\n\tlist lan 'guest'\n" "$3" ;;
		wan) printf "\tlist wan '%s'\n\tlist wan 'wan6'\n" "$3" ;;
		port) printf "\tlist port '%s'\n\tlist port '444'\n" "$3" ;;
		client | server) printf "\tlist %s '%s'\n\tlist %s '192.0.2.1'\n" "$2" "$3" "$2" ;;
		*) printf "\toption %s '%s'\n" "$2" "$3" ;;
		esac
	done
}

malformed() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	service start
	with_value "$@" >"$root/etc/config/pepsal"
	: >"$root/state/log"
	service reload
	cat "$root/state/log"
	# A name that resolves to nothing is known by its link's option, not by its place in the list.
	grep -F "$2" "$root/state/log" | grep -Fq "=$3:" && nothing_runs &&
		grep -q '^on config.change if eq package pepsal run_script /etc/init.d/pepsal reload' "$root/state/procd"
}

reload_leaves_daemon_alone() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	service start
	before="$(grep ^command "$root/state/procd")"
	service reload
	[ "$(wc -l <"$root/state/nft.loads")" = 1 ] || return
	printf "config exclude\n\tlist port '22'\n" >>"$root/etc/config/pepsal"
	service reload
	[ "$(wc -l <"$root/state/nft.loads")" = 2 ] && grep -q 'dport 22' "$root/state/nft/pepsal" &&
		[ "$before" = "$(grep ^command "$root/state/procd")" ] || return
	# A firewall that was flushed meanwhile.
	rm "$root/state/nft/pepsal"
	service reload
	[ "$(wc -l <"$root/state/nft.loads")" = 3 ] || return
	sed -i "s/enabled '1'/&\n\toption threads '3'/" "$root/etc/config/pepsal"
	service reload
	[ "$before" != "$(grep ^command "$root/state/procd")" ]
}

# procd starts another daemon when the instance has another name: see instance_name.
new_daemons() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	service start
	first="$(cat "$root/state/procd.name")"
	service reload
	printf "config exclude\n\tlist port '22'\n" >>"$root/etc/config/pepsal"
	service reload
	[ -n "$first" ] && [ "$(cat "$root/state/procd.name")" = "$first" ] || return
	sed -i "s/enabled '1'/&\n\toption threads '3'/" "$root/etc/config/pepsal"
	service reload
	second="$(cat "$root/state/procd.name")"
	service restart
	third="$(cat "$root/state/procd.name")"
	cp -p "$root/usr/sbin/pepsal" "$work/program"
	echo >>"$root/usr/sbin/pepsal"
	service start
	fourth="$(cat "$root/state/procd.name")"
	cp -p "$work/program" "$root/usr/sbin/pepsal"
	echo "$first $second $third $fourth"
	[ "$first" != "$second" ] && [ "$second" != "$third" ] && [ "$third" != "$fourth" ]
}

# control_socket: one as a daemon has it that is ending, which no daemon of these tests is. perl-base, which every Debian has.
control_socket() {
	perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 1) or die' \
		"$root/var/run/pepsal/daemon/control"
}

# The control socket of a daemon that is ending stays where the next one looks for it, and nothing else does.
ending_daemon_is_found() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	service start
	control_socket || return
	service stop
	ls -R "$root/var/run/pepsal"
	[ -S "$root/var/run/pepsal/control" ] && [ "$(find "$root/var/run/pepsal" -type f ! -name stopped)" = '' ]
	found=$?
	service start
	[ "$found" = 0 ] && [ -S "$root/var/run/pepsal/daemon/control" ] || return
	rm -f "$root/var/run/pepsal/daemon/control"
	service stop
	nothing_runs
}

# procd keeps the triggers until the daemon has ended.
stop_holds() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	service start
	control_socket && service stop && service reload event
	stopped=$([ -e "$root/state/procd" ] || echo yes)
	service reload
	started=$(grep -c '^instance' "$root/state/procd")
	# A mended configuration is another matter.
	sed -i "s/enabled '1'/enabled 'maybe'/" "$root/etc/config/pepsal"
	service reload
	sed -i "s/enabled 'maybe'/enabled '1'/" "$root/etc/config/pepsal"
	service reload event
	mended=$(grep -c '^instance' "$root/state/procd")
	rm "$root/var/run/pepsal/daemon/control"
	echo "$stopped $started $mended"
	[ "$stopped $started $mended" = 'yes 1 1' ]
}

# opkg has stopped the service; connections may go on. An upgrade leaves them where the next daemon finds them.
removal_leaves_nothing() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	service start
	control_socket && service stop || return
	cp "$work/ipk/control/postrm" "$root/tmp/"
	in_root env PKG_UPGRADE=1 /tmp/postrm && [ -S "$root/var/run/pepsal/control" ] &&
		[ "$(wc -l <"$root/state/fw4")" = 1 ] &&
		in_root env PKG_UPGRADE=0 /tmp/postrm && [ ! -e "$root/var/run/pepsal" ] && [ "$(wc -l <"$root/state/fw4")" = 2 ]
}

nobody_waits_at_the_end() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	service start
	control_socket && service shutdown
	rm "$root/var/run/pepsal/daemon/control"
	[ ! -e "$root/state/procd" ] && [ "$(cat "$root/state/signals")" = INT ]
}

# Sections of the firewall and of pepsal may have the same names.
names_of_sections() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	printf "config link 'here'\n\toption enabled '0'\n" >>"$root/etc/config/pepsal"
	sed -i "s/list lan 'lan'/list lan 'dmz'/" "$root/etc/config/pepsal"
	printf "config zone 'here'\n\toption name 'dmz'\n\tlist network 'guest'\n" >>"$root/etc/config/firewall"
	service start
	cp "$here/cases/firewall" "$root/etc/config/"
	cat "$root/state/log"
	grep -q 'br-guest' "$root/state/nft/pepsal"
}

stop_leaves_nothing() {
	fresh "$here/cases/transparent.pepsal"
	service start
	[ "$(stat -c %g:%a "$root/dev/net/tun")" = 333:660 ] && [ "$(stat -c %u:%a "$root/var/run/pepsal")" = 0:755 ] &&
		[ "$(stat -c %u:%g:%a "$root/var/run/pepsal/daemon")" = 333:333:750 ] || return
	service stop
	state rules
	nothing_runs && ! [ -e "$root/state/procd" ] && [ "$(stat -c %g "$root/dev/net/tun")" = 0 ]
}

disabled() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	service start
	sed -i "s/enabled '1'/enabled '0'/" "$root/etc/config/pepsal"
	service reload
	nothing_runs && [ ! -s "$root/state/log" ] && grep -q '^on config.change .* pepsal ' "$root/state/procd"
}

# Every option that the init script knows and that can be wrong has a case of that.
every_option_is_tried() {
	sed -n "/^[A-Z]*_OPTIONS='/,/'\$/{ s/^\([A-Z]*\)_OPTIONS='/\1/p; s/^\t\([a-z_]*\):.*/\1/p; }" \
		"$top/openwrt/pepsal/files/pepsal.init" | while read -r word; do
		case "$word" in
		MAIN) section=main ;;
		LINK) section=sat ;;
		EXCLUDE) section='ex' ;;
		name | comment) ;;
		*) grep -q "^$section $word " "$here/cases/malformed" || echo "$section.$word" ;;
		esac
	done >"$work/untried"
	cat "$work/untried"
	[ ! -s "$work/untried" ] && [ "$(wc -l <"$here/cases/malformed")" -gt 50 ]
}

# What procd would start is what the daemon understands: it runs until it is stopped, or names what this machine lacks.
daemon_takes_the_command_line() {
	fresh "$here/cases/all-options.pepsal"
	service start
	command="$(sed -n 's/^command //p' "$root/state/procd")"
	echo "$command"
	# shellcheck disable=SC2016,SC2086 # for the shell inside; words
	ip netns exec "$netns" sh -c '
		mount --bind /proc "$1/proc" && exec timeout -k 30 1 chroot "$@"' sh "$root" $command
	case "$?" in
	1 | 124) ;;
	*) return 1 ;;
	esac
}

# default_config: as installed it is off, and one option makes it run
default_config() {
	fresh "$work/ipk/data/etc/config/pepsal"
	service start
	nothing_runs && [ ! -s "$root/state/log" ] || return
	sed -i "s/enabled '0'/enabled '1'/" "$root/etc/config/pepsal"
	service reload
	cat "$root/state/log"
	grep -q '^instance' "$root/state/procd" && [ -e "$root/state/nft/pepsal" ]
}

# Every option that the file shows in a comment is one that works.
documented_options() {
	fresh "$work/ipk/data/etc/config/pepsal"
	sed "s/^\(\t*\)#\([a-z]\)/\1\2/; s/^\(\t*\)#\t/\t/; s/enabled '0'/enabled '1'/; s/hybla/reno/" "$work/ipk/data/etc/config/pepsal" |
		grep -E "^(config|	option|	list)" >"$root/etc/config/pepsal"
	service start
	cat "$root/etc/config/pepsal" "$root/state/log"
	[ ! -s "$root/state/log" ] && grep -q '^instance' "$root/state/procd"
}

no_queue() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	: >"$root/state/no_queue"
	service start
	cat "$root/state/log"
	nothing_runs && [ "$(wc -l <"$root/state/log")" = 1 ] && grep -q kmod-nft-queue "$root/state/log" &&
		[ ! -e "$root/state/fw4" ] && [ ! -s "$root/state/nft/fw4" ]
}

no_includes() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	: >"$root/state/no_includes"
	service start
	cat "$root/state/log"
	nothing_runs && grep -q auto_includes "$root/state/log"
}

no_firewall() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	rm "$root/state/nft/fw4"
	service start
	[ ! -e "$root/state/fw4" ] && [ -e "$root/state/nft/pepsal" ]
}

firewall_reloaded_once() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	service start
	service reload
	service restart
	[ "$(cat "$root/state/fw4")" = 'fw4 -q reload' ]
}

waiting_for_wan() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	sed -i '/eth1/d; s/^wan_6.*/wan - - -/' "$root/state/interfaces"
	service start
	grep -q '^instance' "$root/state/procd" && [ ! -e "$root/state/nft/pepsal" ] &&
		grep -q '^on interface.* eq interface wan ' "$root/state/procd" && grep -q 'waiting for a device of wan' "$root/state/log" || return
	before="$(grep ^command "$root/state/procd")"
	cp "$here/cases/interfaces" "$root/state/"
	service reload
	[ -e "$root/state/nft/pepsal" ] && [ "$before" = "$(grep ^command "$root/state/procd")" ]
}

without_guards() {
	for guard in sbin/ujail etc/capabilities/pepsal.json etc/passwd; do
		fresh "$here/cases/one-lan-one-wan.pepsal"
		cp -p "$root/$guard" "$work/guard"
		if [ "$guard" = etc/passwd ]; then
			sed -i /pepsal/d "$root/$guard"
		else
			rm "$root/$guard"
		fi
		service start
		cp -p "$work/guard" "$root/$guard"
		echo "with no $guard:"
		cat "$root/state/procd"
		grep -q '^instance' "$root/state/procd" || return
		! grep -Eq '^(jail|user|capabilities)' "$root/state/procd" || return
		# The daemon then becomes the user itself, if there is one.
		if [ "$guard" = etc/passwd ]; then
			! grep -q -e --user "$root/state/procd" || return
		else
			grep -q '^command .* --user pepsal$' "$root/state/procd" || return
		fi
	done
}

no_links() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	sed -i '/^config link/,$d' "$root/etc/config/pepsal"
	service start
	nothing_runs && grep -q "no section 'link'" "$root/state/log"
}

no_tun() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	rm "$root/dev/net/tun"
	service start
	mknod -m 600 "$root/dev/net/tun" c 10 200
	nothing_runs && grep -q kmod-tun "$root/state/log"
}

defaults_keep_what_is_there() {
	fresh "$here/cases/one-lan-one-wan.pepsal"
	in_root sh /etc/uci-defaults/90-pepsal
	cmp "$here/cases/one-lan-one-wan.pepsal" "$root/etc/config/pepsal" || return
	sed -i '/^config pepsal/,/^$/d' "$root/etc/config/pepsal"
	in_root sh /etc/uci-defaults/90-pepsal
	in_root uci export pepsal | expect defaults.expected
}

# This kernel may have no queue expression; everything else of the rules is shown to the real nft.
nft_takes_the_rules() {
	fresh "$here/cases/exclusions.pepsal"
	service start
	sed 's/queue flags bypass to [0-9]*/counter/' "$root/state/nft/pepsal" >"$work/rules"
	ip netns exec "$netns" nft -c -f "$work/rules"
}

if [ "$(id -u)" != 0 ]; then
	skip service 'needs root for a namespace'
elif ! need busybox busybox || ! need ip iproute2; then
	skip service 'busybox or ip is not installed'
elif ! userland="$("$here/userland/build.sh")"; then
	skip service "OpenWrt's uci and jshn cannot be made here"
elif ! ip netns add "$netns" 2>/dev/null; then
	skip service 'no network namespaces here'
else
	ip -n "$netns" link set lo up
	for device in br-lan br-guest eth1 eth2 pppoe-wan; do
		ip -n "$netns" tuntap add dev "$device" mode tap
	done
	make_root

	for case in one-lan-one-wan lan-and-guest two-wans ipv6-only exclusions transparent zone-devices all-options; do
		check "rules and instance: $case" golden "$case"
	done
	while read -r section option value; do
		case "$section" in
		'' | '#') continue ;;
		esac
		check "malformed: $section.$option=$value" malformed "$section" "$option" "$value"
	done <"$here/cases/malformed"
	check 'every option has a malformed case' every_option_is_tried
	check 'daemon takes the command line' daemon_takes_the_command_line
	check 'reload leaves the daemon alone' reload_leaves_daemon_alone
	check 'reload starts another daemon when it has to' new_daemons
	check 'an ending daemon is found' ending_daemon_is_found
	check 'stop leaves nothing' stop_leaves_nothing
	check 'stop holds' stop_holds
	check 'nobody waits at the end' nobody_waits_at_the_end
	check 'removal leaves nothing' removal_leaves_nothing
	check 'sections of the same name' names_of_sections
	check 'switched off' disabled
	check 'configuration as installed' default_config
	check 'options that the configuration shows' documented_options
	check 'kernel without nft queue' no_queue
	check 'firewall without includes' no_includes
	check 'no firewall' no_firewall
	check 'firewall reloaded once' firewall_reloaded_once
	check 'waiting for an interface' waiting_for_wan
	check 'privileges without one of the guards' without_guards
	check 'no link' no_links
	check 'no tun' no_tun
	check 'uci-defaults' defaults_keep_what_is_there
	if need nft nftables; then
		check 'nft takes the rules' nft_takes_the_rules
	else
		skip 'nft takes the rules' 'nft is not installed'
	fi
fi

# --- firewall

if [ "$(id -u)" = 0 ] && need nft nftables && need iptables iptables; then
	. "$here/firewall.sh"
	trap 'stop_firewall_test; cleanup' EXIT
	test_firewall
else
	skip firewall 'needs root, nft and iptables'
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
