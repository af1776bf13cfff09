//! The packet filters, as nftables' JSON: what a namespace lets through, and what the host lets through for all of them.
//!
//! ```text
//!  guest -- tap0 [frames] -- [forward] -- [nat] up -- host's link [host: forward, nat] -- uplink
//!                   |            |                        |
//!                   |            `- replies alone inward  `- input, output: nothing
//!                   `- its own MAC, ARP for its gateway, IPv4 from its own address; nothing else
//! ```
//! **Invariant:** every chain of a namespace drops what no rule accepts, and every rule that accepts names the guest's address.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use nftables::batch::Batch;
use nftables::expr::{
    CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, SetItem,
};
use nftables::schema::{Chain, NfListObject, Nftables, Rule, Table};
use nftables::stmt::{CTCount, Counter, JumpTarget, Match, NAT, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::addresses::{
    GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, Mac, NEVER, Range, without_overlap,
};
use super::{TAP, UP};

/// The name of a namespace's tables. There is no other table in it.
pub const TABLE: &str = "votive";
/// The most connections of a guest: the host's own table of connections holds each as well, and has 65,536 places on a small host.
pub const CONNECTIONS_MAX: u32 = 1024;
/// Names and addresses are asked for on this port.
const DNS_PORT: u32 = 53;
/// Before filters of anybody else, so that what we drop is counted here. `accept` ends our own chain alone.
const HOST_PRIORITY: i32 = -10;
/// nft's `srcnat`.
const SOURCE_NAT_PRIORITY: i32 = 100;

/// What guests reach beyond their namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// What they never reach, beside [`NEVER`].
    pub never: Vec<Range>,
    /// What they reach although `deny` has it.
    pub allow: Vec<Range>,
    /// What they do not reach.
    pub deny: Vec<Range>,
    /// The servers whose port 53 they reach although `deny` has them.
    pub dns: Vec<Ipv4Addr>,
}

/// The rules of a guest's namespace.
#[must_use]
pub fn namespace(reach: &Reach) -> Nftables<'static> {
    let mut batch = Batch::new();
    frames(&mut Chains::new(&mut batch, NfFamily::NetDev, TABLE));
    packets(&mut Chains::new(&mut batch, NfFamily::INet, TABLE), reach);
    batch.to_nftables()
}

/// What the guest may put on its cable.
fn frames(chains: &mut Chains<'_>) {
    let mut chain = chains.device("frames", TAP);
    chain.drop("source MAC", [is_not(ether("saddr"), mac(GUEST_MAC))]);
    chain.accept([
        is(ether("type"), text("arp")),
        is(arp("operation"), text("request")),
        is(arp("saddr ether"), mac(GUEST_MAC)),
        is(arp("saddr ip"), address(GUEST)),
        is(arp("daddr ip"), address(GATEWAY)),
    ]);
    chain.drop("ARP", [is(ether("type"), text("arp"))]);
    // IPv6, VLAN tags and all else: the type is read from the frame, before anything was taken off it.
    chain.drop("protocol", [is_not(ether("type"), text("ip"))]);
    chain.drop("destination MAC", [is_not(ether("daddr"), mac(GATEWAY_MAC))]);
    chain.drop("source address", [is_not(ip("saddr"), address(GUEST))]);
    chain.accept([is(ether("saddr"), mac(GUEST_MAC)), is(ip("saddr"), address(GUEST))]);
    chain.drop("rest", []);
}

/// What may pass between the guest's cable and the way out.
fn packets(chains: &mut Chains<'_>, reach: &Reach) {
    // Nobody speaks to the namespace itself, and it says nothing.
    chains.hook("input", NfHook::Input, NfChainPolicy::Drop).drop("to the gateway", []);
    chains.hook("output", NfHook::Output, NfChainPolicy::Drop).drop("from the gateway", []);

    let outward = [
        is(meta(MetaKey::Iifname), text(TAP)),
        is(meta(MetaKey::Oifname), text(UP)),
        is(ip("saddr"), address(GUEST)),
    ];
    let out = |more: Vec<Statement<'static>>| outward.iter().cloned().chain(more);
    let mut chain = chains.hook("forward", NfHook::Forward, NfChainPolicy::Drop);
    chain.accept([
        is(meta(MetaKey::Iifname), text(UP)),
        is(meta(MetaKey::Oifname), text(TAP)),
        is(ip("daddr"), address(GUEST)),
        state(&["established", "related"]),
    ]);
    chain.drop("inward", [is(meta(MetaKey::Iifname), text(UP))]);
    let never: Vec<_> = NEVER.iter().chain(&reach.never).copied().collect();
    chain.drop("never", [is(ip("daddr"), one_of(&never))]);
    chain.drop("invalid", [state(&["invalid", "untracked"])]);
    let too_many =
        Statement::CTCount(CTCount { val: Expression::Number(CONNECTIONS_MAX), inv: Some(true) });
    chain.drop("too many connections", [state(&["new"]), too_many]);
    if !reach.dns.is_empty() {
        let servers: Vec<_> = reach.dns.iter().copied().map(Range::of).collect();
        let port = is(payload("th", "dport"), Expression::Number(DNS_PORT));
        for protocol in ["udp", "tcp"] {
            chain.accept(out(vec![
                is(ip("daddr"), one_of(&servers)),
                is(meta(MetaKey::L4proto), text(protocol)),
                port.clone(),
            ]));
        }
    }
    if !reach.allow.is_empty() {
        chain.accept(out(vec![is(ip("daddr"), one_of(&reach.allow))]));
    }
    if !reach.deny.is_empty() {
        chain.drop("denied", [is(ip("daddr"), one_of(&reach.deny))]);
    }
    chain.accept(out(Vec::new()));
    chain.drop("rest", []);

    // The way out knows the namespace's address on it, and no guest's.
    chains.source_nat([is(meta(MetaKey::Oifname), text(UP)), is(ip("saddr"), address(GUEST))]);
}

