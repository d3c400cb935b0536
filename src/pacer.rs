//! The thread `pacer`: divides the satellite link's rate over the legs that send, and keeps the jump start's routes.
//!
//! Sleeps while no leg sends, but for news of the routes, and while one does, but for a glance every other second to
//! keep BBR going and to see what the link carries. While several do, it looks five times a second at what each has sent and sets the ceiling of its
//! pace (see `share`); a leg whose ceiling stays as it is costs one system call, a silent one none. Slots are locked
//! one at a time; under a lock go only calls on that slot's own socket, which never block.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};

use crate::bell::Bell;
use crate::carried::Carried;
use crate::pep::Pep;
use crate::routes::Routes;
use crate::share::{Senders, Share, is_contended, water_level};
use crate::slots::{SlotId, Stage};
use crate::tcp_info::{self, Chronicle, Limit};
use crate::{log, sys};

const TICK: Duration = Duration::from_millis(200);

/// Ticks with at most one sender after which there are no more.
const QUIET_TICKS: u32 = 10;

/// BBR stops for more than a round trip every ten seconds to measure how long it is (PROBE_RTT), which costs an
/// eighth of a geostationary link. Begun anew before that, it goes on with what it has measured.
const RENEWAL: Duration = Duration::from_secs(8);

/// BBR takes losses in its first round trips for the link's rate if the peer's window is still small then, and comes up only
/// by a quarter in eight round trips. It may try once more after this time, and after twice as long each time.
const RETRY: Duration = Duration::from_secs(4);

/// How often a leg that sends alone is looked at: to know whether it has its share now.
const GLANCE: Duration = Duration::from_secs(2);

/// Bytes per second that a leg may always have on top of what it has used.
const HEADROOM: u32 = 8 << 10;

const ROUTES: u64 = 0;
const BELL: u64 = 1;

pub struct Pacer {
    epoll: Epoll,
    routes: Option<Routes>,
}

/// What the pacer knows of the leg in one slot.
#[derive(Clone, Default)]
struct Account {
    generation: u32,
    /// Bytes handed to the socket, and how many of them it had not sent.
    total: u64,
    unsent: u32,
    /// Bytes per second since the last look, and lately: falling by a quarter a look.
    rate: u32,
    peak: u32,
    /// The ceiling that was set, over IPv4; 0: not yet by this thread.
    pace: u32,
    renewed: Option<Instant>,
    /// How often because the path carried little.
    retries: u32,
    /// Since the last look, the path kept it from sending more, and no queue did.
    held_by_path: bool,
    /// Of the last look at which it had more to send than a burst.
    chronicle: Chronicle,
}

impl Account {
    /// Bytes sent since the last look.
    fn look(&mut self, total: u64, unsent: u32) -> u64 {
        let sent = (total - self.total + u64::from(self.unsent)).saturating_sub(u64::from(unsent));
        (self.total, self.unsent) = (total, unsent);
        sent
    }

    /// `None`: it was not looked at lately, and wants all it can get if it has anything to send.
    fn note(&mut self, rate: Option<u32>, whole: u32) {
        self.rate = rate.unwrap_or(0);
        self.peak = match rate {
            Some(rate) => rate.max(self.peak - self.peak / 4),
            None if self.unsent > 0 => whole,
            None => 0,
        };
    }

    /// Whether it had better try once more what the path carries: `weak` tells that all legs together have used less
    /// than half of it, for some round trips. If it does carry so little, that is found out again, ever more seldom (RFC 9959: retreat).
    fn is_stuck(&self, weak: bool, now: Instant) -> bool {
        let wait = RETRY * (1 << self.retries.min(16));
        weak && self.held_by_path && self.renewed.is_some_and(|renewed| now - renewed >= wait)
    }

    /// What the leg is worth, so that nobody else gets it: without limit while it has more to send and uses
    /// what it may, else what it used and a quarter.
    fn demand(&self) -> u32 {
        match self.unsent > 0 && self.peak >= self.pace / 4 * 3 {
            true => u32::MAX,
            false => (self.peak + self.peak / 4).saturating_add(HEADROOM),
        }
    }
}

