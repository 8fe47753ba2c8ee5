//! Which addresses are never reached unless they are listed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A kind of address that lets a URL reach what was not meant to be reached from outside: this machine itself, its
/// neighbours on the wire, or the cloud's own services for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// This machine.
    Loopback,
    /// A neighbour on the wire; in clouds, the metadata service.
    LinkLocal,
    /// No address; to connect to it means this machine.
    Unspecified,
    /// Many machines.
    Multicast,
    /// All machines on the wire.
    Broadcast,
    /// A cloud's metadata service that is not on a link-local address.
    Metadata,
    /// The API server of the cluster that this process is in.
    ApiServer,
}

/// Metadata services outside of link-local addresses: Alibaba's, Azure's, Oracle's, and those of AWS and Google on
/// IPv6.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
];

impl Guard {
    /// What guards an address, if anything. An IPv6 address that stands for an IPv4 address is guarded like it.
    pub fn of(address: IpAddr) -> Option<Self> {
        let address = address.to_canonical();
        if METADATA.contains(&address) {
            return Some(Self::Metadata);
        }
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address)
                .or_else(|| embedded(address).and_then(|embedded| Self::of(embedded.into()))),
        }
    }

    const fn of_v4(address: Ipv4Addr) -> Option<Self> {
        if address.is_loopback() {
            Some(Self::Loopback)
        } else if address.is_link_local() {
            Some(Self::LinkLocal)
        } else if address.octets()[0] == 0 {
            Some(Self::Unspecified)
        } else if address.is_multicast() {
            Some(Self::Multicast)
        } else if address.is_broadcast() {
            Some(Self::Broadcast)
        } else {
            None
        }
    }

    const fn of_v6(address: Ipv6Addr) -> Option<Self> {
        if address.is_loopback() {
            Some(Self::Loopback)
        } else if address.is_unicast_link_local() {
            Some(Self::LinkLocal)
        } else if address.is_unspecified() {
            Some(Self::Unspecified)
        } else if address.is_multicast() {
            Some(Self::Multicast)
        } else {
            None
        }
    }
}

/// The address that is reached with this one.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => embedded(address).map_or(address.into(), IpAddr::V4),
        address @ IpAddr::V4(_) => address,
    }
}

/// The IPv4 address that a translator or a tunnel takes an IPv6 address for. (Mapped addresses are IPv4 addresses
/// already, by `to_canonical`.)
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let (high, low) = match segments[..6] {
        // Compatible (::/96), translated (::ffff:0:0:0/96) and NAT64 (64:ff9b::/96).
        [0, 0, 0, 0, 0 | 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => (segments[6], segments[7]),
        // 6to4.
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
            Self::Metadata => "a cloud's metadata service",
            Self::ApiServer => "the cluster's API server",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_addresses_in_all_their_forms() {
        use Guard::{Broadcast, LinkLocal, Loopback, Metadata, Multicast, Unspecified};
        for (guard, addresses) in [
            (Loopback, &["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::127.0.0.1"][..]),
            (Loopback, &["64:ff9b::7f00:1", "2002:7f00:1::", "2002:7f00:1::5", "::ffff:0:7f00:1"]),
            (LinkLocal, &["169.254.0.1", "169.254.169.254", "fe80::1", "febf::1", "::ffff:169.254.169.254"]),
            (LinkLocal, &["64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"]),
            (Unspecified, &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "::2"]),
            (Multicast, &["224.0.0.1", "239.255.255.255", "ff02::1", "ff00::", "::ffff:224.0.0.1"]),
            (Broadcast, &["255.255.255.255", "::ffff:255.255.255.255"]),
            (Metadata, &["100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"]),
            (Metadata, &["::ffff:100.100.100.200"]),
        ] {
            for address in addresses {
                assert_eq!(Guard::of(address.parse().unwrap()), Some(guard), "{address}");
            }
        }
    }

    #[test]
    fn other_addresses_are_not_guarded() {
        for address in [
            "1.1.1.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "128.0.0.1",
            "126.255.255.255",
            "169.253.255.255",
            "169.255.0.0",
            "2606:4700::1111",
            "fd00::1",
            "fec0::1",
            "64:ff9b::101:101",
            "2002:101:101::1",
            "::ffff:10.0.0.1",
            "2001:db8::127.0.0.1",
        ] {
            assert_eq!(Guard::of(address.parse().unwrap()), None, "{address}");
        }
    }
}
