//! Prints what the firewall has to do: which SYNs go to the queue, and that injected ones go to the listener.
//!
//! A complete script for `nft -f -`, or for `iptables-restore -n` and `ip6tables-restore -n`. Loading it again
//! replaces what it made before. Nothing of the running system is read but whether the devices exist.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};
use std::io;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::cli::{Format, Rules};
use crate::diversion::MARK;
use crate::error::Error;
use crate::exclusions::{COUNTER, TABLE};
use crate::selectors::{self, Cidr};

/// Writes the script to standard output.
pub fn print(rules: &Rules) -> Result<(), Error> {
    let script = script_for(rules)?;
    io::Write::write_all(&mut io::stdout(), script.as_bytes()).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        Error::system("write", "the rules", errno, "")
    })
}

pub fn script_for(rules: &Rules) -> Result<String, Error> {
    let lan = devices(&rules.lan)?;
    let wan = devices(&rules.wan)?;
    let mut script = String::new();
    // Writing to a String cannot fail.
    let _ = match rules.format {
        Format::Nft => nft(&mut script, rules, &lan, &wan),
        Format::Iptables | Format::Ip6tables => iptables(&mut script, rules, &lan, &wan),
    };
    Ok(script)
}

fn devices(list: &str) -> Result<Vec<&str>, Error> {
    let unknown = |name: &str| Error::UnknownDevice(name.to_owned());
    let check = |name| {
        let stem = str::strip_suffix(name, '*').unwrap_or(name);
        let is_pattern = stem.len() < name.len();
        selectors::device_name(stem).map_err(|_| unknown(name))?;
        // With a colon it is an alias, for which the kernel answers with the device that comes before.
        let exists = || !name.contains(':') && if_nametoindex(name).is_ok();
        // nft counts a pattern's star.
        if name.len() >= libc::IFNAMSIZ || !is_pattern && !exists() {
            return Err(unknown(name));
        }
        Ok(name)
    };
    list.split(',').map(|name| check(name.trim())).collect()
}

fn nft(out: &mut String, rules: &Rules, lan: &[&str], wan: &[&str]) -> fmt::Result {
    let Rules { port, queue, device, .. } = rules;
    out.push_str(
        "# pepsal: load with 'nft -f -', remove with 'nft delete table inet pepsal'.\n\
         # The firewall's own input chain must accept what the daemon injects, which nobody else can send:\n",
    );
    writeln!(out, "#   iifname \"{device}\" accept")?;
    writeln!(out, "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{")?;
    let excludes = !rules.exclude_port.0.is_empty()
        || !rules.exclude_client.0.is_empty()
        || !rules.exclude_server.0.is_empty();
    if excludes {
        writeln!(out, "\tcounter {COUNTER} {{ }}\n")?;
    }

    out.push_str(
        "\t# After the firewall's own forward chain: only what it has accepted gets here. DNATed connections\n\
         \t# pass (the reply would bear the wrong address), and so do those whose first SYN was let go\n\
         \t# (confirmed): netfilter has settled their addresses.\n\
         \tchain steal {\n\
         \t\ttype filter hook forward priority filter + 10; policy accept;\n",
    );
    let (lan, wan) = (quoted(lan), quoted(wan));
    write!(
        out,
        "\t\tiifname {{ {lan} }} oifname {{ {wan} }} ct status & (dnat | confirmed) == 0 \
         tcp flags & (fin | syn | rst | ack) == syn "
    )?;
    if excludes {
        out.push_str("goto choose\n\t}\n\n\tchain choose {\n\t\t");
        let counted = format!("counter name {COUNTER} return\n\t\t");
        for ports in &rules.exclude_port.0 {
            write!(out, "tcp dport {} {counted}", ports.joined('-'))?;
        }
        for (end, cidrs) in [("saddr", &rules.exclude_client), ("daddr", &rules.exclude_server)] {
            for cidr in &cidrs.0 {
                let family = if cidr.is_ipv4() { "ip" } else { "ip6" };
                write!(out, "{family} {end} {cidr} {counted}")?;
            }
        }
    }
    writeln!(out, "queue flags bypass to {queue}\n\t}}")?;

    writeln!(
        out,
        "\n\tchain deliver {{\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\
         \t\tiifname \"{device}\" meta l4proto tcp redirect to :{port}\n\t}}"
    )?;
    if rules.transparent {
        writeln!(
            out,
            "\n\tchain divert {{\n\t\ttype filter hook prerouting priority mangle; policy accept;\n\
             \t\tmeta l4proto tcp socket transparent 1 meta mark set meta mark | {MARK:#x}\n\t}}"
        )?;
    }
    out.push_str("}\n");
    Ok(())
}

fn quoted(devices: &[&str]) -> String {
    let quoted: Vec<String> = devices.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(", ")
}

/// For kernels without nft's queue expression. The queue rule stands in table security, whose forward hook
/// comes after that of table filter.
fn iptables(out: &mut String, rules: &Rules, lan: &[&str], wan: &[&str]) -> fmt::Result {
    let Rules { port, queue, device, .. } = rules;
    let command = match rules.format {
        Format::Ip6tables => "ip6tables",
        _ => "iptables",
    };
    writeln!(
        out,
        "# pepsal: load with '{command}-restore -n'. Loading again replaces all rules; it repeats only the jumps\n\
         # to them, which changes nothing, since the second visit to a chain ends as the first."
    )?;

    out.push_str("*security\n:pepsal-steal - [0:0]\n:pepsal-queue - [0:0]\n");
    out.push_str("-A FORWARD -p tcp --tcp-flags FIN,SYN,RST,ACK SYN -j pepsal-steal\n");
    out.push_str("-A pepsal-steal -m conntrack --ctstate DNAT -j RETURN\n");
    out.push_str("-A pepsal-steal -m conntrack --ctstatus CONFIRMED -j RETURN\n");
    for ports in &rules.exclude_port.0 {
        writeln!(out, "-A pepsal-steal -p tcp --dport {} -j RETURN", ports.joined(':'))?;
    }
    for (end, cidrs) in [("-s", &rules.exclude_client), ("-d", &rules.exclude_server)] {
        let spoken = |cidr: &&Cidr| cidr.is_ipv4() == (rules.format == Format::Iptables);
        for cidr in cidrs.0.iter().filter(spoken) {
            writeln!(out, "-A pepsal-steal {end} {cidr} -j RETURN")?;
        }
    }
    // Here a pattern ends in + instead of *.
    let plus = |name: &str| name.replace('*', "+");
    for name in lan {
        writeln!(out, "-A pepsal-steal -i {} -j pepsal-queue", plus(name))?;
    }
    for name in wan {
        let name = plus(name);
        writeln!(out, "-A pepsal-queue -o {name} -j NFQUEUE --queue-num {queue} --queue-bypass")?;
    }
    writeln!(
        out,
        "COMMIT\n*nat\n:pepsal-deliver - [0:0]\n-A PREROUTING -j pepsal-deliver\n\
         -A pepsal-deliver -i {device} -p tcp -j REDIRECT --to-ports {port}\nCOMMIT"
    )?;
    writeln!(
        out,
        "*filter\n:pepsal-input - [0:0]\n-I INPUT -j pepsal-input\n\
         -A pepsal-input -i {device} -j ACCEPT\nCOMMIT"
    )?;
    if rules.transparent {
        writeln!(
            out,
            "*mangle\n:pepsal-divert - [0:0]\n-A PREROUTING -p tcp -j pepsal-divert\n\
             -A pepsal-divert -p tcp -m socket --transparent -j MARK --set-xmark {MARK:#x}/{MARK:#x}\nCOMMIT"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
