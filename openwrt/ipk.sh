#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# openwrt/ipk.sh ARCH OUTDIR
#
# Makes OUTDIR/pepsal_VERSION_ARCH.ipk without the SDK, from the program that cross/build.sh makes; with ARCH all the
# package that is the same for every router, OUTDIR/luci-app-pepsal_VERSION_all.ipk. What goes into a package, with which
# names, modes and fields, is read from its Makefile, so that both builds give the same. The layout is that of OpenWrt's
# ipkg-build. The same sources give the same bytes: times are SOURCE_DATE_EPOCH, by default the time of the last commit.
#
# PEPSAL_BIN=FILE packs FILE instead, for tests.

set -eu
umask 022
export LC_ALL=C

here="$(cd "$(dirname "$0")" && pwd)"

die() {
	echo "ipk.sh: $1" >&2
	exit 1
}

[ $# -eq 2 ] || {
	echo "usage: $0 ARCH OUTDIR" >&2
	echo "ARCH: as in 'opkg print-architecture', for example mips_24kc, mipsel_24kc, arm_cortex-a7_neon-vfpv4," >&2
	echo "      aarch64_cortex-a53, x86_64; all for LuCI's package" >&2
	exit 2
}
arch="$1"
mkdir -p "$2"
out="$(cd "$2" && pwd)"

epoch="${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 0)}"

# variable NAME: of the Makefile's head or of its package definition, without what only the SDK's own choice of
# packages needs
variable() {
	# shellcheck disable=SC2016 # make's variable
	sed -n "s/^ *$1:=//p" "$makefile" | sed 's/\$(RUST_ARCH_DEPENDS)//; s/^ *//'
}

# dependencies NAME: that variable in the words of a control file; libc is what the SDK adds to every package
dependencies() {
	echo "libc, $(variable "$1" | sed 's/+//g; s/ \+/, /g')"
}

# definition NAME: the body of one define
definition() {
	sed -n "\\|^define $1\$|,/^endef\$/p" "$makefile" | sed '1d; $d; s/\$\$/$/g'
}

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/data" "$work/control"

# archive DIRECTORY FILE...: one of the package's tars on stdout
archive() (
	cd "$1"
	shift
	tar --format=gnu --sort=name --numeric-owner --owner=0 --group=0 --mtime="@$epoch" -cf - "$@"
)

# --- the service

find_program() {
	case "$arch" in
	mips_24kc) triple=mips-unknown-linux-musl ;;
	mipsel_24kc | mipsel_74kc) triple=mipsel-unknown-linux-musl ;;
	arm_cortex-a*_*vfp*) triple=armv7-unknown-linux-musleabihf ;;
	aarch64_*) triple=aarch64-unknown-linux-musl ;;
	x86_64) triple=x86_64-unknown-linux-musl ;;
	*) die "no target of the compiler is known for $arch" ;;
	esac

	program="${PEPSAL_BIN:-$here/../target/$triple/release/pepsal}"
	[ -e "$program" ] || [ -n "${PEPSAL_BIN:-}" ] || "$here/../cross/build.sh" "$triple" >&2
	[ -x "$program" ] || die "there is no program $program"
}

