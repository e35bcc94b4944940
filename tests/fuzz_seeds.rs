//! Replays the fuzz targets' seeds, and every input that once found a fault, in every test run.
//!
//! When the fuzzer finds one, copy its file from `fuzz/artifacts/TARGET/` to `fuzz/regressions/TARGET/` under
//! a name that says what was wrong.

#![allow(clippy::unwrap_used)] // a test that panics says so

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;
#[path = "../fuzz/seeds.rs"]
mod seeds;

#[test]
fn wire() {
    replay("wire", bodies::wire::run);
}

#[test]
fn switch() {
    replay("switch", bodies::switch::run);
}

#[test]
fn networks() {
    replay("networks", bodies::networks::run);
}

#[test]
fn conntrack() {
    replay("conntrack", bodies::conntrack::run);
}

#[test]
fn control() {
    replay("control", bodies::control::run);
}

#[test]
fn coalesce() {
    replay("coalesce", bodies::coalesce::run);
}

#[test]
fn config() {
    replay("config", bodies::config::run);
}

#[test]
fn dhcp() {
    replay("dhcp", bodies::dhcp::run);
}

#[test]
fn dns() {
    replay("dns", bodies::dns::run);
}

#[test]
fn the_committed_seeds_are_those_of_the_source() {
    let update = std::env::var_os("UPDATE_SEEDS").is_some();
    for (target, seeds) in seeds::all() {
        let directory = directory("seeds", target);
        if update {
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir_all(&directory).unwrap();
            seeds.iter().for_each(|(name, bytes)| fs::write(directory.join(name), bytes).unwrap());
        }
        for (name, bytes) in &seeds {
            let committed = fs::read(directory.join(name)).unwrap_or_default();
            assert!(*bytes == committed, "{target}/{name} differs; UPDATE_SEEDS=1 writes it anew");
        }
        assert_eq!(files(&directory).len(), seeds.len(), "{target} has files that nobody makes");
    }
}

/// A fuzzer that begins with files which are refused does not get far.
#[test]
fn the_rich_file_applies() {
    let file = fs::read_to_string(directory("seeds", "config").join("a-rich-file")).unwrap();
    assert_eq!(bodies::config::faults(&file), Vec::<String>::new());
}

/// Runs `body` on every seed and regression of `target`, and on what is in `$CORPUS/TARGET`; and names the file that
/// fails.
fn replay(target: &str, body: fn(&[u8])) {
    let seeds = files(&directory("seeds", target));
    assert!(!seeds.is_empty(), "{target} has no seeds");
    let corpus = std::env::var_os("CORPUS").map(|corpus| files(&Path::new(&corpus).join(target)));
    let regressions = files(&directory("regressions", target));
    for file in seeds.into_iter().chain(regressions).chain(corpus.unwrap_or_default()) {
        let input = fs::read(&file).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| body(&input)));
        assert!(outcome.is_ok(), "{} fails", file.display());
    }
}

fn directory(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}
