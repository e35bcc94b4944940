//! ICMP errors: whether one may be sent (RFC 1812 4.3.2.7), how often (4.3.2.8), and where to.

use std::net::Ipv4Addr;

use super::Context;
use super::packet::{is_icmp_error, is_martian_source};
use crate::clock::Time;
use crate::drops::DropReason;
use crate::frame::{Frame, Offload};
use crate::limits::ICMP_ERRORS_PER_SECOND;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmpv4::{self, Error};
use crate::wire::ipv4::Ipv4;

/// A token bucket for ICMP errors, one for each worker.
#[derive(Debug)]
pub(super) struct Limiter {
    tokens: u64,
    /// Microseconds that one token takes to grow.
    interval: u64,
    capacity: u64,
    since: Time,
}

impl Limiter {
    /// The share that one of `workers` workers has of [`ICMP_ERRORS_PER_SECOND`].
    pub(super) fn new(workers: usize) -> Self {
        let rate = (u64::from(ICMP_ERRORS_PER_SECOND) / workers.max(1) as u64).max(1);
        // A tenth of a second's worth may come at once.
        let capacity = (rate / 10).max(1);
        Limiter { tokens: capacity, interval: 1_000_000 / rate, capacity, since: Time::ZERO }
    }

    fn allows(&mut self, now: Time) -> bool {
        let grown = (now.as_micros() - self.since.as_micros().min(now.as_micros())) / self.interval;
        if grown > 0 {
            self.tokens = self.tokens.saturating_add(grown).min(self.capacity);
            self.since = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

/// Refuses the packet in `frame` with `reason`, and tells its sender by `error` if that is allowed.
pub(super) fn refuse(
    cx: &mut Context<'_>,
    frame: &Frame,
    ip: &Ipv4,
    error: Error,
    reason: DropReason,
) -> DropReason {
    let Ok(eth) = Ethernet::parse(frame.bytes()) else { return reason };
    let Some((mac, source)) = speaker(cx, ip) else { return reason };
    let unanswerable = is_icmp_error(ip, frame)
        || ip.fragment_offset > 0
        || eth.dst.is_group()
        || is_martian_source(ip.src)
        || ip.dst.is_multicast()
        || ip.dst.is_broadcast();
    if unanswerable || !cx.limiter.allows(cx.now) {
        return reason;
    }
    let quoted = &frame.bytes()[ethernet::HEADER_LEN..ethernet::HEADER_LEN + ip.total_len];
    let mut bytes = [0; ethernet::HEADER_LEN + icmpv4::ERROR_MAX];
    ethernet::write(&mut bytes, eth.src, mac, ethernet::IPV4);
    let len = error.write(&mut bytes[ethernet::HEADER_LEN..], source, ip.src, quoted);
    let mut answer = cx.out.fresh();
    answer.fill(&bytes[..ethernet::HEADER_LEN + len], Offload::NONE);
    let port = cx.ingress.id;
    cx.originate(answer, [port]);
    reason
}

/// The addresses that the switch speaks with on the link that the packet came from.
fn speaker(cx: &Context<'_>, ip: &Ipv4) -> Option<(crate::addr::MacAddr, Ipv4Addr)> {
    match cx.ingress.network {
        Some(network) => cx.snapshot.network(network).map(|network| (network.gateway_mac, network.gateway)),
        None => cx.snapshot.uplink.as_ref().map(|uplink| (uplink.mac, ip.dst)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_rate_holds_over_any_time() {
        let mut limiter = Limiter::new(2);
        let mut now = Time::from_secs(1);
        let mut sent = 0;
        for _ in 0..200_000 {
            sent += u32::from(limiter.allows(now));
            now += Duration::from_micros(50);
        }
        // Ten seconds at half of the limit, and the bucket that was full.
        assert!((4900..=5060).contains(&sent), "{sent}");
    }
}
