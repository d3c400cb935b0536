//! The load: loops in the client's namespace, each of which repeats transfers of one kind until the run ends.
//!
//! The load rests when it is told to: loops finish what they do and begin nothing.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::bed::{Bed, LIMIT};
use crate::ledger::Ledger;
use crate::random::Random;
use crate::transfers::{Job, KINDS, Kind};

pub struct Load<'a> {
    bed: &'a Bed,
    ledger: &'a Ledger<'a>,
    seed: u64,
    resting: AtomicBool,
    ended: AtomicBool,
    /// Transfers under way.
    running: AtomicU32,
    /// Numbers transfers, so that no two have the same bytes or files.
    next: AtomicU64,
}

pub struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

impl<'a> Load<'a> {
    pub fn new(bed: &'a Bed, ledger: &'a Ledger<'a>, seed: u64) -> Load<'a> {
        Load {
            bed,
            ledger,
            seed,
            resting: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            running: AtomicU32::new(0),
            next: AtomicU64::new(0),
        }
    }

    /// Starts the loops; they end after what is returned is dropped.
    pub fn begin<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Ending<'scope> {
        for (index, kind) in KINDS.iter().enumerate() {
            for turn in 0..kind.loops {
                scope.spawn(move || self.repeat(index, kind, turn));
            }
        }
        Ending(&self.ended)
    }

    /// Returns when no transfer is under way any more.
    pub fn rest(&self) -> Result<(), String> {
        self.resting.store(true, SeqCst);
        let start = Instant::now();
        let mut looked = false;
        // Every transfer is bounded, so this is too.
        while self.running.load(SeqCst) > 0 {
            if !looked && start.elapsed() > Duration::from_secs(LIMIT / 3) {
                looked = true;
                self.ledger.note_state("transfers take long to end");
            }
            if start.elapsed() > Duration::from_secs(LIMIT + 60) {
                return Err("transfers go on beyond their limit".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub fn go_on(&self) {
        self.resting.store(false, SeqCst);
    }

    fn repeat(&self, index: usize, kind: &Kind, turn: u64) {
        self.bed.client.enter();
        let mut random = Random::new(self.seed ^ 0x10ad, index as u64 * 100 + turn);
        while !self.ended.load(SeqCst) {
            self.running.fetch_add(1, SeqCst);
            // Looked at after the count is up, so that who waits for 0 misses none.
            if self.resting.load(SeqCst) {
                self.running.fetch_sub(1, SeqCst);
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            let job = Job::draw(self.bed, self.next.fetch_add(1, SeqCst), &mut random);
            let from = self.bed.now();
            let outcome = (kind.work)(&job, &mut random);
            self.ledger.enter(index, job.family, from, outcome);
            self.running.fetch_sub(1, SeqCst);
            std::thread::sleep(Duration::from_secs_f64(random.between(0.0, kind.pause)));
        }
    }
}