# The modes are those of OpenWrt's rules.mk.
install_service() {
	# shellcheck disable=SC2016 # make's variables
	definition Package/pepsal/install | sed 's/^\t//; s/\$(INSTALL_\([A-Z]*\))/\1/; s/\$(1)//; s/\$(PKG_INSTALL_DIR)/@/' |
		while read -r verb from to; do
			case "$from" in
			@*) from="$program" ;;
			./*) from="${makefile%/*}/$from" ;;
			esac
			case "$verb" in
			DIR) install -d -m 755 "$work/data$from" ;;
			BIN) install -m 755 "$from" "$work/data$to" ;;
			DATA) install -m 644 "$from" "$work/data$to" ;;
			CONF) install -m 600 "$from" "$work/data$to" ;;
			*) die "do not know how to do this line of the Makefile: $verb $from $to" ;;
			esac
		done
	[ -x "$work/data/usr/sbin/pepsal" ] || die "cannot find what to install in $makefile"
}

service_control() {
	echo "Package: $name"
	echo "Version: $version"
	echo "Depends: $(dependencies DEPENDS)"
	echo "Source: feeds/packages/net/$name"
	echo "SourceName: $name"
	echo "License: $(variable PKG_LICENSE)"
	echo "LicenseFiles: $(variable PKG_LICENSE_FILES)"
	echo "Section: $(variable SECTION)"
	echo "Require-User: $(variable USERID)"
	echo "SourceDateEpoch: $epoch"
	echo "URL: $(variable URL)"
	echo "Maintainer: $(variable PKG_MAINTAINER)"
	echo "Architecture: $arch"
	echo "Installed-Size: $size"
	printf 'Description:'
	definition Package/pepsal/description | sed 's/^ */ /'
}

# --- the package for LuCI, as luci.mk makes it: each of these directories has its place

install_luci() {
	while read -r from to; do
		[ -d "${makefile%/*}/$from" ] || continue
		mkdir -p "$work/data/$to"
		cp -R "${makefile%/*}/$from/." "$work/data/$to"
	done <<-END
		htdocs www
		ucode usr/share/ucode/luci
		root .
	END
	chmod -R u=rwX,go=rX "$work/data"
}

luci_control() {
	echo "Package: $name"
	echo "Version: $version"
	echo "Depends: $(dependencies LUCI_DEPENDS)"
	echo "Source: feeds/luci/applications/$name"
	echo "SourceName: $name"
	echo "License: $(variable PKG_LICENSE)"
	echo "Section: luci"
	echo "SourceDateEpoch: $epoch"
	echo "Maintainer: $(variable PKG_MAINTAINER)"
	echo "Architecture: $arch"
	echo "Installed-Size: $size"
	echo "Description: $(variable LUCI_DESCRIPTION)"
}

# The menu and the plugin of rpcd are there at once.
luci_postinst() {
	cat <<-'END'
		[ -n "${IPKG_INSTROOT}" ] || {
			rm -f /tmp/luci-indexcache.*
			rm -rf /tmp/luci-modulecache/
			killall -HUP rpcd 2>/dev/null
			exit 0
		}
	END
}

# --- either

case "$arch" in
all)
	name=luci-app-pepsal
	makefile="$here/$name/Makefile"
	[ -e "$makefile" ] || die "there is no $makefile"
	install_luci
	;;
*)
	name=pepsal
	makefile="$here/$name/Makefile"
	find_program
	install_service
	;;
esac
version="$(variable PKG_VERSION)-r$(variable PKG_RELEASE)"

archive "$work/data" . >"$work/data.tar"
size="$(wc -c <"$work/data.tar")"

case "$arch" in
all)
	luci_control >"$work/control/control"
	luci_postinst >"$work/control/postinst-pkg"
	;;
*)
	service_control >"$work/control/control"
	definition Package/pepsal/conffiles >"$work/control/conffiles"
	definition Package/pepsal/postrm >"$work/control/postrm"
	;;
esac

cat >"$work/control/postinst" <<'END'
#!/bin/sh
[ "${IPKG_NO_SCRIPT}" = "1" ] && exit 0
[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
default_postinst $0 $@
END
cat >"$work/control/prerm" <<'END'
#!/bin/sh
[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
default_prerm $0 $@
END
for file in "$work"/control/*; do
	case "$file" in
	*/control | */conffiles) chmod 644 "$file" ;;
	*) chmod 755 "$file" ;;
	esac
done

archive "$work/control" . | gzip -9n >"$work/control.tar.gz"
gzip -9n <"$work/data.tar" >"$work/data.tar.gz"
echo 2.0 >"$work/debian-binary"

ipk="$out/${name}_${version}_$arch.ipk"
archive "$work" ./debian-binary ./data.tar.gz ./control.tar.gz | gzip -9n >"$ipk"
echo "$ipk"
