//! What the figures depend on: the machine, and how much of it was busy.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

/// The facts to state beside every figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor, as it calls itself.
    pub(crate) cpu: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Seconds since 1970, when the measurement began.
    pub(crate) at: u64,
    /// How busy its cores were with something else just before, in percent.
    pub(crate) busy_before: f64,
}

/// How long it is looked whether somebody else uses the machine.
const LOOK: Duration = Duration::from_millis(300);

impl Machine {
    /// This machine, now. Takes [`LOOK`].
    pub(crate) fn here() -> Machine {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let before = busy_time();
        thread::sleep(LOOK);
        let busy = busy_time().saturating_sub(before).as_secs_f64() / LOOK.as_secs_f64() / cores as f64;
        Machine {
            cpu: cpu_model(&info).unwrap_or("unknown").to_owned(),
            cores,
            busy_before: busy * 100.0,
            kernel: kernel.trim_end().to_owned(),
            at: since.map_or(0, |since| since.as_secs()),
        }
    }
}

fn cpu_model(info: &str) -> Option<&str> {
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

/// The time that all cores together have been busy since the system started: in processes, in the kernel,
/// and in interrupts, where much of a network's work is done on nobody's account. The kernel counts in
/// ticks, mostly of 10 ms.
pub(crate) fn busy_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1).unsigned_abs();
    Duration::from_millis(busy_ticks(&stat).unwrap_or(0) * 1000 / ticks)
}

/// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Option<Vec<u64>> = all.split_whitespace().take(7).map(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq] = fields?[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_stat_is_read() {
        let stat = "cpu  10 1 20 1000 7 3 4 9 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(38));
        assert_eq!(busy_ticks("cpu  10 1"), None);
        assert_eq!(busy_ticks(""), None);
    }

    #[test]
    fn the_processor_is_named() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Fast One @ 3 GHz\n"), Some("Fast One @ 3 GHz"));
        assert_eq!(cpu_model("processor\t: 0\n"), None);
    }

    #[test]
    fn work_makes_the_machine_busy() {
        let before = busy_time();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        assert!(busy_time() > before);
    }
}
