# shellcheck shell=sh
# Sourced by the test scripts, which stand in the project's top folder then: what they need and a new machine has not.
# Each function says what it does on stderr, or fails with one line.

# need COMMAND PACKAGE ...: installs the packages whose command is missing.
need() {
    missing=''
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null || missing="$missing $2"
        shift 2
    done
    [ -z "$missing" ] || install_packages "$missing"
}

# three_times COMMAND...: what fetches something; a network may fail for a moment.
three_times() {
    for pause in 5 20; do
        ! "$@" || return 0
        sleep $pause
    done
    "$@"
}

# The mirror that this machine uses for Debian itself; nothing if none is set up here.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's variable
    set -- apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian'
    # A machine that has never asked for packages knows none.
    [ -n "$("$@" 2>/dev/null)" ] || three_times apt-get update -qq >/dev/null 2>&1 || :
    "$@" 2>/dev/null | head -n 1
}

install_packages() { # PACKAGES, one word each
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        printf 'install these packages first (as root this is done for you): %s\n' "$1" >&2
        return 1
    fi
    printf 'installing: %s\n' "$1" >&2
    apt_log=$(mktemp)
    # Services that a package brings are not to run in this machine: while this file says so, none is started
    # (policy-rc.d; a machine's own file is left alone).
    policy=/usr/sbin/policy-rc.d
    if [ -e $policy ]; then policy=''; else printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy; fi
    installed=yes
    three_times apt_install "$1" >"$apt_log" 2>&1 || installed=''
    [ -z "$policy" ] || rm -f $policy
    if [ -z "$installed" ]; then
        tail -n 5 "$apt_log" >&2
        printf 'cannot install: %s\n' "$1" >&2
    fi
    rm -f "$apt_log"
    [ -n "$installed" ]
}

# Waits for whoever has apt's locks, as what a new machine does by itself when it has booted.
apt_install() { # PACKAGES
    # shellcheck disable=SC2086 # one word per package
    apt-get update -qq -o DPkg::Lock::Timeout=300 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
        --no-install-recommends -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 $1
}

# need_rust: a compiler that is new enough for the crate, and the C linker that it wants.
need_rust() {
    program=$(mktemp)
    # A compiler without its C library is no use.
    printf 'int main(void) { return 0; }\n' | cc -x c -o "$program" - 2>/dev/null || install_packages 'gcc libc6-dev' ||
        return 1
    rm -f "$program"
    [ -s /etc/ssl/certs/ca-certificates.crt ] || install_packages ca-certificates || return 1

    # As patient with a network as three_times is.
    export CARGO_NET_RETRY="${CARGO_NET_RETRY:-10}"
    oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if ! command -v cargo >/dev/null; then
        # Under sudo the toolchain is most often the caller's.
        home=$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)
        PATH=$PATH:$home/.cargo/bin
        export RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
    fi
    if ! command -v cargo >/dev/null; then
        offered=$(apt-cache policy cargo 2>/dev/null | sed -n 's/^ *Candidate: \([0-9].*\)/\1/p')
        if [ -z "$offered" ] || ! at_least "$oldest" "$offered"; then
            printf 'install Rust %s or newer first (https://rustup.rs); Debian offers %s\n' "$oldest" "${offered:-none}" >&2
            return 1
        fi
        install_packages 'cargo rustc' || return 1
    fi
    rust=$(rustc --version | cut -d' ' -f2)
    at_least "$oldest" "$rust" || {
        printf "Rust %s or newer is needed, this is %s; 'rustup update stable' brings it\n" "$oldest" "$rust" >&2
        return 1
    }
}

at_least() { # WANTED VERSION
    [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

# check_value PATTERN --OPTION [VALUE...]: has the caller's `die` say what is wrong with the option's value.
check_value() {
    [ $# -ge 3 ] || die "$2 needs a value; see --help" 2
    printf '%s\n' "$3" | grep -Eq "$1" || die "$2: '$3' is not what it needs; see --help" 2
}

# Has the caller's clean_up run once when the script ends, however it ends. The exit code stays.
clean_up_at_the_end() {
    trap end_of_script EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
}

# shellcheck disable=SC2317 # called by the trap
end_of_script() {
    code=$?
    trap - EXIT
    trap '' INT TERM HUP
    clean_up
    exit "$code"
}

# Ends one process of the caller's. TERM first: pepsal then lets go of its queue, satlink prints its counts.
end() { # PROCESS
    kill "$1" 2>/dev/null || return 0
    turns=50
    while [ $turns -gt 0 ] && kill -0 "$1" 2>/dev/null; do
        sleep 0.1
        turns=$((turns - 1))
    done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
