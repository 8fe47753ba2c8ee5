//! What one client may take from the others: time, connections, memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits;
use terrace_e2e::grpc::{self, Stalled};
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
    let hold = [head("/v2/models/digits/infer", "", 900_000), vec![b' '; 800_000]].concat();
    let ask = Ask::image(image());
    // There is room for one of two, whichever is seen first; the other is told so at once. Small ones pass beside it.
    let (mut one, mut other) = (sent(&agent, &hold).await?, sent(&agent, &hold).await?);
    let (refused, holding) = tokio::select! {
        line = status_line(&mut one) => (line?, other),
        line = status_line(&mut other) => (line?, one),
    };
    assert_eq!(refused, "HTTP/1.1 429");
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
async fn what_is_stated_and_not_sent_holds_nothing() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--max-held-bytes", "1000000").ready().await?;
    let mut holding = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..4 {
        let head = head("/v2/models/digits/infer", "expect: 100-continue\r\n", 900_000);
        let mut stream = sent(&agent, &head).await?;
        assert_eq!(status_line(&mut stream).await?, "HTTP/1.1 100", "it is read");
        stream.write_all(b"{").await?;
        holding.push(stream);
        let prefix = [&[0][..], &900_000_u32.to_be_bytes(), &[0x0a]].concat();
        calls.push(Stalled::begin(agent.grpc, ("ModelInfer", None), &[], prefix.into()).await?);
    }
    let mut request = Ask::image(image()).request();
    request.body = format!("{}{}", Ask::image(image()).body(), " ".repeat(800_000)).into();
    agent.send(&request).await?.answered()?;
    let mut connection = grpc::Connection::open(agent.grpc, None).await?;
    let large = [grpc::named("nobody"), vec![0x12, 0x80, 0x80, 0x10], vec![b' '; 0x4_0000]].concat();
    let reply = connection.call("ModelInfer", None, &large).await?;
    assert_eq!(reply.code, grpc::NOT_FOUND, "{}", reply.words);
    assert!(calls.iter().all(|call| !call.is_answered()), "they are still awaited");
    Ok(())
}

/// An input of texts without a letter, as many as fit: two bytes each, and dozens in memory.
fn texts(bytes: usize) -> Vec<u8> {
    let field = |key: u8, value: &[u8]| {
        let length = value.len();
        let length: Vec<u8> = (0..4).map(|place| (length >> (7 * place)) as u8 & 0x7f).collect();
        [&[key, length[0] | 0x80, length[1] | 0x80, length[2] | 0x80, length[3]], value].concat()
    };
    let contents = field(0x2a, &b"\x42\0".repeat(bytes / 2));
    field(0x2a, &[b"\x0a\x01x\x12\x05BYTES".to_vec(), contents].concat())
}

#[tokio::test]
async fn what_becomes_large_in_memory_is_refused_before_it_does() -> Result<()> {
    const HELD: u64 = 32 << 20;
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--max-held-bytes", HELD.to_string()).ready().await?;
    agent.infer(&Ask::image(image())).await?.answered()?;
    let before = agent.peak_memory()?;
    let message = [grpc::named("digits"), texts(16 << 20)].concat();
    let mut connection = grpc::Connection::open(agent.grpc, None).await?;
    let reply = connection.call("ModelInfer", None, &message).await?;
    assert_eq!(reply.code, grpc::RESOURCE_EXHAUSTED, "{}", reply.words);
    assert!(reply.words.contains("--max-held-bytes"), "{}", reply.words);
    let elements = vec!["\"\""; 5 << 20].join(",");
    let body = format!(
        r#"{{"inputs":[{{"name":"image","datatype":"BYTES","shape":[{}],"data":[{elements}]}}]}}"#,
        5 << 20
    );
    let reply = agent.send(&Request::post("/v2/models/digits/infer", body)).await?;
    assert_eq!(reply.status, 413, "it never fits: {}", reply.text());
    assert!(reply.error()?.contains("--max-held-bytes"), "{}", reply.text());
    let json = r#"{"inputs":[{"name":"image","datatype":"BYTES","shape":[4194304],"parameters":{"binary_data_size":16777216}}]}"#;
    let body = [json.as_bytes(), &vec![0; 16 << 20]].concat();
    let request = Request::post("/v2/models/digits/infer", body)
        .header("inference-header-content-length", &json.len().to_string());
    assert_eq!(agent.send(&request).await?.status, 413);
    let grown = agent.peak_memory()?.saturating_sub(before);
    println!("requests that would take some 400 MB: {} KiB more", grown >> 10);
    assert!(grown < 2 * HELD, "the agent grew by {} KiB", grown >> 10);
    agent.infer(&Ask::image(image())).await?.answered()?;
    Ok(())
}

