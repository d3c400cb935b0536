//! Which system calls the daemon may make once everything is set up: a filter of seccomp(2) over all its threads.
//!
//! Installed by the main thread, for all of them, when the daemon is ready; nothing takes it away again. Whoever has taken
//! the daemon over starts no program, opens no file, makes no code. Three answers to what is not allowed:
//! - what a running daemon never calls and such a one calls first ([`FATAL`]) ends the process, as any internal error;
//! - an allowed call with arguments that are not the daemon's fails with EPERM;
//! - all else fails with ENOSYS, as if this kernel did not have it. Most likely a later C library has called it, which then
//!   does without; and a daemon that nobody can drive to had better go on.
//!
//! What it does not keep: the daemon's own sockets, with CAP_NET_ADMIN, can still change the router's network.
#![forbid(unsafe_code)]

use libc::{c_long, sock_filter};
use nix::errno::Errno;

use crate::{log, sys};

/// What the kernel calls this machine (linux/audit.h): system calls have other numbers on others.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else if cfg!(target_arch = "arm") {
    0x4000_0028
} else if cfg!(all(target_arch = "mips", target_endian = "big")) {
    0x0000_0008
} else if cfg!(target_arch = "mips") {
    0x4000_0008
} else {
    UNKNOWN
};
const UNKNOWN: u32 = 0;

/// Of calls with 64-bit time, which libc does not name: the same everywhere, behind where MIPS' o32 begins.
#[cfg(target_pointer_width = "32")]
const TIME64: c_long = if cfg!(target_arch = "mips") { 4000 } else { 0 };

/// Whatever their arguments are. Searched from the front, so the frequent ones come first.
const ALLOWED: &[c_long] = &[
    libc::SYS_splice,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_epoll_pwait,
    #[cfg(not(target_arch = "aarch64"))]
    libc::SYS_epoll_wait,
    libc::SYS_setsockopt,
    libc::SYS_epoll_ctl,
    libc::SYS_getsockopt,
    libc::SYS_close,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_write,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    #[cfg(target_pointer_width = "32")]
    (TIME64 + 403), // clock_gettime64
    #[cfg(target_pointer_width = "32")]
    (TIME64 + 422), // futex_time64
    libc::SYS_shutdown,
    libc::SYS_pipe2,
    libc::SYS_fcntl,
    #[cfg(target_pointer_width = "32")]
    libc::SYS_fcntl64,
    libc::SYS_read,
    libc::SYS_bind,
    libc::SYS_getsockname,
    // At the control socket.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_writev,
    libc::SYS_ppoll,
    #[cfg(not(target_arch = "aarch64"))]
    libc::SYS_poll,
    #[cfg(not(target_arch = "aarch64"))]
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    // Waiting, and what the kernel puts in the place of an interrupted wait.
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    #[cfg(target_pointer_width = "32")]
    (TIME64 + 407), // clock_nanosleep_time64
    #[cfg(target_pointer_width = "32")]
    (TIME64 + 414), // ppoll_time64
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads that have just begun, and the end of the process.
    libc::SYS_set_robust_list,
    #[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_getpid,
    // Whose asker's daemon may take over.
    libc::SYS_getuid,
    #[cfg(target_arch = "arm")]
    libc::SYS_getuid32,
    libc::SYS_gettid,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getrandom,
];

/// Allowed as far as one argument is as it should be.
const CHECKED: &[(c_long, usize, Wanted)] = &[
    (
        libc::SYS_socket,
        0,
        Wanted::OneOf(&[libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_UNIX as u32]),
    ),
    (libc::SYS_ioctl, 1, Wanted::OneOf(&[libc::TIOCOUTQ as u32, sys::SIOCOUTQNSD, libc::FIONBIO as u32])),
    #[cfg(target_pointer_width = "64")]
    (libc::SYS_mmap, 2, Wanted::Without(libc::PROT_EXEC as u32)),
    #[cfg(target_pointer_width = "32")]
    (libc::SYS_mmap2, 2, Wanted::Without(libc::PROT_EXEC as u32)),
    (libc::SYS_mprotect, 2, Wanted::Without(libc::PROT_EXEC as u32)),
    (libc::SYS_prctl, 0, Wanted::OneOf(&[libc::PR_SET_NAME as u32])),
];

