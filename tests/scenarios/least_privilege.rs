//! Shows that a running daemon can do no more than it needs: what the kernel says of each of its threads, and what becomes
//! of a system call that is not its own, made in its name by a debugger.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::bed::{Bed, Family::*, Handshake::*, Plan};
use crate::host::{patience, seconds};
use crate::preload::{Call, Preload};

once!(
    what_the_kernel_says,
    another_user,
    calls_that_are_not_its_own,
    without_the_filter,
    a_kernel_without_filters
);

/// Field `name` of every thread's /proc/PID/task/TID/status.
fn fields(pid: u32, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon's threads");
    tasks
        .map(|task| {
            let path = task.expect("a thread").path().join("status");
            let status = fs::read_to_string(&path).expect("the status of a thread");
            let field = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            field.unwrap_or_else(|| panic!("no {name} in {}", path.display())).trim().to_owned()
        })
        .collect()
}

fn check_threads(pid: u32, threads: usize, seccomp: &str) {
    const NET_ADMIN: &str = "0000000000001000";
    const NONE: &str = "0000000000000000";
    for (name, expected) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", seccomp),
        ("CapEff", NET_ADMIN),
        ("CapPrm", NET_ADMIN),
        ("CapInh", NONE),
        ("CapAmb", NONE),
    ] {
        assert_eq!(fields(pid, name), vec![expected; threads], "{name}");
    }
}

fn what_the_kernel_says() {
    // Main, three workers, the pacer.
    let mut bed = Bed::started(Deferred, &["-T", "3", "--rate-up", "10", "--rtt", "50"]);
    check_threads(bed.daemon().pid(), 5, "2");
    bed.stolen(&bed.listen(V4)).exchange(1, 100_000);
    bed.stolen(&bed.listen(V6)).exchange(2, 100_000);
    check_threads(bed.daemon().pid(), 5, "2");
    assert!(!bed.log().contains("cannot filter"), "{}", bed.log());
}

fn another_user() {
    let nobody = nix::unistd::User::from_name("nobody").expect("the users").expect("nobody").uid.to_string();
    let mut bed = Bed::started(Early, &["-T", "1", "--user", "nobody"]);
    check_threads(bed.daemon().pid(), 2, "2");
    for uids in fields(bed.daemon().pid(), "Uid") {
        assert!(uids.split_whitespace().all(|uid| uid == nobody), "{uids}");
    }
    bed.check_nothing_left(V4);
}

fn calls_that_are_not_its_own() {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(V4);
    let open = bed.stolen(&listener);
    let pid = bed.daemon().pid();
    let Some(own) = as_the_daemon(pid, libc::SYS_getpid, [0; 3]) else {
        return;
    };
    assert_eq!(own, i64::from(pid));
    // Nothing of the kind would come to an end, so it does not matter what the pointers are.
    let refused = |call, arguments| as_the_daemon(pid, call, arguments).expect("a call");
    let not_there = -i64::from(libc::ENOSYS);
    assert_eq!(refused(libc::SYS_openat, [libc::AT_FDCWD as u64, 0, 0]), not_there);
    assert_eq!(refused(libc::SYS_setns, [0; 3]), not_there);
    let not_permitted = -i64::from(libc::EPERM);
    let raw = [libc::AF_NETLINK as u64, libc::SOCK_RAW as u64, libc::NETLINK_NETFILTER as u64];
    assert_eq!(refused(libc::SYS_socket, raw), not_permitted);
    let code = [0, 4096, (libc::PROT_READ | libc::PROT_EXEC) as u64];
    assert_eq!(refused(libc::SYS_mmap, code), not_permitted);
    const SIOCSIFADDR: u64 = 0x8916;
    let address = [u64::MAX, SIOCSIFADDR, 0];
    assert_eq!(refused(libc::SYS_ioctl, address), not_permitted);

    // It goes on all the same, and so do its connections.
    open.exchange(1, 100_000);
    bed.stolen(&listener).exchange(2, 100_000);
    bed.signal(Signal::SIGTERM);
    open.exchange(3, 100_000);
    open.close();
    assert!(bed.daemon().wait_end(patience()).success());

    bed.start_daemon(Deferred, &[]);
    let pid = bed.daemon().pid();
    assert_eq!(as_the_daemon(pid, libc::SYS_execve, [0; 3]), None, "no answer but the end");
    let status = bed.daemon().wait_end(seconds(5));
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(Signal::SIGSYS as i32), "{status}");
    bed.direct(&listener).exchange(4, 10_000);
}

