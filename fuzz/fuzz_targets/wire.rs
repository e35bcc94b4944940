#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;
#[path = "../packets.rs"]
mod packets;
#[path = "../rig.rs"]
mod rig;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bodies::wire::run(input));
