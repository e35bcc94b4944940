//! `nft`: one that runs for as long as a guard does, or once.
//!
//! The one that runs on reads commands from a pipe, one transaction a line, and ends with the pipe. What it says comes
//! back by another pipe. It does not say that it is done with a line, so a command follows that only prints.

use std::fs;
use std::io::{PipeReader, Read, Write as _};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, Command, Stdio};

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::poll::{PollFd, PollFlags, poll};

use crate::host::{ErrorKind, HostError};

/// How long `nft` may take for one transaction, in milliseconds.
const NFT_TIMEOUT_MS: u16 = 3000;

/// A command with an answer that no transaction prints: what was said before it has been dealt with.
const MARK: &str = "describe tcp dport";
const MARK_ANSWER: &str = "(internet network service)";

/// A running `nft -i`.
#[derive(Debug)]
pub(super) struct Session {
    child: Child,
    commands: Option<ChildStdin>,
    answers: PipeReader,
    socket: Option<u32>,
}

impl Session {
    /// Starts it.
    ///
    /// # Errors
    /// `NotFound` if there is no `nft`.
    pub(super) fn start() -> Result<Session, HostError> {
        let (answers, writer) = std::io::pipe().map_err(|error| HostError::os("pipe", error))?;
        let errors = writer.try_clone().map_err(|error| HostError::os("pipe", error))?;
        let mut child = nft()
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(writer)
            .stderr(errors)
            .spawn()
            .map_err(|error| not_started(&error))?;
        let commands = child.stdin.take();
        Ok(Session { child, commands, answers, socket: None })
    }

    /// The process.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// The number of its netlink socket, as the kernel's messages name who sent a request (`nlmsg_pid`).
    pub(super) fn socket(&self) -> Option<u32> {
        self.socket
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Has one line of commands done, as one transaction.
    ///
    /// # Errors
    /// What `nft` says; that it does not answer.
    pub(super) fn transact(&mut self, commands: &str) -> Result<(), HostError> {
        let silent = || HostError::new(ErrorKind::Other, "nft -i", "it ended or does not answer");
        let Some(stdin) = &mut self.commands else { return Err(silent()) };
        let lines = format!("{commands}\n{MARK}\n");
        stdin.write_all(lines.as_bytes()).map_err(|_| silent())?;
        let mut said = Vec::new();
        loop {
            let mut ready = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut ready, NFT_TIMEOUT_MS), Ok(1..)) {
                return Err(silent());
            }
            let mut part = [0; 4096];
            match self.answers.read(&mut part) {
                Ok(0) | Err(_) => return Err(silent()),
                Ok(length) => said.extend_from_slice(&part[..length]),
            }
            let said = String::from_utf8_lossy(&said);
            if let Some(end) = said.find(MARK_ANSWER) {
                // Now it has one for certain, and keeps it.
                self.socket = self.socket.or_else(|| netlink_socket(self.child.id()));
                return refusal(&said[..end]).map_or(Ok(()), Err);
            }
        }
    }

    /// Ends the process, and with it the table that it owns.
    fn end(&mut self) {
        self.commands = None;
        // It reads end of file and exits; killing it does the same at once and cannot fail to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs `nft` once with this input, and returns its output.
///
/// # Errors
/// What it says; `NotFound` if there is none.
pub(super) fn run(arguments: &[&str], input: &str) -> Result<String, HostError> {
    let mut child = nft()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it does not read, its exit status says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| HostError::os("nft", error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(refusal(&said).unwrap_or_else(|| {
        HostError::new(ErrorKind::Other, "nft", format!("{}: {}", output.status, said.trim()))
    }))
}

/// `nft` in a bare environment: English answers, and a home in which no history of `-i` can be kept.
fn nft() -> Command {
    let mut command = Command::new("nft");
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", "/dev/null").env("LC_ALL", "C");
    command
}

/// The number of the socket by which a process speaks to nf_tables, by /proc/net/netlink: its columns are the kernel's
/// address, the protocol, the number, six others and the inode.
fn netlink_socket(process: u32) -> Option<u32> {
    let links = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let open: Vec<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let table = fs::read_to_string(format!("/proc/{process}/net/netlink")).ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let &[_, protocol, number, .., inode] = &fields[..] else { return None };
        let is_ours = open.iter().any(|link| *link == format!("socket:[{inode}]"));
        (protocol.parse() == Ok(NETLINK_NETFILTER) && is_ours).then(|| number.parse().ok())?
    })
}

fn not_started(error: &std::io::Error) -> HostError {
    let hint = "install the package nftables, or use --uplink-mode own";
    HostError::new(ErrorKind::NotFound, "nft", error.to_string()).hint(hint)
}

/// The refusal in what `nft` said, if there is one. It prints the reason, then the command line.
fn refusal(said: &str) -> Option<HostError> {
    let line = said.lines().find(|line| line.contains("Error: ") || line.contains("not permitted"))?;
    let why = line.trim_start_matches("Error: ").to_owned();
    let mut error = HostError::new(ErrorKind::Other, "nft", why);
    if line.contains("not permitted") {
        error.kind = ErrorKind::Permission;
        error = error.hint("run as root, or with CAP_NET_ADMIN");
    }
    Some(error)
}

#[cfg(test)]
mod tests {
    use netlink_sys::Socket;

    use super::*;

    #[test]
    fn a_refusal_is_found_in_what_nft_prints() {
        let said = "Error: Could not process rule: Operation not permitted\nadd table netdev x\n^^^\n";
        let error = refusal(said).unwrap();
        assert_eq!(error.kind, ErrorKind::Permission);
        assert!(error.to_string().contains("Could not process rule"), "{error}");
        assert_eq!(refusal("payload expression, datatype inet_service"), None);
    }

    #[test]
    fn a_process_is_known_by_its_socket() {
        let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
        let number = socket.bind_auto().unwrap().port_number();
        assert_eq!(netlink_socket(std::process::id()), Some(number));
        assert_eq!(netlink_socket(u32::MAX), None);
    }
}
