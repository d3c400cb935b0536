//! The only unsafe code: system calls that nix does not wrap, one a block.
//!
//! Any thread may call these functions. None keeps state.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::abort;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

mod descriptors;
pub use descriptors::{receive_with, send_with};

sockopt_impl!(
    /// The server leg may carry the client's address; ip(7) describes the IPv4 twin.
    Ipv6Transparent,
    Both,
    libc::SOL_IPV6,
    libc::IPV6_TRANSPARENT,
    bool
);
sockopt_impl!(
    /// Ceiling of the socket's sending rate in bytes per second; socket(7), tc-fq(8).
    MaxPacingRate,
    Both,
    libc::SOL_SOCKET,
    libc::SO_MAX_PACING_RATE,
    u32
);

sockopt_impl!(
    /// Bytes of unsent data above which the socket takes no more; tcp.rst in the kernel's documentation.
    NotSentLowWater,
    Both,
    libc::IPPROTO_TCP,
    libc::TCP_NOTSENT_LOWAT,
    u32
);

sockopt_impl!(
    /// Bound on the window that the socket announces, in bytes; tcp(7) TCP_WINDOW_CLAMP.
    WindowClamp,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_WINDOW_CLAMP,
    u32
);

/// A second descriptor, closed on exec, of the file that `fd` stands for; fcntl(2).
pub fn duplicate(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer and touches no memory; a bad `fd` is EBADF.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    let copy = Errno::result(copy)?;
    // SAFETY: the kernel has just made `copy`, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Accepts one connection, non-blocking and closed on exec, with the peer's address; accept(2).
pub fn accept(listener: BorrowedFd) -> Result<(OwnedFd, SocketAddr), Errno> {
    let mut peer = MaybeUninit::<libc::sockaddr_in6>::zeroed();
    let mut len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    // SAFETY: `peer` has room for `len` bytes, enough for both families, and both outlive the call.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            peer.as_mut_ptr().cast(),
            &mut len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made `fd`, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: zeroed at birth, and every bit pattern is a valid sockaddr_in6.
    let v6 = unsafe { peer.assume_init() };
    if libc::c_int::from(v6.sin6_family) == libc::AF_INET6 {
        let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
        let peer = SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, 0);
        return Ok((socket, peer.into()));
    }
    // SAFETY: a sockaddr_in is smaller than a sockaddr_in6 and begins with the same family field.
    let v4 = unsafe { peer.as_ptr().cast::<libc::sockaddr_in>().read() };
    let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
    Ok((socket, SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into()))
}

/// listen(2). nix takes no backlog above libc's SOMAXCONN, which is 128 in musl, whatever the kernel allows.
pub fn listen(socket: BorrowedFd, backlog: i32) -> Result<(), Errno> {
    // SAFETY: takes two integers and touches no memory.
    let done = unsafe { libc::listen(socket.as_raw_fd(), backlog) };
    Errno::result(done).map(drop)
}

/// Puts a classic BPF program in front of the listeners of the socket's SO_REUSEPORT group; its result is the
/// number of the listener. socket(7) SO_ATTACH_REUSEPORT_CBPF.
pub fn choose_listener_by(listener: BorrowedFd, program: &[libc::sock_filter]) -> Result<(), Errno> {
    let program =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads one sock_fprog and the `len` instructions that it points to, writes none, and
    // keeps no pointer; all outlive the call.
    let done = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop)
}

/// Fills in what the kernel tells of the connection and returns how many bytes that is; tcp(7) TCP_INFO.
pub fn tcp_info(socket: BorrowedFd, info: &mut [u8]) -> Result<usize, Errno> {
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, for which `info` has room, and the new `len`; both outlive
    // the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut len,
        )
    };
    Errno::result(done)?;
    Ok(len as usize)
}

/// Bytes that the socket has accepted and its peer has not acknowledged; SIOCOUTQ in tcp(7).
pub fn unacknowledged(socket: BorrowedFd) -> Result<usize, Errno> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the number of TIOCOUTQ) writes one int, and `bytes` outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ as _, &mut bytes) };
    Errno::result(done)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Bytes of kernel memory that the socket's queues take; SO_MEMINFO, whose numbers `ss -m` prints (ss(8)).
