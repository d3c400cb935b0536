# shellcheck shell=sh
# Sourced by the test scripts: Debian packages that they need and that a new machine has not.

# need COMMAND PACKAGE ...: installs the packages whose command is missing. Says what it does, fails with one line.
need() {
    missing=''
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null || missing="$missing $2"
        shift 2
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        printf 'install these packages first (as root this is done for you):%s\n' "$missing" >&2
        return 1
    fi
    printf 'installing:%s\n' "$missing" >&2
    # shellcheck disable=SC2086 # one word per package
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends $missing; } >"${TMPDIR:-/tmp}/pepsal-apt.$$" 2>&1; then
        tail -n 5 "${TMPDIR:-/tmp}/pepsal-apt.$$" >&2
        printf 'cannot install:%s\n' "$missing" >&2
        return 1
    fi
    rm -f "${TMPDIR:-/tmp}/pepsal-apt.$$"
}
