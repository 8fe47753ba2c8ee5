//! What one client may take from the others: time, connections, memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits;
use terrace_e2e::http::Request;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Model;
use terrace_e2e::site::Site;
use terrace_e2e::{scenes, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Hyper and the agent are given a little more than they take.
const CLOSED_WITHIN: Duration = Duration::from_secs(25);

fn image() -> &'static [f32] {
    &digits::test_set().images[0]
}

/// A connection on which this was sent.
async fn sent(agent: &Agent, bytes: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(agent.http).await?;
    stream.write_all(bytes).await?;
    Ok(stream)
}

/// The head of a request whose body has so many bytes.
fn head(path: &str, more: &str, length: usize) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n{more}\r\n").into_bytes()
}

/// The first line that comes back.
async fn status_line(stream: &mut TcpStream) -> Result<String> {
    let mut bytes = [0; 12];
    timeout(wait::LIMIT, stream.read_exact(&mut bytes)).await.context("no answer")??;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn connections_that_ask_nothing_are_closed_however_they_begin() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    // The first letters of both protocols, and a whole greeting of the second without a request.
    let beginnings: [&[u8]; 4] =
        [b"P", b"POST /v2", b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"];
    let mut streams = Vec::new();
    for beginning in beginnings {
        streams.push((beginning, sent(&agent, beginning).await?));
    }
    for (beginning, mut stream) in streams {
        let mut rest = Vec::new();
        let closed = timeout(CLOSED_WITHIN, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "still open after {:?}", String::from_utf8_lossy(beginning));
    }
    agent.infer(&Ask::image(image())).await?.answered()?;
    Ok(())
}

#[tokio::test]
async fn a_body_that_comes_too_late_is_told_so_at_its_deadline() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let begun = Instant::now();
    let mut stream =
        sent(&agent, &head("/v2/models/digits/infer", "terrace-max-latency-ms: 200\r\n", 1000)).await?;
    assert_eq!(status_line(&mut stream).await?, "HTTP/1.1 504");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_held_are_limited_and_come_free_again() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--max-held-bytes", "1000000").ready().await?;
    let hold = head("/v2/models/digits/infer", "", 900_000);
    let holding = sent(&agent, &hold).await?;
    let ask = Ask::image(image());
    // Small ones pass beside it; what does not fit is told so at once.
    wait::until("the room to be taken", || async {
        let mut second = sent(&agent, &hold).await?;
        let line = status_line(&mut second).await?;
        ensure!(line == "HTTP/1.1 429", "{line}");
        Ok(())
    })
    .await?;
    agent.infer(&ask).await?.answered()?;
    drop(holding);
    wait::until("the room to be free again", || async {
        let padded = format!("{}{}", ask.body(), " ".repeat(800_000));
        let mut request = ask.request();
        request.body = padded.into();
        agent.send(&request).await?.answered().map(drop)
    })
    .await
}

#[tokio::test]
async fn what_is_asked_of_nobody_is_not_read() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let mut stream = sent(&agent, &head("/v2/models/nobody/infer", "", 50_000_000)).await?;
    assert_eq!(status_line(&mut stream).await?, "HTTP/1.1 404", "without waiting for its body");
    // A small one leaves the connection as it was.
    let mut connection = agent.connect().await?;
    for _ in 0..3 {
        let request = Request::post("/v2/models/nobody/infer", "{\"inputs\": []}");
        assert_eq!(connection.send(&request).await?.status, 404);
        connection.send(&Ask::image(image()).request()).await?.answered()?;
    }
    Ok(())
}
