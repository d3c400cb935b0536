use super::*;
use crate::cli::List;

/// `lo` is the one device that every machine has; patterns name devices that may come later.
fn rules(format: Format) -> Rules {
    Rules {
        lan: "lo,br-*".into(),
        wan: "ppp*".into(),
        port: 5001,
        queue: 7,
        device: "pep1".into(),
        transparent: true,
        exclude_port: List(vec!["22".parse().unwrap(), "80-90".parse().unwrap()]),
        exclude_client: List(vec!["192.0.2.0/24".parse().unwrap(), "fd00::/8".parse().unwrap()]),
        exclude_server: List(vec!["198.51.100.1".parse().unwrap()]),
        format,
    }
}

fn script(rules: &Rules) -> String {
    script_for(rules).unwrap()
}

#[test]
fn unknown_devices_are_named() {
    let mut wrong = rules(Format::Nft);
    wrong.wan = "lo,nosuch0".into();
    let error = script_for(&wrong).unwrap_err().to_string();
    assert!(error.starts_with("cannot find network device nosuch0: "), "{error}");
    for bad in ["lo,", "*", "lo**", "lo:1**", "lo:1"] {
        wrong.wan = bad.into();
        assert!(script_for(&wrong).is_err(), "{bad}");
    }
}

#[test]
fn nft_script_replaces_the_table_as_a_whole() {
    let script = script(&rules(Format::Nft));
    assert!(script.contains("\ntable inet pepsal\ndelete table inet pepsal\ntable inet pepsal {\n"));
    for line in [
        "tcp dport 22 counter name excluded return",
        "tcp dport 80-90 counter name excluded return",
        "ip saddr 192.0.2.0/24 counter name excluded return",
        "ip6 saddr fd00::/8 counter name excluded return",
        "ip daddr 198.51.100.1/32 counter name excluded return",
        "iifname { \"lo\", \"br-*\" } oifname { \"ppp*\" } ct status & (dnat | confirmed) == 0 \
         tcp flags & (fin | syn | rst | ack) == syn goto choose",
        "queue flags bypass to 7",
        "iifname \"pep1\" meta l4proto tcp redirect to :5001",
        "meta l4proto tcp socket transparent 1 meta mark set meta mark | 0x40000000",
    ] {
        assert!(script.contains(&format!("\t\t{line}\n")), "{line}\nis not in\n{script}");
    }
    let excluded = script.find("return").unwrap();
    assert!(excluded < script.find("queue flags").unwrap(), "exclusions come first");
}

#[test]
fn without_exclusions_one_rule_is_enough() {
    let mut plain = rules(Format::Nft);
    (plain.exclude_port, plain.exclude_client, plain.exclude_server) =
        (List(vec![]), List(vec![]), List(vec![]));
    let script = script(&plain);
    assert!(script.contains(" == syn queue flags bypass to 7\n"), "{script}");
    assert!(!script.contains("choose") && !script.contains("counter"), "{script}");
}

#[test]
fn iptables_scripts_speak_one_family_each() {
    let v4 = script(&rules(Format::Iptables));
    let v6 = script(&rules(Format::Ip6tables));
    assert!(v4.contains("-s 192.0.2.0/24 ") && v4.contains("-d 198.51.100.1/32 "));
    assert!(!v4.contains("fd00"));
    assert!(v6.contains("-s fd00::/8 ") && !v6.contains("192.0.2") && !v6.contains("198.51"));
    for script in [&v4, &v6] {
        assert!(script.contains("-A pepsal-steal -i br-+ -j pepsal-queue\n"));
        assert!(script.contains("-A pepsal-queue -o ppp+ -j NFQUEUE --queue-num 7 --queue-bypass\n"));
        assert!(script.contains("--dport 80:90 "));
        assert_eq!(script.matches("\nCOMMIT\n").count(), 4);
    }
    assert!(v6.contains("-m socket --transparent -j MARK --set-xmark 0x40000000/0x40000000\n"));
}