impl Pacer {
    pub fn new() -> Result<(Pacer, Bell), Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = Bell::new(&epoll, BELL)?;
        Ok((Pacer { epoll, routes: None }, bell))
    }

    /// Makes the routes of the jump start, in place of what another daemon has left. Their going will undo them.
    pub fn install_routes(&mut self, share: &Share) {
        let install = || {
            let routes = Routes::install(share.windows.clone())?;
            self.epoll.add(&routes, EpollEvent::new(EpollFlags::EPOLLIN, ROUTES))?;
            Ok(routes)
        };
        match install() {
            Ok(routes) => {
                self.routes = Some(routes);
                share.jump_start.store(true, Ordering::Relaxed);
            }
            Err::<_, Errno>(errno) => {
                log::warn(format_args!("no jump start: cannot make routing tables: {}", errno.desc()));
            }
        }
    }

    /// Until [`Share::end`].
    pub fn run(mut self, pep: &Pep) {
        let Some(share) = &pep.share else {
            return;
        };
        let mut division = Division::new(pep, share);
        let mut events = [EpollEvent::empty(); 2];
        division.announce();
        while !share.is_ending() {
            let handled = share.senders();
            let due = division.due(handled);
            let idle = share.bell().may_sleep(|| share.senders() == handled && !share.is_ending());
            let patience = match (idle, due) {
                (false, _) => EpollTimeout::ZERO,
                (true, None) => EpollTimeout::NONE,
                (true, Some(due)) => timeout(due),
            };
            let ready = self.epoll.wait(&mut events, patience).unwrap_or(0);
            share.bell().awake();
            if events[..ready].iter().any(|event| event.data() == ROUTES) {
                self.follow();
            }
            division.turn();
        }
    }

    fn follow(&mut self) {
        if self.routes.as_mut().is_some_and(|routes| !routes.follow()) {
            // Legs are still marked, which means nothing any more.
            self.routes = None;
        }
    }
}

fn timeout(due: Instant) -> EpollTimeout {
    let left = due.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
}

struct Division<'a> {
    pep: &'a Pep,
    share: &'a Share,
    accounts: Box<[Account]>,
    senders: Vec<SlotId>,
    before: Senders,
    last_tick: Instant,
    /// Ticks in succession with at most one sender.
    quiet: u32,
    /// Bytes sent beyond the link's rate, which must be waiting somewhere.
    queue: u64,
    /// Since the last look, the path kept a leg from sending more.
    by_path: bool,
    carried: Carried,
    mark: u32,
}

