//! Why the daemon cannot start, in one line: what failed, why, and what to do about it.
#![forbid(unsafe_code)]

use std::fmt;

use nix::errno::Errno;

#[derive(Debug)]
pub enum Error {
    /// `verb object: errno (remedy)`
    System {
        verb: &'static str,
        object: String,
        errno: Errno,
        remedy: &'static str,
    },
    UnknownCongestionControl {
        name: String,
        available: String,
        /// What brings it on OpenWrt.
        package: Option<&'static str>,
    },
    UnknownDevice(String),
    /// From a daemon that runs.
    TakeOver {
        from: String,
        why: String,
        remedy: &'static str,
    },
}

impl Error {
    pub fn system(
        verb: &'static str,
        object: impl Into<String>,
        errno: Errno,
        remedy: &'static str,
    ) -> Error {
        Error::System { verb, object: object.into(), errno, remedy }
    }

    pub fn take_over(from: String, why: &str, remedy: &'static str) -> Error {
        Error::TakeOver { from, why: why.into(), remedy }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::System { verb, object, errno, remedy } => {
                let reason = LowerCase(errno.desc());
                write!(f, "cannot {verb} {object}: {reason}")?;
                if remedy.is_empty() { Ok(()) } else { write!(f, " ({remedy})") }
            }
            Error::UnknownCongestionControl { name, available, package } => {
                write!(f, "cannot use congestion control {name}: this kernel offers {available} (")?;
                if let Some(package) = package {
                    write!(f, "install its module, on OpenWrt {package}, or ")?;
                }
                write!(f, "name another with -C)")
            }
            Error::TakeOver { from, why, remedy } => {
                write!(f, "cannot take over from {from}: {why}")?;
                if remedy.is_empty() { Ok(()) } else { write!(f, " ({remedy})") }
            }
            Error::UnknownDevice(name) => write!(
                f,
                "cannot find network device {name}: no such device (name one that \
                 'ip link' lists, or a pattern such as ppp*)"
            ),
        }
    }
}

/// An error text of the system without its capital letter.
struct LowerCase(&'static str);

impl fmt::Display for LowerCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut letters = self.0.chars();
        if let Some(first) = letters.next() {
            write!(f, "{}{}", first.to_ascii_lowercase(), letters.as_str())?;
        }
        Ok(())
    }
}
