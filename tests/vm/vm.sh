# shellcheck shell=sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Sourced from the project's top directory: an emulated machine with a whole Linux of its own. There the kernel parts
# that a container or a CI machine may lack are the real ones (the nft queue expression, netem, hybla, bbr, fq, as much
# memory as asked for, any limit), on the processors that routers have.
#
#   vm_prepare ARCH                  fetches Debian's kernel and tools for ARCH, once, into target/vm/ARCH
#   vm_image ARCH FILES IMAGE        an initramfs: the tools, and over them what the directory FILES has
#   vm_run ARCH IMAGE OUT MEGABYTES SECONDS [QEMU OPTION...]
#                                    boots it and runs its /main; what that prints appears here as it is printed and is
#                                    kept in OUT/report, the kernel's messages in OUT/console. Returns the exit code of
#                                    /main; 124 when the time was up, 125 when the machine ended without a verdict.
#   vm_end                           ends a machine that still runs: for the caller's trap
#
# ARCH: x86_64, aarch64, armv7 or mipsel (Malta board, 24Kf: the 24Kc of many routers with an FPU that nobody uses).
# In the machine: busybox, ip, tc, ss, nft, ethtool, and the kernel modules of tests/vm/modules, loaded on demand.
# Root's home is /; /main is run with standard input from /dev/null. Without KVM: everything is emulated.
#
# - VM_APPEND  more words for the kernel's command line

# shellcheck source-path=SCRIPTDIR/../..
. tests/setup.sh

# One release for all machines, so that they have one kernel version, and the last with 32-bit MIPS in it.
vm_suite=bookworm
vm_home=$PWD/target/vm
vm_process=''

vm_fail() {
    printf 'vm: %s\n' "$1" >&2
    return 1
}

vm_describe() {
    vm_console=ttyS0 vm_report=ttyS1 vm_devices=''
    case $1 in
    x86_64) vm_debian=amd64 vm_flavour=cloud-amd64 vm_qemu=x86_64 vm_package=x86 vm_board='-M q35 -cpu max' ;;
    aarch64) vm_debian=arm64 vm_flavour=cloud-arm64 vm_qemu=aarch64 vm_package=arm vm_board='-M virt -cpu cortex-a53' ;;
    armv7) vm_debian=armhf vm_flavour=armmp vm_qemu=arm vm_package=arm vm_board='-M virt,highmem=off -cpu cortex-a7' ;;
    mipsel) vm_debian=mipsel vm_flavour=4kc-malta vm_qemu=mipsel vm_package=mips vm_board='-M malta -cpu 24Kf' ;;
    *) vm_fail "no machine '$1'; there are x86_64, aarch64, armv7, mipsel" ;;
    esac || return 1
    # Arm's board has one serial port of its own.
    case $1 in
    aarch64 | armv7) vm_console=ttyAMA0 vm_report=ttyS0 vm_devices='-device pci-serial,chardev=report' ;;
    *) vm_devices='-serial chardev:report' ;;
    esac
}

# --- packages -----------------------------------------------------------------------------------------------------

# apt with lists of its own: no architecture is added to this machine, which would change what apt does next.
vm_apt() { # COMMAND...
    vm_tool=$1
    shift
    "$vm_tool" -qq -o "Dir::State=$vm_here/apt" -o "Dir::State::status=$vm_here/apt/status" -o "Dir::Cache=$vm_here/apt" \
        -o "Dir::Etc::sourcelist=$vm_here/apt/sources" -o Dir::Etc::sourceparts=- -o Acquire::Languages=none \
        -o Acquire::Retries=3 -o APT::Architecture="$vm_debian" -o APT::Architectures="$vm_debian" \
        -o APT::Sandbox::User=root "$@"
}

