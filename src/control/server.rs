//! The API server: HTTP/1 with JSON on the Unix socket.
//!
//! The server knows nothing of networks and ports. It turns a path and a body into a [`Request`], hands it
//! to the control task over a bounded channel, and turns the answer into JSON. Two bounds keep a client
//! from taking the daemon's memory: [`REQUEST_MAX`] bytes a request and [`API_CLIENTS_MAX`] connections,
//! beyond which a client waits in the socket's backlog.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::any;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::error::{Error, Kind};
use super::request::Request;
use super::response::Response;
use super::socket::Socket;
use crate::limits::{API_CLIENTS_MAX, REQUEST_MAX};

/// How long the server rests when it cannot accept (no descriptors left), instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request on its way to the control task, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where to answer. Dropping it answers that the daemon stops.
    pub reply: oneshot::Sender<Result<Response, Error>>,
}

/// Serves `socket` until the future is dropped. Requests go to `calls`.
///
/// # Errors
/// If the listener cannot be registered with the runtime.
pub async fn serve(socket: &Socket, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener()?)?;
    let clients = Arc::new(Semaphore::new(API_CLIENTS_MAX));
    let routes = Router::new()
        .route("/v1/{noun}", any(answer_noun))
        .route("/v1/{noun}/{verb}", any(answer_noun_verb))
        .fallback(unknown_path)
        .layer(DefaultBodyLimit::max(REQUEST_MAX))
        .with_state(calls);
    axum::serve(BoundedListener { listener, clients }, routes).await
}

type Body = Result<Bytes, BytesRejection>;
type Calls = State<mpsc::Sender<Call>>;

async fn answer_noun(
    calls: Calls,
    Path(noun): Path<String>,
    method: Method,
    body: Body,
) -> impl IntoResponse {
    json(answer(&calls, &noun, "", &method, body).await)
}

async fn answer_noun_verb(
    calls: Calls,
    Path((noun, verb)): Path<(String, String)>,
    method: Method,
    body: Body,
) -> impl IntoResponse {
    json(answer(&calls, &noun, &verb, &method, body).await)
}

async fn unknown_path(uri: Uri) -> impl IntoResponse {
    json(Err(Error::usage(uri.path(), "no such path", "POST /v1/NOUN/VERB with a JSON object")))
}

async fn answer(
    calls: &mpsc::Sender<Call>,
    noun: &str,
    verb: &str,
    method: &Method,
    body: Body,
) -> Result<Response, Error> {
    let body = body.map_err(|rejected| {
        Error::usage("request", rejected.body_text(), format_args!("send at most {REQUEST_MAX} bytes"))
    })?;
    let request = Request::parse(noun, verb, &body)?;
    if method != Method::POST && !(method == Method::GET && request.is_read_only()) {
        return Err(Error::usage(method, "not the method for this request", "use POST"));
    }
    let stopping = || Error::failed("vswitchd", "is stopping", "try again when it runs");
    let (reply, answer) = oneshot::channel();
    calls.send(Call { request, reply }).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}

