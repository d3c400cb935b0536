//! What the satellite link has carried lately, where that is clearly less than it was sold with: rain, or others on it.
//!
//! RFC 9959 (Careful Resume) has a jump start remember what the path was seen to carry. So new legs begin as if the
//! link had that rate, for a minute, or until it is seen to carry more. Owned by the thread `pacer`.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// How long the path has to be what limits before it is judged: some round trips, slow start aside.
const SPELL: Duration = Duration::from_secs(2);

const MEMORY: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Carried {
    /// Beginning of the present spell and what was sent in it.
    since: Option<Instant>,
    sent: u64,
    /// When what is remembered is out of date; `None`: nothing is.
    pub until: Option<Instant>,
}

impl Carried {
    /// To be told what all legs have sent since the last time, and whether it was the path that kept one of them, which had
    /// more, from sending it. Returns the news: bytes per second that new legs may reckon with, of a link of `whole`.
    pub fn note(&mut self, now: Instant, sent: u64, by_path: bool, whole: u32) -> Option<u32> {
        let Some(since) = self.since.filter(|_| by_path) else {
            (self.since, self.sent) = (Some(now), 0);
            return None;
        };
        self.sent += sent;
        let spell = now - since;
        if spell < SPELL {
            return None;
        }
        let rate = self.sent * 1000 / spell.as_millis() as u64;
        (self.since, self.sent) = (Some(now), 0);
        // Random losses have their price as well; half is more than that.
        let is_less = rate < u64::from(whole / 2);
        self.until = is_less.then_some(now + MEMORY);
        Some(if is_less { rate as u32 } else { whole })
    }

    /// Whether what was remembered is to be forgotten now.
    pub fn expires(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| now >= *until).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_weak_link_is_remembered_for_a_minute() {
        let (mut carried, start) = (Carried::default(), Instant::now());
        assert_eq!(carried.note(start, 5000, true, 1000), None, "nothing to compare with");
        assert_eq!(carried.note(start + SECOND, 300, true, 1000), None, "too short");
        assert_eq!(carried.note(start + 2 * SECOND, 400, true, 1000), Some(350));
        assert!(!carried.expires(start + 61 * SECOND));
        assert!(carried.expires(start + 62 * SECOND));
        assert!(!carried.expires(start + 63 * SECOND), "once");
    }

    #[test]
    fn a_link_that_carries_more_again_is_no_longer_weak() {
        let (mut carried, start) = (Carried::default(), Instant::now());
        carried.note(start, 0, true, 1000);
        assert_eq!(carried.note(start + 2 * SECOND, 0, true, 1000), Some(0));
        assert_eq!(carried.note(start + 4 * SECOND, 1000, true, 1000), Some(1000));
        assert!(!carried.expires(start + 100 * SECOND));
    }

    #[test]
    fn who_has_no_more_to_send_says_nothing_of_the_link() {
        let (mut carried, start) = (Carried::default(), Instant::now());
        for second in 0..10 {
            assert_eq!(carried.note(start + second * SECOND, 10, second % 2 == 0, 1000), None, "{second}");
        }
    }
}