/// Sends a request as many clients do, who listen once all of it is sent; the answer's head.
async fn answer_to_all_of(stream: &mut TcpStream, head: &[u8], body: usize) -> Result<String> {
    stream.write_all(head).await?;
    let piece = vec![b' '; 1 << 20];
    for _ in 0..body >> 20 {
        timeout(wait::LIMIT, stream.write_all(&piece)).await.context("nobody reads")?.context("cut off")?;
    }
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"}") {
        let count = timeout(wait::LIMIT, stream.read(&mut piece)).await.context("no answer")??;
        anyhow::ensure!(count > 0, "no answer");
        answer.extend_from_slice(&piece[..count]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn who_sends_too_much_hears_so_and_may_go_on() -> Result<()> {
    const LARGE: usize = 20 << 20;
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site
        .agent()
        .set("--max-body-bytes", (24 << 20).to_string())
        .set("--max-held-bytes", (30 << 20).to_string())
        .ready()
        .await?;
    let path = "/v2/models/digits/infer";
    for (path, length) in [(path, LARGE + (8 << 20)), ("/v2/repository/index", LARGE)] {
        let mut stream = TcpStream::connect(agent.http).await?;
        for _ in 0..2 {
            let answer = answer_to_all_of(&mut stream, &head(path, "", length), length).await?;
            assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("--max-body-bytes"), "{answer}");
        }
    }
    // Most of the room is taken by somebody who does not end.
    let mut holding = sent(&agent, &head(path, "expect: 100-continue\r\n", LARGE + 1)).await?;
    assert_eq!(status_line(&mut holding).await?, "HTTP/1.1 100");
    holding.write_all(&vec![b' '; LARGE]).await?;
    let mut stream = TcpStream::connect(agent.http).await?;
    let answer = wait::until("the room to be taken", || async {
        let mut stream = TcpStream::connect(agent.http).await?;
        let answer = answer_to_all_of(&mut stream, &head(path, "", LARGE), LARGE).await?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 429"), "{answer}");
        Ok(answer)
    })
    .await?;
    assert!(answer.contains("retry-after: 1"), "{answer}");
    let answer = answer_to_all_of(&mut stream, &head(path, "", LARGE), LARGE).await?;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    drop(holding);
    Ok(())
}

#[tokio::test]
async fn whoever_is_refused_hears_why_however_much_it_sends() -> Result<()> {
    const LENGTH: usize = 20 << 20;
    let (_site, agent) = scenes::device().await?;
    let (infer, nobody) = ("/v2/models/digits/infer", "/v2/models/nobody/infer");
    for (path, more, status) in [
        (nobody, "", "404"),
        ("/v2/models/nob%6fdy/infer", "", "404"),
        ("/v3", "", "404"),
        ("/v2/models/digits/ready", "", "405"),
        (infer, "terrace-nonsense: 1\r\n", "400"),
        (infer, "content-encoding: br\r\n", "415"),
        (infer, "terrace-max-latency-ms: 1\r\n", "504"),
    ] {
        let mut stream = TcpStream::connect(agent.http).await?;
        for _ in 0..2 {
            let answer = answer_to_all_of(&mut stream, &head(path, more, LENGTH), LENGTH)
                .await
                .with_context(|| format!("{path} {more}"))?;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {more}: {answer}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_rest_of_what_is_refused() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    for (length, status) in [(1 << 30, "413"), (1000, "400")] {
        let more = "terrace-nonsense: 1\r\n";
        let head = head("/v2/models/digits/infer", if length > 1000 { "" } else { more }, length);
        let begun = Instant::now();
        let mut stream = sent(&agent, &[head, b"{".to_vec()].concat()).await?;
        assert_eq!(status_line(&mut stream).await?, format!("HTTP/1.1 {status}"));
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(1500), "{took:?}");
    }
    Ok(())
}

/// The head of a request whose body comes in chunks, and some of them.
fn chunked(coding: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let head = format!(
        "POST /v2/models/digits/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-encoding: {coding}\r\n\r\n"
    );
    let chunks = chunks.iter().map(|chunk| {
        let length = format!("{:x}\r\n", chunk.len()).into_bytes();
        [&length[..], chunk, b"\r\n"].concat()
    });
    [head.into_bytes(), chunks.collect::<Vec<_>>().concat()].concat()
}

#[tokio::test]
async fn a_packed_body_is_bounded_as_it_comes_too() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--max-body-bytes", "100000").ready().await?;
    // Blocks of which nothing becomes.
    let empty = b"\0\0\0\xff\xff".repeat(10_000);
    let mut stream = sent(&agent, &chunked("deflate", &[b"\x78\x01", &empty, &empty])).await?;
    assert_eq!(status_line(&mut stream).await?, "HTTP/1.1 413");
    Ok(())
}

#[tokio::test]
async fn a_few_bytes_of_many_packed_bodies_hold_little() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--max-held-bytes", (16 << 20).to_string()).ready().await?;
    let mut holding = Vec::new();
    for _ in 0..30 {
        // A frame that asks for the largest window that there is.
        holding.push(sent(&agent, &chunked("zstd", &[&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68]])).await?);
        holding.push(sent(&agent, &chunked("gzip", &[&[0x1f, 0x8b]])).await?);
    }
    let headers = [("grpc-encoding", "zstd")];
    let message = [&[1, 0, 0, 0xea, 0x60][..], &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68]].concat();
    let mut calls = Vec::new();
    for method in ["ModelReady", "ModelInfer"] {
        for _ in 0..15 {
            calls.push(Stalled::begin(agent.grpc, (method, None), &headers, message.clone().into()).await?);
        }
    }
    for _ in 0..5 {
        let mut request = Ask::image(image()).request();
        request.body = format!("{}{}", Ask::image(image()).body(), " ".repeat(3 << 20)).into();
        agent.send(&request).await?.answered()?;
    }
    assert!(calls.iter().all(|call| !call.is_answered()), "they are still awaited");
    drop(holding);
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_refused_before_it_names_a_model_is_counted() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let mut connection = grpc::Connection::open(agent.grpc, None).await?;
    for _ in 0..3 {
        assert_eq!(connection.call("ModelInfer", None, &[0xff; 10]).await?.code, grpc::INVALID_ARGUMENT);
    }
    let large = [&[0][..], &u32::MAX.to_be_bytes()].concat();
    let call = Stalled::begin(agent.grpc, ("ModelInfer", None), &[], large.into()).await?;
    assert_eq!(call.reply().await?.code, grpc::RESOURCE_EXHAUSTED);
    let metrics = agent.admin("/metrics").await?.text();
    for (code, count) in [(400, 3), (413, 1)] {
        let line = format!(
            "terrace_requests_total{{model=\"\",tier=\"none\",source=\"none\",code=\"{code}\"}} {count}"
        );
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    Ok(())
}

#[tokio::test]
async fn who_asks_before_it_sends_is_told_to_only_where_that_is_read() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let (infer, nobody) = ("/v2/models/digits/infer", "/v2/models/nobody/infer");
    for (path, length, status) in
        [(infer, 100, "HTTP/1.1 100"), (nobody, 100, "HTTP/1.1 404"), (infer, 1 << 30, "HTTP/1.1 413")]
    {
        let mut stream = sent(&agent, &head(path, "expect: 100-continue\r\n", length)).await?;
        assert_eq!(status_line(&mut stream).await?, status, "{path} {length}");
    }
    Ok(())
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
