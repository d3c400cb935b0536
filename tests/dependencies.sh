#!/bin/sh
# Every crate that is in the program, or helps to build it, has been looked at: dependencies.txt lists them. Fails on one that
# is not there or has another version or licence, that comes from elsewhere than crates.io or without a checksum, or that an
# advisory speaks of. A new version is entered there by whoever has read what has changed in it.
set -u
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tests/setup.sh
. tests/setup.sh
need_rust || exit 1

list=tests/dependencies.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
complain() {
    printf '%s\n' "$*" >&2
    failed=1
}

# What is built for routers, and for this machine.
for target in x86_64-unknown-linux-gnu x86_64-unknown-linux-musl aarch64-unknown-linux-musl \
    armv7-unknown-linux-musleabihf mips-unknown-linux-musl mipsel-unknown-linux-musl; do
    for part in normal,no-proc-macro:linked normal,build:build; do
        cargo tree --quiet --locked --edges "${part%:*}" --target $target --prefix none --format '{p}|{l}' >"$work/tree" ||
            exit 1
        sed "s/ (\*)\$//; s/ (proc-macro)//; s/ v\([^|]*\)|/ \1 /; s/\$/|${part#*:}/; /^pepsal /d" "$work/tree"
    done
# name version licence|part, and of a crate that is linked only that.
done | sort -u | awk -F '|' '{ if ($2 == "linked") linked[$1] = 1; seen[$1] = 1 }
    END { for (crate in seen) print (crate in linked ? "linked" : "build"), crate }' | sort >"$work/found"
grep -E '^(linked|build) ' $list | sort >"$work/listed"
comm -23 "$work/found" "$work/listed" >"$work/unknown"
comm -13 "$work/found" "$work/listed" >"$work/gone"
[ ! -s "$work/unknown" ] || complain "not reviewed (add to $list): $(cat "$work/unknown")"
[ ! -s "$work/gone" ] || complain "no longer used (take out of $list): $(cat "$work/gone")"

# Licences: permissive ones, alone or as one of a choice.
while read -r _ name version licence; do
    case $licence in
    MIT | Apache-2.0 | BSD-3-Clause | 'MIT OR Apache-2.0' | 'Apache-2.0 OR MIT' | 'Unlicense OR MIT') ;;
    # Tables of Unicode's own, in what reads source text; nothing of it is in the program.
    '(MIT OR Apache-2.0) AND Unicode-3.0') [ "$name" = unicode-ident ] || complain "$name $version: licence $licence" ;;
    *) complain "$name $version: licence $licence" ;;
    esac
done <"$work/found"

# Where they come from.
for lock in Cargo.lock tests/fuzz/Cargo.lock tests/package/userland/Cargo.lock; do
    awk '/^name = / { name = $3 }
        /^source = / { if ($3 != "\"registry+https://github.com/rust-lang/crates.io-index\"") print name, "comes from", $3; from[name]++ }
        /^checksum = "[0-9a-f]*"$/ { sums[name]++ }
        /^name = / { count[name]++ }
        END { for (it in count) if (it !~ /^"pepsal/ && (from[it] != count[it] || sums[it] != count[it])) print it, "has no source or checksum" }' \
        "$lock" >"$work/sources"
    [ ! -s "$work/sources" ] || complain "$lock: $(cat "$work/sources")"
done

# advisory NAME FIRST_GOOD_VERSION ID
grep '^advisory ' $list >"$work/advisories"
while read -r _ name good id; do
    awk -v name="$name" '$2 == name { print $3 }' "$work/found" >"$work/versions"
    while read -r version; do
        at_least "$good" "$version" || complain "$name $version: $id, mended in $good"
    done <"$work/versions"
done <"$work/advisories"

[ $failed = 0 ] || exit 1
printf '%s crates linked, %s to build with; %s advisories do not apply\n' "$(grep -c ^linked "$work/found")" \
    "$(grep -c ^build "$work/found")" "$(grep -c . "$work/advisories")"
