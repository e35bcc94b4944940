//! The machine's cores.

use std::time::Duration;

/// Cores that this process may use.
pub fn count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// For how long the machine's cores have been idle since it started, all together, to a hundredth of a second
/// (`/proc/uptime`, proc(5)). `None` where that is not told.
pub fn idle_time() -> Option<Duration> {
    parse(&std::fs::read_to_string("/proc/uptime").ok()?)
}

fn parse(uptime: &str) -> Option<Duration> {
    let seconds = uptime.split_whitespace().nth(1)?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_read() {
        assert_eq!(parse("350735.47 234388.90\n"), Some(Duration::from_millis(234_388_900)));
        assert_eq!(parse("350735.47"), None);
        assert_eq!(parse("1 -1"), None);
        assert_eq!(parse(""), None);
    }
}