impl<'a> Division<'a> {
    fn new(pep: &'a Pep, share: &'a Share) -> Division<'a> {
        let capacity = pep.slots.capacity();
        Division {
            pep,
            share,
            accounts: vec![Account::default(); capacity].into(),
            senders: Vec::with_capacity(capacity),
            before: Senders::Nobody,
            last_tick: Instant::now(),
            quiet: 0,
            queue: 0,
            by_path: false,
            carried: Carried::default(),
            mark: 0,
        }
    }

    /// When to look again unless something happens.
    fn due(&self, senders: Senders) -> Option<Instant> {
        match senders {
            Senders::Nobody => self.carried.until,
            Senders::One(_) => Some(self.last_tick + GLANCE),
            Senders::Several => Some(self.last_tick + TICK),
        }
    }

    fn turn(&mut self) {
        let now = Instant::now();
        let senders = self.share.senders();
        if self.carried.expires(now) {
            self.share.set_carried(self.share.whole.0[0]);
        }
        let afresh = senders != self.before;
        let due = self.due(senders).is_some_and(|due| now >= due);
        match senders {
            Senders::Nobody => {}
            _ if afresh => self.look(now, None),
            _ if due => self.look(now, Some(now - self.last_tick)),
            _ => {}
        }
        self.before = self.share.senders();
        self.announce();
    }

    /// `elapsed`: since the last look; `None`: too long to tell a rate by.
    fn look(&mut self, now: Instant, elapsed: Option<Duration>) {
        self.last_tick = now;
        self.by_path = false;
        let sent = self.collect(elapsed);
        let [whole, _] = self.share.whole.0;
        let carried = self.carried.note(now, sent, self.by_path, whole);
        if let Some(rate) = carried {
            self.share.set_carried(rate);
        }
        let weak = carried.is_some_and(|rate| rate < whole);
        let budget = match elapsed {
            Some(elapsed) => {
                let carried = u64::from(whole) * elapsed.as_millis() as u64 / 1000;
                self.queue = (self.queue + sent).saturating_sub(carried);
                // What waits is to be gone in half a second.
                whole - (2 * self.queue).min(u64::from(whole / 2)) as u32
            }
            None => {
                self.queue = 0;
                whole
            }
        };
        let demands = self.senders.iter().map(|id| self.accounts[usize::from(id.index)].demand());
        self.share.set_next(water_level(budget, demands.clone(), true));
        let level = if self.is_contended() { water_level(budget, demands, false) } else { whole };
        for at in 0..self.senders.len() {
            self.set(self.senders[at], level, weak, now);
        }
        self.quiet = if self.senders.len() > 1 { 0 } else { self.quiet + 1 };
        let senders = self.share.senders();
        let over = match senders {
            Senders::Several => self.quiet >= QUIET_TICKS,
            _ => self.senders.is_empty(),
        };
        if over {
            self.share.settle(senders, self.senders.first().map(|id| id.index));
        }
    }

    fn is_contended(&self) -> bool {
        let burst = self.pep.legs.satellite.unsent(self.share.side);
        let unsent = self.senders.iter().map(|id| self.accounts[usize::from(id.index)].unsent);
        is_contended(burst, self.queue, unsent)
    }

    /// Finds who has sent, or still has to; the bytes that all have sent.
    fn collect(&mut self, elapsed: Option<Duration>) -> u64 {
        self.senders.clear();
        let [whole, _] = self.share.whole.0;
        let burst = self.pep.legs.satellite.unsent(self.share.side);
        let mut all = 0;
        for (id, mut slot) in self.pep.slots.in_use() {
            let Stage::Relaying(connection) = &mut slot.stage else {
                continue;
            };
            let account = &mut self.accounts[usize::from(id.index)];
            if account.generation != id.generation {
                *account = Account { generation: id.generation, ..Account::default() };
            }
            let total = connection.bytes()[self.share.flow()];
            if total == account.total && account.unsent == 0 {
                account.peak = 0;
                continue;
            }
            account.held_by_path = false;
            let socket = connection.socket(self.share.side);
            let unsent = sys::unsent(socket).unwrap_or(0);
            if unsent >= burst / 4
                && let Some(info) = tcp_info::of(socket)
            {
                let limit =
                    elapsed.and_then(|time| info.limit(account.chronicle, time.as_millis() as u32, false));
                let by_path = limit == Some(Limit::Congestion);
                self.by_path |= by_path;
                account.held_by_path = by_path && !info.is_queued();
                account.chronicle = info.chronicle.unwrap_or_default();
            }
            let sent = account.look(total, unsent);
            let rate = elapsed.map(|elapsed| (sent * 1000 / (elapsed.as_millis() as u64).max(1)) as u32);
            // New ones have had a share of their own from the start.
            let rate = rate.filter(|_| account.pace > 0);
            account.note(rate, whole);
            all += sent;
            self.senders.push(id);
        }
        all
    }

    /// Sets the leg's ceiling if it is to be another, and lets BBR notice.
    fn set(&mut self, id: SlotId, level: u32, weak: bool, now: Instant) {
        let account = &mut self.accounts[usize::from(id.index)];
        let same = account.pace.abs_diff(level) <= level / 32;
        let raised = account.pace > 0 && level > account.pace / 4 * 5;
        // One that gets less than its share, losses aside, had better measure.
        let busy = account.unsent > 0 && account.rate >= level / 4 * 3;
        let stale = busy && account.renewed.is_some_and(|renewed| now - renewed >= RENEWAL);
        let stuck = account.is_stuck(weak, now);
        if same && !stale && !stuck && account.renewed.is_some() {
            return;
        }
        let Some(mut slot) = self.pep.slots.lock(id) else {
            return;
        };
        let ipv6 = slot.endpoints.is_some_and(|it| it.server.is_ipv6());
        let Stage::Relaying(connection) = &mut slot.stage else {
            return;
        };
        let leg = &connection.socket(self.share.side);
        if !same {
            // It can fail only on something that is no socket.
            let _ = setsockopt(leg, sys::MaxPacingRate, &self.share.whole.of_share(level, ipv6));
            account.pace = level;
        }
        account.retries += u32::from(stuck);
        if raised || stale || stuck {
            self.pep.legs.satellite.renew(leg);
            account.renewed = Some(now);
        } else if account.renewed.is_none() {
            account.renewed = Some(now);
        }
    }

    /// The legs that a listener bears begin with its mark.
    fn announce(&mut self) {
        let mark = self.share.listeners_mark();
        if mark == self.mark {
            return;
        }
        self.mark = mark;
        for listener in self.pep.workers.iter().flat_map(|seat| &seat.listeners) {
            if let Err(errno) = setsockopt(listener, sockopt::Mark, &mark) {
                log::connection(format_args!("cannot mark a listener: {}", errno.desc()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_leg_tries_ever_more_seldom() {
        let start = Instant::now();
        let mut account = Account { renewed: Some(start), held_by_path: true, ..Account::default() };
        assert!(!account.is_stuck(true, start + RETRY / 2) && !account.is_stuck(false, start + RETRY));
        assert!(account.is_stuck(true, start + RETRY));
        account.retries = 3;
        assert!(!account.is_stuck(true, start + RETRY * 7) && account.is_stuck(true, start + RETRY * 8));
        account.retries = u32::MAX;
        assert!(!account.is_stuck(true, start + RETRY * 1000), "for days");
        (account.retries, account.held_by_path) = (0, false);
        assert!(!account.is_stuck(true, start + RETRY), "something else than the path keeps it");
    }
}