/// What the host's table is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRules {
    /// The table's name.
    pub table: String,
    /// What the names of the host's ends of all links begin with.
    pub links: String,
    /// The addresses of the namespaces' ends.
    pub addresses: Range,
    /// The way out, if the host forwards; a bridge does without.
    pub uplink: Option<String>,
    /// The host forwards what comes in by the uplink for our sake alone: it is to forward nothing else from there.
    pub guard: bool,
}

impl HostRules {
    /// The table, in place of one of the same name.
    #[must_use]
    pub fn make(&self) -> Nftables<'static> {
        let mut batch = Batch::new();
        remove_table(&mut batch, &self.table);
        let mut chains = Chains::new(&mut batch, NfFamily::INet, &self.table);
        let links = || text(&format!("{}*", self.links));
        let ours = || one_of(&[self.addresses]);

        let mut chain = chains.hook("input", NfHook::Input, NfChainPolicy::Accept);
        chain.drop("to the host", [is(meta(MetaKey::Iifname), links())]);
        chain.drop("to the host", [is(ip("saddr"), ours())]);
        let mut chain = chains.hook("output", NfHook::Output, NfChainPolicy::Accept);
        // Errors about packets that a guest sent.
        let related = state(&["related"]);
        chain.accept([is(meta(MetaKey::Oifname), links()), is(ip("daddr"), ours()), related]);
        chain.drop("from the host", [is(meta(MetaKey::Oifname), links())]);
        chain.drop("from the host", [is(ip("daddr"), ours())]);

        let Some(uplink) = self.uplink.as_deref() else {
            let mut chain = chains.hook("forward", NfHook::Forward, NfChainPolicy::Accept);
            chain.drop("not the bridge", [is(meta(MetaKey::Iifname), links())]);
            chain.drop("not the bridge", [is(meta(MetaKey::Oifname), links())]);
            return batch.to_nftables();
        };
        let mut chain = chains.plain("outward");
        chain.accept([is(meta(MetaKey::Oifname), text(uplink)), is(ip("saddr"), ours())]);
        chain.drop("not the uplink", []);
        let mut chain = chains.plain("inward");
        chain.accept([
            is(meta(MetaKey::Iifname), text(uplink)),
            is(ip("daddr"), ours()),
            state(&["established", "related"]),
        ]);
        chain.drop("no reply", []);
        let mut chain = chains.hook("forward", NfHook::Forward, NfChainPolicy::Accept);
        chain.jump("outward", is(meta(MetaKey::Iifname), links()));
        chain.jump("inward", is(meta(MetaKey::Oifname), links()));
        if self.guard {
            chain.drop("not forwarded before", [is(meta(MetaKey::Iifname), text(uplink))]);
        }
        chains.source_nat([is(meta(MetaKey::Oifname), text(uplink)), is(ip("saddr"), ours())]);
        batch.to_nftables()
    }

    /// The end of the table of that name, if there is one.
    #[must_use]
    pub fn unmake(table: &str) -> Nftables<'static> {
        let mut batch = Batch::new();
        remove_table(&mut batch, table);
        batch.to_nftables()
    }
}

/// Removing what is not there is an error, and adding what is there is none.
fn remove_table(batch: &mut Batch<'static>, name: &str) {
    let table = || Table { family: NfFamily::INet, name: owned(name), ..Table::default() };
    batch.add(NfListObject::Table(table()));
    batch.delete(NfListObject::Table(table()));
}

/// A table that is being filled.
struct Chains<'a> {
    batch: &'a mut Batch<'static>,
    family: NfFamily,
    table: String,
}

/// A chain that is being filled.
struct Rules<'a> {
    batch: &'a mut Batch<'static>,
    family: NfFamily,
    table: String,
    chain: &'static str,
}

impl<'a> Chains<'a> {
    fn new(batch: &'a mut Batch<'static>, family: NfFamily, table: &str) -> Self {
        let name = owned(table);
        batch.add(NfListObject::Table(Table { family, name, ..Table::default() }));
        Self { batch, family, table: table.to_owned() }
    }

