//! The far end of all measurements: one process that answers every kind of request on one port.
//!
//! Invariant: `sunk` and `sourced` count exactly the bytes that passed between it and its kernel for bulk flows.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{Backlog, listen};

use crate::wire::{self, Content, REQUEST_LEN, Request, STEP};

/// Answer every kind of request until killed.
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "serve")]
pub struct Serve {}

/// Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Descriptors for the largest number of held connections, and some more.
const DESCRIPTORS: u64 = 17_500;

struct Connection {
    socket: TcpStream,
    request: Vec<u8>,
    stage: Stage,
    /// Bytes of the stream so far.
    at: u64,
}

enum Stage {
    Asking,
    Echoing,
    Sinking,
    Sourcing {
        until: Instant,
    },
    /// All is sent; the client has not closed yet.
    Ended,
}

struct Server {
    epoll: Epoll,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    content: Content,
    buffer: Vec<u8>,
    sunk: u64,
    sourced: u64,
}

pub fn run(_: &Serve, address: SocketAddr) -> Result<(), String> {
    wire::raise_descriptor_limit(DESCRIPTORS)?;
    let failed = |error: std::io::Error| format!("cannot serve at {address}: {error}");
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    // Over std's 128.
    let deep = Backlog::new(BACKLOG).and_then(|backlog| listen(&listener, backlog));
    deep.map_err(|errno| failed(errno.into()))?;
    let mut server = Server {
        epoll: Epoll::new(EpollCreateFlags::empty()).map_err(|errno| failed(errno.into()))?,
        connections: Vec::new(),
        content: Content::new(),
        buffer: vec![0; STEP],
        sunk: 0,
        sourced: 0,
    };
    server
        .epoll
        .add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, listener.as_raw_fd() as u64))
        .map_err(|errno| failed(errno.into()))?;
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let ready = server.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..ready] {
            if event.data() == listener.as_raw_fd() as u64 {
                server.admit(&listener);
            } else {
                server.serve(event.data() as usize);
            }
        }
    }
}

impl Server {
    fn admit(&mut self, listener: &TcpListener) {
        while let Ok((socket, _)) = listener.accept() {
            let fd = socket.as_raw_fd() as usize;
            let watched = EpollEvent::new(EpollFlags::EPOLLIN, fd as u64);
            let ready = socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true));
            if ready.is_err() || self.epoll.add(&socket, watched).is_err() {
                continue;
            }
            if self.connections.len() <= fd {
                self.connections.resize_with(fd + 1, || None);
            }
            self.connections[fd] =
                Some(Connection { socket, request: Vec::new(), stage: Stage::Asking, at: 0 });
        }
    }

    fn serve(&mut self, fd: usize) {
        let Some(mut connection) = self.connections[fd].take() else {
            return;
        };
        match self.step(&mut connection) {
            Ok(true) => self.connections[fd] = Some(connection),
            // The client sees the end that comes too early, and reports it.
            Ok(false) => {}
            Err(message) => eprintln!("bench serve: {message}"),
        }
    }

    /// Does what can be done at once; false when the connection has ended.
    fn step(&mut self, connection: &mut Connection) -> Result<bool, String> {
        if let Stage::Sourcing { until } = connection.stage {
            return self.source(connection, until);
        }
        let read = match connection.socket.read(&mut self.buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(true);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(format!("cannot receive: {error}")),
        };
        let mut piece = &self.buffer[..read];
        if let Stage::Asking = connection.stage {
            let missing = (REQUEST_LEN - connection.request.len()).min(read);
            connection.request.extend_from_slice(&piece[..missing]);
            piece = &piece[missing..];
            let Ok(request) = <&[u8; REQUEST_LEN]>::try_from(&connection.request[..]) else {
                return Ok(true);
            };
            match Request::decode(request).ok_or("a request that does not exist")? {
                Request::Echo => connection.stage = Stage::Echoing,
                Request::Sink => connection.stage = Stage::Sinking,
                Request::Totals => {
                    let answer = [self.sunk.to_le_bytes(), self.sourced.to_le_bytes()].concat();
                    connection.socket.write_all(&answer).map_err(|error| error.to_string())?;
                    connection.stage = Stage::Ended;
                }
                Request::Source(ms) => {
                    connection.stage = Stage::Sourcing { until: Instant::now() + Duration::from_millis(ms) };
                    self.watch(connection, EpollFlags::EPOLLOUT)?;
                }
            }
        }
        match connection.stage {
            Stage::Echoing if !piece.is_empty() => {
                // Messages are short and each waits for the one before: they fit any send buffer.
                connection.socket.write_all(piece).map_err(|error| format!("cannot echo: {error}"))?;
            }
            Stage::Sinking => {
                if !self.content.agrees(connection.at, piece) {
                    return Err(format!("wrong bytes near {}", connection.at));
                }
                connection.at += piece.len() as u64;
                self.sunk += piece.len() as u64;
            }
            _ => {}
        }
        Ok(true)
    }

    fn source(&mut self, connection: &mut Connection, until: Instant) -> Result<bool, String> {
        if Instant::now() >= until {
            connection.socket.shutdown(Shutdown::Write).map_err(|error| format!("cannot end: {error}"))?;
            connection.stage = Stage::Ended;
            self.watch(connection, EpollFlags::EPOLLIN)?;
            return Ok(true);
        }
        match connection.socket.write(self.content.at(connection.at)) {
            Ok(sent) => {
                connection.at += sent as u64;
                self.sourced += sent as u64;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(true),
            Err(error) => Err(format!("cannot send: {error}")),
        }
    }

    fn watch(&self, connection: &Connection, interest: EpollFlags) -> Result<(), String> {
        let fd = connection.socket.as_raw_fd() as u64;
        self.epoll
            .modify(&connection.socket, &mut EpollEvent::new(interest, fd))
            .map_err(|errno| format!("cannot watch a connection: {errno}"))
    }
}
