//! Shows what the control socket tells, that it is true, and that nobody who asks can harm the relay.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::bed::{Bed, Family::*, Handshake, Handshake::*};
use crate::connection::Pair;
use crate::daemon::{binary, refusal};
use crate::host::{SetOnDrop, eventually, patience, seconds, slowness};
use crate::json::{Json, faults};
use crate::stream::{End, KIB, MIB, end, receive, receive_all, send};

once!(
    schema_of_status,
    schema_of_connections,
    figures_are_exact_deferred,
    figures_are_exact_early,
    a_thousand_connections,
    hostile_askers,
    the_socket,
    formats,
    top_on_a_terminal,
    idle_daemon_sleeps,
);

fn schema(name: &str) -> Json {
    // Included: the emulated routers of tests/router-vm have the test program and not the sources.
    let text = match name {
        "status" => include_str!("../control/status.schema.json"),
        "connections" => include_str!("../control/connections.schema.json"),
        _ => panic!("no schema {name}"),
    };
    Json::read(text).expect("JSON")
}

impl Bed {
    /// What `pepsal COMMAND --json` prints; checked against its schema.
    pub fn told(&self, command: &str) -> Json {
        let text = self.ask(&[command, "--json"]);
        let told = Json::read(&text).unwrap_or_else(|fault| panic!("{fault} in {text}"));
        assert_eq!(faults(&schema(command), &told), [""; 0], "{text}");
        told
    }

    pub fn ask(&self, args: &[&str]) -> String {
        let control = self.control();
        let done = Command::new(binary()).args(args).arg("--control").arg(control).output().expect("pepsal");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.is_empty(), "{args:?}: {}, {said}", done.status);
        String::from_utf8(done.stdout).expect("text")
    }

    pub fn passed(&self, why: &str) -> u64 {
        self.told("status")["syns"]["passed"][why].number()
    }
}

fn examples(name: &str) -> Json {
    let text = match name {
        "status" => include_str!("../control/examples/status.json"),
        "connections" => include_str!("../control/examples/connections.json"),
        _ => panic!("no example {name}"),
    };
    Json::read(text).expect("JSON")
}

/// Each object of the schemas has all that they name and nothing else: who adds a field or loses one has to say so there.
#[test]
fn the_schemas_are_strict() {
    fn check(schema: &Json, at: &str) -> usize {
        let Json::Object(fields) = schema else { return 0 };
        let mut objects = 0;
        // A property may have any name, so it is told from a schema's own words by where it is.
        for (word, inner) in fields.iter().filter(|(word, _)| *word != "properties" && *word != "$defs") {
            objects += check(inner, &format!("{at}/{word}"));
        }
        for (name, inner) in
            ["properties", "$defs"].iter().filter_map(|it| fields.get(*it)).flat_map(Json::fields)
        {
            objects += check(inner, &format!("{at}/{name}"));
        }
        let Some(properties) = fields.get("properties") else { return objects };
        assert_eq!(fields.get("additionalProperties"), Some(&Json::Bool(false)), "{at}");
        let mut required: Vec<&str> = fields["required"].items().iter().map(Json::text).collect();
        required.sort_unstable();
        assert_eq!(required, properties.fields().keys().collect::<Vec<_>>(), "{at}");
        objects + 1
    }
    for name in ["status", "connections"] {
        assert!(check(&schema(name), name) > 5, "{name}");
    }
}

