//! The rules as text, what must hold for any configuration of them, ranges, names and slots.

use std::net::Ipv4Addr;
use std::path::Path;

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use serde_json::Value;

use super::addresses::{GUEST, NEVER, PRIVATE, Range, without_overlap};
use super::host::Identity;
use super::pool::Slots;
use super::rules::{HostRules, Reach, namespace};

fn range(text: &str) -> Range {
    text.parse().unwrap()
}

/// The objects of a rule set, as `nft --json` reads them.
fn objects(rules: &nftables::schema::Nftables<'_>) -> Vec<Value> {
    let value = serde_json::to_value(rules).unwrap();
    value["nftables"].as_array().unwrap().clone()
}

/// One line an object; its fields in their order, whatever serde_json's maps do.
fn lines(rules: &nftables::schema::Nftables<'_>) -> String {
    let line = |object| format!("{}\n", serde_json::to_string(object).unwrap());
    rules.objects.iter().map(line).collect()
}

#[test]
fn the_rules_are_these() {
    let reach = Reach {
        never: vec![range("198.18.0.0/16")],
        allow: vec![range("10.1.0.0/16")],
        deny: PRIVATE.to_vec(),
        dns: vec![Ipv4Addr::new(10, 2, 0, 2)],
    };
    let host = HostRules {
        table: String::from("votive_0a1b2c"),
        links: String::from("vtv0a1b2c-"),
        addresses: range("198.18.0.0/16"),
        uplink: Some(String::from("eth0")),
        guard: true,
    };
    let bridge = HostRules { uplink: None, guard: false, ..host.clone() };
    let text = format!(
        "namespace\n{}host, by an uplink\n{}host, by a bridge\n{}",
        lines(&namespace(&reach)),
        lines(&host.make()),
        lines(&bridge.make())
    );
    if std::env::var_os("VOTIVE_WRITE_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/network/rules.txt"), &text)
            .unwrap();
    }
    assert_eq!(text, include_str!("rules.txt"));
}

fn any_range() -> impl Strategy<Value = Range> {
    (any::<u32>(), 0_u8..=32).prop_map(|(bits, prefix)| {
        let shared = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        range(&format!("{}/{prefix}", Ipv4Addr::from(bits & shared)))
    })
}

fn ranges() -> impl Strategy<Value = Vec<Range>> {
    proptest::collection::vec(any_range(), 0..8)
}

proptest! {
    #[test]
    fn no_rule_of_a_namespace_accepts_without_the_guests_own_address(
        allow in ranges(), deny in ranges(), dns in ranges(),
    ) {
        let dns = dns.into_iter().map(Range::first).collect();
        let objects = objects(&namespace(&Reach { never: Vec::new(), allow, deny, dns }));
        let own = Value::from(GUEST.to_string());
        let mut accepting = 0;
        for object in &objects {
            let added = &object["add"];
            if let Some(hook) = added["chain"]["hook"].as_str() {
                let policy = added["chain"]["policy"].as_str();
                prop_assert_eq!(policy, Some(if hook == "postrouting" { "accept" } else { "drop" }));
            }
            let Some(expressions) = added["rule"]["expr"].as_array() else { continue };
            if !expressions.iter().any(|it| it.get("accept").is_some()) {
                continue;
            }
            accepting += 1;
            let names_it = expressions.iter().any(|it| {
                let is = &it["match"];
                let field = is["left"]["payload"]["field"].as_str().unwrap_or_default();
                is["op"] == "==" && is["right"] == own && ["saddr", "daddr", "saddr ip"].contains(&field)
            });
            prop_assert!(names_it, "{added}");
        }
        prop_assert!(accepting >= 4);
    }

    #[test]
    fn what_is_never_reached_is_dropped_before_anything_outward_is_accepted(
        allow in ranges(), deny in ranges(),
    ) {
        let objects = objects(&namespace(&Reach { allow, deny, ..Reach::default() }));
        let forward: Vec<_> = objects
            .iter()
            .map(|object| &object["add"]["rule"])
            .filter(|rule| rule["chain"] == "forward")
            .collect();
        let never = forward.iter().position(|rule| rule["comment"] == "never").unwrap();
        let accepts = |rule: &Value| rule["expr"].as_array().unwrap().iter().any(|it| it.get("accept").is_some());
        for (index, rule) in forward.iter().enumerate().filter(|(_, rule)| accepts(rule)) {
            let inward = rule["expr"][0]["match"]["right"] == super::UP;
            prop_assert!(inward || index > never, "{rule}");
        }
    }

    #[test]
    fn ranges_without_overlap_hold_the_same_addresses(ranges in ranges(), address: u32) {
        let one = Range::of(Ipv4Addr::from(address));
        let kept = without_overlap(ranges.iter().copied());
        let holds = |ranges: &[Range]| ranges.iter().any(|range| range.contains(one));
        prop_assert_eq!(holds(&ranges), holds(&kept));
        for (index, range) in kept.iter().enumerate() {
            prop_assert!(kept[index + 1..].iter().all(|other| !range.touches(*other)));
        }
    }

    #[test]
    fn a_range_reads_as_it_is_written(range in any_range()) {
        prop_assert_eq!(range.to_string().parse(), Ok(range));
    }
}

#[test]
fn what_is_no_range_is_refused() {
    for text in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/", "::/0", "10.0.0/8", "0.0.0.0/-1"] {
        assert!(text.parse::<Range>().is_err(), "{text}");
    }
    assert_eq!(range("192.0.2.7"), Range::of(Ipv4Addr::new(192, 0, 2, 7)));
    assert!(range("0.0.0.0/0").contains(range("255.255.255.255")));
}

#[test]
fn metadata_loopback_and_the_guests_own_link_are_never_reached() {
    for text in
        ["169.254.169.254", "127.0.0.1", "192.0.0.1", "255.255.255.255", "224.0.0.1", "0.0.0.0"]
    {
        assert!(NEVER.iter().any(|never| never.contains(range(text))), "{text}");
    }
}

#[test]
fn names_fit_a_link_and_are_those_of_the_folder() {
    let identity = Identity::of(Path::new("/var/lib/votive"));
    assert_eq!(identity, Identity::of(Path::new("/var/lib/votive")));
    assert_ne!(identity.table(), Identity::of(Path::new("/var/lib/other")).table());
    assert!(identity.link(65_535).len() <= votive_tap::NAME_MAX);
    assert!(identity.link(7).starts_with(&identity.links()));
}

#[test]
fn a_slot_is_used_again_only_when_all_others_were() {
    let mut slots = Slots::new(3);
    assert_eq!([slots.take(), slots.take()], [Some(0), Some(1)]);
    slots.give_back(0);
    assert_eq!([slots.take(), slots.take(), slots.take()], [Some(2), Some(0), None]);
}
