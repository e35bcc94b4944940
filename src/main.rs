//! `vswitchd`: the switch.

fn main() {}
