//! Flows that send as much as the path takes, for a fixed time, in one direction.
//!
//! Succeeds only if exactly the bytes that were sent have arrived, in order.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::Bed;
use crate::usage::{Span, Usage};
use crate::wire::{self, Content, PATIENCE, Request, STEP};

/// Send or receive as much as the path takes.
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "bulk")]
pub struct Bulk {
    /// number of flows
    #[argh(option)]
    flows: usize,

    /// up (to the server) or down
    #[argh(option)]
    way: Way,

    /// milliseconds of sending
    #[argh(option)]
    ms: u64,
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(word: &str) -> Result<Way, String> {
        match word {
            "up" => Ok(Way::Up),
            "down" => Ok(Way::Down),
            _ => Err(String::from("up or down")),
        }
    }
}

struct Flow {
    socket: TcpStream,
    at: u64,
    /// The client has sent all it will send.
    quiet: bool,
    ended: bool,
}

pub fn run(bulk: &Bulk, bed: &Bed) -> Result<(), String> {
    let before = wire::totals(bed.server)?;
    let content = Content::new();
    let request = match bulk.way {
        Way::Up => Request::Sink,
        Way::Down => Request::Source(bulk.ms),
    };
    let from = Usage::now(&bed.parties)?;
    let flows = move_bytes(bulk, &content, bed, request)?;
    let span = Span::since(&from, &bed.parties)?;
    let moved: u64 = flows.iter().map(|flow| flow.at).sum();

    let after = wire::totals(bed.server)?;
    let side = bulk.way as usize;
    let there = after[side] - before[side];
    if there != moved || moved == 0 {
        return Err(format!("{moved} bytes at the client, {there} at the server"));
    }
    let gigabytes = moved as f64 / 1e9;
    bed.row("mbit_s", moved as f64 * 8e-6 / span.seconds);
    bed.row("all_cpu_s_gb", span.all_cpu / gigabytes);
    bed.row("machine_cpu_s_gb", span.machine_cpu / gigabytes);
    bed.row("others_percent", span.others_percent());
    if let Some(proxy) = span.proxy {
        bed.row("cpu_s_gb", proxy.cpu / gigabytes);
        bed.row("switches_mb", proxy.switches / (moved as f64 / 1e6));
    }
    // For the count of system calls by strace, which sees the same bytes.
    bed.row("megabytes", moved as f64 / 1e6);
    Ok(())
}

fn move_bytes(bulk: &Bulk, content: &Content, bed: &Bed, request: Request) -> Result<Vec<Flow>, String> {
    let failed = |errno: Errno| format!("cannot wait for flows: {errno}");
    let epoll = Epoll::new(EpollCreateFlags::empty()).map_err(failed)?;
    let mut flows = Vec::with_capacity(bulk.flows);
    let interest = match bulk.way {
        Way::Up => EpollFlags::EPOLLOUT,
        Way::Down => EpollFlags::EPOLLIN,
    };
    for index in 0..bulk.flows {
        let socket = wire::open(bed.server, request)?;
        socket.set_nonblocking(true).map_err(|error| error.to_string())?;
        epoll.add(&socket, EpollEvent::new(interest, index as u64)).map_err(failed)?;
        flows.push(Flow { socket, at: 0, quiet: false, ended: false });
    }
    let until = Instant::now() + Duration::from_millis(bulk.ms);
    let mut buffer = vec![0; STEP];
    let mut events = [EpollEvent::empty(); 64];
    while flows.iter().any(|flow| !flow.ended) {
        let ready = match epoll.wait(&mut events, PATIENCE.as_millis() as u16) {
            Ok(0) => return Err(String::from("no byte for too long")),
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(failed(errno)),
        };
        for event in &events[..ready] {
            let flow = &mut flows[event.data() as usize];
            match bulk.way {
                Way::Up if !flow.quiet => {
                    if flow.send(content, until)? {
                        // From now on only the server's end is to come: all has arrived.
                        let mut end = EpollEvent::new(EpollFlags::EPOLLIN, event.data());
                        epoll.modify(&flow.socket, &mut end).map_err(failed)?;
                    }
                }
                _ => flow.receive(content, &mut buffer)?,
            }
            if flow.ended {
                epoll.delete(&flow.socket).map_err(failed)?;
            }
        }
    }
    Ok(flows)
}

impl Flow {
    /// One piece; true after the last.
    fn send(&mut self, content: &Content, until: Instant) -> Result<bool, String> {
        if Instant::now() >= until {
            self.quiet = true;
            self.socket.shutdown(Shutdown::Write).map_err(|error| format!("cannot end: {error}"))?;
            return Ok(true);
        }
        match self.socket.write(content.at(self.at)) {
            Ok(sent) => self.at += sent as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(format!("cannot send after {} bytes: {error}", self.at)),
        }
        Ok(false)
    }

    fn receive(&mut self, content: &Content, buffer: &mut [u8]) -> Result<(), String> {
        match self.socket.read(buffer) {
            Ok(0) => self.ended = true,
            Ok(read) => {
                if !content.agrees(self.at, &buffer[..read]) {
                    return Err(format!("wrong bytes near {}", self.at));
                }
                self.at += read as u64;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(format!("cannot receive after {} bytes: {error}", self.at)),
        }
        Ok(())
    }
}
