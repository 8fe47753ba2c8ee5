//! What it costs to ask a tier through a node instead of asking it directly.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::figures::{Report, Samples, figure, row};
use crate::http::{Connection, Request};
use crate::manifests::{Model, Policy};

const ROUNDS: usize = 1_000;
/// As many floats as an image of 224 × 224 pixels has: 602 KB.
const FLOATS: usize = 3 * 224 * 224;

/// A tier that reads each request to its end and answers a few bytes. Gone when dropped.
struct Tier {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tier {
    async fn start() -> Result<Self> {
        const ANSWER: &str =
            r#"{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[0.5]}]}"#;
        let answer = post(async |body: Bytes| {
            assert!(body.len() > FLOATS * 4, "{} bytes", body.len());
            ([("content-type", "application/json")], ANSWER)
        });
        let router =
            Router::new().route("/v2/models/digits/infer", answer).layer(DefaultBodyLimit::max(64 << 20));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        // Ends with the benchmark.
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, task })
    }
}

fn question() -> Request {
    let json = format!(
        r#"{{"parameters":{{"complexity":0.9,"binary_data_output":true}},"inputs":[{{"name":"x","datatype":"FP32","shape":[1,{FLOATS}],"parameters":{{"binary_data_size":{}}}}}]}}"#,
        FLOATS * 4
    );
    let mut body = json.clone().into_bytes();
    body.extend((0..FLOATS).flat_map(|pixel| (pixel as f32).to_le_bytes()));
    Request::post("/v2/models/digits/infer", body)
        .header("content-type", "application/octet-stream")
        .header("inference-header-content-length", &json.len().to_string())
}

pub async fn measure(report: &mut Report) -> Result<()> {
    report.section(
        "Forwarding",
        &format!(
            "One client sends {} KB of binary tensor to a tier that reads it and answers a few bytes: directly, directly \
             once more, and through a node that forwards it, over HTTP on loopback, one after the other, {ROUNDS} rounds. \
             What the node adds holds reading the request, decoding it (it might have to answer itself), deciding, and \
             sending it on.",
            FLOATS * 4 / 1000
        ),
    );
    let tier = Tier::start().await?;
    let site = crate::site::Site::new()?;
    site.manifests().policy(&Policy::named("near").cloud(&format!("http://{}", tier.address)))?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let device = site.agent().ready().await?;
    let question = question();
    let (mut straight, mut through) =
        (Connection::open(tier.address).await?, Connection::open(device.http).await?);
    for _ in 0..50 {
        straight.send(&question).await?.answered()?;
        through.send(&question).await?.answered()?;
    }
    let (mut one, mut again, mut forwarded, mut added) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let micros = |reply: &crate::http::Reply| reply.took.as_secs_f64() * 1e6;
        let first = micros(&straight.send(&question).await?.answered()?);
        let by_node = through.send(&question).await?.answered()?;
        anyhow::ensure!(by_node.walk()? == "cloud Answered", "{}", by_node.walk()?);
        let second = micros(&straight.send(&question).await?.answered()?);
        one.push(first);
        forwarded.push(micros(&by_node));
        again.push(second);
        added.push(micros(&by_node) - first);
    }
    let samples = |values: Vec<f64>| values.into_iter().collect::<Samples>();
    let (one, again, forwarded, added) = (samples(one), samples(again), samples(forwarded), samples(added));
    let rows = [
        ("directly", &one),
        ("directly, again", &again),
        ("through a node", &forwarded),
        ("added, by pairs", &added),
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(name, samples)| row(name, std::iter::once(samples.len().to_string()).chain(samples.cells())))
        .collect();
    report.table(&["", "requests", "p50 µs", "p99 µs", "max µs"], &rows);
    report.say(format_args!(
        "The node adds {} µs to the median request; the noise is {} µs.",
        figure(forwarded.median() - one.median()),
        figure((again.median() - one.median()).abs())
    ));
    Ok(())
}