/// Every field that the schema names is there, whatever the daemon was asked for; so a field that is dropped or
/// renamed fails.
fn schema_of_status() {
    let bed = Bed::started(Deferred, &[]);
    let idle = bed.told("status");
    assert_eq!(idle["link"]["rate_up_bps"], Json::Null);
    assert_eq!(idle["state"].text(), "running");
    assert_eq!(idle["slots"]["max"].number(), 1024);
    assert_eq!(idle.fields().len(), schema("status")["properties"].fields().len());
    drop(bed);

    let options = [
        "-c",
        "7",
        "-C",
        "cubic",
        "--rate-up",
        "5",
        "--rate-down",
        "20",
        "--rtt",
        "600",
        "--auto-pass",
        "50",
        "--memory",
        "9",
        "--satellite",
        "client",
    ];
    let mut bed = Bed::started(Early, &options);
    let pid = u64::from(bed.daemon().pid());
    let told = bed.told("status");
    assert_eq!(told["pid"].number(), pid);
    assert_eq!(told["link"]["rate_up_bps"].number(), 5_000_000);
    assert_eq!(told["link"]["rate_down_bps"].number(), 20_000_000);
    assert_eq!(told["link"]["rtt_ms"].number(), 600);
    assert_eq!(told["congestion"].text(), "cubic");
    assert_eq!((told["handshake"].text(), told["satellite"].text()), ("early", "client"));
    assert_eq!(told["auto_pass"]["threshold_ms"].number(), 50);
    assert_eq!(told["slots"]["max"].number(), 7);
    assert_eq!(told["memory"]["budget_bytes"].number(), 9 << 20);
    // The examples that others develop against are right too.
    assert_eq!(faults(&schema("status"), &examples("status")), [""; 0]);
}

