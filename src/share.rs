//! How the satellite link's rate is shared by the legs that send over it.
//!
//! All TCP over the satellite ends in this box, so it can do what no end host can: give each leg its share as a
//! ceiling of its pace, so that the link's queue stays empty and nobody has to find out by losses. Workers say
//! which leg sends; the thread `pacer` divides ([`water_level`], max-min fair) while more than one does, if the link is
//! contended, and sleeps otherwise. A new leg begins with the share that it will have.
//!
//! The congestion control still decides below that ceiling, when the link carries less than it was sold with.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::socket::setsockopt;

use crate::bell::Bell;
use crate::relay::Side;
use crate::routes::{self, LEVELS};
use crate::sys::MaxPacingRate;

/// Who sends: nobody ...
const NOBODY: u32 = u32::MAX;
/// ... several legs, among which the rate is divided ..., or else the one in the slot of this number.
const SEVERAL: u32 = u32::MAX - 1;

pub struct Share {
    pub side: Side,
    /// The whole link, as a pace.
    pub whole: Pace,
    /// First windows in segments for the whole link, half of it ...; empty without a jump start.
    pub windows: heapless::Vec<u32, LEVELS>,
    /// The routes that give them are there.
    pub jump_start: AtomicBool,
    senders: AtomicU32,
    /// What one more leg gets while several send, over IPv4.
    next: AtomicU32,
    /// What new legs may reckon with as the whole link, over IPv4 (see `carried`).
    carried: AtomicU32,
    bell: Bell,
    ending: AtomicBool,
}

/// Bytes of payload per second over IPv4 and over IPv6, whose headers are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(pub [u32; 2]);

