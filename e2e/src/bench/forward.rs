//! What it costs to ask a tier through a node instead of asking it directly.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::task::spawn_blocking;

use super::figures::{Report, Samples, figure, row};
use super::program::{Program, Running};
use super::proxy;
use crate::manifests::{Model, Policy};

const ROUNDS: usize = 2_000;
/// Those before, which do not count.
const WARM: usize = 100;
/// As many floats as an image of 224 × 224 pixels has: 602 KB.
const FLOATS: usize = 3 * 224 * 224;

/// What a tier answers.
const ANSWER: &str =
    r#"{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[0.5]}]}"#;

/// One end of a connection, whose messages have a stated length. It has one buffer, so that little of what is measured is
/// its own.
struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Peer {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 1 << 20] })
    }

    /// The next message; none at the end.
    fn receive(&mut self) -> Result<Option<&str>> {
        let (mut come, mut whole) = (0, None);
        while whole.is_none_or(|whole| come < whole) {
            let rest =
                self.buffer.get_mut(come..).filter(|rest| !rest.is_empty()).context("it is too long")?;
            let more = self.stream.read(rest)?;
            if more == 0 {
                ensure!(come == 0, "the connection ended in the middle of a message");
                return Ok(None);
            }
            come += more;
            if whole.is_none() {
                whole = length(&self.buffer[..come])?;
            }
        }
        // What follows the JSON of a request is no text.
        let text = self.buffer[..come].utf8_chunks().next().map_or("", |chunk| chunk.valid());
        Ok(Some(text))
    }
}

/// How long a message is, once its head is there.
fn length(come: &[u8]) -> Result<Option<usize>> {
    let Some(end) = come.windows(4).position(|place| place == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&come[..end])?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("a message without a length")?.trim().parse()?;
    Ok(Some(end + 4 + length))
}

/// A tier that reads each request to its end and answers a few bytes; its threads end with the process.
fn start_tier() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer(stream?));
        }
    });
    Ok(address)
}

fn answer(stream: TcpStream) -> Result<()> {
    let reply = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    let mut peer = Peer::new(stream)?;
    while peer.receive()?.is_some() {
        peer.stream.write_all(reply.as_bytes())?;
    }
    Ok(())
}

fn question() -> Vec<u8> {
    let json = format!(
        r#"{{"parameters":{{"complexity":0.9,"binary_data_output":true}},"inputs":[{{"name":"x","datatype":"FP32","shape":[1,{FLOATS}],"parameters":{{"binary_data_size":{}}}}}]}}"#,
        FLOATS * 4
    );
    let head = format!(
        "POST /v2/models/digits/infer HTTP/1.1\r\nhost: tier\r\ncontent-type: application/octet-stream\r\ninference-header-content-length: {}\r\ncontent-length: {}\r\n\r\n",
        json.len(),
        json.len() + FLOATS * 4
    );
    let floats = (0..FLOATS).flat_map(|pixel| (pixel as f32).to_le_bytes());
    head.bytes().chain(json.bytes()).chain(floats).collect()
}

/// Asks, and says how long that took.
fn ask(peer: &mut Peer, question: &[u8], expected: &str) -> Result<Duration> {
    let begun = Instant::now();
    peer.stream.write_all(question)?;
    let reply = peer.receive()?.context("no answer")?;
    let took = begun.elapsed();
    ensure!(reply.starts_with("HTTP/1.1 200") && reply.contains(expected), "{reply}");
    Ok(took)
}

/// Everybody once after the other, again and again; microseconds.
fn rounds(ways: &[(SocketAddr, &str)]) -> Result<Vec<Vec<f64>>> {
    let question = question();
    let connect = |(address, _): &(SocketAddr, _)| Peer::new(TcpStream::connect(address)?);
    let mut peers = ways.iter().map(connect).collect::<Result<Vec<_>>>()?;
    let mut all = vec![Vec::with_capacity(ROUNDS); ways.len()];
    for round in 0..WARM + ROUNDS {
        for (way, (peer, (_, expected))) in peers.iter_mut().zip(ways).enumerate() {
            let took = ask(peer, &question, expected)?;
            if round >= WARM {
                all[way].push(took.as_secs_f64() * 1e6);
            }
        }
    }
    Ok(all)
}

pub async fn measure(report: &mut Report) -> Result<()> {
    report.section(
        "Forwarding",
        &format!(
            "One client sends {} KB of binary tensor to a tier that reads it and answers a few bytes: directly, directly \
             once more, through a node that forwards it, through a proxy that is made of the node's HTTP libraries and \
             decides nothing, and through e2e/bench/relay.c, which reads no more than a length; each passes a request on \
             once it is whole. Over HTTP on loopback, one after the other, {ROUNDS} rounds; client and \
             tier have one buffer each. Target: the node adds less than 150 µs to the median.",
            FLOATS * 4 / 1000
        ),
    );
    let tier = start_tier()?;
    let relay = Program::compile("relay", &[])?;
    let (_relaying, port) = Running::start(relay.command().arg(tier.port().to_string()))?;
    let relay = SocketAddr::new(tier.ip(), port.parse()?);
    let proxy = proxy::start(tier)?;
    let site = crate::site::Site::new()?;
    site.manifests().policy(&Policy::named("near").cloud(&format!("http://{tier}")))?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let device = site.agent().ready().await?;
    // Complex is what the cloud should answer; the same word stands in the answer.
    let forwarded = r#"\"outcome\":\"Answered\""#;
    let ways = [(tier, ""), (device.http, forwarded), (tier, ""), (proxy, ""), (relay, "")];
    let all = spawn_blocking(move || rounds(&ways)).await??;
    let samples = |values: &[f64]| values.iter().copied().collect::<Samples>();
    let [direct, node, again, proxied, relayed] = [0, 1, 2, 3, 4].map(|way| samples(&all[way]));
    let added = |way: usize| {
        all[way].iter().zip(&all[0]).map(|(through, straight)| through - straight).collect::<Samples>()
    };
    let rows = [
        ("directly", &direct),
        ("directly, again", &again),
        ("through a node", &node),
        ("through the proxy", &proxied),
        ("through the relay", &relayed),
        ("added by the node, by pairs", &added(1)),
        ("added by the proxy, by pairs", &added(3)),
        ("added by the relay, by pairs", &added(4)),
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(name, samples)| row(name, std::iter::once(samples.len().to_string()).chain(samples.cells())))
        .collect();
    report.table(&["", "requests", "p50 µs", "p99 µs", "max µs"], &rows);
    report.say(format_args!(
        "The node adds {} µs to the median request, the proxy {} µs and the relay {} µs; the noise is {} µs.",
        figure(node.median() - direct.median()),
        figure(proxied.median() - direct.median()),
        figure(relayed.median() - direct.median()),
        figure((again.median() - direct.median()).abs())
    ));
    Ok(())
}
