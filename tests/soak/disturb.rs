//! What happens to the router while the load runs, one thing after the other: decks of all disturbances, shuffled, with
//! all their times and options drawn from the seed.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bed::Bed;
use crate::daemon::{Lives, Options};
use crate::ledger::{Effect, Ledger};
use crate::random::Random;

#[derive(Clone, Copy)]
enum Event {
    /// kill -9; started again after a while.
    Kill,
    /// SIGTERM; started again when it has ended.
    Terminate,
    /// The satellite link carries nothing.
    Outage,
    KillInOutage,
    /// As a firewall does that starts anew: no rules for a while.
    FlushRules,
    /// As a firewall does that reloads.
    LoadRulesAgain,
    LanDown,
    SatelliteDown,
    /// The daemon gets no processor.
    Stall,
    /// Another daemon takes over, with other options.
    HandOver,
}

const EVENTS: [Event; 12] = [
    Event::Kill,
    Event::Terminate,
    Event::Outage,
    Event::KillInOutage,
    Event::FlushRules,
    Event::LoadRulesAgain,
    Event::LanDown,
    Event::SatelliteDown,
    Event::Stall,
    // More often, since it may not cut anything off.
    Event::HandOver,
    Event::HandOver,
    Event::HandOver,
];

pub struct Disturbance {
    event: Event,
    /// Seconds of quiet before it.
    before: f64,
    /// How long it lasts, from 0 to 1 of what is usual for it.
    length: f64,
    /// Where in an outage something else happens, 0 to 1.
    at: f64,
    /// Of the next daemon.
    options: Options,
}

pub struct Deck;

impl Deck {
    pub fn of(seed: u64, round: u64) -> Vec<Disturbance> {
        let mut random = Random::new(seed ^ 0xdeca, round);
        let mut events = EVENTS.to_vec();
        let mut deck = Vec::new();
        while !events.is_empty() {
            deck.push(Disturbance {
                event: events.swap_remove(random.below(events.len())),
                before: random.between(2.0, 8.0),
                length: random.fraction(),
                at: random.fraction(),
                options: Options::draw(&mut random),
            });
        }
        deck
    }
}

fn pause(seconds: f64) {
    sleep(Duration::from_secs_f64(seconds));
}

pub fn carry_out(what: &Disturbance, bed: &Bed, ledger: &Ledger, lives: &mut Lives) -> Result<(), String> {
    pause(what.before);
    if !lives.is_alive() {
        lives.start(what.options)?;
    }
    let lasts = |least: f64, most: f64| least + what.length * (most - least);
    match what.event {
        Event::Kill => {
            ledger.disturbance("kill -9");
            kill(lives, ledger, lasts(0.0, 2.0), what.options)
        }
        Event::Terminate => {
            ledger.disturbance("SIGTERM");
            ledger.say("SIGTERM");
            let how = lives.terminate();
            let options = lives.start(what.options)?;
            ledger.say(&format!("SIGTERM: {how}; now {options}"));
            Ok(())
        }
        Event::Outage => {
            ledger.disturbance("outage");
            outage(bed, ledger, lasts(1.0, 20.0), |seconds| {
                pause(seconds);
                Ok(())
            })
        }
        Event::KillInOutage => {
            ledger.disturbance("kill -9 amid an outage");
            outage(bed, ledger, lasts(3.0, 20.0), |seconds| {
                pause(seconds * what.at);
                kill(lives, ledger, 0.0, what.options)?;
                pause(seconds * (1.0 - what.at));
                Ok(())
            })
        }
        Event::FlushRules => {
            ledger.disturbance("rules flushed and loaded");
            let seconds = lasts(0.2, 3.0);
            ledger.say(&format!("no rules for {seconds:.1} s"));
            ledger.open(Effect::Stray, "no rules");
            for command in ["iptables", "ip6tables"] {
                for table in ["security", "nat", "filter"] {
                    bed.router.run(&format!("{command} -w -t {table} -F"), "")?;
                }
            }
            pause(seconds);
            load_rules(bed)?;
            ledger.close(Effect::Stray);
            Ok(())
        }
        Event::LoadRulesAgain => {
            ledger.disturbance("rules loaded again");
            ledger.say("rules loaded again");
            load_rules(bed)
        }
        Event::LanDown => {
            ledger.disturbance("lan down and up");
            down(bed, ledger, ("lan0", "2001:db8:1::1"), lasts(0.5, 5.0))
        }
        Event::SatelliteDown => {
            ledger.disturbance("satellite interface down and up");
            down(bed, ledger, ("sat0", "2001:db8:3::1"), lasts(0.5, 5.0))
        }
        Event::Stall => {
            ledger.disturbance("daemon stalled");
            let seconds = lasts(0.2, 3.0);
            ledger.say(&format!("the daemon is stopped for {seconds:.1} s"));
            ledger.open(Effect::Away, "stalled");
            lives.signal(Signal::SIGSTOP);
            pause(seconds);
            lives.signal(Signal::SIGCONT);
            ledger.close(Effect::Away);
            Ok(())
        }
        Event::HandOver => {
            let options = lives.hand_over(what.options);
            ledger.disturbance(if options.is_some() { HANDED_OVER } else { NOT_HANDED_OVER });
            ledger.say(&format!("handed over: {}", options.as_deref().unwrap_or("no")));
            Ok(())
        }
    }
}

/// Of these most have to succeed; a machine that is too busy may make one fail.
pub const HANDED_OVER: &str = "handed over";
pub const NOT_HANDED_OVER: &str = "not handed over";

fn kill(lives: &mut Lives, ledger: &Ledger, seconds: f64, options: Options) -> Result<(), String> {
    lives.kill();
    pause(seconds);
    let options = lives.start(options)?;
    ledger.say(&format!("kill -9, {seconds:.1} s later {options}"));
    Ok(())
}

/// Nothing gets across the satellite link while `meanwhile` runs, which is told for how long.
fn outage(
    bed: &Bed,
    ledger: &Ledger,
    seconds: f64,
    meanwhile: impl FnOnce(f64) -> Result<(), String>,
) -> Result<(), String> {
    ledger.say(&format!("outage of {seconds:.1} s"));
    let drop = "table inet outage { chain both { type filter hook prerouting priority -400; iifname sat0 drop; }; }\n";
    for end in [&bed.router, &bed.server] {
        end.run("nft -f -", drop)?;
    }
    let done = meanwhile(seconds);
    for end in [&bed.router, &bed.server] {
        end.run("nft delete table inet outage", "")?;
    }
    done
}

fn down(bed: &Bed, ledger: &Ledger, (device, address): (&str, &str), seconds: f64) -> Result<(), String> {
    ledger.say(&format!("{device} down for {seconds:.1} s"));
    ledger.open(Effect::NoRoute, "interface down");
    ledger.open(Effect::Stray, "interface down");
    bed.router.run(&format!("ip link set {device} down"), "")?;
    pause(seconds);
    bed.router.run(&format!("ip link set {device} up"), "")?;
    // The kernel takes a device's IPv6 addresses away with its state.
    bed.router.run(&format!("ip address replace {address}/64 dev {device} nodad"), "")?;
    ledger.close(Effect::NoRoute);
    ledger.close(Effect::Stray);
    Ok(())
}

pub fn load_rules(bed: &Bed) -> Result<(), String> {
    for command in ["iptables", "ip6tables"] {
        let words = format!("{} rules --lan lan0 --wan sat0 --format {command}", bed.pepsal);
        let rules = bed.router.run(&words, "")?;
        bed.router.run(&format!("{command}-restore -w -n"), &rules)?;
    }
    Ok(())
}
