//! `--net`: a tap, and who the guest is on it.

use std::os::fd::RawFd;

use super::{SpecError, decimal, descriptor, limit, wrong};
use crate::limiter::Limits;
use crate::limits::{MAX_MTU, MIN_MTU};

const NET_ALLOWED: &str = "tap=fd:N,mac=XX:XX:XX:XX:XX:XX[,mtu=M][,rx-bandwidth=L][,rx-operations=L]\
                           [,tx-bandwidth=L][,tx-operations=L]";
const TAP_ALLOWED: &str = "fd:N with N from 3 to 1048575";
const MAC_ALLOWED: &str =
    "six pairs of hexadecimal digits, not a group's address, not 00:00:00:00:00:00";
const MTU_ALLOWED: &str = "1280 to 65521";

/// Ethernet's own.
const DEFAULT_MTU: u16 = 1500;

// The texts above name these numbers.
const _: () = assert!(MIN_MTU == 1280 && MAX_MTU == 65_521);

/// The network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetSpec {
    /// The descriptor of the tap.
    pub tap: RawFd,
    /// The guest's address.
    pub mac: [u8; 6],
    /// Most bytes of a packet, [`MIN_MTU`] to [`MAX_MTU`].
    pub mtu: u16,
    /// How much the guest may receive.
    pub receive: Limits,
    /// How much it may send.
    pub send: Limits,
}

/// Reads the network device.
pub(super) fn read(text: &str) -> Result<NetSpec, SpecError> {
    let [mut tap, mut mac, mut mtu] = [None; 3];
    let [mut receive, mut send] = [Limits::default(); 2];
    for part in text.split(',') {
        let (name, value) = part.split_once('=').unwrap_or_default();
        let is_second = match name {
            "tap" => tap.replace(value).is_some(),
            "mac" => mac.replace(value).is_some(),
            "mtu" => mtu.replace(value).is_some(),
            _ => {
                let (field, place) = match name {
                    "rx-bandwidth" => ("net rx-bandwidth", &mut receive.bandwidth),
                    "rx-operations" => ("net rx-operations", &mut receive.operations),
                    "tx-bandwidth" => ("net tx-bandwidth", &mut send.bandwidth),
                    "tx-operations" => ("net tx-operations", &mut send.operations),
                    _ => return Err(wrong("net", text, NET_ALLOWED)),
                };
                place.replace(limit::read(field, value)?).is_some()
            }
        };
        if is_second {
            return Err(wrong("net", text, NET_ALLOWED));
        }
    }
    let (Some(tap), Some(mac)) = (tap, mac) else { return Err(wrong("net", text, NET_ALLOWED)) };
    let packet = |text: &str| {
        let mtu = decimal::<u16>(text).filter(|mtu| (MIN_MTU..=MAX_MTU).contains(mtu));
        mtu.ok_or_else(|| wrong("net mtu", text, MTU_ALLOWED))
    };
    Ok(NetSpec {
        tap: tap
            .strip_prefix("fd:")
            .and_then(descriptor)
            .ok_or_else(|| wrong("net tap", tap, TAP_ALLOWED))?,
        mac: address(mac).ok_or_else(|| wrong("net mac", mac, MAC_ALLOWED))?,
        mtu: mtu.map_or(Ok(DEFAULT_MTU), packet)?,
        receive,
        send,
    })
}

/// The address of one card.
fn address(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut bytes {
        let pair = pairs.next().filter(|pair| pair.len() == 2 && !pair.starts_with('+'))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    let of_a_group = bytes[0] & 1 == 1;
    (pairs.next().is_none() && !of_a_group && bytes != [0; 6]).then_some(bytes)
}
