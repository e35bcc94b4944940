//! A client of the API that blocks: what `vswitchctl` and tests use.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use super::error::{Error, Kind};
use super::request::Request;

/// The daemon answers within milliseconds; after this long something is wrong.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client for the daemon on one socket. Each call is a connection of its own.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client for the socket `path`. Nothing is connected yet.
    ///
    /// # Errors
    /// `Failed` if the system has no more descriptors.
    pub fn new(path: &Path) -> Result<Client, Error> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::failed("event loop", error, ""))?;
        Ok(Client { path: path.into(), runtime })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The daemon's own, `NoDaemon` if nobody listens, `Failed` if the connection breaks or the answer is
    /// not what was asked for.
    pub fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Error> {
        let body = self.call_raw(request)?;
        serde_json::from_slice(&body).map_err(|error| self.broken(format_args!("unexpected answer: {error}")))
    }

    /// Asks, and returns the answer's JSON as it came.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call_raw(&self, request: &Request) -> Result<Bytes, Error> {
        let exchange = async { tokio::time::timeout(TIMEOUT, self.exchange(request)).await };
        let timed_out = format_args!("no answer within {} s", TIMEOUT.as_secs());
        self.runtime.block_on(exchange).map_err(|_| self.broken(timed_out))?
    }

    async fn exchange(&self, request: &Request) -> Result<Bytes, Error> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        let connection = tokio::spawn(connection);
        let (noun, verb) = request.route();
        let path = if verb.is_empty() { format!("/v1/{noun}") } else { format!("/v1/{noun}/{verb}") };
        let http = hyper::Request::post(path)
            .header(header::HOST, "vswitchd")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(request.body()?)))
            .map_err(|error| self.broken(error))?;
        let answer = sender.send_request(http).await.map_err(|error| self.broken(error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| self.broken(error))?.to_bytes();
        connection.abort();
        if status.is_success() {
            return Ok(body);
        }
        let error =
            serde_json::from_slice(&body).unwrap_or_else(|_| self.broken(format_args!("HTTP {status}")));
        Err(error)
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        let path = self.path.display();
        #[allow(clippy::wildcard_enum_match_arm)] // io::ErrorKind is open
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let hint = "start vswitchd, or name its socket with --socket or $VSWITCHD_SOCKET";
                Error::new(Kind::NoDaemon, path, "no vswitchd listens there", hint)
            }
            io::ErrorKind::PermissionDenied => {
                Error::failed(path, "permission denied", "run as root, or join the socket's group")
            }
            _ => Error::failed(path, error, ""),
        }
    }

    fn broken(&self, why: impl std::fmt::Display) -> Error {
        Error::failed(self.path.display(), why, "see the log of vswitchd")
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::NoArguments;
    use super::*;

    #[test]
    fn without_a_daemon_the_error_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let status = Request::Status(NoArguments {});
        let error = Client::new(&path).unwrap().call_raw(&status).unwrap_err();
        assert_eq!(error.kind, Kind::NoDaemon);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let error = Client::new(&path).unwrap().call_raw(&status).unwrap_err();
        assert_eq!((error.kind, error.hint.is_empty()), (Kind::NoDaemon, false));
    }
}