fn schema_of_connections() {
    let mut bed = Bed::started(Deferred, &[]);
    assert_eq!(bed.told("connections")["connections"], Json::Array(Vec::new()));
    let mut expected = Vec::new();
    let mut pairs = Vec::new();
    for family in [V4, V6] {
        let listener = bed.listen(family);
        let pair = bed.stolen(&listener);
        let client = pair.client.local_addr().expect("the client's address");
        expected.push((client.to_string(), listener.address.to_string()));
        pairs.push(pair);
    }
    // The daemon has accepted both, not only the kernel.
    pairs[0].exchange(1, 10);
    pairs[1].exchange(1, 1000);
    pairs[1].client.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(end(&pairs[1].server), End::Fin);
    let told = bed.told("connections");
    let mut found: Vec<(String, String)> = Vec::new();
    for connection in told["connections"].items() {
        found.push((connection["client"].text().into(), connection["server"].text().into()));
        let is_v6 = connection["client"].text().starts_with('[');
        let (state, bytes) = if is_v6 { ("half_closed", 1000) } else { ("relaying", 10) };
        assert_eq!(connection["state"].text(), state);
        assert_eq!(connection["bytes"]["up"].number(), bytes);
        for side in ["client", "server"] {
            let leg = &connection["legs"][side];
            assert!(leg["rtt_ms"].float() < 1000.0 && leg["cwnd"].number() > 0, "{leg:?}");
            assert_eq!(leg["limited_by"].text(), "sender");
        }
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(faults(&schema("connections"), &examples("connections")), [""; 0]);
    drop(pairs);
    bed.check_nothing_left(V4);
}

fn figures_are_exact_deferred() {
    figures_are_exact(Deferred);
}

fn figures_are_exact_early() {
    figures_are_exact(Early);
}

/// Bytes, SYNs and connections are those that there were, while they live and afterwards.
fn figures_are_exact(handshake: Handshake) {
    let large = 16 * MIB / u64::from(slowness());
    let mut bed = Bed::started(handshake, &["-T", "2"]);
    let (mut up, mut down, mut connections) = (0, 0, 0);
    for family in [V4, V6] {
        let listener = bed.listen(family);
        // Each way of moving bytes: by copy, by splice, through a full pipe.
        for (seed, length) in [(1, 1), (2, 1000), (3, 100 * KIB + 17), (4, large + 3)] {
            let pair = bed.stolen(&listener);
            pair.exchange(seed, length);
            connections += 1;
            up += length;
            down += length;
            // Still open, and told of already; the last byte may have arrived before it was counted.
            eventually("the bytes are counted", patience(), || {
                bed.told("status")["bytes"]["up"].number() == up
            });
            let told = bed.told("connections");
            let bytes = &told["connections"].items()[0]["bytes"];
            assert_eq!((bytes["up"].number(), bytes["down"].number()), (length, length));
            pair.close();
            bed.daemon().wait_idle(patience());
        }
        let Pair { client, server, .. } = bed.stolen(&listener);
        connections += 1;
        thread::scope(|scope| {
            scope.spawn(move || {
                send(&client, 9, large).expect("send");
                client.shutdown(Shutdown::Write).expect("shut down");
                assert_eq!(end(&client), End::Fin);
            });
            receive_all(&server, 9, large);
            drop(server);
        });
        up += large;
        bed.daemon().wait_idle(patience());
    }
    let told = bed.told("status");
    assert_eq!(told["bytes"]["up"].number(), up);
    assert_eq!(told["bytes"]["down"].number(), down);
    let syns = &told["syns"];
    assert_eq!(syns["stolen"].number(), connections);
    assert_eq!(syns["seen"].number(), connections + syns["repeated"].number());
    assert_eq!(told["slots"]["used"].number(), 0);
    assert_eq!(told["slots"]["peak"].number(), 1);
    assert_eq!(told["connects_failed"].number(), 0);
    for leg in ["satellite_ms", "lan_ms"] {
        assert!(told["handshake_rtt"][leg].float() < 500.0 * f64::from(slowness()), "{leg}");
    }
    // The graphs show the same bytes, a second later. They count whole seconds, so a daemon that was kept waiting is up to
    // a third off.
    eventually("the samples hold the bytes", patience(), || {
        let samples = &bed.told("status")["samples"];
        let bits: u64 = samples["up_bps"].items().iter().map(Json::number).sum();
        (0.6..1.4).contains(&(bits as f64 / 8.0 / up as f64))
    });
}

/// All are listed, each once, while one connection relays on as if nobody asked.
fn a_thousand_connections() {
    const COUNT: usize = 1000;
    let count = COUNT / slowness() as usize;
    let mut bed = Bed::started(Deferred, &["-c", "1100"]);
    let listener = bed.listen(V4);
    let pairs: Vec<Pair> = (0..count).map(|_| bed.pair(&listener)).collect();
    let echo = bed.stolen(&listener);
    let round_trips = |asking: bool| -> Duration {
        let mut slowest = Vec::new();
        for seed in 0..200 {
            let start = Instant::now();
            send(&echo.client, seed, 100).expect("send");
            receive(&echo.server, seed, 100);
            slowest.push(start.elapsed());
            if asking && seed % 50 == 0 {
                let told = bed.told("connections");
                assert_eq!(told["connections"].items().len(), count + 1);
            }
        }
        slowest.sort();
        slowest[slowest.len() * 9 / 10]
    };
    let told = bed.told("connections");
    let mut ids: Vec<&str> =
        told["connections"].items().iter().map(|connection| connection["id"].text()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count + 1);
    // While another asks without a pause.
    let while_asked = || {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _done = SetOnDrop(&done);
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    let mut asker = UnixStream::connect(bed.control()).expect("the control socket");
                    asker.write_all(b"connections json\n").expect("ask");
                    let mut all = String::new();
                    asker.read_to_string(&mut all).expect("the answer");
                }
            });
            round_trips(true)
        })
    };
    // What else the machine does may slow down either; that is over once in a while.
    let mut measured = Vec::new();
    let is_quick = (0..5).any(|_| {
        let (alone, asked) = (round_trips(false), while_asked());
        measured.push((alone, asked));
        asked < alone + seconds(1) / 20
    });
    assert!(is_quick, "round trips alone, and while somebody asks: {measured:?}");
    drop((pairs, echo));
    bed.check_nothing_left(V4);
}