pub fn buffered(socket: BorrowedFd) -> Result<usize, Errno> {
    const RECEIVED: usize = 0;
    const RESERVED: usize = 4;
    const WRITTEN: usize = 5;
    const BACKLOG: usize = 7;
    let mut sizes = [0u32; 9];
    let mut len = size_of_val(&sizes) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `sizes`, and both outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            sizes.as_mut_ptr().cast(),
            &mut len,
        )
    };
    Errno::result(done)?;
    Ok([RECEIVED, RESERVED, WRITTEN, BACKLOG].into_iter().map(|it| sizes[it] as usize).sum())
}

/// Has an established socket announce a receive window of `bytes` now, if it announces less. The kernel (before
/// 6.18, as far as tried) begins with 64 KiB whatever the buffer holds, and triples that each round trip; tcp(7) TCP_REPAIR,
/// which needs CAP_NET_ADMIN, can say otherwise, and ends by sending the news.
pub fn open_receive_window(socket: BorrowedFd, bytes: u32) -> Result<(), Errno> {
    /// struct tcp_repair_window in linux/tcp.h.
    #[repr(C)]
    #[derive(Default)]
    struct Window {
        snd_wl1: u32,
        snd_wnd: u32,
        max_window: u32,
        rcv_wnd: u32,
        rcv_wup: u32,
    }
    /// TCP_REPAIR_OFF_NO_WP: without sending anything.
    const SILENTLY_OFF: libc::c_int = -1;
    let set = |option, value: *const libc::c_void, length: usize| {
        let length = length as libc::socklen_t;
        // SAFETY: the kernel reads `length` bytes at `value`, which each caller below owns beyond the call.
        let done = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, length) };
        Errno::result(done).map(drop)
    };
    let set_number =
        |option, number: libc::c_int| set(option, (&raw const number).cast(), size_of::<libc::c_int>());
    let mut window = Window::default();
    let mut length = size_of::<Window>() as libc::socklen_t;
    set_number(libc::TCP_REPAIR, 1)?;
    // SAFETY: the kernel writes at most `length` bytes into `window`, for which all bit patterns are valid.
    let got = unsafe {
        let window = (&raw mut window).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR_WINDOW, window, &mut length)
    };
    if Errno::result(got).is_err() || window.rcv_wnd >= bytes / 4 * 3 {
        return set_number(libc::TCP_REPAIR, SILENTLY_OFF);
    }
    window.rcv_wnd = bytes;
    let opened = set(libc::TCP_REPAIR_WINDOW, (&raw const window).cast(), size_of::<Window>())
        .and_then(|()| set_number(libc::TCP_WINDOW_CLAMP, bytes as libc::c_int));
    // Whatever came of it, the socket has to leave the repair mode.
    set_number(libc::TCP_REPAIR, 0)?;
    opened
}

/// linux/sockios.h.
pub const SIOCOUTQNSD: u32 = 0x894b;

/// Bytes that the socket has accepted and not sent yet.
pub fn unsent(socket: BorrowedFd) -> Result<u32, Errno> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQNSD writes one int, and `bytes` outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCOUTQNSD as _, &mut bytes) };
    Errno::result(done)?;
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// Rows and columns of the terminal, 0 where it does not know; TIOCGWINSZ in ioctl_tty(2).
pub fn terminal_size(terminal: BorrowedFd) -> Result<(u16, u16), Errno> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, and `size` outlives the call.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ as _, &mut size) };
    Errno::result(done)?;
    Ok((size.ws_row, size.ws_col))
}

/// Turns an open /dev/net/tun into the network device `name`, without packet headers of its own;
/// tun.rst in the kernel's documentation. The device lives as long as the descriptor.
pub fn create_tun(tun: BorrowedFd, name: &str) -> Result<(), Errno> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, and `request` outlives the call.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    Errno::result(done).map(drop)
}

/// Gives the device an IPv4 address with a /32 mask; netdevice(7). `socket`: any AF_INET socket.
pub fn set_ipv4_address(socket: BorrowedFd, name: &str, ip: Ipv4Addr) -> Result<(), Errno> {
    let mut request = interface_request(name)?;
    for (command, value) in [(libc::SIOCSIFADDR, ip), (libc::SIOCSIFNETMASK, Ipv4Addr::BROADCAST)] {
        request.ifr_ifru.ifru_addr = ipv4_sockaddr(value);
        // SAFETY: both commands read one ifreq, and `request` outlives the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), command as _, &mut request) };
        Errno::result(done)?;
    }
    Ok(())
}

