//! What the kernel knows of a host's TCP sockets, as `ss` tells it.

use crate::host::{Host, eventually, patience};

/// What the kernel says of one established connection (ss).
pub struct Socket {
    pub words: Vec<String>,
}

impl Socket {
    pub fn of(host: &Host, which: &str, port: u16) -> Socket {
        let mut found = Vec::new();
        eventually("one established socket, and no other", patience(), || {
            found = Socket::all(host, &format!("{which} = :{port}"));
            found.len() == 1
        });
        found.remove(0)
    }

    /// All that match ss's `filter`, in no order.
    pub fn all(host: &Host, filter: &str) -> Vec<Socket> {
        let list = host.exec(&format!("ss -tinmOH state established {filter}"), "");
        let words = |line: &str| line.split_whitespace().map(str::to_string).collect();
        list.lines().map(|line| Socket { words: words(line) }).collect()
    }

    /// A number in skmem:(…).
    pub fn memory(&self, name: &str) -> u64 {
        let skmem = self.words.iter().find_map(|word| word.strip_prefix("skmem:(")).expect("skmem");
        let number =
            skmem.trim_end_matches(')').split(',').find_map(|part| part.strip_prefix(name)?.parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in {skmem}"))
    }

    /// A number as in name:123; what is 0 is not printed.
    pub fn info(&self, name: &str) -> u64 {
        let number = |word: &String| word.strip_prefix(name)?.strip_prefix(':')?.parse().ok();
        self.words.iter().find_map(number).unwrap_or(0)
    }
}