/// Whoever says nothing, garbage, or does not read keeps nobody else from being answered, and costs no descriptor.
fn hostile_askers() {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(V4);
    let pairs: Vec<Pair> = (0..50).map(|_| bed.stolen(&listener)).collect();
    let connect = || UnixStream::connect(bed.control()).expect("the control socket");

    let silent: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    bed.told("status");
    let mut unread: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    for asker in &mut unread {
        // The daemon may have dismissed it already.
        let _ = asker.write_all(b"connections json\n");
    }
    bed.told("status");
    for garbage in
        [&b"\n"[..], b"status\n", &[0xff; 4096], b"status json\nstatus json\n", b"GET / HTTP/1.0\r\n\r\n"]
    {
        let mut asker = connect();
        let _ = asker.write_all(garbage);
        asker.set_read_timeout(Some(patience())).expect("a time limit");
        let mut answer = Vec::new();
        match asker.read_to_end(&mut answer) {
            Ok(_) => {}
            // It did not read all of it before it closed.
            Err(err) => assert_eq!(err.kind(), ErrorKind::ConnectionReset),
        }
    }
    let half = connect();
    (&half).write_all(b"status js").expect("half a request");
    pairs[0].exchange(1, 1_000_000);
    bed.told("connections");
    // All are dismissed although they still hold on.
    drop(pairs);
    bed.daemon().wait_idle(patience());
    drop((silent, unread, half));
    bed.check_nothing_left(V4);
}

fn the_socket() {
    let mut bed = Bed::started(Deferred, &[]);
    let path = bed.control();
    let file = std::fs::metadata(&path).expect("the socket");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o660);

    // A second daemon does not take it from a living one.
    let second = || {
        let mut command = Command::new(binary());
        command.args(["run", "-p", "6000", "-q", "6000", "--device", "pepsal1", "--control"]).arg(&path);
        command
    };
    let (code, said) = refusal(&bed.net.router, second());
    assert_eq!(code, Some(1));
    assert!(said.contains("cannot take over from pid") && said.lines().count() == 1, "{said}");
    bed.told("status");

    // A killed one leaves it behind, and nobody answers; the next takes it.
    bed.signal(Signal::SIGKILL);
    bed.daemon().wait_end(patience());
    let done = Command::new(binary()).args(["status", "--control"]).arg(&path).output().expect("pepsal");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1));
    let expected =
        format!("pepsal: cannot connect to {}: connection refused (is pepsal running?)\n", path.display());
    assert_eq!(said, expected);
    assert!(path.exists());
    bed.start_daemon(Deferred, &[]);
    bed.told("status");

    // A proper end removes it.
    bed.signal(Signal::SIGTERM);
    bed.daemon().wait_end(patience());
    assert!(!path.exists());

    // What is no socket is not touched; its directory is made.
    std::fs::write(&path, "somebody's file").expect("a file");
    let (code, said) = refusal(&bed.net.router, second());
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "somebody's file");
    std::fs::remove_file(&path).expect("remove it");
}

