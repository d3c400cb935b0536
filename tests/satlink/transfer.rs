//! Owns one transfer from connect() to the last checked byte, on the asking and on the serving end.
//!
//! A request is 25 bytes: the direction, then seed, size and the start's monotonic time, little-endian.
//! Down: the server answers with the stream. Up: the stream follows the request, then a FIN; the server answers with a
//! line, "ok" and the time of the last byte or the fault that it found, and the series as CSV.
//!
//! Invariants:
//! - A transfer ends, for better or worse: every read and write is bounded in time.
//! - Both directions are timed alike, from connect() to the end of the stream at the receiver.
//! - Both ends send with cubic, what a file server or a PC most likely uses, whatever this machine's default.

use crate::series::Series;
use crate::stream;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use nix::sys::socket::{Backlog, bind, connect, listen, setsockopt, socket};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Longer than any pause a live transfer makes: six retransmission timeouts in a row from one second on.
const PATIENCE: Duration = Duration::from_secs(64);
/// An uploader may wait this long for the verdict: a proxy can have taken every byte long before the server did.
const VERDICT_PATIENCE: Duration = Duration::from_secs(900);
const REQUEST_BYTES: usize = 25;

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Down,
    Up,
}

impl std::str::FromStr for Direction {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "down" => Ok(Self::Down),
            "up" => Ok(Self::Up),
            _ => Err(format!("'{word}' is neither up nor down")),
        }
    }
}

/// serve transfers in both directions until killed
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "serve")]
pub struct Serve {
    /// where to listen, ADDRESS:PORT
    #[argh(option)]
    listen: SocketAddr,
    /// file that shows the percentage received of the newest upload
    #[argh(option)]
    progress: Option<String>,
}

/// move bytes and check them; prints the seconds that it took
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "transfer")]
pub struct Transfer {
    /// up or down
    #[argh(positional)]
    direction: Direction,
    /// the server, ADDRESS:PORT
    #[argh(option)]
    server: SocketAddr,
    /// bytes to move
    #[argh(option)]
    size: u64,
    /// names the contents
    #[argh(option, default = "1")]
    seed: u64,
    /// file for the throughput over time
    #[argh(option)]
    csv: Option<String>,
    /// file that shows the percentage received of a download
    #[argh(option)]
    progress: Option<String>,
}

struct Request {
    direction: Direction,
    seed: u64,
    size: u64,
    start_ns: u64,
}

impl Request {
    fn to_bytes(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0] = if self.direction == Direction::Up { b'u' } else { b'd' };
        bytes[1..9].copy_from_slice(&self.seed.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.size.to_le_bytes());
        bytes[17..25].copy_from_slice(&self.start_ns.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, String> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let direction = match bytes[0] {
            b'u' => Direction::Up,
            b'd' => Direction::Down,
            other => return Err(format!("request begins with byte {other}")),
        };
        Ok(Self { direction, seed: word(1), size: word(9), start_ns: word(17) })
    }
}

/// Set before connect() or listen(): a socket that began with bbr goes on pacing after a change.
fn cubic_socket(peer: &SocketAddr) -> Result<OwnedFd, String> {
    let family = if peer.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|error| format!("cannot open a socket: {error}"))?;
    setsockopt(&socket, sockopt::TcpCongestion, &OsString::from("cubic"))
        .map_err(|error| format!("cannot set congestion control cubic: {error}"))?;
    Ok(socket)
}

fn be_patient(socket: &TcpStream) -> Result<(), String> {
    socket
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
        .map_err(|error| format!("cannot set the timeouts: {error}"))
}

pub fn serve(serve: &Serve) -> Result<(), String> {
    let listener = listen_at(&serve.listen)?;
    for accepted in listener.incoming() {
        let socket = accepted.map_err(|error| format!("cannot accept: {error}"))?;
        let progress = open_progress(serve.progress.as_deref())?;
        std::thread::spawn(move || {
            if let Err(message) = answer(socket, progress.as_ref()) {
                eprintln!("satlink serve: {message}");
            }
        });
    }
    Ok(())
}

