//! What a section `[network]` stands for, and which ones are refused.

use std::path::Path;

use crate::config::Config;
use crate::config::parse::parse;
use crate::network::Egress;

fn read(text: &str) -> Result<Config, String> {
    let told = |problems: Vec<super::super::Problem>| {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    parse(&format!("[network]\n{text}")).map_err(told)
}

#[test]
fn nobody_has_a_network_unless_it_is_asked_for() {
    let config = read("dns = [\"192.0.2.53\"]").unwrap();
    assert_eq!(config.network_spec(Path::new("/state")), None);
    assert_eq!(Config::default().network_spec(Path::new("/state")), None);
}

#[test]
fn a_network_is_what_was_asked_for() {
    let text = "egress = \"bridge\"\nbridge = \"br0\"\ngateway = \"192.0.2.1\"\nlinks = \"192.0.2.128/25\"\n\
                dns = [\"192.0.2.53\"]\ndeny = [\"10.0.0.0/8\"]\nallow = [\"10.1.2.3\"]\nready = 0";
    let config = read(text).unwrap();
    let spec = config.network_spec(Path::new("/state")).unwrap();
    let gateway = "192.0.2.1".parse().unwrap();
    assert_eq!(spec.egress, Egress::Bridge { name: String::from("br0"), gateway });
    assert_eq!(spec.links.to_string(), "192.0.2.128/25");
    assert_eq!(spec.reach.deny, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(spec.reach.allow, ["10.1.2.3/32".parse().unwrap()]);
    assert_eq!(spec.reach.dns, [std::net::Ipv4Addr::new(192, 0, 2, 53)]);
    assert_eq!((spec.ready, spec.state_dir.as_path()), (0, Path::new("/state")));
}

#[test]
fn what_is_wrong_is_told_by_its_field() {
    for (text, told) in [
        ("egress = \"lan\"", "line 2: network.egress: unknown variant `lan`"),
        ("egress = \"bridge\"\nbridge = \"br0\"", "network.gateway: it is missing"),
        ("egress = \"bridge\"\ngateway = \"192.0.2.1\"", "network.bridge: it is missing"),
        ("uplink = \"../eth0\"", "line 2: network.uplink: \"../eth0\" is not allowed"),
        ("uplink = \"..\"", "line 2: network.uplink: \"..\" is not allowed"),
        ("bridge = \"sixteen-letters-\"", "line 2: network.bridge: \"sixteen-letters-\""),
        ("gateway = \"fe80::1\"", "line 2: network.gateway: \"fe80::1\" is not allowed"),
        (
            "gateway = \"192.0.2.1\"\nlinks = \"192.0.2.0/24\"",
            "line 2: network.gateway: 192.0.2.1 is one of network.links",
        ),
        ("links = \"198.18.0.1/16\"", "line 2: network.links: \"198.18.0.1/16\" is not allowed"),
        ("links = \"192.0.2.0/30\"", "line 2: network.links: \"192.0.2.0/30\" is not allowed"),
        ("links = \"169.254.0.0/24\"", "line 2: network.links: \"169.254.0.0/24\""),
        ("links = \"128.0.0.0/2\"", "line 2: network.links: \"128.0.0.0/2\" is not allowed"),
        ("deny = [\"10.0.0.0/8\", \"all\"]", "line 2: network.deny: \"all\" is not allowed"),
        ("allow = [\"169.254.169.254\"]", "line 2: network.allow: 169.254.169.254/32 is not"),
        ("dns = [\"127.0.0.53\"]", "line 2: network.dns: \"127.0.0.53\" is not allowed"),
        (
            "dns = [\"1.1.1.1\", \"1.1.1.2\", \"1.1.1.3\", \"1.1.1.4\"]",
            "line 2: network.dns: at most 3",
        ),
        ("ready = 257", "line 2: network.ready: 257 is not allowed; 0 to 256 are"),
    ] {
        let refused = read(text).unwrap_err();
        assert!(refused.contains(told), "{text}: {refused}");
    }
}
