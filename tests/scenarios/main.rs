//! What an application can notice of a split connection, shown with real sockets on a real router.
//!
//! Every test builds its own network of namespaces, runs the real `pepsal` binary in the router, installs
//! the rules that `pepsal rules` prints, and sends bytes that the receiver knows in advance:
//!
//! ```text
//!   client  10.77.1.2 ──┐ lan        wan                 eth
//!           fd77:1::2   ├──── router ─────────────────────── server 10.77.3.2, .3   fd77:3::2, ::3
//!   guest   10.77.2.2 ──┘      │    10.77.3.1
//!           fd77:2::2   guest  │    fd77:3::1
//!                           pepsal0, :5000
//!
//!   with `Plan::hop`, for what happens further on (masquerading, a smaller MTU):
//!                       router ───── hop ───── server 10.77.4.2, .3   fd77:4::2, ::3
//!                         wan     near far
//! ```
//!
//! A connection was stolen when the server sees it come from the router's WAN address, and was passed on
//! when it comes from the client's: nothing translates addresses unless the test asks for it. So no test
//! can succeed because pepsal did nothing, or because it did too much.
//!
//! Needs root, `ip`, `nft`, and `iptables-restore` where the kernel has no nft queue expression. Where these
//! are missing a test prints `skipped: …` and succeeds; with the environment variable CI set it fails.
//!
//! - `PEPSAL_BIN`  another pepsal binary than the one built along with the tests
//! - `BED_RULES`   `nft` or `iptables` (default): the format of the rules
//! - `BED_SLOW`    a number N: N times the patience and 1/N of the bytes, for emulated machines
//! - `BED_LOG`     print every daemon's log, not only that of a failing test

/// One scenario, once for each family and handshake.
macro_rules! four_ways {
    ($($scenario:ident),* $(,)?) => {$(
        mod $scenario {
            use crate::bed::{Family::*, Handshake::*, possible};
            #[test]
            fn v4_deferred() {
                if possible() { super::$scenario(V4, Deferred) }
            }
            #[test]
            fn v4_early() {
                if possible() { super::$scenario(V4, Early) }
            }
            #[test]
            fn v6_deferred() {
                if possible() { super::$scenario(V6, Deferred) }
            }
            #[test]
            fn v6_early() {
                if possible() { super::$scenario(V6, Early) }
            }
        }
    )*};
}

/// One scenario, once for each family, where only one handshake has the behaviour in question.
macro_rules! both_families {
    ($($scenario:ident),* $(,)?) => {$(
        mod $scenario {
            use crate::bed::{Family::*, possible};
            #[test]
            fn v4() {
                if possible() { super::$scenario(V4) }
            }
            #[test]
            fn v6() {
                if possible() { super::$scenario(V6) }
            }
        }
    )*};
}

/// One scenario that covers both families by itself.
macro_rules! once {
    ($($scenario:ident),* $(,)?) => {$(
        mod $scenario {
            #[test]
            fn once() {
                if crate::bed::possible() { super::$scenario() }
            }
        }
    )*};
}

mod bad_input;
mod bed;
mod connection;
mod daemon;
mod host;
mod json;
mod mishaps;
mod network;
mod preload;
mod segment;
mod soak;
mod socket_info;
mod stream;
mod transparent;

mod auto_pass;
mod bulk;
mod control;
mod errors;
mod fade;
mod fast_open;
mod faults;
mod firewall;
mod flood;
mod half_close;
mod handover;
mod handshake;
mod hostile;
mod least_privilege;
mod limits;
mod listener;
mod marks;
mod memory;
mod passed;
mod per_client;
mod refusal;
mod reset;
mod restart;
mod same_port;
mod satellite;
mod sharing;
mod what_limits;
mod workers;
