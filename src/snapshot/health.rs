//! Health of what publications lead to: which targets new connections go to.
//!
//! A publication that is watched has its targets checked, one after the other and for ever, by
//! `service::health`. What was found out hangs on the configuration as counters do, so that nothing is
//! published anew, and no flow is decided anew, when a container comes and goes.
//!
//! New connections go to targets that are up. If none is, they go to all as if all were: a check may be wrong, and
//! whoever is refused in any case has lost nothing. Established TCP connections stay where they are, and end by
//! themselves; UDP, whose clients would not notice, is moved to another target at once.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{HEALTH_FALL, HEALTH_RISE};

/// How a target is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// It answers ARP.
    Arp,
    /// It accepts a connection at the first of its published ports.
    Tcp,
}

impl Check {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Check::Arp => "arp",
            Check::Tcp => "tcp",
        }
    }
}

/// How often the targets of a publication are checked, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// How.
    pub check: Check,
    /// Time between two checks of a target.
    pub interval: Duration,
}

/// How a target is, as far as it was found out. It is up until it has failed.
#[derive(Debug, Default)]
pub struct Condition {
    is_down: AtomicBool,
    /// Checks in a row that have said otherwise.
    against: AtomicU8,
}

impl Condition {
    /// Whether new connections may go there.
    pub fn is_up(&self) -> bool {
        !self.is_down.load(Relaxed)
    }

    /// Notes what a check has found: [`HEALTH_FALL`] failures in a row take a target down, and [`HEALTH_RISE`]
    /// successes bring it back. Says whether that changed anything. Only one at a time may check.
    pub fn note(&self, passed: bool) -> bool {
        if passed == self.is_up() {
            self.against.store(0, Relaxed);
            return false;
        }
        let against = self.against.load(Relaxed) + 1;
        let changes = against >= if passed { HEALTH_RISE } else { HEALTH_FALL };
        self.against.store(if changes { 0 } else { against }, Relaxed);
        if changes {
            self.is_down.store(!passed, Relaxed);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_checks_in_a_row_change_a_condition() {
        let condition = Condition::default();
        assert!(condition.is_up());
        assert!(!condition.note(false) && !condition.note(true) && !condition.note(false));
        assert!(condition.is_up(), "no two in a row");
        assert!(condition.note(false) && !condition.is_up());
        assert!(!condition.note(false) && !condition.note(true));
        assert!(!condition.is_up(), "one success is not enough");
        assert!(condition.note(true) && condition.is_up());
    }
}
