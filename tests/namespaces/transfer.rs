//! A file of 1 GiB crosses the switch in every direction, read and written in every way, and is the same.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use libtest_mimic::Failed;
use sha2::{Digest, Sha256};
use vswitchd::lab::rig::Rig;
use vswitchd::lab::traffic::{Connection, Pattern, Talk, connect};
use vswitchd::port::exchange::{Exchange, Io};

use crate::switch::{Switch, across, inwards, outwards};
use crate::{Outcome, Test, ensure};

/// The tests of this file. They need the machine for themselves.
pub(crate) const ALONE: &[Test] = &[
    ("a_gibibyte_arrives_by_io_uring", a_gibibyte_arrives_by_io_uring),
    ("a_gibibyte_arrives_by_plain_calls", || transfer("syscall", &["--io", "syscall", "--poll", "sleep"])),
    ("a_gibibyte_arrives_without_offload", a_gibibyte_arrives_without_offload),
];

const FILE: u64 = 1 << 30;

/// What `--io auto` comes to here.
fn best_io() -> &'static str {
    if Exchange::new(Io::Uring).is_ok() { "uring" } else { "syscall" }
}

fn a_gibibyte_arrives_by_io_uring() -> Outcome {
    if best_io() == "uring" { transfer("uring", &["--io", "uring"]) } else { transfer("syscall", &[]) }
}

fn a_gibibyte_arrives_without_offload() -> Outcome {
    transfer(best_io(), &["--offload", "off"])
}

fn transfer(io: &str, arguments: &[&str]) -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, arguments)?;
    let status = switch.list("status")?;
    ensure!(status["io"] == io, "{} instead of {io}", status["io"]);
    let (one, two) = (switch.container(&rig, 11)?, switch.container(&rig, 12)?);
    switch.done("publish add 8080:5003/tcp --to c12")?;
    send_file("container to container", across(&one, &two, 12), FILE)?;
    send_file("container to internet", outwards(&one, &rig), FILE)?;
    send_file("internet to published port", inwards(&rig, &two, 12), FILE)?;
    Ok(())
}

/// Sends a file of so many bytes, and compares what arrives by its SHA-256.
pub(crate) fn send_file(what: &str, talk: Talk<'_>, bytes: u64) -> Outcome {
    let Connection { mut client, mut server, .. } = connect(talk)?;
    let expected = digest(bytes);
    let begun = Instant::now();
    let arrived = thread::scope(|scope| {
        let server = scope.spawn(move || -> Result<(u64, Vec<u8>), Failed> {
            let (mut length, mut digest, mut block) = (0, Sha256::new(), vec![0; 1 << 18]);
            loop {
                match server.read(&mut block)? {
                    0 => return Ok((length, digest.finalize().to_vec())),
                    part => {
                        digest.update(&block[..part]);
                        length += part as u64;
                    }
                }
            }
        });
        let mut file = Pattern::new(bytes);
        while let Some(block) = file.next_block() {
            client.write_all(block)?;
        }
        client.shutdown(Shutdown::Write)?;
        server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let took = begun.elapsed();
    println!("{what}: {:.2} Gbit/s", bytes as f64 * 8e-9 / took.as_secs_f64());
    ensure!(arrived.0 == bytes, "{what}: {} bytes arrived", arrived.0);
    ensure!(arrived.1 == expected, "{what}: another file arrived");
    Ok(())
}

/// The digest of the file of so many bytes.
fn digest(bytes: u64) -> Vec<u8> {
    static DIGESTS: Mutex<BTreeMap<u64, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut digests = DIGESTS.lock().unwrap_or_else(PoisonError::into_inner);
    let digest = digests.entry(bytes).or_insert_with(|| {
        let (mut file, mut digest) = (Pattern::new(bytes), Sha256::new());
        while let Some(block) = file.next_block() {
            digest.update(block);
        }
        digest.finalize().to_vec()
    });
    digest.clone()
}