impl Pace {
    /// Over the family what over IPv4 is `share`.
    pub fn of_share(self, share: u32, ipv6: bool) -> u32 {
        let Pace([v4, v6]) = self;
        match ipv6 {
            true => (u64::from(share) * u64::from(v6) / u64::from(v4)) as u32,
            false => share,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Senders {
    Nobody,
    /// The slot's number.
    One(u16),
    Several,
}

impl Share {
    pub fn new(side: Side, whole: Pace, windows: heapless::Vec<u32, LEVELS>, bell: Bell) -> Share {
        let Pace([v4, _]) = whole;
        let [next, carried] = [v4; 2].map(AtomicU32::new);
        let senders = AtomicU32::new(NOBODY);
        let [jump_start, ending] = [const { AtomicBool::new(false) }; 2];
        Share { side, whole, windows, jump_start, senders, next, carried, bell, ending }
    }

    /// The leg in slot `index` has got bytes to send. Costs a load, but for the moment when the senders change.
    pub fn sends(&self, index: u16) {
        let before = self.senders.load(Ordering::Relaxed);
        if before != SEVERAL && before != u32::from(index) {
            self.begins(index, before);
        }
    }

    #[cold]
    fn begins(&self, index: u16, before: u32) {
        let now = if before == NOBODY { u32::from(index) } else { SEVERAL };
        // If another was faster, this one's next bytes will tell.
        if self.senders.compare_exchange(before, now, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
            self.bell.ring();
        }
    }

    /// The connection in slot `index` is over.
    pub fn ended(&self, index: u16) {
        let alone = u32::from(index);
        let _ = self.senders.compare_exchange(alone, NOBODY, Ordering::SeqCst, Ordering::Relaxed);
    }

    pub fn senders(&self) -> Senders {
        match self.senders.load(Ordering::SeqCst) {
            NOBODY => Senders::Nobody,
            SEVERAL => Senders::Several,
            index => Senders::One(index as u16),
        }
    }

    /// Those who sent no longer do, but for `alone`; unless there was news meanwhile.
    pub fn settle(&self, before: Senders, alone: Option<u16>) {
        let (before, now) = (number(before), alone.map_or(NOBODY, u32::from));
        let _ = self.senders.compare_exchange(before, now, Ordering::SeqCst, Ordering::Relaxed);
    }

    /// Has the thread `pacer` end.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.bell.ring();
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// The direction in which bytes go to the satellite leg: 0 from clients to servers, 1 back.
    pub fn flow(&self) -> usize {
        1 - self.side as usize
    }

    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    pub fn set_next(&self, share: u32) {
        self.next.store(share, Ordering::Relaxed);
    }

    /// New legs are to begin as if this were the whole link.
    pub fn set_carried(&self, carried: u32) {
        let Pace([whole, _]) = self.whole;
        // A link that has carried nothing carries something again.
        self.carried.store(carried.max(whole >> LEVELS), Ordering::Relaxed);
    }

    /// What a new leg gets, as a pace over IPv4.
    fn next(&self) -> u32 {
        let Pace([whole, _]) = self.whole;
        let share = match self.senders.load(Ordering::Relaxed) {
            NOBODY => whole,
            SEVERAL => self.next.load(Ordering::Relaxed),
            _ => whole / 2,
        };
        let carried = self.carried.load(Ordering::Relaxed);
        let share = u64::from(share) * u64::from(carried) / u64::from(whole);
        // The kernel takes 0 for a stop.
        (share as u32).max(1)
    }

    /// Gives a new leg its first pace; that of the whole link it is born with.
    pub fn begin(&self, leg: &OwnedFd, ipv6: bool) -> Result<(), Errno> {
        let Pace([whole, _]) = self.whole;
        match self.next() {
            next if next < whole => setsockopt(leg, MaxPacingRate, &self.whole.of_share(next, ipv6)),
            _ => Ok(()),
        }
    }

    /// The mark that gives a new leg the first window for its share; 0: the kernel's own window.
    pub fn mark(&self) -> u32 {
        let Pace([whole, _]) = self.whole;
        let given = |level: &usize| *level < self.windows.len() && self.jump_start.load(Ordering::Relaxed);
        level(whole, self.next()).filter(given).map_or(0, routes::mark)
    }

    /// Likewise for those that the listeners bear; 0 where the satellite is on the other side.
    pub fn listeners_mark(&self) -> u32 {
        if self.side == Side::Client { self.mark() } else { 0 }
    }
}

fn number(senders: Senders) -> u32 {
    match senders {
        Senders::Nobody => NOBODY,
        Senders::One(index) => u32::from(index),
        Senders::Several => SEVERAL,
    }
}

/// The share in halvings of the whole, an eighth of tolerance included.
fn level(whole: u32, share: u32) -> Option<usize> {
    (0..LEVELS).find(|level| share >= (whole >> level) / 8 * 7)
}

/// First windows in segments for the link's bandwidth-delay product and its halvings, as far as they are larger
/// than what the kernel begins with.
pub fn windows(pace: u32, rtt_ms: u32, segment: u32) -> heapless::Vec<u32, LEVELS> {
    /// TCP_INIT_CWND in net/tcp.h.
    const KERNELS_OWN: u32 = 10;
    let product = u64::from(pace) * u64::from(rtt_ms) / 1000 / u64::from(segment);
    // TCP's largest window holds no more segments.
    let segments = product.min(65_535) as u32;
    (0..LEVELS).map(|level| segments >> level).filter(|segments| *segments > KERNELS_OWN).collect()
}

/// Whether somebody has more to send than a burst (of at most `burst` bytes), so that the link has to be divided. Bursts of
/// several, a page's objects for instance, are over soonest when none is held back: they wait for one another in
/// the link's queue, for a moment. Unless more of them keep coming than it carries: `queue` is the sum of that.
pub fn is_contended(burst: u32, queue: u64, mut unsent: impl Iterator<Item = u32>) -> bool {
    queue > u64::from(burst) || unsent.any(|unsent| unsent >= burst / 4)
}

/// The ceiling for all that makes their sum the whole budget, when a demand below it takes only itself
/// (max-min fairness). With `newcomer`: for one more, who wants all it can get.
pub fn water_level(budget: u32, demands: impl Iterator<Item = u32> + Clone, newcomer: bool) -> u32 {
    /// Enough but for the strangest of demands, which would leave a little to nobody.
    const ROUNDS: u32 = 16;
    let mut level = 0;
    for _ in 0..ROUNDS {
        let (mut left, mut largest, mut thirsty) = (budget, 0, u32::from(newcomer));
        for demand in demands.clone() {
            if demand <= level {
                left = left.saturating_sub(demand);
                largest = demand.max(largest);
            } else {
                thirsty += 1;
            }
        }
        if thirsty == 0 {
            // Whoever comes to want more may have what is left, besides the most that one has now.
            return left.saturating_add(largest).min(budget);
        }
        let next = left / thirsty;
        if next <= level {
            break;
        }
        level = next;
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = u32::MAX;

    fn shared(budget: u32, demands: &[u32]) -> u32 {
        water_level(budget, demands.iter().copied(), false)
    }

    #[test]
    fn equals_share_equally() {
        assert_eq!(shared(1000, &[ALL]), 1000);
        assert_eq!(shared(1000, &[ALL; 4]), 250);
        assert_eq!(shared(1000, &[ALL; 3]), 333);
    }

    #[test]
    fn what_one_leaves_goes_to_the_others() {
        assert_eq!(shared(1000, &[100, ALL, ALL]), 450);
        assert_eq!(shared(1000, &[100, 300, ALL, ALL]), 300);
        assert_eq!(shared(1000, &[400, 300, 10, ALL]), 345);
        assert_eq!(shared(1000, &[0, ALL]), 1000);
    }

    #[test]
    fn nobody_is_kept_below_what_nobody_else_wants() {
        assert_eq!(shared(1000, &[]), 1000);
        assert_eq!(shared(1000, &[100]), 1000);
        assert_eq!(shared(1000, &[100, 200]), 900);
    }

    #[test]
    fn nothing_is_divided_while_nobody_has_more_than_a_burst() {
        let contended = |queue, unsent: &[u32]| is_contended(100_000, queue, unsent.iter().copied());
        assert!(!contended(0, &[]));
        assert!(!contended(100_000, &[24_999; 6]));
        assert!(contended(0, &[0, 25_000]), "a leg's socket stays filled");
        assert!(contended(100_001, &[1; 6]), "the link's queue grows");
    }

    #[test]
    fn a_newcomer_finds_its_share() {
        let shared = |demands: &[u32]| water_level(1000, demands.iter().copied(), true);
        assert_eq!(shared(&[]), 1000);
        assert_eq!(shared(&[ALL]), 500);
        assert_eq!(shared(&[100, ALL, ALL]), 300);
        assert_eq!(shared(&[100]), 900);
    }

    /// Whatever is wanted, the sum of what is taken is at most the budget, and none is left while someone wants more.
    #[test]
    fn the_sum_is_the_budget() {
        let mut random = 1_u32;
        for count in 1..40_u32 {
            let demands: Vec<u32> = (0..count)
                .map(|_| {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if random.is_multiple_of(5) { ALL } else { random >> 12 }
                })
                .collect();
            let level = shared(1_000_000, &demands);
            let taken: u64 = demands.iter().map(|demand| u64::from(*demand.min(&level))).sum();
            let wanted: u64 = demands.iter().map(|demand| u64::from(*demand)).sum();
            assert!(taken <= 1_000_000, "{taken} of {demands:?}");
            assert!(taken + u64::from(count) >= wanted.min(1_000_000), "{taken} of {demands:?} at {level}");
        }
    }

    #[test]
    fn first_windows_are_halvings_of_the_bandwidth_delay_product() {
        // 50/10 Mbit/s and 600 ms: 10 Mbit/s are 1.18 MB/s of payload.
        assert_eq!(&windows(1_182_000, 600, 1448)[..], [489, 244, 122, 61]);
        // A low orbit at 5 Mbit/s: no more than two are larger than the kernel's own ten.
        assert_eq!(&windows(591_000, 80, 1448)[..], [32, 16]);
        assert_eq!(windows(591_000, 20, 1448).len(), 0);
        assert_eq!(windows(u32::MAX, 10_000, 36)[0], 65_535);
    }

    #[test]
    fn a_share_has_the_window_of_the_halving_below_it() {
        assert_eq!(level(1000, 1000), Some(0));
        assert_eq!(level(1000, 500), Some(1));
        assert_eq!(level(1000, 333), Some(2));
        assert_eq!(level(1000, 245), Some(2));
        assert_eq!(level(1000, 120), Some(3));
        assert_eq!(level(1000, 100), None);
    }

    #[test]
    fn ipv6_carries_less_in_the_same_time() {
        let whole = Pace([1448, 1428]);
        assert_eq!(whole.of_share(724, true), 714);
        assert_eq!(whole.of_share(724, false), 724);
    }
}