fn without_the_filter() {
    let mut bed = Bed::started(Deferred, &["-T", "2", "--no-seccomp"]);
    let pid = bed.daemon().pid();
    check_threads(pid, 3, "0");
    if let Some(result) = as_the_daemon(pid, libc::SYS_openat, [libc::AT_FDCWD as u64, 0, 0]) {
        assert_eq!(result, -i64::from(libc::EFAULT), "the kernel has looked at the path");
    }
    bed.check_nothing_left(V6);
}

fn a_kernel_without_filters() {
    for errno in [Errno::ENOSYS, Errno::EINVAL] {
        let Some(preload) = Preload::compile("seccomp") else { return };
        preload.fail(Call::Seccomp, 1, errno);
        let mut bed = Bed::build(Plan::default());
        bed.install_rules(&[]);
        bed.start_prepared(Deferred, &["-T", "2"], |command| preload.prepare(command));
        check_threads(bed.daemon().pid(), 3, "0");
        assert_eq!(bed.log().matches("cannot filter system calls: ").count(), 1, "{}", bed.log());
        bed.check_nothing_left(V4);
    }
}

/// What the kernel answers to a system call that the daemon's main thread makes, against its will; `None`: the call has
/// ended the daemon, or this machine's registers are not known here, which is said.
#[cfg(target_arch = "x86_64")]
fn as_the_daemon(pid: u32, call: libc::c_long, arguments: [u64; 3]) -> Option<i64> {
    use nix::sys::ptrace;
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitid};
    use nix::unistd::Pid;

    /// Bytes of the instruction `syscall`.
    const SYSCALL: u64 = 2;
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    // Whoever waits for the daemon's end is to find it, so it is not taken away.
    let stopped = || {
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        match waitid(nix::sys::wait::Id::Pid(pid), flags).expect("wait for the daemon") {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => false,
            _ => waitid(nix::sys::wait::Id::Pid(pid), WaitPidFlag::WSTOPPED).is_ok(),
        }
    };
    // Mostly it waits in epoll_wait, right behind its `syscall`, but once a second it looks at its figures.
    let before = (0..100).find_map(|_| {
        ptrace::attach(pid).expect("attach to the daemon");
        assert!(stopped(), "the daemon has ended");
        let registers = ptrace::getregs(pid).expect("its registers");
        let last = ptrace::read(pid, (registers.rip - SYSCALL) as ptrace::AddressType)
            .expect("its last instruction");
        if last.to_le_bytes().starts_with(&[0x0f, 0x05]) {
            return Some(registers);
        }
        ptrace::detach(pid, None).expect("let go of the daemon");
        std::thread::sleep(std::time::Duration::from_millis(10));
        None
    });
    let before = before.expect("the daemon in a system call");
    let mut with = before;
    with.rip -= SYSCALL;
    with.rax = call as u64;
    // No system call is to be begun again.
    with.orig_rax = u64::MAX;
    [with.rdi, with.rsi, with.rdx] = arguments;
    ptrace::setregs(pid, with).expect("other registers");
    ptrace::step(pid, None).expect("one step");
    if !stopped() {
        return None;
    }
    let result = ptrace::getregs(pid).expect("its registers").rax.cast_signed();
    ptrace::setregs(pid, before).expect("its own registers");
    ptrace::detach(pid, None).expect("let go of the daemon");
    Some(result)
}

#[cfg(not(target_arch = "x86_64"))]
fn as_the_daemon(_: u32, _: libc::c_long, _: [u64; 3]) -> Option<i64> {
    use std::io::Write;
    // Not eprintln!, which the test harness keeps to itself when a test succeeds.
    let why = "skipped: only on x86_64 can this test make calls in the daemon's name (the unit tests of seccomp run here)";
    let _ = writeln!(std::io::stderr(), "{why}");
    None
}
