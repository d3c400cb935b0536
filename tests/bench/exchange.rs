//! Short messages that the server sends back: round trips on standing connections, or a new connection for each.
//!
//! Invariant: an exchange counts only if every byte of the message has come back.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket};

use crate::Bed;
use crate::usage::{Span, Usage};
use crate::wire::{Content, PATIENCE, REQUEST_LEN, Request};

/// Measure round trips of 64 bytes.
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "trips")]
pub struct Trips {
    /// number of connections, each with one message under way
    #[argh(option)]
    connections: usize,

    /// milliseconds
    #[argh(option)]
    ms: u64,
}

/// Count connections: open, 1 KiB there, 1 KiB back, close.
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "rate")]
pub struct Rate {
    /// number of connections under way at a time
    #[argh(option)]
    parallel: usize,

    /// milliseconds
    #[argh(option)]
    ms: u64,
}

const TRIP: usize = 64;
const VISIT: usize = 1024;

/// Most resets of one measurement that are counted; more end it.
const MAX_RESETS: u32 = 100;

pub fn run_trips(trips: &Trips, bed: &Bed) -> Result<(), String> {
    trip_rows(bed, trips.connections, trips.ms)
}

/// Measures round trips and prints p50, p99 and the proxy's CPU for each.
pub fn trip_rows(bed: &Bed, connections: usize, ms: u64) -> Result<(), String> {
    let content = Content::new();
    let mut exchange = Exchange::new(bed.server, &content.at(0)[..TRIP])?;
    for _ in 0..connections {
        exchange.begin()?;
    }
    let from = Usage::now(&bed.parties)?;
    let until = Instant::now() + Duration::from_millis(ms);
    let mut taken: Vec<u32> = Vec::with_capacity(1 << 16);
    while exchange.under_way > 0 {
        exchange.wait(|exchange, index| {
            let visit = &mut exchange.visits[index];
            taken.push(visit.since.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32);
            if Instant::now() < until { exchange.send(index) } else { exchange.finish(index) }
        })?;
    }
    let span = Span::since(&from, &bed.parties)?;
    taken.sort_unstable();
    let percentile = |percent: usize| f64::from(taken[(taken.len() - 1) * percent / 100]) / 1000.0;
    bed.row("p50_us", percentile(50));
    bed.row("p99_us", percentile(99));
    bed.row("others_percent", span.others_percent());
    if let Some(proxy) = span.proxy {
        bed.row("cpu_us_trip", proxy.cpu * 1e6 / taken.len() as f64);
    }
    Ok(())
}

pub fn run_rate(rate: &Rate, bed: &Bed) -> Result<(), String> {
    let content = Content::new();
    let mut exchange = Exchange::new(bed.server, &content.at(0)[..VISIT])?;
    exchange.counts_resets = true;
    let from = Usage::now(&bed.parties)?;
    let until = Instant::now() + Duration::from_millis(rate.ms);
    for _ in 0..rate.parallel {
        exchange.begin()?;
    }
    let mut count = 0u32;
    while exchange.under_way > 0 {
        exchange.wait(|exchange, index| {
            count += 1;
            exchange.finish(index)?;
            if Instant::now() < until { exchange.begin() } else { Ok(()) }
        })?;
    }
    let span = Span::since(&from, &bed.parties)?;
    bed.row("per_s", f64::from(count) / span.seconds);
    bed.row("all_cpu_us_connection", span.all_cpu * 1e6 / f64::from(count));
    bed.row("others_percent", span.others_percent());
    if let Some(proxy) = span.proxy {
        bed.row("cpu_us_connection", proxy.cpu * 1e6 / f64::from(count));
    }
    bed.row("connections", f64::from(count));
    bed.row("resets", f64::from(exchange.resets));
    Ok(())
}

/// Opens `count` connections, 64 at a time, each proved by a message that came back, and keeps them.
pub fn open_many(server: SocketAddr, count: usize) -> Result<Vec<TcpStream>, String> {
    let content = Content::new();
    let mut exchange = Exchange::new(server, &content.at(0)[..TRIP])?;
    let mut kept = Vec::with_capacity(count);
    for _ in 0..count.min(64) {
        exchange.begin()?;
    }
    let mut begun = count.min(64);
    while exchange.under_way > 0 {
        exchange.wait(|exchange, index| {
            kept.push(exchange.take(index)?);
            if begun < count {
                begun += 1;
                exchange.begin()?;
            }
            Ok(())
        })?;
    }
    Ok(kept)
}

