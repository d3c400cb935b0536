//! `pepsal top`: a live table of the connections, for any terminal that knows ANSI's cursor movements, a serial
//! console of 80x24 too.
//!
//! It asks the daemon once a second, as `pepsal connections` does, and keeps nothing but the latest answer.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::{env, io};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{read, write};

use crate::ask;
use crate::cli::Top;
use crate::error::Error;
use crate::page::{Page, Value};
use crate::sys;

const REFRESH_MS: u16 = 1000;

/// Of `pepsal status`, the lines that begin so.
const HEAD: [&str; 5] = ["pepsal", "handshake", "connections", "rate", "warning"];

/// Columns beside the two of endpoints, with the blanks between them.
const FIXED: usize = 38;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Rate,
    Up,
    Down,
    Age,
}

pub fn run(options: &Top) -> Result<(), Error> {
    // What the terminal would do with escape sequences is known of all but the one that says it knows none.
    let known = env::var_os("TERM").is_none_or(|name| name != "dumb");
    let screen = if known { Screen::take() } else { Err(Errno::ENOTTY) };
    let screen = screen.map_err(|errno| {
        Error::system("use", "the terminal", errno, "is this one? 'pepsal connections' needs none")
    })?;
    let mut order = Order::Rate;
    let (mut status, mut list) = (Vec::new(), Vec::new());
    loop {
        status.clear();
        list.clear();
        ask::answer(&options.control, "status text", &mut status)?;
        ask::answer(&options.control, "connections columns", &mut list)?;
        screen.show(&drawn(&status, &list, order));
        match screen.key() {
            Some(b'q' | b'Q' | 3) => return Ok(()),
            Some(b'b') => order = Order::Rate,
            Some(b'u') => order = Order::Up,
            Some(b'd') => order = Order::Down,
            Some(b'a') => order = Order::Age,
            _ => {}
        }
    }
}

/// The terminal, without line editing and echo as long as this lives.
struct Screen {
    before: Termios,
    ends: SignalFd,
}

impl Screen {
    fn take() -> Result<Screen, Errno> {
        tcgetattr(io::stdout())?;
        let before = tcgetattr(io::stdin())?;
        let mask: SigSet = [Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        mask.thread_block()?;
        let ends = SignalFd::new(&mask)?;
        let mut quiet = before.clone();
        quiet.local_flags -= LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        tcsetattr(io::stdin(), SetArg::TCSANOW, &quiet)?;
        let screen = Screen { before, ends };
        // Clear, without a cursor.
        screen.show(b"\x1b[?25l\x1b[2J");
        Ok(screen)
    }

    fn show(&self, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            match write(io::stdout(), left) {
                Ok(written) => left = &left[written..],
                Err(Errno::EINTR) => {}
                // Whoever does not read sees nothing; keys still count.
                Err(_) => return,
            }
        }
    }

