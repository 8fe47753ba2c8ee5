//! Tiers that answer, and tiers that fail in every way that tiers fail.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::server::{Pace, Plan, Server};

/// The label that a tier made up here gives to every image: no digit.
pub const LABEL: i64 = 77;

/// An address where every connection is refused. Nobody else gets the port meanwhile.
#[derive(Debug)]
pub struct Refused {
    address: SocketAddr,
    _bound: TcpSocket,
}

/// An address where connections hang: its listener never accepts, and its queue is full.
#[derive(Debug)]
pub struct BlackHole {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

/// What a tier answers that has one label for everything.
pub fn outputs() -> Plan {
    let probabilities = [0.1; 10];
    let body = json!({
        "model_name": "made-up",
        "model_version": "7",
        "parameters": {"made_up": true},
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": probabilities},
            {"name": "label", "datatype": "INT64", "shape": [1], "data": [LABEL]},
        ],
    });
    Plan::ok(body.to_string()).header("content-type", "application/json")
}

/// A tier that answers.
pub async fn answering() -> Result<Server> {
    Server::start(|_| outputs()).await
}

/// A tier that answers after a pause.
pub async fn slow(pause: Duration) -> Result<Server> {
    Server::start(move |_| outputs().pace(Pace::After(pause))).await
}

/// A tier that answers a byte at a time.
pub async fn dribbling(pause: Duration) -> Result<Server> {
    Server::start(move |_| outputs().pace(Pace::Pieces(1, pause))).await
}

/// A tier that takes every request and answers none.
pub async fn silent() -> Result<Server> {
    Server::start(|_| outputs().pace(Pace::Never)).await
}

/// A tier that answers like this.
pub async fn planned(plan: Plan) -> Result<Server> {
    Server::start(move |_| plan.clone()).await
}

impl Refused {
    /// Takes a port, and listens not.
    pub fn new() -> Result<Self> {
        let bound = TcpSocket::new_v4()?;
        bound.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self { address: bound.local_addr()?, _bound: bound })
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl BlackHole {
    /// Takes a port, and fills the queue of its listener until a connection hangs.
    pub async fn new() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(0)?;
        let address = listener.local_addr()?;
        let mut queued = Vec::new();
        for _ in 0..16 {
            match timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
                Ok(stream) => queued.push(stream?),
                Err(_) => return Ok(Self { address, _listener: listener, _queued: queued }),
            }
        }
        bail!("this system does not let a listener's queue fill up");
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