struct Visit {
    /// `None` when it has ended and its place may be taken.
    socket: Option<TcpStream>,
    asked: bool,
    got: usize,
    since: Instant,
}

struct Exchange {
    server: SocketAddr,
    epoll: Epoll,
    /// The request and the message.
    opening: Vec<u8>,
    visits: Vec<Visit>,
    under_way: usize,
    /// A connection that is reset is counted and begun again, where `counts_resets`; else it is an error.
    counts_resets: bool,
    resets: u32,
    buffer: [u8; VISIT],
}

impl Exchange {
    fn new(server: SocketAddr, message: &[u8]) -> Result<Exchange, String> {
        Ok(Exchange {
            server,
            epoll: Epoll::new(EpollCreateFlags::empty()).map_err(|errno| errno.to_string())?,
            opening: [&Request::Echo.encode()[..], message].concat(),
            visits: Vec::new(),
            under_way: 0,
            counts_resets: false,
            resets: 0,
            buffer: [0; VISIT],
        })
    }

    /// Begins a connection; its first message goes out with the request as soon as it is up.
    fn begin(&mut self) -> Result<(), String> {
        let index = self.visits.iter().position(|visit| visit.socket.is_none()).unwrap_or(self.visits.len());
        let socket = self.dial(index).map_err(|errno| format!("cannot connect: {errno}"))?;
        let visit = Visit { socket: Some(socket), asked: false, got: 0, since: Instant::now() };
        match self.visits.get_mut(index) {
            Some(place) => *place = visit,
            None => self.visits.push(visit),
        }
        self.under_way += 1;
        Ok(())
    }

    fn dial(&self, index: usize) -> Result<TcpStream, Errno> {
        let family = match self.server {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, SockProtocol::Tcp)?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(self.server)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&socket, EpollEvent::new(interest, index as u64))?;
        Ok(TcpStream::from(socket))
    }

    /// Waits once; calls `complete` for each message that has come back whole.
    fn wait(
        &mut self,
        mut complete: impl FnMut(&mut Exchange, usize) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut events = [EpollEvent::empty(); 64];
        let ready = match self.epoll.wait(&mut events, PATIENCE.as_millis() as u16) {
            Ok(0) => return Err(format!("no answer for too long, {} under way", self.under_way)),
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(format!("cannot wait for answers: {errno}")),
        };
        for event in &events[..ready] {
            let index = event.data() as usize;
            match self.step(index, event.events()) {
                Ok(true) => complete(self, index)?,
                Ok(false) => {}
                Err(error)
                    if error.kind() == ErrorKind::ConnectionReset
                        && self.counts_resets
                        && self.resets < MAX_RESETS =>
                {
                    self.resets += 1;
                    self.finish(index)?;
                    self.begin()?;
                }
                Err(error) => return Err(format!("cannot exchange bytes: {error}")),
            }
        }
        Ok(())
    }

    /// True when the message has come back whole.
    fn step(&mut self, index: usize, events: EpollFlags) -> io::Result<bool> {
        let visit = &mut self.visits[index];
        let Some(socket) = &mut visit.socket else {
            return Ok(false);
        };
        if !visit.asked && events.contains(EpollFlags::EPOLLOUT) {
            visit.asked = true;
            socket.write_all(&self.opening)?;
        }
        if !events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            return Ok(false);
        }
        let message = &self.opening[REQUEST_LEN..];
        let read = match socket.read(&mut self.buffer) {
            Ok(0) => return Err(io::Error::other("the connection ended before its answer")),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        if message.get(visit.got..visit.got + read) != Some(&self.buffer[..read]) {
            return Err(io::Error::other("the answer has wrong bytes"));
        }
        visit.got += read;
        Ok(visit.got == message.len())
    }

    /// The next message on the same connection.
    fn send(&mut self, index: usize) -> Result<(), String> {
        let visit = &mut self.visits[index];
        visit.got = 0;
        visit.since = Instant::now();
        let Some(socket) = &mut visit.socket else {
            return Ok(());
        };
        socket.write_all(&self.opening[REQUEST_LEN..]).map_err(|error| format!("cannot send: {error}"))
    }

    fn finish(&mut self, index: usize) -> Result<(), String> {
        self.take(index).map(drop)
    }

    fn take(&mut self, index: usize) -> Result<TcpStream, String> {
        let socket = self.visits[index].socket.take().ok_or("a connection that ended twice")?;
        self.epoll.delete(socket.as_fd()).map_err(|errno| errno.to_string())?;
        self.under_way -= 1;
        Ok(socket)
    }
}
