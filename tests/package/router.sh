#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# tests/package/router.sh [ARCH]
#
# The package on an emulated router (tests/vm): its files at their places, its init script run by a router's ash, and all
# that it calls for is the real thing – nft with the kernel's queue expression, ip, the TUN device, the daemon as user
# pepsal, the firewall's includes – but for procd, ubus and the generator of the firewall's ruleset (userland/). The
# checks are those of firewall.sh, with the rules that the service makes of a configuration.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/vm/vm.sh
. tests/vm/vm.sh

arch="${1:-x86_64}"
work="$(mktemp -d)"
trap 'vm_end; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# What cannot be had here is no pass, and in CI a failure.
cannot() {
	printf 'skipped: the package on an emulated router: %s\n\n0 passed, %s failed\n' "$1" "$([ -z "${CI:-}" ] && echo 0 || echo 1)"
	[ -z "${CI:-}" ]
	exit
}

target="$arch-unknown-linux-musl"
nice cross/build.sh --static "$target" >"$work/build" 2>&1 || {
	tail -n 20 "$work/build"
	cannot "cross/build.sh --static $target has failed"
}
vm_prepare "$arch" || cannot "no emulated $arch machine can be made here"

# The package's files as they are installed.
ipk="$(PEPSAL_BIN="$PWD/target/$target/static/pepsal" openwrt/ipk.sh mips_24kc "$work")" || exit 1
mkdir -p "$work/ipk" "$work/files/lib/functions" "$work/files/sbin" "$work/files/state" "$work/files/usr/share/libubox" \
	"$work/files/package"
tar -xzf "$ipk" -C "$work/ipk"
tar -xpzf "$work/ipk/data.tar.gz" -C "$work/files"

# OpenWrt's own, and the stand-ins that are needed here. There is no ujail, so the daemon becomes user pepsal by itself.
userland=tests/package/userland
[ "$arch" = "$(uname -m)" ] || cannot "OpenWrt's uci and jshn are made for $(uname -m) only"
made="$($userland/build.sh)" || cannot "OpenWrt's uci and jshn cannot be made here"
cp "$made/uci" "$made/jshn" "$work/files/sbin/"
# Its sh is Debian's, a router's is busybox's.
for tool in jsonfilter ubus validate_data; do
	sed '1s|/bin/sh|/bin/busybox ash|' "$userland/bin/$tool" >"$work/files/sbin/$tool"
	chmod 755 "$work/files/sbin/$tool"
done
cp "$made/jshn.sh" "$work/files/usr/share/libubox/"
cp "$userland/rc.common" "$work/files/etc/"
cp "$userland/lib/functions.sh" "$work/files/lib/"
cp "$userland/lib/network.sh" "$userland/lib/procd.sh" "$work/files/lib/functions/"
cp tests/package/cases/firewall tests/package/cases/network "$work/files/etc/config/"
cp tests/package/cases/interfaces "$work/files/state/"
# shellcheck disable=SC2016 # for the shell there
printf '#!/bin/sh\nexec nft -f /tmp/work/fw4.nft\n' >"$work/files/sbin/fw4"
chmod 755 "$work/files/sbin/fw4"

cp tests/package/guest.sh "$work/files/main"
cp tests/package/firewall.sh "$work/files/package/"
mkdir -p "$work/files/package/openwrt"
cp -R openwrt/pepsal "$work/files/package/openwrt/"
chmod 755 "$work/files/main"

vm_image "$arch" "$work/files" "$work/image" || exit 1
code=0
# icount: the machine's clock counts its instructions, so that a moment in which this one stands still is none there.
vm_run "$arch" "$work/image" "target/package-router/$arch" 256 1800 -smp 1 -icount shift=1,sleep=off -rtc clock=vm || code=$?
[ "$code" = 0 ] || tail -n 20 "target/package-router/$arch/console"
exit "$code"
