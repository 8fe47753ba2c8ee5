//! The memory of a node is others', too: what a burst of large requests leaves behind, and answers that nobody takes.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use terrace_e2e::agent::Agent;
use terrace_e2e::codings::packed;
use terrace_e2e::digits;
use terrace_e2e::http::Request;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Model;
use terrace_e2e::site::Site;
use terrace_e2e::wait;
use tokio::net::TcpStream;
use tokio::time::timeout;

const INFER: &str = "/v2/models/digits/infer";
/// Images in a request, each of 64 numbers.
const ROWS: usize = 110_000;
/// Requests of each kind at once.
const AT_ONCE: usize = 8;

/// About 30 MB of JSON.
fn in_json() -> String {
    // Not all the same: it is to be compressed, and not too densely.
    let mut state = 1_u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        format!("0.{}", (state >> 16) % 10)
    };
    let numbers = (0..ROWS * 64).map(|_| number()).collect::<Vec<_>>().join(",");
    let outputs = json!([{"name": "label", "parameters": {"binary_data": true}}]);
    format!(
        r#"{{"outputs":{outputs},"inputs":[{{"name":"other","datatype":"FP32","shape":[{ROWS},64],"data":[{numbers}]}}]}}"#
    )
}

/// About 28 MB in binary.
fn in_binary() -> Request {
    let elements = 0.5_f32.to_le_bytes().repeat(ROWS * 64);
    let json = json!({
        "outputs": [{"name": "label", "parameters": {"binary_data": true}}],
        "inputs": [{
            "name": "other", "datatype": "FP32", "shape": [ROWS, 64],
            "parameters": {"binary_data_size": elements.len()},
        }],
    })
    .to_string();
    Request::post(INFER, [json.as_bytes(), &elements].concat())
        .header("inference-header-content-length", &json.len().to_string())
}

async fn burst(agent: &Agent, requests: &[Request]) -> Result<[usize; 2]> {
    let asked = requests.iter().flat_map(|request| (0..AT_ONCE).map(move |_| request.clone()));
    let address = agent.http;
    let asked =
        asked.map(|request| tokio::spawn(async move { terrace_e2e::http::send(address, &request).await }));
    let mut statuses = [0; 2];
    for reply in join_all(asked).await {
        let reply = reply??;
        // It is decoded, and refused for its name: what ONNX Runtime keeps of a large run is its own.
        ensure!([400, 429].contains(&reply.status), "{} {}", reply.status, reply.text());
        statuses[usize::from(reply.status == 429)] += 1;
    }
    Ok(statuses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_a_burst_took_is_given_back() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--max-held-bytes", (1 << 30).to_string()).ready().await?;
    let one = Ask::image(&digits::test_set().images[0]);
    agent.infer(&one).await?.answered()?;
    let before = agent.memory()?;
    let json = in_json();
    let requests = [
        Request::post(INFER, packed("zstd", json.as_bytes())?).header("content-encoding", "zstd"),
        Request::post(INFER, json),
        in_binary(),
    ];
    let statuses = burst(&agent, &requests).await?;
    let (over, most) = (Instant::now(), agent.peak_memory()?);
    let left = agent.memory()?;
    println!("{} MiB before, {} at most, {} after it", before >> 20, most >> 20, left >> 20);
    println!("{statuses:?} decoded, and for which there was no room");
    ensure!(most > before + (256 << 20), "that was no burst");
    let grown = wait::until("memory to be given back", || async {
        let grown = agent.memory()?.saturating_sub(before);
        ensure!(grown < (most - before) / 8, "{} MiB are left", grown >> 20);
        Ok(grown)
    })
    .await?;
    println!("{:.1} s later: {} MiB more than before", over.elapsed().as_secs_f64(), grown >> 20);
    agent.infer(&one).await?.answered()?;
    Ok(())
}

/// A connection over HTTP/2 whose client takes one byte of each answer, and the head of the last answer.
async fn asked_by_who_takes_nothing(
    agent: &Agent,
    request: &Request,
    times: usize,
) -> Result<(http2::SendRequest<Full<Bytes>>, Vec<http::Response<Incoming>>)> {
    let stream = TcpStream::connect(agent.http).await?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..times {
        sender.ready().await?;
        let url = format!("http://{}{}", agent.http, request.path);
        let asked = http::Request::post(url).body(Full::new(request.body.clone()))?;
        answers.push(timeout(wait::LIMIT, sender.send_request(asked)).await.context("no answer")??);
    }
    Ok((sender, answers))
}

#[tokio::test]
async fn small_answers_that_nobody_takes_are_held_to_the_same_limit() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--max-held-bytes", "600000").ready().await?;
    // Of some 10 KB each.
    let few = Ask::images(&digits::test_set().images[..40]).request();
    let size = agent.send(&few).await?.answered()?.body.len();
    ensure!((5_000..16_000).contains(&size), "{size} bytes");
    let mut large = Ask::image(&digits::test_set().images[0]).request();
    large.body = format!("{}{}", String::from_utf8_lossy(&large.body), " ".repeat(400_000)).into();
    agent.send(&large).await?.answered()?;
    let stalled = asked_by_who_takes_nothing(&agent, &few, 25).await?;
    ensure!(stalled.1.iter().all(|answer| answer.status() == 200), "they are answered");
    let reply = agent.send(&large).await?;
    assert_eq!(reply.status, 429, "they hold memory: {}", reply.text());
    drop(stalled);
    wait::until("the room to be free again", || async { agent.send(&large).await?.answered().map(drop) })
        .await
}
