// SPDX-License-Identifier: MIT OR Apache-2.0
//! The traffic of tests/router-vm and what it costs: small enough for a machine with 64 MB of memory, in which both
//! ends run beside the router.
//!
//! ```text
//!   load serve ADDRESS                              answers for ever
//!   load crowd ADDRESS CONNECTIONS ACTIVE KIB PID   holds connections, some with transfers; memory of daemon PID
//!   load bulk ADDRESS MIB up|down COUNT             that many transfers, one after the other, each on a connection of
//!                                                   its own; nanoseconds that the machine was busy with one, on average
//!   load rate ADDRESS COUNT                         that many connections, one after the other, 1 KiB each; the same
//! ```
//!
//! A client sends eight bytes, little-endian: how many bytes it wants, with UPLOAD how many it is going to send.
//! An upload is answered with the same eight bytes. Then the next one may come. Where it says CHECK, every byte is
//! compared with the one that has to be at its place.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

type Result<T> = std::result::Result<T, String>;

const UPLOAD: u64 = 1 << 63;
const CHECK: u64 = 1 << 62;
const COUNT: u64 = CHECK - 1;

/// Bytes per read or write.
const STEP: usize = 16 << 10;
/// The stream is a block of this prime length, repeated: what is lost or doubled shifts it against itself.
const PERIOD: usize = 65_521;

/// The bound on anything that has to happen; the machine is emulated and may be slow.
const PATIENCE: Duration = Duration::from_secs(120);

const USAGE: &str = "usage: load serve ADDRESS | crowd ADDRESS CONNECTIONS ACTIVE KIB PID | bulk ADDRESS MIB up|down COUNT | rate ADDRESS COUNT";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve", at] => serve(at),
        ["crowd", to, connections, active, kib, pid] => {
            (|| crowd(to, number(connections)?, number(active)?, number(kib)? * 1024, pid))()
        }
        ["bulk", to, mib, way, count] => (|| bulk(to, number(mib)? << 20, way, number(count)?))(),
        ["rate", to, count] => (|| rate(to, number(count)?))(),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("load: {why}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Result<u64> {
    word.parse().map_err(|_| format!("'{word}' is no number"))
}

// --- bytes -----------------------------------------------------------------------------------------------------------

struct Stream(Vec<u8>);

impl Stream {
    fn new() -> Stream {
        let mut state = 1_u32;
        let mut block: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        block.extend_from_within(..STEP);
        Stream(block)
    }

    /// Up to STEP bytes from `position` on, with `left` still to come.
    fn piece(&self, position: u64, left: u64) -> &[u8] {
        let start = (position % PERIOD as u64) as usize;
        &self.0[start..start + left.min(STEP as u64) as usize]
    }

    fn check(&self, position: u64, bytes: &[u8]) -> Result<()> {
        if bytes == self.piece(position, bytes.len() as u64) {
            return Ok(());
        }
        Err(format!("a wrong byte within {} after {position}", bytes.len()))
    }
}

// --- the server ------------------------------------------------------------------------------------------------------

/// One connection of the server: it reads an order, carries it out, reads the next.
struct Caller {
    socket: TcpStream,
    order: u64,
    /// Bytes of the order word read.
    read: usize,
    word: [u8; 8],
    moved: u64,
}

/// One thread for all connections: five hundred threads would take more memory than what is tested.
fn serve(at: &str) -> Result<()> {
    let failed = |error: io::Error| format!("cannot serve at {at}: {error}");
    let listener = TcpListener::bind(at).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    const LISTENER: u64 = u64::MAX;
    let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
    epoll.add(&listener, readable(LISTENER)).map_err(|errno| failed(errno.into()))?;

    let stream = Stream::new();
    let mut buffer = vec![0; STEP];
    let mut callers: Vec<Option<Caller>> = Vec::new();
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..ready] {
            if event.data() == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    let free = callers.iter().position(Option::is_none).unwrap_or_else(|| {
                        callers.push(None);
                        callers.len() - 1
                    });
                    socket.set_nonblocking(true).map_err(failed)?;
                    epoll.add(&socket, readable(free as u64)).map_err(|errno| failed(errno.into()))?;
                    callers[free] = Some(Caller { socket, order: 0, read: 0, word: [0; 8], moved: 0 });
                }
                continue;
            }
            let slot = &mut callers[event.data() as usize];
            let Some(caller) = slot else { continue };
            match caller.advance(&stream, &mut buffer) {
                Ok(sending) => {
                    let interest = if sending { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
                    let mut event = EpollEvent::new(interest, event.data());
                    epoll.modify(&caller.socket, &mut event).map_err(|errno| failed(errno.into()))?;
                }
                Err(why) => {
                    if !why.is_empty() {
                        eprintln!("load: serving: {why}");
                    }
                    *slot = None;
                }
            }
        }
    }
}

