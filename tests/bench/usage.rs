//! What processes and the machine have used, as /proc tells it.
//!
//! CPU times of processes come from schedstat, in nanoseconds: the ticks of stat would be one part in a hundred of a
//! short measurement. `all_cpu` is the sum of everyone who has a part in a transfer: client, router (softirqs run
//! in the time of whoever raised them, or of ksoftirqd), proxy, server. On a machine that does nothing else it is the whole
//! machine's CPU; on a busy one it leaves out what other programs use.

use std::fs;
use std::time::Instant;

/// Clock ticks a second of /proc/stat: USER_HZ is 100 on every Linux that Debian runs on.
const USER_HZ: f64 = 100.0;

#[derive(Clone)]
pub struct Parties {
    proxy: Option<u32>,
    /// Client (this process), server and the kernel's softirq threads.
    others: Vec<u32>,
}

#[derive(Clone, Copy)]
pub struct Proxy {
    /// Seconds.
    pub cpu: f64,
    pub switches: f64,
}

pub struct Usage {
    at: Instant,
    proxy: Option<Proxy>,
    all_cpu: f64,
    machine_cpu: f64,
}

/// The difference of two readings.
pub struct Span {
    pub seconds: f64,
    pub proxy: Option<Proxy>,
    pub all_cpu: f64,
    pub machine_cpu: f64,
}

/// Kilobytes and descriptors.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    pub rss: f64,
    pub pss: f64,
    pub descriptors: f64,
    /// Slab and socket memory of the whole machine.
    pub kernel: f64,
}

impl Parties {
    pub fn new(proxy: Option<u32>, server: Option<u32>) -> Parties {
        let mut others = vec![std::process::id()];
        others.extend(server);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        others.extend(processes.filter_map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            if name.starts_with("ksoftirqd/") {
                entry.file_name().to_str()?.parse::<u32>().ok()
            } else {
                None
            }
        }));
        Parties { proxy, others }
    }

    pub fn proxy(&self) -> Option<u32> {
        self.proxy
    }
}

impl Usage {
    pub fn now(parties: &Parties) -> Result<Usage, String> {
        let proxy = match parties.proxy {
            Some(pid) => Some(Proxy { cpu: cpu_of(pid)?, switches: switches_of(pid)? }),
            None => None,
        };
        let mut all_cpu = proxy.map_or(0.0, |proxy| proxy.cpu);
        for &pid in &parties.others {
            all_cpu += cpu_of(pid)?;
        }
        Ok(Usage { at: Instant::now(), proxy, all_cpu, machine_cpu: machine_cpu()? })
    }
}

impl Span {
    pub fn since(from: &Usage, parties: &Parties) -> Result<Span, String> {
        let to = Usage::now(parties)?;
        let proxy = to
            .proxy
            .zip(from.proxy)
            .map(|(to, from)| Proxy { cpu: to.cpu - from.cpu, switches: to.switches - from.switches });
        Ok(Span {
            seconds: (to.at - from.at).as_secs_f64(),
            proxy,
            all_cpu: to.all_cpu - from.all_cpu,
            machine_cpu: to.machine_cpu - from.machine_cpu,
        })
    }

    /// Percent of one core that programs without a part in the measurement have used.
    pub fn others_percent(&self) -> f64 {
        (self.machine_cpu - self.all_cpu).max(0.0) / self.seconds * 100.0
    }
}

/// Seconds of CPU that all threads of the process have used.
fn cpu_of(pid: u32) -> Result<f64, String> {
    let mut nanoseconds = 0.0;
    for_each_thread(pid, "schedstat", |text| {
        nanoseconds += number(text.split_whitespace().next());
    })?;
    Ok(nanoseconds / 1e9)
}

fn switches_of(pid: u32) -> Result<f64, String> {
    let mut switches = 0.0;
    for_each_thread(pid, "status", |text| {
        switches += field(text, "voluntary_ctxt_switches:") + field(text, "nonvoluntary_ctxt_switches:");
    })?;
    Ok(switches)
}

fn for_each_thread(pid: u32, file: &str, mut take: impl FnMut(&str)) -> Result<(), String> {
    let tasks = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&tasks).map_err(|error| format!("cannot list {tasks}: {error}"))?;
    for thread in threads.flatten() {
        // A thread may have ended meanwhile.
        if let Ok(text) = fs::read_to_string(thread.path().join(file)) {
            take(&text);
        }
    }
    Ok(())
}

/// Seconds that all cores together were not idle.
fn machine_cpu() -> Result<f64, String> {
    let text = read("/proc/stat")?;
    // cpu user nice system idle iowait irq softirq steal
    let fields: Vec<f64> =
        text.lines().next().unwrap_or("").split_whitespace().skip(1).map(|it| number(Some(it))).collect();
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|&index| fields.get(index)).sum();
    Ok(busy / USER_HZ)
}

/// Memory of `pid` (nothing without one) and of the kernel.
pub fn memory(pid: Option<u32>) -> Result<Memory, String> {
    let (machine, sockets) = (read("/proc/meminfo")?, read("/proc/net/sockstat")?);
    let tcp_pages = sockets
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .and_then(|line| line.split_whitespace().skip_while(|&word| word != "mem").nth(1));
    let mut memory =
        Memory { kernel: field(&machine, "Slab:") + number(tcp_pages) * 4.0, ..Memory::default() };
    if let Some(pid) = pid {
        let map = read(&format!("/proc/{pid}/smaps_rollup"))?;
        memory.rss = field(&map, "Rss:");
        memory.pss = field(&map, "Pss:");
        memory.descriptors = descriptors(pid)? as f64;
    }
    Ok(memory)
}

pub fn descriptors(pid: u32) -> Result<usize, String> {
    let path = format!("/proc/{pid}/fd");
    fs::read_dir(&path).map(Iterator::count).map_err(|error| format!("cannot list {path}: {error}"))
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
}

/// The number after `name` at the beginning of a line; 0 if there is none.
fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    number(line.and_then(|rest| rest.split_whitespace().next()))
}

fn number(word: Option<&str>) -> f64 {
    word.and_then(|word| word.parse().ok()).unwrap_or(0.0)
}
