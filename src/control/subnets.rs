//! Which prefix a network gets that names none: the first private one that nothing else has.
//!
//! A prefix is taken if the host, one of its VPNs or a network of the switch has an address in it or a route that
//! meets it. Default routes meet everything and do not count.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Whether two prefixes have an address in common.
pub(super) fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first candidate that meets none of the prefixes: 172.30.0.0/16 and what follows it in 172.16.0.0/12, the
/// /16s of 10.0.0.0/8, then what precedes it, where Docker begins, and last the /24s of 192.168.0.0/16, where
/// homes and offices are (RFC 1918).
pub(super) fn first_free(taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let large =
        (30..=31).map(|b| (172, b)).chain((0..=255).map(|b| (10, b))).chain((16..=29).map(|b| (172, b)));
    let large = large.filter_map(|(a, b)| Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), 16).ok());
    let small = (0..=255).filter_map(|c| Ipv4Net::new(Ipv4Addr::new(192, 168, c, 0), 24).ok());
    large.chain(small).find(|candidate| is_free(candidate, taken))
}

/// Whether a prefix meets none of these.
pub(super) fn is_free(candidate: &Ipv4Net, taken: &[Ipv4Net]) -> bool {
    taken.iter().filter(|prefix| prefix.prefix_len() > 0).all(|prefix| !overlap(candidate, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_prefix_overlaps_no_route() {
        let free = |taken: &[&str]| {
            let taken: Vec<Ipv4Net> = taken.iter().map(|text| text.parse().unwrap()).collect();
            first_free(&taken).map(|prefix| prefix.to_string())
        };
        assert_eq!(free(&["0.0.0.0/0", "192.168.1.5/24"]).as_deref(), Some("172.30.0.0/16"));
        assert_eq!(free(&["172.30.7.0/24"]).as_deref(), Some("172.31.0.0/16"));
        assert_eq!(free(&["172.30.255.255/32", "172.31.0.0/30"]).as_deref(), Some("10.0.0.0/16"));
        assert_eq!(free(&["172.16.0.0/12", "10.0.2.15/24"]).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(free(&["172.16.0.0/12", "10.0.0.0/8"]).as_deref(), Some("192.168.0.0/24"));
        assert_eq!(free(&["172.16.0.0/12", "10.0.0.0/8", "192.168.0.0/16"]), None);
    }
}