    /// The key that is pressed before the next refresh; to be ended, by a signal or for want of a terminal, counts as q.
    fn key(&self) -> Option<u8> {
        let stdin = io::stdin();
        let wait = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut ready = [wait(stdin.as_fd()), wait(self.ends.as_fd())];
        // An interrupted wait is a short one.
        let _ = poll(&mut ready, PollTimeout::from(REFRESH_MS));
        if ready[1].any() == Some(true) {
            return Some(b'q');
        }
        let mut key = [0];
        match ready[0].any() {
            Some(true) => {
                Some(read(&stdin, &mut key).map_or(b'q', |count| if count == 1 { key[0] } else { b'q' }))
            }
            _ => None,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Below what is there, with a cursor.
        self.show(b"\x1b[999;1H\x1b[?25h\r\n");
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

fn drawn(status: &[u8], list: &[u8], order: Order) -> Vec<u8> {
    // A serial console does not know its size.
    let (rows, columns) = match sys::terminal_size(io::stdout().as_fd()) {
        Ok((rows, columns)) if rows > 0 && columns > 0 => (usize::from(rows), usize::from(columns)),
        _ => (24, 80),
    };
    screenful(status, list, order, rows, columns)
}

pub fn screenful(status: &[u8], list: &[u8], order: Order, rows: usize, columns: usize) -> Vec<u8> {
    let (status, list) = (String::from_utf8_lossy(status), String::from_utf8_lossy(list));
    let width = columns.saturating_sub(FIXED) / 2;
    let mut out = b"\x1b[H".to_vec();
    let mut used = 0;
    for line in status.lines().filter(|line| HEAD.iter().any(|head| line.starts_with(head))) {
        cell(&mut out, line, columns);
        end_line(&mut out);
        used += 1;
    }
    out.extend_from_slice(b"\x1b[7m");
    for (name, width) in [("CLIENT", width), ("SERVER", width), ("     UP", 7), ("   DOWN", 7), ("   AGE", 6)]
    {
        cell(&mut out, name, width);
        out.push(b' ');
    }
    cell(&mut out, "LIMITED BY", columns.saturating_sub(2 * width + 25));
    out.extend_from_slice(b"\x1b[0m");
    // One line for the heads of the columns, one for the keys.
    for line in largest(&list, order, rows.saturating_sub(used + 2)) {
        end_line(&mut out);
        row(&mut out, line, width);
    }
    end_line(&mut out);
    out.extend_from_slice(b"\x1b[J");
    let keys = match order {
        Order::Rate => "sort by: [b both rates] u up  d down  a age;  q quits",
        Order::Up => "sort by:  b both rates [u up] d down  a age;  q quits",
        Order::Down => "sort by:  b both rates  u up [d down] a age;  q quits",
        Order::Age => "sort by:  b both rates  u up  d down [a age]; q quits",
    };
    cell(&mut out, keys, columns);
    out
}

/// The first `count` of the list by `order`, without sorting all of it.
fn largest(list: &str, order: Order, count: usize) -> Vec<&str> {
    let mut best: Vec<(u64, &str)> = Vec::new();
    for line in list.lines() {
        let number = |at: usize| line.split(' ').nth(at).and_then(|word| word.parse().ok()).unwrap_or(0u64);
        let key = match order {
            Order::Rate => number(0).saturating_add(number(1)),
            Order::Up => number(0),
            Order::Down => number(1),
            Order::Age => number(4),
        };
        let place = best.iter().position(|&(other, _)| other < key).unwrap_or(best.len());
        if place < count {
            best.insert(place, (key, line));
            best.truncate(count);
        }
    }
    best.into_iter().map(|(_, line)| line).collect()
}

/// One connection of `report::connections`' columns.
fn row(out: &mut Vec<u8>, line: &str, width: usize) {
    let mut words = line.split(' ');
    let mut numbers = [0u64; 5];
    for number in &mut numbers {
        *number = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    }
    let [up, down, _, _, age] = numbers;
    let mut word = || words.next().unwrap_or("");
    let (client, server, state, to_client, to_server) = (word(), word(), word(), word(), word());
    for endpoint in [client, server] {
        // The end of a long address tells it from others of its network, and has the port.
        match endpoint.get((endpoint.len() + 1).saturating_sub(width)..) {
            Some(tail) if endpoint.len() > width => cell(out, &format!("~{tail}"), width),
            _ => cell(out, endpoint, width),
        }
        out.push(b' ');
    }
    for (template, number, width) in [("~n|", up, 7), ("~n|", down, 7), ("$n s", age, 6)] {
        let mut page = Page::new();
        page.fill(template, &[("n", Value::Number(number))]);
        let blanks = width - page.bytes().len().min(width);
        out.extend(std::iter::repeat_n(b' ', blanks));
        out.extend_from_slice(page.bytes());
        out.push(b' ');
    }
    // Of the leg that most goes to.
    let limit = match (state, if up > down { to_server } else { to_client }) {
        ("connecting", _) => "connecting",
        (_, "receive_window") => "peer's window",
        (_, "send_buffer") => "send buffer",
        (_, limit) => limit,
    };
    out.extend_from_slice(limit.as_bytes());
}

/// Exactly `width` bytes: filled up with blanks, or cut, which ~ shows.
fn cell(out: &mut Vec<u8>, text: &str, width: usize) {
    match text.as_bytes().get(..width) {
        Some(start) if text.len() > width => {
            out.extend_from_slice(&start[..width.saturating_sub(1)]);
            out.extend(start.last().map(|_| b'~'));
        }
        _ => {
            out.extend_from_slice(text.as_bytes());
            out.extend(std::iter::repeat_n(b' ', width - text.len()));
        }
    }
}

/// With what an earlier, longer line has left there.
fn end_line(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\x1b[K\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
        100 0 9 9 1 10.0.0.1:1 10.0.0.9:80 relaying sender congestion\n\
        5000000 14310224 9 9 187 192.168.100.200:51234 203.0.113.199:443 relaying receive_window sender\n\
        0 0 0 0 2 [fd12:3456:789a:1::20]:50118 [2001:db8::1]:443 connecting - -\n\
        7000 1 9 9 99999 10.0.0.2:1 10.0.0.9:81 half_closed sender send_buffer\n";

    fn lines(order: Order, rows: usize, columns: usize) -> Vec<String> {
        let status = b"pepsal 0.1.0\nSYNs 3\nrate 5 bit/s\n";
        let screen = String::from_utf8(screenful(status, LIST.as_bytes(), order, rows, columns)).unwrap();
        let plain = ["\x1b[H", "\x1b[K", "\x1b[J", "\x1b[7m", "\x1b[0m"]
            .iter()
            .fold(screen, |text, code| text.replace(code, ""));
        plain.split("\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn a_screen_of_80_by_24_holds_it() {
        let lines = lines(Order::Rate, 24, 80);
        assert!(lines.iter().all(|line| line.len() <= 80), "{lines:#?}");
        assert_eq!(lines.len(), 8);
        assert_eq!(
            lines[3],
            "192.168.100.200:51234 203.0.113.199:443       5.0 M  14.3 M  187 s peer's window"
        );
        assert!(lines[6].starts_with("~56:789a:1::20]:50118 [2001:db8::1]:443 "), "{}", lines[6]);
    }

    #[test]
    fn what_does_not_fit_is_the_least() {
        let clients = |order, rows| -> Vec<String> {
            let lines = lines(order, rows, 80);
            assert_eq!(lines.len(), rows.min(8));
            let ends = lines.len() - 1;
            lines[3..ends].iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
        };
        assert_eq!(clients(Order::Rate, 6), ["192.168.100.200:51234", "10.0.0.2:1"]);
        assert_eq!(clients(Order::Down, 5), ["192.168.100.200:51234"]);
        assert_eq!(clients(Order::Age, 5), ["10.0.0.2:1"]);
        assert_eq!(clients(Order::Up, 24)[2], "10.0.0.1:1");
    }

    #[test]
    fn no_answer_and_no_size_breaks_it() {
        for list in ["", "\n\n", "x", "1 2 3", "\u{fffd} \u{fffd}", "99999999999999999999 1 1 1 1 a b c d e"]
        {
            for (rows, columns) in [(0, 0), (1, 1), (3, 39), (24, 80), (1000, 1000)] {
                screenful("pepsal \u{fffd}\n".as_bytes(), list.as_bytes(), Order::Rate, rows, columns);
            }
        }
    }
}