fn json(answer: Result<Response, Error>) -> impl IntoResponse {
    let (kind, body) = match &answer {
        Ok(response) => (None, serde_json::to_vec(response)),
        Err(error) => (Some(error.kind), serde_json::to_vec(error)),
    };
    let (kind, body) = match body {
        Ok(body) => (kind, body),
        Err(_) => {
            (Some(Kind::Failed), br#"{"kind":"failed","what":"answer","why":"not JSON","hint":""}"#.into())
        }
    };
    let status = kind.map_or(StatusCode::OK, |kind| {
        StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    });
    (status, [(header::CONTENT_TYPE, "application/json")], body)
}

/// A listener that accepts only while fewer than [`API_CLIENTS_MAX`] clients are connected.
struct BoundedListener {
    listener: UnixListener,
    clients: Arc<Semaphore>,
}

impl Listener for BoundedListener {
    type Io = Client;
    type Addr = ();

    async fn accept(&mut self) -> (Client, ()) {
        loop {
            let permit = Arc::clone(&self.clients).acquire_owned().await;
            match (self.listener.accept().await, permit) {
                (Ok((stream, _)), Ok(permit)) => return (Client { stream, _permit: permit }, ()),
                (Err(error), _) => log::warn!("API: cannot accept: {error}"),
                (Ok(_), Err(_closed)) => {}
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's stream, with the place it takes.
struct Client {
    stream: UnixStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Stream;

    use super::super::client::Client as ApiClient;
    use super::super::request::{NoArguments, Remove};
    use super::super::response::Done;
    use super::*;

    /// A server in a thread, whose control task answers `port rm` with `NotFound` and the rest with 7.
    fn with_server(test: impl FnOnce(&std::path::Path)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = Socket::bind(&path, None).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (calls, mut inbox) = mpsc::channel::<Call>(8);
                let control = async {
                    while let Some(call) = inbox.recv().await {
                        let answer = if let Request::PortRm(rm) = &call.request {
                            Err(Error::not_found(&rm.name, "no such port", ""))
                        } else {
                            Ok(Response::Done(Done { changed: 7 }))
                        };
                        let _ = call.reply.send(answer);
                    }
                };
                tokio::select! {
                    _ = serve(&socket, calls) => {}
                    () = control => {}
                    _ = stopped => {}
                }
            });
        });
        test(&path);
        drop(stop);
        server.join().unwrap();
        assert!(!path.exists());
    }

    fn raw(path: &std::path::Path, request: &str) -> String {
        let mut stream = Stream::connect(path).unwrap();
        // The server may answer, and close, before it has read all.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn answers_and_errors_cross_the_socket() {
        with_server(|path| {
            let client = ApiClient::new(path).unwrap();
            let done: Done = client.call(&Request::FdbFlush(Default::default())).unwrap();
            assert_eq!(done.changed, 7);
            let rm = Remove { name: "web".parse().unwrap(), if_exists: false };
            let error = client.call::<Done>(&Request::PortRm(rm)).unwrap_err();
            assert_eq!(error, Error::not_found("web", "no such port", ""));
            let done: Done = client.call(&Request::Status(NoArguments {})).unwrap();
            assert_eq!(done.changed, 7);
        });
    }

    #[test]
    fn only_requests_that_read_may_be_got_and_all_else_is_refused_in_json() {
        with_server(|path| {
            let close = "Host: x\r\nConnection: close\r\n\r\n";
            assert!(raw(path, &format!("GET /v1/status HTTP/1.1\r\n{close}")).starts_with("HTTP/1.1 200"));
            let answer = raw(path, &format!("GET /v1/fdb/flush HTTP/1.1\r\n{close}"));
            assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("use POST"), "{answer}");
            let answer = raw(path, &format!("POST /v2/x/y/z HTTP/1.1\r\n{close}"));
            assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("no such path"), "{answer}");
            let large = REQUEST_MAX + 1;
            let head = format!("POST /v1/port/add HTTP/1.1\r\nContent-Length: {large}\r\n{close}");
            let answer = raw(path, &(head + &" ".repeat(large)));
            assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("send at most"), "{answer}");
        });
    }

    #[test]
    fn clients_beyond_the_bound_wait_and_then_are_served() {
        with_server(|path| {
            let idle: Vec<_> = (0..API_CLIENTS_MAX).map(|_| Stream::connect(path).unwrap()).collect();
            let path = path.to_owned();
            let late = std::thread::spawn(move || {
                ApiClient::new(&path).unwrap().call::<Done>(&Request::Status(NoArguments {}))
            });
            std::thread::sleep(Duration::from_millis(100));
            assert!(!late.is_finished());
            drop(idle);
            assert!(late.join().unwrap().is_ok());
        });
    }
}
