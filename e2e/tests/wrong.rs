//! Everything that clients get wrong: they are told what, and it costs nothing.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::digits;
use terrace_e2e::http::{Request, raw};
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Model;
use terrace_e2e::scenes;
use terrace_e2e::site::Site;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Stands in every wrong request as a value, and may stand in no error.
const CANARY: &str = "canary8675309";

fn image() -> &'static [f32] {
    &digits::test_set().images[0]
}

/// A wrong request: what is wrong, the request, the status, and what the error must name.
type Wrong = (&'static str, Request, u16, &'static str);

fn tensor(field: &str, value: Value) -> Request {
    let mut input = json!({"name": "image", "datatype": "FP32", "shape": [1, 64], "data": image()});
    input[field] = value;
    Ask::inputs(json!([input])).request()
}

fn parameter(name: &str, value: Value) -> Request {
    Ask::image(image()).parameter(name, value).request()
}

fn header(name: &str, value: &str) -> Request {
    Ask::image(image()).header(name, value).request()
}

fn text(body: impl Into<bytes::Bytes>) -> Request {
    Request::post("/v2/models/digits/infer", body)
}

fn wrong_tensors() -> Vec<Wrong> {
    let values = |count: usize| json!(vec![8_675_309.0; count]);
    let mut element = json!(image());
    element[3] = json!(CANARY);
    let mut null = json!(image());
    null[4] = Value::Null;
    let two = json!([
        {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": image()},
        {"name": "imagination", "datatype": "FP32", "shape": [1], "data": [8_675_309.0]},
    ]);
    vec![
        ("a wrong name", tensor("name", json!("imagination")), 400, "image"),
        ("a wrong datatype", tensor("datatype", json!("INT64")), 400, "image"),
        ("an unknown datatype", tensor("datatype", json!(CANARY)), 400, "datatype"),
        ("too few values", tensor("data", values(63)), 400, "image"),
        ("too many values", tensor("data", values(65)), 400, "image"),
        ("a wrong dimension", tensor("shape", json!([64, 1])), 400, "image"),
        ("a wrong rank", tensor("shape", json!([64])), 400, "image"),
        ("a negative dimension", tensor("shape", json!([-1, 64])), 400, "shape"),
        ("a fraction for a dimension", tensor("shape", json!([1.5, 64])), 400, "shape"),
        ("a text for a number", tensor("data", element), 400, "element 3"),
        ("nothing for a number", tensor("data", null), 400, "element 4"),
        ("no list", tensor("data", json!(CANARY)), 400, "data"),
        ("rows of different lengths", tensor("data", json!([[1, 2], [3]])), 400, "data"),
        ("no shape", tensor("shape", Value::Null), 400, "shape"),
        ("a second input", Ask::inputs(two).request(), 400, "imagination"),
        ("no input", Ask::inputs(json!([])).request(), 400, "image"),
        ("inputs that are no list", Ask::inputs(json!({"image": CANARY})).request(), 400, "inputs"),
        ("an unknown output", Ask::image(image()).outputs(&["certainty"]).request(), 400, "certainty"),
    ]
}

fn wrong_requirements() -> Vec<Wrong> {
    vec![
        ("privacy as a text", parameter("privacy_required", json!(CANARY)), 400, "privacy_required"),
        ("privacy as a number", parameter("privacy_required", json!(1)), 400, "privacy_required"),
        ("privacy as nothing", parameter("privacy_required", Value::Null), 400, "privacy_required"),
        ("a negative deadline", parameter("max_latency_ms", json!(-8_675_309)), 400, "max_latency_ms"),
        ("a deadline as a text", parameter("max_latency_ms", json!(CANARY)), 400, "max_latency_ms"),
        ("a complexity above one", parameter("complexity", json!(8_675_309)), 400, "complexity"),
        ("a tier that is none", parameter("tier", json!(CANARY)), 400, "tier"),
        ("a tier without a policy", parameter("tier", json!("cloud")), 400, "tier"),
        ("a parameter that is no scalar", parameter("note", json!([CANARY])), 400, "note"),
        ("an unknown header of ours", header("terrace-wibble", CANARY), 400, "terrace-wibble"),
        ("privacy in a header", header("terrace-privacy-required", CANARY), 400, "terrace-privacy-required"),
        ("a deadline in a header", header("terrace-max-latency-ms", CANARY), 400, "terrace-max-latency-ms"),
        ("a complexity in a header", header("Terrace-Complexity", CANARY), 400, "terrace-complexity"),
        ("a tier in a header", header("terrace-tier", CANARY), 400, "terrace-tier"),
    ]
}

fn wrong_bodies() -> Vec<Wrong> {
    let whole = Ask::image(image()).body().to_string();
    let with = |name: &str, value: &str| text(whole.clone()).header(name, value);
    let elsewhere = |path: &str| Request { path: path.to_owned(), ..text(whole.clone()) };
    vec![
        ("an unknown model", elsewhere("/v2/models/nobody/infer"), 404, "nobody"),
        ("an unknown version", elsewhere("/v2/models/digits/versions/7/infer"), 404, "digits"),
        ("no body", text(""), 400, "JSON"),
        ("a text", text(CANARY), 400, "JSON"),
        ("half a body", text(whole[..whole.len() / 2].to_owned()), 400, "JSON"),
        ("more than a body", text(format!("{whole} {CANARY}")), 400, "JSON"),
        ("no UTF-8", text(&b"{\"inputs\": [\"\xff\xfe\"]}"[..]), 400, "UTF-8"),
        ("a list", text(format!("[\"{CANARY}\"]")), 400, "object"),
        ("no inputs", text(format!("{{\"id\": \"{CANARY}\"}}")), 400, "inputs"),
        ("an id that is no text", text(whole.replacen('{', "{\"id\": 8675309, ", 1)), 400, "id"),
        ("deep nesting", text("[".repeat(1_000_000)), 400, ""),
        (
            "deep nesting of a value that is not read",
            text(format!("{{\"x\": {}", "[".repeat(1_000_000))),
            400,
            "",
        ),
        ("deep nesting of data", tensor("data", nested(5_000)), 400, "data"),
        ("a header length within the JSON", with("inference-header-content-length", "20"), 400, "not JSON"),
        (
            "a header length beyond it",
            with("inference-header-content-length", "999999"),
            400,
            "Inference-Header",
        ),
        ("no header length", with("inference-header-content-length", CANARY), 400, "Inference-Header"),
        (
            "the best classes",
            text({
                let mut body = Ask::image(image()).body();
                body["outputs"] = json!([{"name": "label", "parameters": {"classification": 2}}]);
                body.to_string()
            }),
            400,
            "classification",
        ),
        ("a coding that is not known", with("content-encoding", CANARY), 415, "content-encoding"),
        ("a body that is not in its coding", with("content-encoding", "gzip"), 400, "content-encoding"),
    ]
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

#[tokio::test]
async fn a_wrong_request_is_told_its_field_and_never_its_value() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    for (what, request, status, named) in [wrong_tensors(), wrong_requirements(), wrong_bodies()].concat() {
        let reply = agent.send(&request).await.with_context(|| what)?;
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
        let error = reply.error().with_context(|| what)?;
        assert!(error.contains(named), "{what}: {error:?} does not name {named:?}");
        assert!(error.len() < 1_000, "{what}: {} characters", error.len());
        for value in [CANARY, "8675309"] {
            assert!(!error.contains(value), "{what}: {error:?} repeats a value");
        }
    }
    agent.infer(&Ask::image(image())).await?.answered()?;
    assert!(!agent.log().contains(CANARY), "a value is in the log:\n{}", agent.log());
    Ok(())
}

#[tokio::test]
async fn what_a_request_claims_to_hold_costs_no_memory() -> Result<()> {
    const ENOUGH: u64 = 16 << 20;
    let (_site, agent) = scenes::device().await?;
    agent.infer(&Ask::images(&digits::test_set().images)).await?.answered()?;
    let before = agent.peak_memory()?;

    let shapes = [
        json!([2_000_000_000_u64, 64]),
        json!([u64::MAX]),
        json!([u64::MAX, u64::MAX, 64]),
        json!([4_294_967_296_u64, 4_294_967_296_u64]),
        json!([0, u64::MAX]),
        json!(vec![1; 100_000]),
    ];
    for shape in shapes {
        for data in [json!([]), json!([1.5]), json!(image())] {
            let input = json!([{"name": "image", "datatype": "FP32", "shape": shape, "data": data}]);
            let reply = agent.infer(&Ask::inputs(input)).await?;
            assert_eq!(reply.status, 400, "{}", reply.text());
            reply.error()?;
        }
    }
    // Bodies that are announced and do not come.
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(agent.http).await?;
        let head = "POST /v2/models/digits/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 60000000\r\n\r\n{";
        stream.write_all(head.as_bytes()).await?;
        held.push(stream);
    }
    agent.infer(&Ask::image(image())).await?.answered()?;
    let grown = agent.peak_memory()? - before;
    assert!(grown < ENOUGH, "the agent grew by {} KiB", grown >> 10);
    Ok(())
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_or_not_its_length_is_stated() -> Result<()> {
    const LIMIT: usize = 65_536;
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--max-body-bytes", LIMIT.to_string()).ready().await?;

    let body = Ask::image(image()).body().to_string();
    let filled = |length: usize| format!("{body}{}", " ".repeat(length - body.len()));
    agent.send(&text(filled(LIMIT))).await?.answered()?;
    let reply = agent.send(&text(filled(LIMIT + 1))).await?;
    assert_eq!(reply.status, 413);
    reply.error()?;

    let head = "POST /v2/models/digits/infer HTTP/1.1\r\nhost: a\r\n";
    // Refused by what it announces, before any of it comes.
    let announced =
        raw(agent.http, format!("{head}content-length: {}\r\n\r\n", LIMIT + 1).as_bytes()).await?;
    ensure!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    let chunk = format!("{:x}\r\n{}\r\n", 10_000, " ".repeat(10_000));
    let unannounced = format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunk.repeat(8));
    let chunked = raw(agent.http, unannounced.as_bytes()).await?;
    ensure!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    assert!(chunked.contains("{\"error\":"), "{chunked}");
    agent.infer(&Ask::image(image())).await?.answered()?;
    Ok(())
}
