//! The part of an answer that waits to be sent, of limited size, and how figures are written into it: by
//! templates, which read like the answer and cost little code.
#![forbid(unsafe_code)]

/// Bytes that a page holds: more than any answer that is not a list of connections.
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
    fn decimal(&mut self, number: u64, decimals: u32) -> &mut Page {
        let one = 10u64.pow(decimals);
        self.number(number / one).text(".");
        let mut place = one / 10;
        while place > 0 {
            self.number(number / place % 10);
            place /= 10;
        }
        self
    }

    /// With one decimal and the decimal prefix of the unit that follows: 14.3 M.
    fn scaled(&mut self, number: u64) -> &mut Page {
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
        self.text(prefixes[at])
    }

    /// The template with its figures in place: `$name` a number, `%name` microseconds as milliseconds, `^name` as
    /// seconds, `~name|` a number with a prefix for the unit that follows, `@name` a word. `'` stands for `"`.
    pub fn fill(&mut self, template: &str, figures: &[Figure]) -> &mut Page {
        let mut rest = template;
        while let Some(at) = rest.find(['$', '%', '^', '~', '@', '\'']) {
            let (before, marked) = rest.split_at(at);
            self.text(before);
            let (mark, after) = marked.split_at(1);
            rest = after;
            if mark == "'" {
                self.text("\"");
                continue;
            }
            let end = after.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
            let (name, after) = after.split_at(end.unwrap_or(after.len()));
            rest = after.strip_prefix('|').unwrap_or(after);
            let figure = figures.iter().find(|(of, _)| *of == name);
            debug_assert!(figure.is_some(), "{name}");
            match (mark, figure.map(|&(_, value)| value)) {
                (_, Some(Value::Word(word))) => self.text(word),
                ("$", Some(Value::Number(number))) => self.number(number),
                ("%", Some(Value::Number(number))) => self.decimal(number, 3),
                ("^", Some(Value::Number(number))) => self.decimal(number, 6),
                (_, Some(Value::Number(number))) => self.scaled(number),
                _ => self.text(if mark == "^" { "NaN" } else { "null" }),
            };
        }
        self.text(rest)
    }
}

/// A value with the name that templates call it by.
pub type Figure<'a> = (&'a str, Value<'a>);

#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Number(u64),
    /// Nothing that JSON would want escaped: addresses, names that the kernel gives.
    Word(&'a str),
    /// Not configured, not measured, not told by this kernel.
    Absent,
}

impl From<Option<u64>> for Value<'_> {
    fn from(number: Option<u64>) -> Self {
        number.map_or(Value::Absent, Value::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, number: u64) -> String {
        let mut page = Page::new();
        let figures =
            [("n", Value::Number(number)), ("none", Value::Absent), ("a_word", Value::Word("[fd00::1]:80"))];
        page.fill(template, &figures);
        String::from_utf8(page.bytes().to_vec()).unwrap()
    }

    #[test]
    fn numbers_are_exact() {
        assert_eq!(filled("$n", 0), "0");
        assert_eq!(filled("$n.$n", u64::MAX), "18446744073709551615.18446744073709551615");
        assert_eq!(filled("%n ^n", 2_004), "2.004 0.002004");
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
            assert_eq!(filled("~n|B", number), expected);
        }
    }

    #[test]
    fn templates_read_like_the_answer() {
        let all = filled("{'a':$n,'b':%none,'c':'@a_word'} ^none", 7);
        assert_eq!(all, r#"{"a":7,"b":null,"c":"[fd00::1]:80"} NaN"#);
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
