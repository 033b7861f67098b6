//! Hashes that are the same in every process, version and architecture, so that instances agree.

use std::net::{IpAddr, SocketAddr};

/// Any constant will do, but another one moves every client.
const SEED: u64 = 0x736e_6967_6174_6531;

/// The finish of SplitMix64: each bit of the number changes half of the result's.
pub(super) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// As a number above 0 and up to 1.
pub(super) fn unit(hash: u64) -> f64 {
    // As many bits as a float holds.
    ((hash >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// An IPv4 address is the same in its IPv6 form.
pub(super) fn of_ip(address: IpAddr) -> u64 {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let octets = address.octets();
    let (halves, _) = octets.as_chunks();
    halves.iter().fold(SEED, |hash, half| mix(hash ^ u64::from_be_bytes(*half)))
}

/// What an endpoint is known by to every instance. Of IPv6 addresses the scope does not count: it is a number of the
/// local host.
pub fn key_of(address: SocketAddr) -> u64 {
    mix(of_ip(address.ip()) ^ u64::from(address.port()))
}
