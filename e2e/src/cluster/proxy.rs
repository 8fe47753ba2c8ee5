//! What may stand between a process and the API server: it passes requests on, or answers as a server in trouble does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// How the API server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Well.
    Fair,
    /// Of so many requests, all but the last are answered with this status.
    Refusing(StatusCode, usize),
    /// Every answer comes so much later.
    Slow(Duration),
    /// Of so many requests, all but the last are cut off: the connection is closed without an answer.
    Cut(usize),
}

/// A proxy on a port of its own. Gone when dropped, with its connections.
///
/// Leases are let through: API servers keep a level of their own for them, and what becomes of a leader that cannot renew
/// is another test's.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    sky: Arc<Sky>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Sky {
    weather: Mutex<Weather>,
    asked: AtomicUsize,
    spoiled: AtomicUsize,
}

impl Proxy {
    /// Starts one before the server that `client` talks to, which must add no credentials.
    pub(super) async fn start(client: Client) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let sky = Arc::new(Sky {
            weather: Mutex::new(Weather::Fair),
            asked: AtomicUsize::new(0),
            spoiled: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, client, Arc::clone(&sky)));
        Ok(Self { url, sky, task })
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on the API server is like this. Answers that have begun, such as watches, go on.
    pub fn set(&self, weather: Weather) {
        *self.sky.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// How many requests were not answered as they should have been.
    pub fn spoiled(&self) -> usize {
        self.sky.spoiled.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sky {
    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this request is one of the unlucky ones of `of`.
    fn is_unlucky(&self, of: usize) -> bool {
        let is_unlucky = !(self.asked.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(of);
        self.spoiled.fetch_add(usize::from(is_unlucky), Ordering::Relaxed);
        is_unlucky
    }
}

async fn accept(listener: TcpListener, client: Client, sky: Arc<Sky>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, client.clone(), Arc::clone(&sky)));
    }
}

async fn serve(stream: TcpStream, client: Client, sky: Arc<Sky>) {
    let service = service_fn(|request| answer(request, client.clone(), Arc::clone(&sky)));
    // A client that goes away, and one that is cut off.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Closes the connection.
#[derive(Debug)]
struct CutOff;

impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut off, as planned")
    }
}

impl std::error::Error for CutOff {}

async fn answer(
    request: Request<Incoming>,
    client: Client,
    sky: Arc<Sky>,
) -> std::result::Result<Response<Body>, CutOff> {
    if !request.uri().path().contains("/leases") {
        match sky.weather() {
            Weather::Fair => {}
            Weather::Refusing(status, of) if sky.is_unlucky(of) => {
                return Ok(trouble(status));
            }
            Weather::Cut(of) if sky.is_unlucky(of) => return Err(CutOff),
            Weather::Slow(pause) => {
                sky.spoiled.fetch_add(1, Ordering::Relaxed);
                sleep(pause).await;
            }
            Weather::Refusing(..) | Weather::Cut(_) => {}
        }
    }
    let (mut head, body) = request.into_parts();
    head.headers.remove(http::header::HOST);
    let body = body.collect().await.map_err(|_| CutOff)?.to_bytes();
    client.send(Request::from_parts(head, Body::from(body))).await.map_err(|_| CutOff)
}

/// What an API server says that has too much to do, or a fault.
fn trouble(status: StatusCode) -> Response<Body> {
    let body = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("as planned: {status}"), "reason": "", "code": status.as_u16()});
    let mut response = Response::new(Body::from(body.to_string().into_bytes()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    response
}
