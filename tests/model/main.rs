//! The switch against a model of it: random histories, and after every step the same frames and the same tables.
//!
//! The models are written as plainly as the rules can be said, with lists that are searched from end to end and
//! without a thought for speed: [`bridge`] is what IEEE 802.1D asks of a bridge, [`nat`] what RFC 4787, 5382 and
//! 5508 ask of an address translator. A history that tells them apart is shrunk to a short one.
//!
//! `PROPTEST_CASES=10000 cargo test --test model` runs more histories than the few that every test run has.

#![allow(clippy::unwrap_used)] // a test that panics says so

use proptest::test_runner::Config;

mod bridge;
mod nat;

/// How many histories are tried.
fn config() -> Config {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let few = Config { cases: 64, ..Config::default() };
    // A history that fails becomes a test with a name, not a line in a file of seeds.
    Config {
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..if asked { Config::default() } else { few }
    }
}