# Into this directory.
vm_download() {
    vm_apt apt-get update || return 1
    vm_kernel=$(vm_apt apt-cache depends "linux-image-$vm_flavour" | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p')
    [ -n "$vm_kernel" ] || return 1
    # The libraries are those that vm_programs asks for; it fails when one is missing.
    vm_apt apt-get download "$vm_kernel" busybox-static dash iproute2 nftables ethtool libc6 libgcc-s1 libatomic1 \
        libbpf1 libbsd0 libcap2 libdb5.3 libedit2 libelf1 libgmp10 libjansson4 libmd0 libmnl0 libnftables1 \
        libnftnl11 libpcre2-8-0 libselinux1 libtinfo6 libtirpc3 libxtables12 zlib1g libgssapi-krb5-2 libkrb5-3 \
        libk5crypto3 libcom-err2 libkrb5support0 libkeyutils1 libssl3 libbz2-1.0 || return 1
}

# Kernel, tools and the libraries they need, unpacked into $vm_here/debian.
vm_fetch() {
    [ ! -e "$vm_here/debian/done" ] || return 0
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || vm_fail 'needs a Debian machine (apt-get, dpkg)' || return 1
    vm_from=$(debian_mirror)
    [ -n "$vm_from" ] || vm_fail 'no Debian mirror is set up here' || return 1
    printf 'vm: fetching Debian %s for %s\n' "$vm_suite" "$1" >&2
    rm -rf "$vm_here/apt" "$vm_here/debian" "$vm_here/packages"
    mkdir -p "$vm_here/apt/lists/partial" "$vm_here/apt/archives/partial" "$vm_here/packages" "$vm_here/debian"
    : >"$vm_here/apt/status"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$vm_from" "$vm_suite" \
        >"$vm_here/apt/sources"
    (
        cd "$vm_here/packages" || exit 1
        three_times vm_download || exit 1
        for vm_deb in *.deb; do dpkg -x "$vm_deb" ../debian || exit 1; done
    ) >"$vm_here/log" 2>&1 || {
        tail -n 5 "$vm_here/log" >&2
        vm_fail "cannot have Debian $vm_suite's packages for $1"
        return 1
    }
    rm -rf "$vm_here/apt" "$vm_here/packages"
    touch "$vm_here/debian/done"
}

# Copies programs and the shared libraries that they need, and what those need, into $vm_here/root.
vm_programs() { # PROGRAM...
    vm_left=$*
    while [ -n "$vm_left" ]; do
        vm_next=''
        for vm_name in $vm_left; do
            vm_file=$(find "$vm_here/debian/bin" "$vm_here/debian/sbin" "$vm_here/debian/usr/sbin" "$vm_here/debian/usr/bin" \
                "$vm_here/debian/lib" "$vm_here/debian/usr/lib" ! -path '*/modules/*' -name "$vm_name" 2>/dev/null | head -n 1)
            [ -n "$vm_file" ] || vm_fail "Debian's $vm_name is in none of the packages" || return 1
            case $vm_name in *.so*) vm_to=$vm_here/root/lib ;; *) vm_to=$vm_here/root/sbin ;; esac
            [ ! -e "$vm_to/$vm_name" ] || continue
            cp -L "$vm_file" "$vm_to/" || return 1
            vm_next="$vm_next $(readelf -dl "$vm_file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p; s,.*interpreter: /.*/\(.*\)\],\1,p' | tr '\n' ' ')"
        done
        vm_left=$(printf '%s' "$vm_next" | tr -s ' ' | sed 's/^ $//')
    done
}

# The modules named in the file beside this one and those that they depend on.
vm_modules() {
    vm_release=$(ls "$vm_here/debian/lib/modules")
    /sbin/depmod -b "$vm_here/debian" "$vm_release" || return 1
    vm_to=$vm_here/root/lib/modules/$vm_release
    mkdir -p "$vm_to" || return 1
    sed 's/#.*//' tests/vm/modules | tr -s '[:space:]' '\n' | awk '
        { sub(/^.*\t/, "") }
        FILENAME == "-" { if ($1 != "") wanted[$1]; next }
        {
            path = $1; sub(/:$/, "", path)
            name = path; sub(/^.*\//, "", name); sub(/\.ko.*$/, "", name)
            if (name in wanted) for (word = 1; word <= NF; word++) { sub(/:$/, "", $word); print $word }
        }
    ' - "$vm_here/debian/lib/modules/$vm_release/modules.dep" | sort -u | (cd "$vm_here/debian/lib/modules/$vm_release" &&
        cpio --quiet -pdm "$vm_to") || return 1
    cp "$vm_here/debian/lib/modules/$vm_release"/modules.order "$vm_here/debian/lib/modules/$vm_release"/modules.builtin* \
        "$vm_to/" && /sbin/depmod -b "$vm_here/root" "$vm_release"
}