impl Caller {
    /// All at once, the way the client sends: woken for a third of its buffer at a time, as epoll does, the sender makes
    /// bursts whose sizes the cost of a transfer then hangs on. Only where cost is measured, with one connection.
    fn send_blocking(&mut self, stream: &Stream, left: u64) -> io::Result<usize> {
        self.socket.set_nonblocking(false)?;
        let mut sent = 0;
        while sent < left {
            sent += self.socket.write(stream.piece(sent, left - sent))? as u64;
        }
        self.socket.set_nonblocking(true)?;
        Ok(sent as usize)
    }

    /// Goes on as far as the socket allows; whether it waits to send. An empty error is the client's orderly end.
    fn advance(&mut self, stream: &Stream, buffer: &mut [u8]) -> Result<bool> {
        loop {
            let left = (self.order & COUNT) - self.moved;
            let sending = left > 0 && self.order & UPLOAD == 0;
            let step = if left == 0 {
                self.socket.read(&mut self.word[self.read..])
            } else if sending && self.order & CHECK == 0 {
                self.send_blocking(stream, left)
            } else if sending {
                self.socket.write(stream.piece(self.moved, left))
            } else {
                let most = left.min(STEP as u64) as usize;
                self.socket.read(&mut buffer[..most])
            };
            match step {
                Ok(0) if left == 0 && self.read == 0 => return Err(String::new()),
                Ok(0) => return Err("ended in the middle".into()),
                Ok(count) if left == 0 => {
                    self.read += count;
                    if self.read == 8 {
                        (self.order, self.read, self.moved) = (u64::from_le_bytes(self.word), 0, 0);
                    }
                }
                Ok(count) => {
                    if !sending && self.order & CHECK != 0 {
                        stream.check(self.moved, &buffer[..count])?;
                    }
                    self.moved += count as u64;
                    if self.order & UPLOAD != 0 && count as u64 == left {
                        // Eight bytes into a socket that has sent nothing for long: they fit.
                        self.socket
                            .write_all(&self.order.to_le_bytes())
                            .map_err(|error| error.to_string())?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sending),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

// --- the client ------------------------------------------------------------------------------------------------------

fn connect(to: &str) -> Result<TcpStream> {
    let failed = |error: io::Error| format!("cannot connect to {to}: {error}");
    let address = to.parse().map_err(|_| format!("'{to}' is no address"))?;
    let socket = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    socket.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    socket.set_nodelay(true).map_err(failed)?;
    Ok(socket)
}

fn call(mut socket: &TcpStream, order: u64, stream: &Stream) -> Result<()> {
    let mut go = || -> io::Result<Result<()>> {
        let mut buffer = [0; STEP];
        socket.write_all(&order.to_le_bytes())?;
        let (length, mut moved) = (order & COUNT, 0);
        while moved < length {
            if order & UPLOAD != 0 {
                moved += socket.write(stream.piece(moved, length - moved))? as u64;
                continue;
            }
            let most = (length - moved).min(STEP as u64) as usize;
            match socket.read(&mut buffer[..most])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count if order & CHECK != 0 => {
                    if let Err(why) = stream.check(moved, &buffer[..count]) {
                        return Ok(Err(why));
                    }
                    moved += count as u64;
                }
                count => moved += count as u64,
            }
        }
        if order & UPLOAD != 0 {
            let mut answer = [0; 8];
            socket.read_exact(&mut answer)?;
            if answer != order.to_le_bytes() {
                return Ok(Err("the server took something else".into()));
            }
        }
        Ok(Ok(()))
    };
    go().unwrap_or_else(|error| Err(error.to_string()))
}

fn crowd(to: &str, connections: u64, active: u64, length: u64, pid: &str) -> Result<()> {
    let stream = &Stream::new();
    memory(pid)?.print("before");
    let began = Instant::now();
    let sockets = (0..connections).map(|_| connect(to)).collect::<Result<Vec<_>>>()?;
    for (index, socket) in sockets.iter().enumerate() {
        call(socket, CHECK | 64, stream).map_err(|why| format!("connection {index}: {why}"))?;
    }
    memory(pid)?.print("open");

    let mut most = memory(pid)?;
    let (busy, idle) = sockets.split_at(active as usize);
    thread::scope(|scope| {
        let transfers = busy.iter().enumerate().map(|(index, socket)| {
            let order = length | CHECK | if index % 2 == 0 { UPLOAD } else { 0 };
            let work = move || call(socket, order, stream).map_err(|why| format!("transfer {index}: {why}"));
            let thread = thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, work);
            thread.map_err(|error| format!("cannot start a thread: {error}"))
        });
        let transfers = transfers.collect::<Result<Vec<_>>>()?;
        // Meanwhile the others are not forgotten.
        for socket in idle.iter().cycle() {
            call(socket, CHECK | 64, stream)
                .map_err(|why| format!("a connection between transfers: {why}"))?;
            most = most.max(&memory(pid)?);
            if transfers.iter().all(|transfer| transfer.is_finished()) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        transfers.into_iter().try_for_each(|transfer| transfer.join().map_err(|_| String::from("a panic"))?)
    })?;
    most.print("active");
    for socket in &sockets {
        call(socket, CHECK | 64, stream).map_err(|why| format!("a connection at the end: {why}"))?;
    }
    println!("figure seconds {}", began.elapsed().as_secs());
    Ok(())
}

fn bulk(to: &str, length: u64, way: &str, count: u64) -> Result<()> {
    let stream = &Stream::new();
    let upload = if way == "up" { UPLOAD } else { 0 };
    let mut costs = Vec::new();
    for _ in 0..count {
        let socket = connect(to)?;
        // What happens once is not part of the cost: slow start, growing buffers, pages touched for the first time.
        call(&socket, (length / 2) | upload, stream)?;
        let before = Busy::now()?;
        call(&socket, length | upload, stream)?;
        costs.push(before.elapsed()?);
    }
    print_costs(&costs, count);
    Ok(())
}

fn rate(to: &str, count: u64) -> Result<()> {
    let stream = &Stream::new();
    let go = |count| (0..count).try_for_each(|_| call(&connect(to)?, 1024, stream));
    go(count / 4)?;
    let before = Busy::now()?;
    go(count)?;
    print_costs(&[before.elapsed()?], count);
    Ok(())
}

fn print_costs(costs: &[u64], count: u64) {
    let (least, most) = (costs.iter().min().unwrap_or(&0), costs.iter().max().unwrap_or(&0));
    println!("busy {} from {least} to {most}", costs.iter().sum::<u64>() / count);
}

// --- the machine -----------------------------------------------------------------------------------------------------

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
}

/// The number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name));
    let word = line.and_then(|rest| rest.split_whitespace().find(|word| word.as_bytes()[0].is_ascii_digit()));
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Where the machine stands in time, and how much of it its processor has been idle: to the nanosecond in
/// /proc/timer_list; where the kernel's tick never stops (nohz_mode 0), by that tick in /proc/stat.
struct Busy {
    at: u64,
    idle: u64,
}

impl Busy {
    fn now() -> Result<Busy> {
        let list = read("/proc/timer_list")?;
        let idle = match field(&list, ".nohz_mode") {
            // cpu user nice system idle, in hundredths of a second
            0 => {
                read("/proc/stat")?.split_whitespace().nth(4).and_then(|it| it.parse().ok()).unwrap_or(0)
                    * 10_000_000
            }
            _ => field(&list, ".idle_sleeptime"),
        };
        Ok(Busy { at: field(&list, "now at"), idle })
    }

    fn elapsed(&self) -> Result<u64> {
        let now = Busy::now()?;
        Ok((now.at - self.at).saturating_sub(now.idle - self.idle))
    }
}

/// Kilobytes, but for the pipes.
struct Memory {
    rss: u64,
    pipes: u64,
    slab: u64,
    sockets: u64,
    /// Not available to anybody: total less available.
    taken: u64,
}

fn memory(pid: &str) -> Result<Memory> {
    let (machine, sockets) = (read("/proc/meminfo")?, read("/proc/net/sockstat")?);
    let tcp = sockets.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or("");
    let pages: u64 = tcp.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0);
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .map_err(|error| format!("the daemon {pid} is gone: {error}"))?;
    let is_pipe = |path| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"));
    Ok(Memory {
        rss: field(&read(&format!("/proc/{pid}/smaps_rollup"))?, "Rss:"),
        pipes: open.flatten().filter(|entry| is_pipe(entry.path())).count() as u64 / 2,
        slab: field(&machine, "Slab:"),
        sockets: pages * 4,
        taken: field(&machine, "MemTotal:") - field(&machine, "MemAvailable:"),
    })
}

impl Memory {
    fn max(&self, other: &Memory) -> Memory {
        Memory {
            rss: self.rss.max(other.rss),
            pipes: self.pipes.max(other.pipes),
            slab: self.slab.max(other.slab),
            sockets: self.sockets.max(other.sockets),
            taken: self.taken.max(other.taken),
        }
    }

    fn print(&self, when: &str) {
        println!("memory {when} {} {} {} {} {}", self.rss, self.pipes, self.slab, self.sockets, self.taken);
    }
}
