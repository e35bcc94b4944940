//! What goes on, on standard error: one line that changes on a terminal, a line for each case elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// How far we are.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    begun: Instant,
    steps: usize,
    done: usize,
    last: String,
}

impl Progress {
    /// Of so many steps, none is done.
    pub(crate) fn new(steps: usize) -> Progress {
        Progress {
            terminal: stderr().is_terminal(),
            begun: Instant::now(),
            steps,
            done: 0,
            last: String::new(),
        }
    }

    /// A step begins: of `what`, with `detail`.
    pub(crate) fn step(&mut self, what: &str, detail: &str) {
        let position = format!("[{}/{}]", self.done + 1, self.steps);
        if self.terminal {
            let left = remaining(self.begun.elapsed(), self.done, self.steps);
            let left = left.map_or_else(String::new, |left| format!(", {} s left", left.as_secs()));
            // Erase in line, ECMA-48.
            say(&format!("\r\x1b[K{position} {what}: {detail}{left}"));
        } else if self.last != what {
            say(&format!("{position} {what}\n"));
        }
        what.clone_into(&mut self.last);
        self.done += 1;
    }

    /// Says something that stays.
    pub(crate) fn note(&self, text: &str) {
        say(&if self.terminal { format!("\r\x1b[K{text}\n") } else { format!("{text}\n") });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            say("\r\x1b[K");
        }
    }
}

/// Nobody may be reading.
fn say(text: &str) {
    let mut stderr = stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// How long the rest takes, if it goes on like this.
fn remaining(elapsed: Duration, done: usize, steps: usize) -> Option<Duration> {
    (done > 0).then(|| elapsed.mul_f64(steps.saturating_sub(done) as f64 / done as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_goes_on_like_this() {
        let second = Duration::from_secs(1);
        assert_eq!(remaining(second, 0, 10), None);
        assert_eq!(remaining(second, 2, 10), Some(4 * second));
        assert_eq!(remaining(second, 12, 10), Some(Duration::ZERO));
    }
}
