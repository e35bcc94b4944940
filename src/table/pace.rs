//! How often something may happen: token buckets of one atomic word.
//!
//! A bucket does not count tokens. It keeps the time at which it will be full again; each token that is taken moves
//! that time on by what a token takes to grow, and one may be taken as long as the time is not too far ahead
//! (the generic cell rate algorithm, ITU-T I.371). So there is nothing to refill, and workers share a bucket
//! without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock::Time;

/// How often.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Microseconds that a token takes to grow.
    interval: u64,
    /// How far ahead the time may be, in microseconds.
    slack: u64,
}

impl Rate {
    /// At most `limit` times in any second, a tenth of it at once. `limit` is at least two.
    pub const fn per_second(limit: u32) -> Rate {
        assert!(limit >= 2);
        let at_once = if limit < 20 { 1 } else { limit / 10 };
        // What may come at once comes on top of what grows within the second.
        let interval = 1_000_000_u64.div_ceil((limit - at_once) as u64);
        Rate { interval, slack: (at_once - 1) as u64 * interval }
    }
}

/// A bucket.
#[derive(Debug, Default)]
struct Pace {
    /// When it is full again, in microseconds.
    full: AtomicU64,
}

impl Pace {
    fn take(&self, rate: Rate, now: Time) -> bool {
        let now = now.as_micros();
        let take = |full: u64| (full <= now + rate.slack).then(|| full.max(now) + rate.interval);
        self.full.fetch_update(Relaxed, Relaxed, take).is_ok()
    }
}

/// An allowance for many, of which nobody can take more than a share.
#[derive(Debug)]
pub struct Allowance {
    rate: Rate,
    all: Pace,
    share: Rate,
    each: Box<[Pace]>,
}

impl Allowance {
    /// What happens at `rate` altogether and at no more than `share` for each of those with a number below
    /// `sharers`.
    pub fn new(rate: Rate, share: Rate, sharers: usize) -> Self {
        Allowance { rate, all: Pace::default(), share, each: (0..sharers).map(|_| Pace::default()).collect() }
    }

    /// Whether it may happen once more, for number `who`.
    pub fn take(&self, who: usize, now: Time) -> bool {
        self.each.get(who).is_some_and(|pace| pace.take(self.share, now)) && self.all.take(self.rate, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many of those who ask every 10 microseconds in turn get something in each second.
    fn seconds(allowance: &Allowance, sharers: usize) -> Vec<Vec<u32>> {
        let mut now = Time::from_secs(7);
        let mut second = || {
            let mut taken = vec![0; sharers];
            for n in 0..100_000 {
                taken[n % sharers] += u32::from(allowance.take(n % sharers, now));
                now += Duration::from_micros(10);
            }
            taken
        };
        (0..3).map(|_| second()).collect()
    }

    #[test]
    fn no_second_has_more_than_the_limit_and_none_much_less() {
        for limit in [2, 19, 20, 250, 1000] {
            let allowance = Allowance::new(Rate::per_second(limit), Rate::per_second(limit), 1);
            for taken in seconds(&allowance, 1) {
                assert!(taken[0] <= limit && taken[0] >= limit * 4 / 5, "{taken:?} of {limit}");
            }
        }
    }

    #[test]
    fn one_takes_its_share_and_leaves_the_others_theirs() {
        let allowance = Allowance::new(Rate::per_second(1000), Rate::per_second(250), 8);
        let alone = (0..5000).filter(|_| allowance.take(0, Time::from_secs(1))).count();
        assert_eq!(alone, 25, "a tenth of a share at once");
        assert!(allowance.take(1, Time::from_secs(1)));
        assert!(!allowance.take(8, Time::from_secs(1)), "who has no number has no share");
        for taken in seconds(&allowance, 8) {
            let sum: u32 = taken.iter().sum();
            assert!(sum <= 1000 && taken.iter().all(|&taken| taken <= 250), "{taken:?}");
        }
    }
}
