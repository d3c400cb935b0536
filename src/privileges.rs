//! What the daemon may do once everything is set up: administer the network, nothing else.
//!
//! Called by the main thread before any other starts, because capabilities belong to threads. What still needs
//! CAP_NET_ADMIN: SO_MARK, IP_TRANSPARENT and forced buffer sizes on each server leg, and verdicts.
#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{User, getuid, setgid, setgroups, setuid};

use crate::error::Error;
use crate::sys;

/// Becomes `user`, if one is named, keeps CAP_NET_ADMIN alone and gives up gaining more (no_new_privs, prctl(2)).
pub fn drop_to(user: Option<&str>) -> Result<(), Error> {
    if let Some(name) = user {
        become_user(name)?;
    }
    let keep_one = || {
        prctl::set_no_new_privs()?;
        sys::keep_only_net_admin()
    };
    keep_one().map_err(|errno| Error::system("give up", "privileges", errno, ""))
}

fn become_user(name: &str) -> Result<(), Error> {
    let failed = |remedy| move |errno| Error::system("become", format!("user {name}"), errno, remedy);
    let user = User::from_name(name)
        .and_then(|user| user.ok_or(Errno::ENOENT))
        .map_err(failed("create it, or name another with --user"))?;
    if user.uid == getuid() {
        return Ok(());
    }
    let change = || {
        prctl::set_keepcaps(true)?;
        setgroups(&[user.gid])?;
        setgid(user.gid)?;
        setuid(user.uid)
    };
    change().map_err(failed("start pepsal as root, or without --user"))
}
