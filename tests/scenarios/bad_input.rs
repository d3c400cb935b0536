//! Shows that a command line or a machine on which pepsal cannot run is answered by one line that says what
//! is wrong, exit code 2 for the one and 1 for the other, and that the router goes on forwarding as before.

use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::bed::{Bed, Family, Handshake::*, Plan};
use crate::connection::Listener;
use crate::daemon::{Public, binary, refusal};
use crate::host::{Host, output};

once!(
    usage,
    unknown_devices,
    unknown_congestion_control,
    unknown_user,
    no_privileges,
    port_taken,
    queue_taken,
    device_taken,
    no_tun,
);

/// The user "nobody".
const NOBODY: u32 = 65_534;

fn pepsal(args: &str) -> Command {
    let mut command = Command::new(binary());
    command.args(args.split_whitespace());
    command
}

fn usage() {
    for (args, culprit) in [
        ("", "command"),
        ("walk", "walk"),
        ("run --no-such-option", "--no-such-option"),
        ("run -p 0", "-p"),
        ("run -p 65536", "65536"),
        ("run -p five", "five"),
        ("run -q 65536", "65536"),
        ("run -c 0", "-c"),
        ("run -c 16385", "16384"),
        ("run -c -1", "-1"),
        ("run -T 0", "-T"),
        ("run -T", "-T"),
        ("run --handshake late", "late"),
        ("run --satellite moon", "moon"),
        ("run --device this-name-is-too-long", "this-name-is-too-long"),
        ("run --device a/b", "a/b"),
        ("run --mss 10", "--mss"),
        ("run --connect-timeout 0", "--connect-timeout"),
        ("rules", "--lan"),
        ("rules --lan lo", "--wan"),
        ("rules --lan lo --wan lo --format pf", "pf"),
        ("rules --lan lo --wan lo --exclude-client 10.0.0.0/33", "10.0.0.0/33"),
        ("rules --lan lo --wan lo --exclude-server example", "example"),
        ("rules --lan lo --wan lo --exclude-port 70000", "70000"),
        ("rules --lan lo --wan lo --exclude-port 90-80", "90-80"),
    ] {
        let done = output(&mut pepsal(args), "");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "pepsal {args} said: {said}");
        assert!(done.stdout.is_empty(), "pepsal {args} has printed something else, too");
        check_one_line(&said, culprit);
    }
}

fn check_one_line(said: &str, culprit: &str) {
    assert_eq!(said.lines().count(), 1, "not one line: {said}");
    assert!(said.starts_with("pepsal: "), "{said}");
    assert!(said.contains(culprit), "does not mention {culprit}: {said}");
}

/// What must be as it was before.
fn state(router: &Host) -> String {
    let mut state = router.exec("nft list ruleset", "");
    for command in ["ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all"] {
        state += &router.exec(command, "");
    }
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/rp_filter"] {
        state += &router.exec(&format!("cat /proc/sys/net/{setting}"), "");
    }
    // Counters count on.
    let words = state.split_whitespace().map(|word| word.trim_end_matches(|it: char| it.is_ascii_digit()));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Starts a daemon that has to refuse with exit code 1 and a line that mentions all `words`; afterwards the
/// router is what it was, and forwards.
fn check_refusal(bed: &Bed, command: Command, words: &[&str]) {
    let before = state(&bed.net.router);
    let (code, said) = refusal(&bed.net.router, command);
    assert_eq!(code, Some(1), "{said}");
    for word in words {
        check_one_line(&said, word);
    }
    assert_eq!(state(&bed.net.router), before, "{said}");
    for family in [Family::V4, Family::V6] {
        let listener = bed.listen(family);
        let pair = bed.pair(&listener);
        pair.exchange(1, 10_000);
        pair.close();
    }
}

/// The rules are there and the daemon is not.
fn forwarding() -> Bed {
    let bed = Bed::build(Plan { firewall: true, ..Plan::default() });
    bed.install_rules(&[]);
    bed
}

fn unknown_devices() {
    let bed = forwarding();
    check_refusal(&bed, pepsal("rules --lan nosuch --wan wan"), &["nosuch"]);
    check_refusal(&bed, pepsal("rules --lan lan --wan wan,nosuch"), &["nosuch"]);
    check_refusal(&bed, pepsal("rules --lan fifteen-letters* --wan wan"), &["fifteen-letters*"]);
    // Nothing of it may get into a rule.
    let mut injecting = Command::new(binary());
    injecting.args(["rules", "--lan", "lan\" accept; #", "--wan", "wan"]);
    let (code, said) = refusal(&bed.net.router, injecting);
    assert!(matches!(code, Some(1 | 2)), "{said}");
    // A device that exists and is no TUN.
    check_refusal(&bed, pepsal("run --device lan"), &["lan"]);
}

fn unknown_congestion_control() {
    check_refusal(&forwarding(), pepsal("run -C nosuch"), &["nosuch", "cubic"]);
}

/// Found last, when everything else is in place already.
fn unknown_user() {
    let command = pepsal("run --transparent --user nosuch --rate-up 5 --rtt 600");
    check_refusal(&forwarding(), command, &["nosuch", "--user"]);
}

/// Also an unprivileged user gets an answer; it needs a binary that everybody may execute.
fn no_privileges() {
    let bed = forwarding();
    let program = Public::new(&bed.net.router);
    let mut command = Command::new(&program.0);
    command.arg("run").uid(NOBODY).gid(NOBODY);
    check_refusal(&bed, command, &["root"]);
}

fn port_taken() {
    let bed = forwarding();
    let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 5000);
    let _taken = Listener::bind(&bed.net.router, everywhere);
    check_refusal(&bed, pepsal("run"), &["5000", "-p"]);
}

fn queue_taken() {
    let mut bed = Bed::started(Deferred, &[]);
    check_refusal(&bed, pepsal("run -p 5001 --device pepsal1"), &["5000", "-q"]);
    bed.check_nothing_left(Family::V4);
}

fn device_taken() {
    let mut bed = Bed::started(Deferred, &[]);
    check_refusal(&bed, pepsal("run -p 5001 -q 5001"), &["pepsal0", "--device"]);
    bed.check_nothing_left(Family::V6);
}

/// As on an OpenWrt router without kmod-tun: a machine of its own has an empty /dev/net.
fn no_tun() {
    let bed = forwarding();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
            let nowhere: Option<&str> = None;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(nowhere, "/", nowhere, private, nowhere).expect("keep mounts to ourselves");
            mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), nowhere)
                .expect("hide /dev/net");
            check_refusal(&bed, pepsal("run"), &["/dev/net/tun", "kmod-tun"]);
        });
    });
}