    fn add(&mut self, name: &'static str, chain: Chain<'static>) -> Rules<'_> {
        let (family, table) = (self.family, owned(&self.table));
        self.batch.add(NfListObject::Chain(Chain { family, table, name: name.into(), ..chain }));
        Rules { batch: self.batch, family, table: self.table.clone(), chain: name }
    }

    /// A chain that others jump to.
    fn plain(&mut self, name: &'static str) -> Rules<'_> {
        self.add(name, Chain::default())
    }

    /// A filter in the way of packets.
    fn hook(&mut self, name: &'static str, hook: NfHook, policy: NfChainPolicy) -> Rules<'_> {
        let chain = Chain {
            _type: Some(NfChainType::Filter),
            hook: Some(hook),
            prio: Some(HOST_PRIORITY),
            policy: Some(policy),
            ..Chain::default()
        };
        self.add(name, chain)
    }

    /// A filter of all frames that come in by a device.
    fn device(&mut self, name: &'static str, device: &'static str) -> Rules<'_> {
        let chain = Chain {
            _type: Some(NfChainType::Filter),
            hook: Some(NfHook::Ingress),
            prio: Some(0),
            dev: Some(device.into()),
            policy: Some(NfChainPolicy::Drop),
            ..Chain::default()
        };
        self.add(name, chain)
    }

    /// Gives what matches the address of the device that it leaves by.
    fn source_nat(&mut self, matches: impl IntoIterator<Item = Statement<'static>>) {
        let chain = Chain {
            _type: Some(NfChainType::NAT),
            hook: Some(NfHook::Postrouting),
            prio: Some(SOURCE_NAT_PRIORITY),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        };
        let masquerade = Statement::Masquerade(None::<NAT<'_>>);
        self.add("nat", chain).rule(None, matches, [masquerade]);
    }
}

impl Rules<'_> {
    fn rule(
        &mut self,
        comment: Option<&'static str>,
        matches: impl IntoIterator<Item = Statement<'static>>,
        then: impl IntoIterator<Item = Statement<'static>>,
    ) {
        let expr: Vec<_> = matches.into_iter().chain(then).collect();
        let rule = Rule {
            family: self.family,
            table: owned(&self.table),
            chain: self.chain.into(),
            expr: expr.into(),
            comment: comment.map(Into::into),
            ..Rule::default()
        };
        self.batch.add(NfListObject::Rule(rule));
    }

    fn accept(&mut self, matches: impl IntoIterator<Item = Statement<'static>>) {
        self.rule(None, matches, [Statement::Accept(None)]);
    }

    /// Drops what matches, and counts it under `why`.
    fn drop(&mut self, why: &'static str, matches: impl IntoIterator<Item = Statement<'static>>) {
        let counter = Statement::Counter(Counter::Anonymous(None));
        self.rule(Some(why), matches, [counter, Statement::Drop(None)]);
    }

    fn jump(&mut self, target: &'static str, matches: Statement<'static>) {
        let target = target.into();
        self.rule(None, [matches], [Statement::Jump(JumpTarget { target })]);
    }
}

fn owned(text: &str) -> Cow<'static, str> {
    Cow::Owned(text.to_owned())
}

fn matches(
    left: Expression<'static>,
    op: Operator,
    right: Expression<'static>,
) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn is(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    matches(left, Operator::EQ, right)
}

fn is_not(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    matches(left, Operator::NEQ, right)
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn ether(field: &'static str) -> Expression<'static> {
    payload("ether", field)
}

fn arp(field: &'static str) -> Expression<'static> {
    payload("arp", field)
}

fn ip(field: &'static str) -> Expression<'static> {
    payload("ip", field)
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

/// One of these states of the packet's connection.
fn state(names: &[&'static str]) -> Statement<'static> {
    let key = CT { key: "state".into(), family: None, dir: None };
    let names = names.iter().map(|name| text(name)).collect();
    matches(Expression::Named(NamedExpression::CT(key)), Operator::IN, Expression::List(names))
}

fn text(text: &str) -> Expression<'static> {
    Expression::String(owned(text))
}

fn mac(mac: Mac) -> Expression<'static> {
    text(&mac.to_string())
}

fn address(address: Ipv4Addr) -> Expression<'static> {
    text(&address.to_string())
}

/// Any address of these ranges.
fn one_of(ranges: &[Range]) -> Expression<'static> {
    let item = |range: Range| {
        let first = address(range.first());
        let prefix = Prefix { addr: Box::new(first.clone()), len: u32::from(range.prefix()) };
        let whole = Expression::Named(NamedExpression::Prefix(prefix));
        SetItem::Element(if range.prefix() == 32 { first } else { whole })
    };
    let items = without_overlap(ranges.iter().copied()).into_iter().map(item).collect();
    Expression::Named(NamedExpression::Set(items))
}