/// Gives the device an IPv6 address with a /128 prefix. `socket`: any AF_INET6 socket.
pub fn set_ipv6_address(socket: BorrowedFd, index: u32, ip: Ipv6Addr) -> Result<(), Errno> {
    let mut request = libc::in6_ifreq {
        ifr6_addr: libc::in6_addr { s6_addr: ip.octets() },
        ifr6_prefixlen: 128,
        ifr6_ifindex: index as libc::c_int,
    };
    // SAFETY: on an AF_INET6 socket SIOCSIFADDR reads one in6_ifreq, and `request` outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &mut request) };
    Errno::result(done).map(drop)
}

/// Sets the device's flags to up and running; netdevice(7). `socket`: any AF_INET socket.
pub fn bring_up(socket: BorrowedFd, name: &str) -> Result<(), Errno> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_NOARP) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, and `request` outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &mut request) };
    Errno::result(done).map(drop)
}

fn interface_request(name: &str) -> Result<libc::ifreq, Errno> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(Errno::ENAMETOOLONG);
    }
    // SAFETY: ifreq is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn ipv4_sockaddr(ip: Ipv4Addr) -> libc::sockaddr {
    let mut address = libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: [0; 14] };
    // In sockaddr_in two bytes of port come before the address.
    for (to, from) in address.sa_data[2..6].iter_mut().zip(ip.octets()) {
        *to = from as libc::c_char;
    }
    address
}

/// Takes every capability but CAP_NET_ADMIN from the calling thread; capset(2), capabilities(7).
pub fn keep_only_net_admin() -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    const NET_ADMIN: u32 = 1 << 12;

    let header = Header { version: VERSION_3, pid: 0 };
    let low = Sets { effective: NET_ADMIN, permitted: NET_ADMIN, inheritable: 0 };
    let high = Sets { effective: 0, permitted: 0, inheritable: 0 };
    let sets = [low, high];
    // SAFETY: capset reads one header and, for this version, two sets; both outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &header, sets.as_ptr()) };
    Errno::result(done).map(drop)
}

/// Puts a classic BPF program in front of the system calls of all threads; the caller has no_new_privs. What the program refuses goes into the kernel's log (as far as audit is there); seccomp(2).
pub fn filter_system_calls(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let program =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_LOG | libc::SECCOMP_FILTER_FLAG_TSYNC;
    // SAFETY: the kernel reads one sock_fprog and the `len` instructions that it points to, writes none, and
    // keeps no pointer; all outlive the call.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match Errno::result(done)? {
        0 => Ok(()),
        // A thread that has another filter.
        _ => Err(Errno::ESRCH),
    }
}

/// Has a trap, which is all that `panic=immediate-abort` leaves of a panic (cross/README.md), say on stderr where in the
/// program it is, and end the process.
pub fn tell_last_words() {
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::SigAction(last_words), flags, SigSet::empty());
    for signal in [Signal::SIGILL, Signal::SIGTRAP] {
        // SAFETY: the handler makes two system calls and touches nothing but its own stack.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

extern "C" fn last_words(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    unsafe extern "C" {
        /// Where the linker's first byte was loaded.
        safe static __ehdr_start: u8;
    }
    // SAFETY: the kernel passes a siginfo_t, and for both signals it is that of a fault.
    let at = unsafe { (*info).si_addr() }.addr().wrapping_sub((&raw const __ehdr_start).addr());
    let mut words = *b"pepsal: internal error at 0x0000000000000000, ending at once\n";
    for (place, digit) in words[28..44].iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(at as u64 >> (4 * place)) as usize & 15];
    }
    let _ = nix::unistd::write(io::stderr(), &words);
    abort();
}

/// Counts what is taken from the heap, to show that connections take nothing (feature `count-allocations`).
#[cfg(feature = "count-allocations")]
pub mod allocations {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicU32, Ordering};

    static COUNT: AtomicU32 = AtomicU32::new(0);

    struct Counting;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    // SAFETY: every call goes to the system's allocator unchanged. `alloc_zeroed` and `realloc` come by way of
    // these two (their defaults), so they are counted as well.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            COUNT.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the caller's promise about `layout` is passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: `block` came from `alloc` above with this `layout`.
            unsafe { System.dealloc(block, layout) }
        }
    }

    /// Allocations of the whole process so far.
    pub fn count() -> u32 {
        COUNT.load(Ordering::Relaxed)
    }
}
