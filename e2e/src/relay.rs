//! What may stand between a node and another tier, whatever they speak: it passes bytes on, and keeps what the node sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A relay on a port of its own. Gone when dropped, with its connections.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Record {
    bytes: Vec<u8>,
    connections: usize,
}

impl Relay {
    /// Starts one before a server.
    pub async fn before(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let record = Arc::<Mutex<Record>>::default();
        let task = tokio::spawn(accept(listener, server, Arc::clone(&record)));
        Ok(Self { address, record, task })
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every byte that the node sent, on whatever connection.
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.record).bytes.clone()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        lock(&self.record).connections
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(record: &Mutex<Record>) -> std::sync::MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, server: SocketAddr, record: Arc<Mutex<Record>>) {
    let mut connections = JoinSet::new();
    while let Ok((node, _)) = listener.accept().await {
        lock(&record).connections += 1;
        connections.spawn(relay(node, server, Arc::clone(&record)));
    }
}

/// Until either side has enough.
async fn relay(node: TcpStream, server: SocketAddr, record: Arc<Mutex<Record>>) -> Result<()> {
    let server = TcpStream::connect(server).await?;
    node.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((mut from_node, mut to_node), (mut from_server, mut to_server)) =
        (node.into_split(), server.into_split());
    let up = async {
        let mut piece = [0; 16 << 10];
        loop {
            let read = from_node.read(&mut piece).await?;
            if read == 0 {
                return anyhow::Ok(());
            }
            lock(&record).bytes.extend_from_slice(&piece[..read]);
            to_server.write_all(&piece[..read]).await?;
        }
    };
    let down = async {
        tokio::io::copy(&mut from_server, &mut to_node).await?;
        anyhow::Ok(())
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}
