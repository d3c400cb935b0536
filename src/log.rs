//! The log: syslog, or stderr in front of a person.
//!
//! Any thread may log. Lines of single connections appear only with `-v`, and none of them is even formatted
//! without it.
#![forbid(unsafe_code)]

use std::fmt::{self, Arguments, Display};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock};

use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    verbose: bool,
    /// `None`: stderr.
    syslog: Option<Mutex<Logger<LoggerBackend, Tagged>>>,
}

/// The message with priority and tag only: syslogd adds time and host itself.
#[derive(Clone)]
struct Tagged {
    pid: u32,
}

impl<T: Display> LogFormat<T> for Tagged {
    fn format<W: Write>(&self, to: &mut W, severity: Severity, message: T) -> syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        let pid = self.pid;
        write!(to, "<{priority}>pepsal[{pid}]: {message}").map_err(syslog::Error::Write)
    }
}

/// Called once, before any thread starts. Without a syslog daemon the log goes to stderr.
pub fn start(verbose: bool) {
    let to_person = verbose || io::stderr().is_terminal();
    let formatter = Tagged { pid: std::process::id() };
    let syslog = (!to_person).then(|| syslog::unix(formatter).ok()).flatten().map(Mutex::new);
    // A second call would mean a second daemon in this process; the first log stays.
    let _ = LOG.set(Log { verbose, syslog });
}

pub fn warn(message: Arguments) {
    write(Severity::LOG_WARNING, message);
}

pub fn notice(message: Arguments) {
    write(Severity::LOG_NOTICE, message);
}

/// One connection's story, for `-v`.
pub fn connection(message: Arguments) {
    if LOG.get().is_some_and(|log| log.verbose) {
        write(Severity::LOG_DEBUG, message);
    }
}

fn write(severity: Severity, message: Arguments) {
    let syslog = LOG.get().and_then(|log| log.syslog.as_ref());
    // A log that cannot be written must not stop the traffic, so failures end here.
    let _: Result<(), fmt::Error> = match syslog.and_then(|syslog| syslog.lock().ok()) {
        Some(mut logger) => {
            let Logger { formatter, backend } = &mut *logger;
            formatter.format(backend, severity, message).map_err(|_| fmt::Error)
        }
        None => writeln!(io::stderr(), "pepsal: {message}").map_err(|_| fmt::Error),
    };
}
