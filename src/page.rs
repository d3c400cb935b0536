//! The part of an answer that waits to be sent, of limited size, and how figures are written into it.
//!
//! JSON by hand: a field or item puts the comma before itself where one is due.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};

/// Bytes that a page holds: more than any answer that is not a list (`report` has the test).
pub const SIZE: usize = 8192;

#[derive(Default)]
pub struct Page {
    bytes: Vec<u8>,
}

impl Page {
    pub fn new() -> Page {
        Page { bytes: Vec::with_capacity(SIZE) }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    pub fn room(&self) -> usize {
        SIZE - self.bytes.len()
    }

    /// What does not fit is left out.
    pub fn text(&mut self, text: &str) -> &mut Page {
        if text.len() <= self.room() {
            self.bytes.extend_from_slice(text.as_bytes());
        }
        self
    }

    pub fn number(&mut self, number: u64) -> &mut Page {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut left = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.text(str::from_utf8(&digits[at..]).unwrap_or(""))
    }

    /// `number` / 10^`decimals`.
    pub fn decimal(&mut self, number: u64, decimals: u32) -> &mut Page {
        let one = 10u64.pow(decimals);
        self.number(number / one).text(".");
        let mut place = one / 10;
        while place > 0 {
            self.number(number / place % 10);
            place /= 10;
        }
        self
    }

    /// With one decimal and a decimal prefix to the unit: 14.3 Mbit/s.
    pub fn scaled(&mut self, number: u64, unit: &str) -> &mut Page {
        let prefixes = [" ", " k", " M", " G", " T", " P"];
        let (mut one, mut at) = (1, 0);
        while number / one >= 1000 && at + 1 < prefixes.len() {
            one *= 1000;
            at += 1;
        }
        match at {
            0 => self.number(number),
            _ => self.decimal(number / (one / 10), 1),
        };
        self.text(prefixes[at]).text(unit)
    }

    /// The beginning of an array's item.
    pub fn item(&mut self) -> &mut Page {
        match self.bytes.last() {
            Some(b'{' | b'[' | b':') | None => self,
            _ => self.text(","),
        }
    }

    pub fn field(&mut self, name: &str) -> &mut Page {
        self.item().text("\"").text(name).text("\":")
    }

    /// `text` has nothing that JSON would want escaped but what is dropped here: names that the kernel gives.
    pub fn string(&mut self, text: &str) -> &mut Page {
        self.text("\"");
        for part in text.split(['"', '\\']) {
            self.text(part);
        }
        self.text("\"")
    }

    pub fn number_or_null(&mut self, number: Option<u64>) -> &mut Page {
        match number {
            Some(number) => self.number(number),
            None => self.text("null"),
        }
    }

    pub fn flag(&mut self, flag: bool) -> &mut Page {
        self.text(if flag { "true" } else { "false" })
    }

    /// An object of numbers.
    pub fn numbers(&mut self, name: &str, fields: &[(&str, u64)]) -> &mut Page {
        self.field(name).text("{");
        for &(name, number) in fields {
            self.field(name).number(number);
        }
        self.text("}")
    }

    pub fn formatted(&mut self, arguments: fmt::Arguments) -> &mut Page {
        // What does not fit is left out.
        let _ = self.write_fmt(arguments);
        self
    }
}

impl Write for Page {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Page)) -> String {
        let mut page = Page::new();
        write(&mut page);
        String::from_utf8(page.bytes().to_vec()).unwrap()
    }

    #[test]
    fn numbers_are_exact() {
        let all = written(|page| {
            page.number(0).text(" ").number(u64::MAX).text(" ").decimal(2_004, 3).text(" ").decimal(7, 1);
        });
        assert_eq!(all, "0 18446744073709551615 2.004 0.7");
    }

    #[test]
    fn people_read_three_digits() {
        for (number, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (21_384_750_113, "21.3 GB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(
                written(|page| {
                    page.scaled(number, "B");
                }),
                expected
            );
        }
    }

    #[test]
    fn commas_stand_between_and_nowhere_else() {
        let all = written(|page| {
            page.text("{").numbers("a", &[("b", 1), ("c", 2)]).field("d").text("[");
            page.item().number(3).item().number(4).text("]").field("e").string("x\"y\\").text("}");
        });
        assert_eq!(all, r#"{"a":{"b":1,"c":2},"d":[3,4],"e":"xy"}"#);
    }

    #[test]
    fn a_page_never_grows() {
        let mut page = Page::new();
        for _ in 0..3000 {
            page.text("12345");
        }
        assert_eq!((page.bytes().len(), page.bytes.capacity()), (SIZE / 5 * 5, SIZE));
    }
}
