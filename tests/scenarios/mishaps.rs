//! Connections that may be cut off, because something is broken on purpose: each arrives whole or is reset, and none ends
//! as if it were whole.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::bed::Bed;
use crate::connection::Listener;
use crate::host::patience;
use crate::stream::{End, KIB, MIB, Random, end, receive_some, send};

/// Clients at a time.
const CLIENTS: u32 = 8;

#[derive(Debug, Default)]
pub struct Tally {
    pub whole: AtomicU32,
    pub cut: AtomicU32,
}

/// `count` connections, several at a time, each with a stream both ways.
pub fn connections(bed: &Bed, listener: &Listener, count: u32, tally: &Tally) {
    bed.net.client.crowd(CLIENTS, |number| {
        if number >= count {
            return false;
        }
        let whole = client(number.into(), listener.address);
        (if whole { &tally.whole } else { &tally.cut }).fetch_add(1, Relaxed);
        true
    });
}

/// The server of these connections, until `done`.
pub fn serve(listener: &Listener, done: &AtomicBool) {
    thread::scope(|scope| {
        while !done.load(Relaxed) {
            let Some((stream, _)) = listener.accept_within(Duration::from_millis(100)) else { continue };
            scope.spawn(move || {
                let mut number = [0; 8];
                // The client's leg may be gone before it has said anything.
                if (&stream).read_exact(&mut number).is_ok() {
                    let number = u64::from_le_bytes(number);
                    both(&stream, number * 2 + 1, number * 2, length(number));
                }
            });
        }
    });
}

fn length(number: u64) -> u64 {
    Random::seeded(number).below(if number.is_multiple_of(4) { MIB } else { 64 * KIB }) + 1
}

/// Whether all has arrived.
fn client(number: u64, to: SocketAddr) -> bool {
    let stream = match TcpStream::connect_timeout(&to, patience()) {
        Ok(stream) => stream,
        Err(err) if err.kind() == ErrorKind::ConnectionReset => return false,
        Err(err) => panic!("connection {number} to {to}: {err}"),
    };
    stream.set_read_timeout(Some(patience())).expect("a read timeout");
    stream.set_write_timeout(Some(patience())).expect("a write timeout");
    (&stream).write_all(&number.to_le_bytes()).is_ok()
        && both(&stream, number * 2, number * 2 + 1, length(number))
}

fn both(stream: &TcpStream, out: u64, back: u64, length: u64) -> bool {
    thread::scope(|scope| {
        let sender = scope.spawn(|| match send(stream, out, length) {
            Ok(()) => stream.shutdown(Shutdown::Write).is_ok(),
            Err(err) if matches!(err.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => false,
            Err(err) => panic!("{err}"),
        });
        let (got, mut how) = receive_some(stream, back, 0, length);
        if how == End::Full {
            how = end(stream);
        }
        let sent = sender.join().expect("a sender");
        // The kernel reports a reset once: if the sender has learned of it, the reader sees an end.
        assert!(
            how == End::Reset || got == length || !sent,
            "the stream {back} ends after {got} bytes of {length} as if it were whole"
        );
        sent && how == End::Fin
    })
}