#[derive(Clone, Copy)]
enum Wanted {
    OneOf(&'static [u32]),
    /// The bit is not set.
    Without(u32),
}

const FATAL: &[c_long] = &[
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    #[cfg(not(target_arch = "aarch64"))]
    libc::SYS_fork,
    #[cfg(not(any(target_arch = "aarch64", target_arch = "mips")))]
    libc::SYS_vfork,
];

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const END: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Installs the filter; a kernel without them is no reason not to run. Needs no_new_privs.
pub fn restrict() {
    let installed = match ARCHITECTURE {
        UNKNOWN => Err(Errno::ENOSYS),
        _ => sys::filter_system_calls(&program()),
    };
    if let Err(errno) = installed {
        log::warn(format_args!("cannot filter system calls: {}; going on without", errno.desc()));
    }
}

// Where the kernel puts what the program reads: struct seccomp_data in linux/seccomp.h.
const NUMBER_AT: usize = 0;
const ARCHITECTURE_AT: usize = 4;
/// The lower half of an argument, in which everything that is checked here is.
const fn argument_at(index: usize) -> usize {
    16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_ANY: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Of classic BPF. A condition skips the next `jt` instructions if it holds, else `jf`.
fn instruction(code: u32, k: u32, jt: usize, jf: usize) -> sock_filter {
    sock_filter { code: code as u16, jt: jt as u8, jf: jf as u8, k }
}

fn program() -> Vec<sock_filter> {
    let mut program = vec![
        instruction(LOAD, ARCHITECTURE_AT as u32, 0, 0),
        instruction(IF_EQUAL, ARCHITECTURE, 1, 0),
        instruction(RETURN, END, 0, 0),
        instruction(LOAD, NUMBER_AT as u32, 0, 0),
    ];
    // Each list ends with the answer for those in it, and is skipped by the others.
    let mut list = |calls: &[c_long], answer| {
        for (at, call) in calls.iter().enumerate() {
            let left = calls.len() - 1 - at;
            let other = if left == 0 { 1 } else { 0 };
            program.push(instruction(IF_EQUAL, *call as u32, left, other));
        }
        program.push(instruction(RETURN, answer, 0, 0));
    };
    list(ALLOWED, ALLOW);
    list(FATAL, END);
    for &(call, argument, wanted) in CHECKED {
        let mut check = vec![instruction(LOAD, argument_at(argument) as u32, 0, 0)];
        // Behind the conditions: what is not wanted, then what is.
        match wanted {
            Wanted::OneOf(values) => {
                for (at, value) in values.iter().enumerate() {
                    check.push(instruction(IF_EQUAL, *value, values.len() - at, 0));
                }
            }
            Wanted::Without(bit) => check.push(instruction(IF_ANY, bit, 0, 1)),
        }
        check.push(instruction(RETURN, NOT_PERMITTED, 0, 0));
        check.push(instruction(RETURN, ALLOW, 0, 0));
        program.push(instruction(IF_EQUAL, call as u32, 0, check.len()));
        program.append(&mut check);
    }
    program.push(instruction(RETURN, NO_SUCH_CALL, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn answer(architecture: u32, number: c_long, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend((number as u32).to_ne_bytes());
        data.extend(architecture.to_ne_bytes());
        data.extend([0; 8]);
        arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
        let program = program();
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let skipped = |holds: bool| usize::from(if holds { jt } else { jf });
            match u32::from(code) {
                LOAD => loaded = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap()),
                IF_EQUAL => at += skipped(loaded == k),
                IF_ANY => at += skipped(loaded & k != 0),
                RETURN => return k,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn here(number: c_long, arguments: [u64; 6]) -> u32 {
        answer(ARCHITECTURE, number, arguments)
    }

    #[test]
    fn only_what_is_listed_is_allowed() {
        for number in 0..5000 {
            let expected = if ALLOWED.contains(&number) {
                ALLOW
            } else if FATAL.contains(&number) {
                END
            } else if let Some((_, _, Wanted::Without(_))) = CHECKED.iter().find(|it| it.0 == number) {
                ALLOW
            } else if CHECKED.iter().any(|it| it.0 == number) {
                NOT_PERMITTED
            } else {
                NO_SUCH_CALL
            };
            assert_eq!(here(number, [0; 6]), expected, "call {number}");
        }
        for never in [libc::SYS_openat, libc::SYS_listen, libc::SYS_bpf, libc::SYS_fchmodat] {
            assert_eq!(here(never, [0; 6]), NO_SUCH_CALL);
        }
    }

    #[test]
    fn another_machines_numbers_end_the_process() {
        for number in 0..500 {
            assert_eq!(answer(ARCHITECTURE ^ 0x4000_0000, number, [0; 6]), END);
        }
    }

    #[test]
    fn arguments_decide() {
        let first = |value: libc::c_int| [value as u64, u64::MAX, u64::MAX, 0, 0, 0];
        assert_eq!(here(libc::SYS_socket, first(libc::AF_INET)), ALLOW);
        assert_eq!(here(libc::SYS_socket, first(libc::AF_INET6)), ALLOW);
        for family in [libc::AF_NETLINK, libc::AF_PACKET, libc::AF_UNSPEC, -1] {
            assert_eq!(here(libc::SYS_socket, first(family)), NOT_PERMITTED);
        }
        let second = |value: u32| [u64::MAX, value.into(), 0, 0, 0, 0];
        assert_eq!(here(libc::SYS_ioctl, second(sys::SIOCOUTQNSD)), ALLOW);
        assert_eq!(here(libc::SYS_ioctl, second(libc::SIOCSIFADDR as u32)), NOT_PERMITTED);
        let third = |value: libc::c_int| [0, 4096, value as u64, 0, 0, 0];
        let data = libc::PROT_READ | libc::PROT_WRITE;
        assert_eq!(here(libc::SYS_mprotect, third(data)), ALLOW);
        assert_eq!(here(libc::SYS_mprotect, third(data | libc::PROT_EXEC)), NOT_PERMITTED);
    }

    #[test]
    fn what_is_frequent_is_found_early() {
        assert_eq!(ALLOWED[..3], [libc::SYS_splice, libc::SYS_recvfrom, libc::SYS_sendto]);
        assert!(program().len() < 256, "{}", program().len());
    }
}
