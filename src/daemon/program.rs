//! The daemon as a process: its log, its word to whoever started it, and the signals that end it.

use tokio::signal::unix::{SignalKind, signal};

use super::Options;
use super::arguments::Arguments;
use crate::control::error::Error;

/// Runs the switch that the command line asks for. It logs on stderr, says `ready` on stdout and to systemd
/// when ports can be added, and ends in good order on SIGTERM or SIGINT.
///
/// # Errors
/// Why it cannot start.
pub fn run(arguments: &Arguments, options: Options) -> Result<(), Error> {
    log_to_stderr(arguments.log.as_deref(), "info");
    super::run(options, ready, signalled())
}

/// Logs on stderr: what `filter` says, else `$RUST_LOG`, else `default`. Once per process.
pub fn log_to_stderr(filter: Option<&str>, default: &str) {
    let environment = env_logger::Env::default().default_filter_or(default);
    let mut logger = env_logger::Builder::from_env(environment);
    if let Some(filter) = filter {
        logger.parse_filters(filter);
    }
    logger.init();
}

/// Tells whoever started us, and systemd, that ports can be added.
fn ready() {
    use std::io::Write;
    // Nobody may be reading.
    let _ = writeln!(std::io::stdout(), "ready").and_then(|()| std::io::stdout().flush());
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = notify(&socket, b"READY=1")
    {
        log::warn!("cannot notify {}: {error}", socket.display());
    }
}

/// Sends a state to the service manager (sd_notify(3)).
fn notify(socket: &std::ffi::OsStr, state: &[u8]) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state, &address).map(drop)
}

/// Resolves at the first SIGTERM or SIGINT.
async fn signalled() {
    let streams = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = streams else {
        log::warn!("cannot watch for signals: SIGTERM ends the switch at once");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
