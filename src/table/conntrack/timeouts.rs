//! How long a connection lives without traffic.

use std::time::Duration;

/// Timeouts of connections, all settable at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// An established TCP connection: at least 2 hours 4 minutes (RFC 5382 REQ-5).
    pub tcp_established: Duration,
    /// A TCP connection that opens or closes: at least 4 minutes (RFC 5382 REQ-5, RFC 7857 section 2).
    pub tcp_transitory: Duration,
    /// A UDP flow: 5 minutes recommended, at least 2 (RFC 4787 REQ-5).
    pub udp: Duration,
    /// An ICMP query: at least 60 seconds (RFC 5508 REQ-2).
    pub icmp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            tcp_established: Duration::from_secs(7440),
            tcp_transitory: Duration::from_secs(240),
            udp: Duration::from_secs(300),
            icmp: Duration::from_secs(60),
        }
    }
}

impl Timeouts {
    /// The names of the timeouts.
    pub const KEYS: &'static [&'static str] = &["tcp_established", "tcp_transitory", "udp", "icmp"];

    /// The timeout of this name.
    pub fn value(&self, key: &str) -> Option<Duration> {
        match key {
            "tcp_established" => Some(self.tcp_established),
            "tcp_transitory" => Some(self.tcp_transitory),
            "udp" => Some(self.udp),
            "icmp" => Some(self.icmp),
            _ => None,
        }
    }

    /// Sets the timeout of this name; says whether there is one.
    pub fn set(&mut self, key: &str, value: Duration) -> bool {
        let place = match key {
            "tcp_established" => &mut self.tcp_established,
            "tcp_transitory" => &mut self.tcp_transitory,
            "udp" => &mut self.udp,
            "icmp" => &mut self.icmp,
            _ => return false,
        };
        *place = value;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back() {
        let mut timeouts = Timeouts::default();
        for (n, key) in (1..).zip(Timeouts::KEYS) {
            assert!(timeouts.set(key, Duration::from_secs(n)));
            assert_eq!(timeouts.value(key), Some(Duration::from_secs(n)), "{key}");
        }
        assert!(!timeouts.set("sctp", Duration::ZERO));
    }
}
