//! Configuration files, right and wrong, applied to a switch on a host in memory.
//!
//! An input is one or two files, with a line `---` between them. What must hold: nothing panics; a file with a fault
//! changes nothing, and its faults have lines that it has; a dry run tells what the run then does; and what the switch
//! dumps applies to the same state, and changes nothing.

use vswitchd::clock::Time;
use vswitchd::control::apply::Control;
use vswitchd::control::memory::MemoryHost;
use vswitchd::control::request::{Apply, Request};
use vswitchd::control::response::{Applied, Response};

use super::control::{control, hangs_together, one_line};

/// What stands between two files.
pub const NEXT: &str = "\n---\n";

/// Applies the files of an input, one after the other.
pub fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let mut world = World { control: control(), now: Time::from_secs(10) };
    for file in text.split(NEXT).take(2) {
        world.apply(file);
    }
}

/// What is wrong with a file, for a switch that has nothing yet.
pub fn faults(text: &str) -> Vec<String> {
    let mut world = World { control: control(), now: Time::from_secs(10) };
    let Some(applied) = world.ask(text, false) else { return vec!["it is refused".into()] };
    applied.faults.iter().map(|fault| format!("line {}: {}", fault.line, fault.error)).collect()
}

struct World {
    control: Control<MemoryHost>,
    now: Time,
}

impl World {
    fn apply(&mut self, text: &str) {
        let before = self.dump();
        let told = self.ask(text, true);
        assert_eq!(self.dump(), before, "a dry run changes nothing");
        let done = self.ask(text, false);
        hangs_together(&self.control);
        let Some(done) = done else {
            assert_eq!(self.dump(), before, "what is refused changes nothing");
            return;
        };
        for fault in &done.faults {
            one_line(&fault.error);
            assert!((1..=text.lines().count().max(1)).contains(&fault.line), "line {}: {text}", fault.line);
        }
        if !done.faults.is_empty() {
            assert_eq!(self.dump(), before, "a file with faults changes nothing: {:?}", done.faults);
            return;
        }
        assert_eq!(told.map(|told| told.changes), Some(done.changes), "a dry run tells what is done");
        let dumped = self.dump();
        let again = self.ask(&dumped, false).expect("what is dumped applies");
        assert!(again.faults.is_empty() && again.changes.is_empty(), "{again:?}\n{dumped}");
        assert_eq!(self.dump(), dumped);
    }

    fn ask(&mut self, text: &str, dry_run: bool) -> Option<Applied> {
        self.now += std::time::Duration::from_secs(1);
        match self.control.apply(Request::Apply(Apply { text: text.to_owned(), dry_run }), self.now) {
            Ok(Response::Applied(applied)) => Some(applied),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                one_line(&error);
                None
            }
        }
    }

    fn dump(&mut self) -> String {
        let request = Request::parse("dump", "", b"").expect("a request");
        match self.control.apply(request, self.now) {
            Ok(Response::Configuration(configuration)) => configuration.text,
            other => panic!("{other:?}"),
        }
    }
}
