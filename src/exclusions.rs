//! How many SYNs the rules have kept from the queue: `pepsal rules` counts them in a counter of nft's, because the daemon
//! never sees them.
//!
//! Asked by the main thread, for whoever asks for the status. The kernel answers within the call that asks.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockProtocol, recv, send};

use crate::netlink::{self, Body, attributes, messages};

pub const TABLE: &str = "pepsal";
pub const COUNTER: &str = "excluded";

/// The kernel's answer is of 100 bytes.
const BUFFER: usize = 512;

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const NFT_MSG_NEWOBJ: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | 18;
const NFT_MSG_GETOBJ: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | 19;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFT_OBJECT_COUNTER: u32 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// Bytes of struct nfgenmsg: family, version, resource.
const HEADER: usize = 4;

pub struct Exclusions {
    socket: OwnedFd,
}

impl Exclusions {
    /// Before the daemon may no longer make such sockets (`seccomp`).
    pub fn open() -> Result<Exclusions, Errno> {
        netlink::open(SockProtocol::NetlinkNetFilter, 0).map(|socket| Exclusions { socket })
    }

    /// Since the rules were loaded. 0: nothing is excluded, or not by rules of nft's.
    pub fn count(&self) -> u64 {
        self.ask().ok().flatten().unwrap_or(0)
    }

    fn ask(&self) -> Result<Option<u64>, Errno> {
        let name = |name: &str| [name.as_bytes(), &[0]].concat();
        let body = Body::new(&[libc::NFPROTO_INET as u8, 0, 0, 0])
            .with(NFTA_OBJ_TABLE, &name(TABLE))
            .with(NFTA_OBJ_NAME, &name(COUNTER))
            .with(NFTA_OBJ_TYPE, &NFT_OBJECT_COUNTER.to_be_bytes());
        send(
            self.socket.as_raw_fd(),
            &netlink::message(NFT_MSG_GETOBJ, 0, body.bytes()),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let mut buffer = [0; BUFFER];
        let read = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        Ok(packets(&buffer[..read]))
    }
}

/// What a counter in the kernel's answer has counted.
pub fn packets(answer: &[u8]) -> Option<u64> {
    let find = |bytes, wanted| attributes(bytes).find(|&(kind, _)| kind == wanted).map(|(_, value)| value);
    let (_, _, object) = messages(answer).find(|&(kind, ..)| kind == NFT_MSG_NEWOBJ)?;
    let counter = find(object.get(HEADER..)?, NFTA_OBJ_DATA)?;
    Some(u64::from_be_bytes(find(counter, NFTA_COUNTER_PACKETS)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(packets: &[u8]) -> Vec<u8> {
        let counter = Body::new(&[]).with(1, &420_u64.to_be_bytes()).with(NFTA_COUNTER_PACKETS, packets);
        let object =
            Body::new(&[1, 0, 0, 0]).with(NFTA_OBJ_NAME, b"excluded\0").with(NFTA_OBJ_DATA, counter.bytes());
        netlink::message(NFT_MSG_NEWOBJ, 0, object.bytes())
    }

    #[test]
    fn packets_are_read_and_not_bytes() {
        assert_eq!(packets(&answer(&7_u64.to_be_bytes())), Some(7));
        assert_eq!(packets(&answer(&7_u32.to_be_bytes())), None);
        let refused = netlink::message(libc::NLMSG_ERROR as u16, 0, &(-2_i32).to_ne_bytes());
        assert_eq!(packets(&refused), None);
    }

    #[test]
    fn an_answer_cut_anywhere_is_none() {
        let whole = answer(&7_u64.to_be_bytes());
        assert!((0..whole.len()).all(|end| packets(&whole[..end]).is_none()));
    }
}
