//! A server that does nothing: it reads a body and sends one. What HTTP itself costs.

use std::io::Read as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use tokio::net::TcpListener;

use super::helper::Helper;

/// The argument with which the bench's own program becomes this server.
pub const SUBCOMMAND: &str = "floor";
/// As many as the agent has.
const IO_THREADS: usize = 2;

/// Starts it as a process of its own, with answers of so many bytes.
pub fn start(length: usize) -> Result<(Helper, u16)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([SUBCOMMAND, &length.to_string()]);
    let (helper, port) = Helper::start(command)?;
    Ok((helper, port.parse()?))
}

/// Serves until standard input closes.
pub fn serve(length: &str) -> Result<()> {
    let body = Bytes::from(vec![b' '; length.parse()?]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(IO_THREADS).enable_all().build()?;
    let answer = move |_: Bytes| std::future::ready(body.clone());
    let router = Router::new().fallback(answer).layer(DefaultBodyLimit::disable());
    runtime.spawn(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        println!("ready {}", listener.local_addr()?.port());
        let listener = listener.tap_io(|stream| {
            // A connection that ended already.
            let _ = stream.set_nodelay(true);
        });
        anyhow::Ok(axum::serve(listener, router).await?)
    });
    std::io::stdin().read_to_end(&mut Vec::new()).context("no standard input")?;
    runtime.shutdown_background();
    Ok(())
}
