#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# openwrt/ipk.sh ARCH OUTDIR
#
# Makes OUTDIR/pepsal_VERSION_ARCH.ipk without the SDK, from the program that cross/build.sh makes. What goes into the
# package, with which names, modes and fields, is read from pepsal/Makefile, so that both builds give the same. The layout
# is that of OpenWrt's ipkg-build. The same sources give the same bytes: times are SOURCE_DATE_EPOCH, by default the time
# of the last commit.
#
# PEPSAL_BIN=FILE packs FILE instead, for tests.

set -eu
umask 022
export LC_ALL=C

here="$(cd "$(dirname "$0")" && pwd)"
package="$here/pepsal"
makefile="$package/Makefile"

die() {
	echo "ipk.sh: $1" >&2
	exit 1
}

[ $# -eq 2 ] || {
	echo "usage: $0 ARCH OUTDIR" >&2
	echo "ARCH: as in 'opkg print-architecture', for example mips_24kc, mipsel_24kc, arm_cortex-a7_neon-vfpv4," >&2
	echo "      aarch64_cortex-a53, x86_64" >&2
	exit 2
}
arch="$1"
mkdir -p "$2"
out="$(cd "$2" && pwd)"

case "$arch" in
mips_24kc) triple=mips-unknown-linux-musl ;;
mipsel_24kc | mipsel_74kc) triple=mipsel-unknown-linux-musl ;;
arm_cortex-a*_*vfp*) triple=armv7-unknown-linux-musleabihf ;;
aarch64_*) triple=aarch64-unknown-linux-musl ;;
x86_64) triple=x86_64-unknown-linux-musl ;;
*) die "no target of the compiler is known for $arch" ;;
esac

binary="${PEPSAL_BIN:-$here/../target/$triple/release/pepsal}"
[ -e "$binary" ] || [ -n "${PEPSAL_BIN:-}" ] || "$here/../cross/build.sh" "$triple" >&2
[ -x "$binary" ] || die "there is no program $binary"

epoch="${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 0)}"

# variable NAME: of the Makefile's head or of its package definition, without what only the SDK's own choice of
# packages needs
variable() {
	# shellcheck disable=SC2016 # make's variable
	sed -n "s/^ *$1:=//p" "$makefile" | sed 's/\$(RUST_ARCH_DEPENDS)//; s/^ *//'
}

# definition NAME: the body of one define
definition() {
	sed -n "\\|^define $1\$|,/^endef\$/p" "$makefile" | sed '1d; $d; s/\$\$/$/g'
}

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/data" "$work/control"

# The modes are those of OpenWrt's rules.mk.
# shellcheck disable=SC2016 # make's variables
definition Package/pepsal/install | sed 's/^\t//; s/\$(INSTALL_\([A-Z]*\))/\1/; s/\$(1)//; s/\$(PKG_INSTALL_DIR)/@/' |
	while read -r verb from to; do
		case "$from" in
		@*) from="$binary" ;;
		./*) from="$package/$from" ;;
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

# archive DIRECTORY FILE...: one of the package's tars on stdout
archive() (
	cd "$1"
	shift
	tar --format=gnu --sort=name --numeric-owner --owner=0 --group=0 --mtime="@$epoch" -cf - "$@"
)

archive "$work/data" . >"$work/data.tar"

name="$(variable PKG_NAME)"
version="$(variable PKG_VERSION)-r$(variable PKG_RELEASE)"
{
	echo "Package: $name"
	echo "Version: $version"
	# libc is what the SDK adds to every package.
	echo "Depends: libc, $(variable DEPENDS | sed 's/+//g; s/ \+/, /g')"
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
	echo "Installed-Size: $(wc -c <"$work/data.tar")"
	printf 'Description:'
	definition Package/pepsal/description | sed 's/^ */ /'
} >"$work/control/control"

definition Package/pepsal/conffiles >"$work/control/conffiles"
definition Package/pepsal/postrm >"$work/control/postrm"

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
chmod 644 "$work/control/control" "$work/control/conffiles"
chmod 755 "$work/control/postinst" "$work/control/prerm" "$work/control/postrm"

archive "$work/control" . | gzip -9n >"$work/control.tar.gz"
gzip -9n <"$work/data.tar" >"$work/data.tar.gz"
echo 2.0 >"$work/debian-binary"

ipk="$out/${name}_${version}_$arch.ipk"
archive "$work" ./debian-binary ./data.tar.gz ./control.tar.gz | gzip -9n >"$ipk"
echo "$ipk"