/// What `command` prints when it has come to contain all `words`.
fn asked(bed: &Bed, command: &str, words: &[&str]) -> String {
    let begun = Instant::now();
    loop {
        let text = bed.ask(&[command]);
        match words.iter().find(|word| !text.contains(**word)) {
            None => return text,
            Some(word) => assert!(begun.elapsed() < patience(), "{word} is missing in\n{text}"),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The words that README.md shows, and the names that dashboards are made with.
fn formats() {
    let mut bed = Bed::started(Deferred, &["--rate-up", "5", "--rtt", "600"]);
    let listener = bed.listen(V6);
    let pair = bed.stolen(&listener);
    pair.exchange(1, 100_000);
    // The last byte may have arrived before it was counted.
    let text = asked(
        &bed,
        "status",
        &[
            "running for",
            "5.0 Mbit/s up",
            "1 of 1024 used",
            "1 relaying",
            "100.0 kB up, 100.0 kB down",
            "1 stolen",
        ],
    );
    assert!(text.lines().all(|line| line.len() <= 120), "{text}");

    // The exchange may have had to wait for its reader; since then it is idle.
    let address = listener.address.to_string();
    let words = [&*address, "relaying", "lan", "satellite", "limited by sender"];
    let list = asked(&bed, "connections", &words);
    assert_eq!(list.lines().count(), 3, "{list}");

    let metrics = bed.ask(&["status", "--format", "prometheus"]);
    assert!(metrics.contains("pepsal_bytes_total{direction=\"up\"} 100000\n"), "{metrics}");
    assert!(metrics.contains("pepsal_syns_passed_total{reason=\"fail_open\"} 0\n"), "{metrics}");
    let about = |line: &&str| line.starts_with("# HELP pepsal_") || line.starts_with("# TYPE pepsal_");
    for line in metrics.lines().filter(|line| !about(line)) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("pepsal_") && value.parse::<f64>().is_ok(), "{line}");
        let family = name.split('{').next().expect("a name");
        for about in ["HELP", "TYPE"] {
            assert!(metrics.contains(&format!("# {about} {family} ")), "{family} has no {about}");
        }
    }

    // A reader that leaves early is no failure.
    let mut child = Command::new(binary())
        .args(["connections", "--json", "--control"])
        .arg(bed.control())
        .stdout(Stdio::piped())
        .spawn()
        .expect("pepsal");
    drop(child.stdout.take());
    assert!(child.wait().expect("its end").success());
    pair.close();
    bed.check_nothing_left(V6);
}

/// It draws what is there, ends at a key as at a signal, and leaves the terminal as it was.
fn top_on_a_terminal() {
    let bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(V4);
    let pair = bed.stolen(&listener);
    // The daemon has accepted it, not only the kernel.
    pair.exchange(1, 1000);
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    for by_signal in [false, true] {
        let terminal = openpty(Some(&size), None).expect("a pseudo-terminal");
        let before = tcgetattr(&terminal.slave).expect("its settings");
        let end = || terminal.slave.try_clone().expect("another descriptor");
        let mut top = Command::new(binary())
            .args(["top", "--control"])
            .arg(bed.control())
            .stdin(end())
            .stdout(end())
            .spawn()
            .expect("pepsal");
        let mut master = std::fs::File::from(terminal.master);
        let mut drawn = String::new();
        while !drawn.contains("q quits") {
            let mut piece = [0; 4096];
            let read = master.read(&mut piece).expect("what it draws");
            drawn.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        assert!(drawn.contains(&listener.address.to_string()) && drawn.contains("1 relaying"), "{drawn}");
        assert!(!tcgetattr(&terminal.slave).expect("settings").local_flags.contains(LocalFlags::ECHO));
        if by_signal {
            let pid = i32::try_from(top.id()).expect("a pid");
            kill(Pid::from_raw(pid), Signal::SIGTERM).expect("SIGTERM");
        } else {
            master.write_all(b"dq").expect("press keys");
        }
        eventually("top ends", patience(), || top.try_wait().expect("its end").is_some());
        assert!(top.wait().expect("its end").success());
        assert_eq!(tcgetattr(&terminal.slave).expect("settings"), before);
    }
    let done = Command::new(binary()).arg("top").stdin(Stdio::null()).output().expect("pepsal");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(1) && said.lines().count() == 1, "{said}");
    pair.close();
}

/// No thread of an idle daemon is woken, neither before the first connection nor after the last.
fn idle_daemon_sleeps() {
    let mut bed = Bed::started(Deferred, &["-T", "2"]);
    bed.check_nothing_left(V4);
    bed.told("status");
    // The last asker is gone, the last sample is taken.
    thread::sleep(Duration::from_secs(3));
    // Unless something has kept it from that for so long: then it has another chance or two.
    let pid = bed.daemon().pid();
    let sleeps = (0..3).any(|_| {
        let before = switches(pid);
        thread::sleep(Duration::from_secs(4));
        switches(pid) == before
    });
    assert!(sleeps, "an idle daemon is woken");
    let told = bed.told("status");
    let samples = told["samples"]["connections"].items();
    assert!(samples.len() >= 6, "the seconds of sleep are missing: {samples:?}");
    assert_eq!(samples[samples.len() - 1].number(), 0);
}

/// How often the threads of the daemon have gone to sleep so far.
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon's threads");
    let of = |status: String| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse().ok()).expect("a count of switches")
    };
    tasks.flatten().map(|task| of(std::fs::read_to_string(task.path().join("status")).expect("status"))).sum()
}
