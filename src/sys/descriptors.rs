//! Descriptors on their way from one process to another, beside a message over a Unix socket; unix(7) SCM_RIGHTS.
//!
//! nix has calls for that, which bring along code for every other control message.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// The most descriptors that one message carries; SCM_MAX_FD in unix(7).
const MAX_DESCRIPTORS: usize = 253;

/// Room for the control message with them, aligned as the kernel has it.
const CONTROL_WORDS: usize = (64 + MAX_DESCRIPTORS * size_of::<RawFd>()).div_ceil(size_of::<usize>());

/// A message in one piece and at most [`MAX_DESCRIPTORS`] descriptors beside it, over a Unix socket.
pub fn send_with(socket: BorrowedFd, message: &[u8], descriptors: &[RawFd]) -> Result<usize, Errno> {
    let mut control = [0usize; CONTROL_WORDS];
    let mut piece = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: msghdr is plain old data, for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    if !descriptors.is_empty() {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Errno::EINVAL);
        }
        let bytes = size_of_val(descriptors);
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: only computes with its argument.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(bytes as libc::c_uint) } as _;
        // SAFETY: `control` is aligned for a cmsghdr and longer than msg_controllen, so the first header and `bytes`
        // after it lie inside; `descriptors` has as many bytes.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(bytes as libc::c_uint) as _;
            descriptors.as_ptr().cast::<u8>().copy_to_nonoverlapping(libc::CMSG_DATA(first), bytes);
        }
    }
    // SAFETY: the kernel reads what `header` points to, all of which outlives the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(|sent| sent as usize)
}

/// Receives what [`send_with`] sends: the bytes, 0 at the end, and the descriptors, closed on exec.
pub fn receive_with(socket: BorrowedFd, message: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut control = [0usize; CONTROL_WORDS];
    let mut piece = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() };
    // SAFETY: msghdr is plain old data, for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the kernel writes into what `header` points to, within the lengths given, and all outlives the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let received = Errno::result(received)? as usize;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled in msg_controllen bytes of `control`, or none.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    if !first.is_null() {
        // SAFETY: not null, so a header lies there, aligned.
        let (level, kind, len) = unsafe { ((*first).cmsg_level, (*first).cmsg_type, (*first).cmsg_len) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: only computes with its argument.
            let before = unsafe { libc::CMSG_LEN(0) };
            let bytes = (len as u64).saturating_sub(before.into()) as usize;
            for at in 0..bytes / size_of::<RawFd>() {
                // SAFETY: so many descriptors lie after the header, which the kernel has just made for this process;
                // nothing else owns them.
                descriptors.push(unsafe {
                    let fd = libc::CMSG_DATA(first).cast::<RawFd>().add(at).read_unaligned();
                    OwnedFd::from_raw_fd(fd)
                });
            }
        }
    }
    // Some were lost, because this process may not have so many.
    if header.msg_flags & libc::MSG_CTRUNC != 0 { Err(Errno::EMFILE) } else { Ok((received, descriptors)) }
}
