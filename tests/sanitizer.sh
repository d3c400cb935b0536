#!/bin/sh
# The unit tests, and scenarios with a daemon, under AddressSanitizer: no byte is touched that is not the program's, none is
# left behind at the end. What it can find is in src/sys.rs and in the libraries; all else is safe Rust.
#
#   tests/sanitizer.sh [SCENARIOS...]     by default those that go through every end a connection can have
#
# The sanitizer comes with Rust's standard library; the stable compiler wants RUSTC_BOOTSTRAP to use it.
set -u
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tests/setup.sh
. tests/setup.sh
need_rust || exit 1

[ $# -gt 0 ] || set -- reset:: half_close:: refusal:: handshake:: limits:: restart:: fast_open:: hostile::urgent hostile::tiny
host=$(uname -m)-unknown-linux-gnu
out=$PWD/target/sanitizer
sanitized() { RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=$out cargo "$@"; }

sanitized test --quiet --locked --target "$host" --bins || exit 1
sanitized build --quiet --locked --target "$host" --bin pepsal || exit 1

# A filter of system calls would forbid the sanitizer's own.
program=$out/$host/debug/pepsal
reports=$out/reports
rm -rf "$reports" && mkdir -p "$reports"
cat >"$out/pepsal" <<END
#!/bin/sh
[ "\${1:-}" != run ] || set -- "\$@" --no-seccomp
exec $program "\$@"
END
chmod +x "$out/pepsal"
ASAN_OPTIONS=log_path=$reports/report PEPSAL_BIN=$out/pepsal cargo test --quiet --locked --test scenarios -- \
    --test-threads=2 "$@" || exit 1
[ -z "$(ls "$reports")" ] || {
    cat "$reports"/*
    exit 1
}