vm_pack() { # DIRECTORY
    (cd "$1" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) | gzip -1n
}

vm_prepare() { # ARCH
    vm_describe "$1" || return 1
    vm_here=$vm_home/$1
    need "qemu-system-$vm_qemu" "qemu-system-$vm_package" cpio cpio /sbin/depmod kmod readelf binutils || return 1
    mkdir -p "$vm_here"
    vm_fetch "$1" || return 1
    # The recipe is an input of what is made by it.
    vm_recipe=$(cat tests/vm/vm.sh tests/vm/init tests/vm/modules | cksum)
    [ "$(cat "$vm_here/recipe" 2>/dev/null)" != "$vm_recipe" ] || return 0
    rm -rf "$vm_here/root" "$vm_here/recipe"
    mkdir -p "$vm_here/root/bin" "$vm_here/root/sbin" "$vm_here/root/lib" || return 1
    ln -s lib "$vm_here/root/lib64" # where x86_64 has its loader
    # Debian's busybox shell prefers its own ip and tc to those of PATH. The kernel looks for modprobe there.
    ln -s /sbin/dash "$vm_here/root/bin/sh" && ln -s /bin/busybox "$vm_here/root/sbin/modprobe" || return 1
    cp "$vm_here"/debian/bin/busybox "$vm_here/root/bin/" && cp tests/vm/init "$vm_here/root/init" &&
        chmod 755 "$vm_here/root/init" || return 1
    vm_programs dash ip tc ss nft ethtool || return 1
    vm_modules || vm_fail "cannot pick the kernel modules for $1" || return 1
    cp "$vm_here"/debian/boot/vmlinuz-* "$vm_here/kernel" && vm_pack "$vm_here/root" >"$vm_here/base" || return 1
    printf '%s\n' "$vm_recipe" >"$vm_here/recipe"
}

# --- a machine ----------------------------------------------------------------------------------------------------

vm_image() { # ARCH FILES IMAGE
    # The kernel unpacks several archives one over the other.
    { cat "$vm_home/$1/base" && vm_pack "$2"; } >"$3"
}

vm_run() { # ARCH IMAGE OUT MEGABYTES SECONDS [QEMU OPTION...]
    vm_describe "$1" || return 1
    vm_kernel=$vm_home/$1/kernel vm_image=$2 vm_out=$3 vm_memory=$4 vm_seconds=$5
    shift 5
    mkdir -p "$vm_out"
    : >"$vm_out/report"
    : >"$vm_out/console"
    # panic and -no-reboot: whatever ends the machine ends qemu.
    # shellcheck disable=SC2086 # words
    nice timeout -k 5 "$vm_seconds" "qemu-system-$vm_qemu" $vm_board -m "$vm_memory" -nodefaults -display none \
        -monitor none -no-reboot -chardev file,id=report,path="$vm_out/report" -serial file:"$vm_out/console" $vm_devices \
        -kernel "$vm_kernel" -initrd "$vm_image" \
        -append "console=$vm_console panic=-1 cma=0 quiet loglevel=5 nokaslr mitigations=off report=$vm_report ${VM_APPEND-}" \
        "$@" </dev/null >"$vm_out/qemu" 2>&1 &
    vm_process=$!
    # For a caller that runs several machines, each in a shell of its own.
    printf '%s\n' "$vm_process" >"$vm_out/process"
    tail -q -c +1 -s 0.2 --pid="$vm_process" -f "$vm_out/report" | sed '/^vm: exit code /d'
    vm_status=0
    wait "$vm_process" || vm_status=$?
    vm_process=''
    vm_verdict=$(sed -n 's/^vm: exit code \([0-9]*\)$/\1/p' "$vm_out/report" | tail -n 1)
    sed -i '/^vm: exit code /d' "$vm_out/report"
    [ -z "$vm_verdict" ] || return "$vm_verdict"
    case $vm_status in
    124 | 137) vm_fail "not done within $vm_seconds s" || return 124 ;;
    *)
        cat "$vm_out/qemu" >&2
        vm_fail "the machine ended without a verdict" || return 125
        ;;
    esac
}

vm_end() {
    [ -z "$vm_process" ] || kill "$vm_process" 2>/dev/null || :
    vm_process=''
}
