//! How long a worker without work looks for more before it sleeps.
//!
//! To sleep and to be woken costs each packet of a conversation more than all the rest of the switch: some
//! ten microseconds a hop. To look on costs a core. What pays depends on when the next frame comes, and the
//! best guess at that is the pause before the last one. It is the rule by which KVM decides whether to halt
//! a virtual CPU (Linux `virt/kvm/kvm_main.c`, `kvm_vcpu_halt`):
//!
//! | the pause was | so the worker |
//! |---|---|
//! | within what it looks for | looks as long the next time |
//! | longer, but no longer than [`LONGEST`] | looks twice as long |
//! | longer than that | looks half as long, and below [`SHORTEST`] not at all |
//! | ended by frames that are no part of a conversation | looks half as long, too |
//!
//! Who is idle for good thus sleeps, and a switch with a frame now and then does not spin for it.
//!
//! Only a conversation gains from looking: in it, somebody waits for each frame. A port that has brought burst after
//! burst without being sent anything ([`MONOLOGUE`](super::MONOLOGUE)) makes a flood in one direction, which comes no
//! sooner if it is looked for; but the worker's core would never be idle, and the kernel, which places who wakes up on
//! an idle core, would let them stand in line behind whoever makes the flood.
//!
//! Between
//! two looks the worker lets others run: on a small machine they may be those who make the next frame. If one
//! of them keeps the core, the worker sleeps instead, and does so for the next [`RESPITE`]: a sleeper that is
//! woken gets the core sooner than one who stands in line for it.

use std::time::Duration;

use crate::clock::Time;

/// Longest time that a worker looks for work.
const LONGEST: Duration = Duration::from_micros(100);

/// Shortest time worth looking: about what going to sleep and being woken takes.
const SHORTEST: Duration = Duration::from_micros(10);

/// A look that took longer than this was interrupted by somebody who computes. Whoever makes the next frame
/// of a conversation is done sooner.
const INTERRUPTED: Duration = Duration::from_micros(250);

/// How long not to look at all after that.
const RESPITE: Duration = Duration::from_millis(50);

/// What a worker does while it has no work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PollMode {
    /// Looks for more for a while, as long as that pays, then sleeps.
    #[default]
    Adaptive,
    /// Never sleeps: lowest latency, one core for each worker.
    Busy,
    /// Sleeps at once: least CPU time.
    Sleep,
}

impl PollMode {
    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            PollMode::Adaptive => "adaptive",
            PollMode::Busy => "busy",
            PollMode::Sleep => "sleep",
        }
    }
}

impl std::str::FromStr for PollMode {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let modes = [PollMode::Adaptive, PollMode::Busy, PollMode::Sleep];
        modes.into_iter().find(|mode| mode.as_str() == name).ok_or(())
    }
}

/// What a worker without work is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    /// Look again, after letting others run.
    Look,
    /// Sleep until it is woken.
    Sleep,
}

/// A worker's patience: it learns how long looking for work pays.
#[derive(Debug)]
pub(super) struct Patience {
    mode: PollMode,
    /// How long to look.
    span: Duration,
    /// Since when there has been no work.
    idle_since: Option<Time>,
    /// When it was last asked.
    looked: Time,
    /// Until when looking is unwanted.
    respite: Time,
}

impl Patience {
    /// Patience that has learned nothing yet.
    pub(super) fn new(mode: PollMode) -> Self {
        Patience { mode, span: Duration::ZERO, idle_since: None, looked: Time::ZERO, respite: Time::ZERO }
    }

    /// For how long a port that brings nothing is looked at nevertheless, while there is other work too.
    pub(super) fn lingers(&self) -> Duration {
        match self.mode {
            PollMode::Adaptive if !self.span.is_zero() => LONGEST,
            PollMode::Adaptive | PollMode::Sleep => Duration::ZERO,
            PollMode::Busy => Duration::MAX,
        }
    }

    /// There was work at `now`; whether it `conversed`, and was no flood alone.
    pub(super) fn worked(&mut self, now: Time, conversed: bool) {
        let Some(since) = self.idle_since.take() else { return };
        let pause = now.since(since);
        if pause > LONGEST || !conversed {
            self.shrink();
        } else if pause > self.span {
            self.span = (self.span * 2).clamp(SHORTEST, LONGEST);
        }
    }