fn listen_at(address: &SocketAddr) -> Result<TcpListener, String> {
    let socket = cubic_socket(address)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)
        .and_then(|()| bind(socket.as_raw_fd(), &SockaddrStorage::from(*address)))
        .and_then(|()| listen(&socket, Backlog::MAXCONN))
        .map_err(|error| format!("cannot listen at {address}: {error}"))?;
    Ok(TcpListener::from(socket))
}

/// Not truncated: whoever reads it meanwhile must never find it empty.
fn open_progress(path: Option<&str>) -> Result<Option<File>, String> {
    path.map(|path| {
        let opened = File::options().create(true).write(true).truncate(false).open(path);
        opened.map_err(|error| format!("cannot write {path}: {error}"))
    })
    .transpose()
}

fn answer(mut socket: TcpStream, progress: Option<&File>) -> Result<(), String> {
    be_patient(&socket)?;
    let mut bytes = [0; REQUEST_BYTES];
    socket.read_exact(&mut bytes).map_err(|error| format!("cannot read a request: {error}"))?;
    let Request { direction, seed, size, start_ns } = Request::from_bytes(&bytes)?;
    match direction {
        Direction::Down => stream::send(&mut socket, seed, size),
        Direction::Up => {
            let received = stream::receive(&mut socket, seed, size, start_ns, progress);
            let taken_ns = stream::monotonic_ns().saturating_sub(start_ns);
            let reply = match received {
                Ok(series) => format!("ok {taken_ns}\n{}", series.to_csv()),
                Err(fault) => format!("{fault}\n"),
            };
            socket.write_all(reply.as_bytes()).map_err(|error| format!("cannot reply: {error}"))
        }
    }
}

pub fn run(transfer: &Transfer) -> Result<(), String> {
    let Transfer { direction, size, seed, .. } = *transfer;
    let progress = open_progress(transfer.progress.as_deref())?;
    let fd = cubic_socket(&transfer.server)?;
    let mut socket = TcpStream::from(fd);
    be_patient(&socket)?;
    let start_ns = stream::monotonic_ns();
    connect(socket.as_raw_fd(), &SockaddrStorage::from(transfer.server))
        .map_err(|error| format!("cannot connect to {}: {error}", transfer.server))?;
    let request = Request { direction, seed, size, start_ns };
    socket.write_all(&request.to_bytes()).map_err(|error| format!("cannot send a request: {error}"))?;
    let (taken_ns, series) = match direction {
        Direction::Down => {
            let series = stream::receive(&mut socket, seed, size, start_ns, progress.as_ref())?;
            (stream::monotonic_ns() - start_ns, series)
        }
        Direction::Up => upload(&mut socket, seed, size)?,
    };
    if let Some(path) = &transfer.csv {
        std::fs::write(path, series.to_csv()).map_err(|error| format!("cannot write {path}: {error}"))?;
    }
    println!("{:.3}", taken_ns as f64 / 1e9);
    Ok(())
}

fn upload(socket: &mut TcpStream, seed: u64, size: u64) -> Result<(u64, Series), String> {
    stream::send(socket, seed, size)?;
    socket.shutdown(Shutdown::Write).map_err(|error| format!("cannot end the upload: {error}"))?;
    let mut reply = String::new();
    socket
        .set_read_timeout(Some(VERDICT_PATIENCE))
        .and_then(|()| socket.read_to_string(&mut reply))
        .map_err(|error| format!("cannot read the server's verdict: {error}"))?;
    let (verdict, csv) = reply.split_once('\n').ok_or("the server closed without a verdict")?;
    let taken_ns = verdict
        .strip_prefix("ok ")
        .ok_or_else(|| format!("at the server {verdict}"))?
        .parse()
        .map_err(|_| format!("the server's verdict is '{verdict}'"))?;
    let series = Series::from_csv(csv)?;
    if series.buckets.iter().sum::<u64>() != size {
        return Err(String::from("the server's series does not add up to the size"));
    }
    Ok((taken_ns, series))
}
