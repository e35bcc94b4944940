//! A rate limit in one word: the generic cell rate algorithm (GCRA, ITU-T I.371), which is a token bucket that
//! stores when it will be full again instead of how full it is.
//!
//! An event is allowed while the bucket is not empty, which is while that moment lies at most `burst` - 1 intervals
//! ahead, and moves it by one interval. So exactly `burst` events are allowed at once after a pause, and one every
//! interval from then on. It needs no timer, no lock, and no memory but the word; several threads may share it.
//! An [`Allowance`] is a limit that nobody can use up for others.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Time;

/// How many events are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds between two events.
    interval: u64,
    /// Nanoseconds that may be used ahead.
    tolerance: u64,
}

impl Rate {
    /// So many a second, of which `burst` may come at once; at least one of either.
    pub const fn per_second(count: u32, burst: u32) -> Self {
        let interval = 1_000_000_000 / if count == 0 { 1 } else { count as u64 };
        Rate { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1) as u64) }
    }

    /// At most `limit` within any second, a tenth of them at once. `limit` is at least two.
    pub const fn within_a_second(limit: u32) -> Self {
        assert!(limit >= 2);
        let burst = if limit < 20 { 1 } else { limit / 10 };
        // What may come at once comes on top of what is allowed in the course of the second.
        Rate::per_second(limit - burst, burst)
    }

    /// One within every `interval`.
    pub const fn every(interval: Duration) -> Self {
        let interval = interval.as_secs() * 1_000_000_000 + interval.subsec_nanos() as u64;
        Rate { interval, tolerance: 0 }
    }
}

/// What has been used of a [`Rate`].
#[derive(Debug, Default)]
pub struct RateLimit {
    /// When all that was allowed has been paid for, in nanoseconds since the start.
    paid: AtomicU64,
}

impl RateLimit {
    /// Whether an event that counts for `count` may happen now. The last one of a burst may go over it.
    pub fn allows(&self, rate: Rate, count: u32, now: Time) -> bool {
        let now = now.as_micros().saturating_mul(1000);
        let cost = rate.interval.saturating_mul(u64::from(count));
        let charge = |paid: u64| {
            let from = paid.max(now);
            (from - now <= rate.tolerance).then(|| from.saturating_add(cost))
        };
        self.paid.fetch_update(Relaxed, Relaxed, charge).is_ok()
    }
}

/// An allowance for many, of which nobody can take more than a share.
#[derive(Debug)]
pub struct Allowance {
    rate: Rate,
    all: RateLimit,
    share: Rate,
    each: Box<[RateLimit]>,
}

impl Allowance {
    /// What happens at `rate` altogether and at no more than `share` for each of those with a number below
    /// `sharers`.
    pub fn new(rate: Rate, share: Rate, sharers: usize) -> Self {
        let each = (0..sharers).map(|_| RateLimit::default()).collect();
        Allowance { rate, all: RateLimit::default(), share, each }
    }

    /// Whether it may happen once more, for number `who`.
    pub fn allows(&self, who: usize, now: Time) -> bool {
        self.each.get(who).is_some_and(|own| own.allows(self.share, 1, now))
            && self.all.allows(self.rate, 1, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(limit: &RateLimit, rate: Rate, tries: u32, now: Time) -> u32 {
        (0..tries).map(|_| u32::from(limit.allows(rate, 1, now))).sum()
    }

    #[test]
    fn a_burst_comes_at_once_and_then_the_rate_holds() {
        let (limit, rate) = (RateLimit::default(), Rate::per_second(100, 10));
        let mut now = Time::from_secs(1);
        assert_eq!(allowed(&limit, rate, 1000, now), 10);
        let mut sum = 0;
        for _ in 0..10_000 {
            now += Duration::from_millis(1);
            sum += allowed(&limit, rate, 3, now);
        }
        assert_eq!(sum, 1000, "a hundred a second for ten seconds");
        now += Duration::from_secs(3600);
        assert_eq!(allowed(&limit, rate, 1000, now), 10, "what is not used does not add up");
    }

    #[test]
    fn an_event_may_count_for_many() {
        let (limit, rate) = (RateLimit::default(), Rate::per_second(100, 100));
        let now = Time::from_secs(1);
        assert!(limit.allows(rate, 99, now) && limit.allows(rate, 60, now) && !limit.allows(rate, 1, now));
    }

    #[test]
    fn once_within_an_interval() {
        let (limit, rate) = (RateLimit::default(), Rate::every(Duration::from_secs(10)));
        let at = Time::from_secs;
        let allowed = [1, 2, 10, 11, 12, 21].map(|secs| limit.allows(rate, 1, at(secs)));
        assert_eq!(allowed, [true, false, false, true, false, true]);
    }

    /// How many of those who ask every 10 microseconds in turn get something in each second.
    fn seconds(allowance: &Allowance, sharers: usize) -> Vec<Vec<u32>> {
        let mut now = Time::from_secs(7);
        let mut second = || {
            let mut taken = vec![0; sharers];
            for n in 0..100_000 {
                taken[n % sharers] += u32::from(allowance.allows(n % sharers, now));
                now += Duration::from_micros(10);
            }
            taken
        };
        (0..3).map(|_| second()).collect()
    }

    #[test]
    fn no_second_has_more_than_the_limit_and_none_much_less() {
        for limit in [2, 19, 20, 250, 1000] {
            let allowance = Allowance::new(Rate::within_a_second(limit), Rate::within_a_second(limit), 1);
            for taken in seconds(&allowance, 1) {
                assert!(taken[0] <= limit && taken[0] >= limit * 4 / 5, "{taken:?} of {limit}");
            }
        }
    }

    #[test]
    fn one_takes_its_share_and_leaves_the_others_theirs() {
        let allowance = Allowance::new(Rate::within_a_second(1000), Rate::within_a_second(250), 8);
        let alone = (0..5000).filter(|_| allowance.allows(0, Time::from_secs(1))).count();
        assert_eq!(alone, 25, "a tenth of a share at once");
        assert!(allowance.allows(1, Time::from_secs(1)));
        assert!(!allowance.allows(8, Time::from_secs(1)), "who has no number has no share");
        for taken in seconds(&allowance, 8) {
            let sum: u32 = taken.iter().sum();
            assert!(sum <= 1000 && taken.iter().all(|&taken| taken <= 250), "{taken:?}");
        }
    }
}