    /// There was no work at `now`: what to do until there is.
    pub(super) fn idle(&mut self, now: Time) -> Idle {
        let since = *self.idle_since.get_or_insert(now);
        let last = std::mem::replace(&mut self.looked, now);
        match self.mode {
            PollMode::Busy => Idle::Look,
            PollMode::Sleep => Idle::Sleep,
            PollMode::Adaptive if since < now && now.since(last) > INTERRUPTED => {
                self.respite = now + RESPITE;
                Idle::Sleep
            }
            PollMode::Adaptive if now < self.respite => Idle::Sleep,
            PollMode::Adaptive if now.since(since) < self.span => Idle::Look,
            PollMode::Adaptive => Idle::Sleep,
        }
    }

    fn shrink(&mut self) {
        self.span /= 2;
        if self.span < SHORTEST {
            self.span = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `pause` pass without work, looking every microsecond. Says whether that ended in sleep.
    fn wait(patience: &mut Patience, now: &mut Time, pause: Duration) -> bool {
        let end = *now + pause;
        let mut slept = false;
        while *now < end {
            if patience.idle(*now) == Idle::Sleep {
                slept = true;
                *now = end;
            } else {
                *now += Duration::from_micros(1);
            }
        }
        patience.worked(*now, true);
        slept
    }

    #[test]
    fn it_looks_as_long_as_pauses_are_short_and_sleeps_through_long_ones() {
        let (mut patience, mut now) = (Patience::new(PollMode::Adaptive), Time::from_secs(1));
        let (short, long) = (Duration::from_micros(30), Duration::from_millis(1));
        let slept: Vec<_> = (0..4).map(|_| wait(&mut patience, &mut now, short)).collect();
        assert_eq!(slept, [true, true, true, false], "10, 20, 40 microseconds");
        (0..3).for_each(|_| assert!(wait(&mut patience, &mut now, long)));
        assert_eq!(patience.lingers(), Duration::ZERO);
        assert_eq!(patience.idle(now), Idle::Sleep);
    }

    #[test]
    fn a_flood_in_one_direction_is_not_looked_for() {
        let (mut patience, mut now) = (Patience::new(PollMode::Adaptive), Time::from_secs(1));
        let pause = Duration::from_micros(30);
        for _ in 0..4 {
            wait(&mut patience, &mut now, pause);
        }
        assert!(patience.lingers() > Duration::ZERO, "in a conversation");
        for _ in 0..4 {
            patience.idle(now);
            now += pause;
            patience.worked(now, false);
        }
        assert_eq!((patience.idle(now), patience.lingers()), (Idle::Sleep, Duration::ZERO));
        // A conversation beside it, of one frame in four, does not change that.
        for frame in 0..100 {
            patience.idle(now);
            now += pause;
            patience.worked(now, frame % 4 == 0);
        }
        assert!(patience.span <= SHORTEST, "{:?}", patience.span);
    }

    #[test]
    fn it_never_looks_longer_than_the_longest() {
        let (mut patience, mut now) = (Patience::new(PollMode::Adaptive), Time::from_secs(1));
        for _ in 0..20 {
            wait(&mut patience, &mut now, LONGEST);
        }
        assert_eq!(patience.span, LONGEST);
    }

    #[test]
    fn it_sleeps_at_once_when_others_want_the_core() {
        let (mut patience, mut now) = (Patience::new(PollMode::Adaptive), Time::from_secs(1));
        for _ in 0..10 {
            wait(&mut patience, &mut now, Duration::from_micros(60));
        }
        assert_eq!(patience.idle(now), Idle::Look);
        assert_eq!(patience.idle(now + Duration::from_micros(2)), Idle::Look);
        assert_eq!(patience.idle(now + Duration::from_micros(300)), Idle::Sleep);
        patience.worked(now, true);
        now += RESPITE;
        assert_eq!(patience.idle(now), Idle::Sleep, "a respite");
        patience.worked(now, true);
        now += Duration::from_millis(1);
        assert_eq!(patience.idle(now), Idle::Look, "it is over");
    }

    #[test]
    fn the_other_modes_do_not_learn() {
        for (mode, expected) in [(PollMode::Busy, Idle::Look), (PollMode::Sleep, Idle::Sleep)] {
            let mut patience = Patience::new(mode);
            for micros in [1, 10, 10_000_000] {
                patience.worked(Time::from_micros(micros), true);
                assert_eq!(patience.idle(Time::from_micros(micros + 5)), expected);
                assert_eq!(patience.lingers().is_zero(), mode == PollMode::Sleep);
            }
        }
        assert_eq!("busy".parse(), Ok(PollMode::Busy));
        assert_eq!("eager".parse::<PollMode>(), Err(()));
    }
}
