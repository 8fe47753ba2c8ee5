//! Bodies that are compressed, both ways, and what is done about those that are meant to hurt.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::codings::{self, packed, unpacked};
use terrace_e2e::digits::{self, Artifact};
use terrace_e2e::http::{Reply, Request};
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::opinions::{many, patient_under};
use terrace_e2e::site::Site;
use terrace_e2e::{checkout, scenes, upstreams};

const INFER: &str = "/v2/models/digits/infer";

fn image() -> &'static [f32] {
    &digits::test_set().images[0]
}

/// A request about some images, whose elements follow its JSON in binary; and the length of the JSON.
fn in_binary(images: &[Vec<f32>]) -> (Vec<u8>, usize) {
    let elements: Vec<u8> = images.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    let json = json!({"inputs": [{
        "name": "image", "datatype": "FP32", "shape": [images.len(), 64],
        "parameters": {"binary_data_size": elements.len()},
    }]});
    let json = json.to_string();
    ([json.as_bytes(), &elements].concat(), json.len())
}

/// A request whose body is in a coding.
fn coded(coding: &str, body: &[u8]) -> Result<Request> {
    Ok(Request::post(INFER, packed(coding, body)?).header("content-encoding", coding))
}

#[tokio::test]
async fn a_compressed_body_is_answered_as_it_would_be_uncompressed() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let images = &digits::test_set().images[..100];
    let ask = Ask::images(images);
    let expected = agent.infer(&ask).await?.answered()?.outputs()?;
    let (binary, json_length) = in_binary(images);
    let mut connection = agent.connect().await?;
    for coding in codings::ALL {
        let reply = connection.send(&coded(coding, ask.body().to_string().as_bytes())?).await?.answered()?;
        assert_eq!(reply.outputs()?, expected, "{coding}");
        // The length of the JSON is that of the body before it was compressed, as Triton's client has it.
        let request =
            coded(coding, &binary)?.header("inference-header-content-length", &json_length.to_string());
        assert_eq!(connection.send(&request).await?.answered()?.outputs()?, expected, "{coding}, in binary");
    }
    let identity = ask.request().header("content-encoding", "identity");
    assert_eq!(connection.send(&identity).await?.answered()?.outputs()?, expected);
    Ok(())
}

#[tokio::test]
async fn a_coding_that_is_not_read_is_refused_with_those_that_are() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let body = Ask::image(image()).body().to_string();
    for values in [&["br"][..], &["gzip, gzip"], &["gzip", "deflate"], &["gzip;q=1"], &["snappy, identity"]] {
        let mut request = Request::post(INFER, body.clone());
        for value in values {
            request = request.header("content-encoding", value);
        }
        let reply = agent.send(&request).await?;
        assert_eq!(reply.status, 415, "{values:?}: {}", reply.text());
        assert_eq!(reply.header("accept-encoding"), "gzip, deflate, zstd", "{values:?}");
        assert!(reply.error()?.contains("gzip, deflate, zstd"), "{}", reply.text());
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_body_is_refused_by_the_coding_that_it_claims() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let body = Ask::image(image()).body().to_string();
    for coding in codings::ALL {
        let good = packed(coding, body.as_bytes())?;
        let more = [&good[..], b"more"].concat();
        for (what, bytes) in [
            ("nothing", &b""[..]),
            ("another coding", body.as_bytes()),
            ("half of it", &good[..good.len() / 2]),
            ("all but its end", &good[..good.len() - 1]),
            ("more behind it", &more),
        ] {
            let request = Request::post(INFER, bytes.to_vec()).header("content-encoding", coding);
            let reply = agent.send(&request).await?;
            assert_eq!(reply.status, 400, "{coding}, {what}: {}", reply.text());
            assert!(reply.error()?.contains(coding), "{coding}, {what}: {}", reply.text());
        }
        agent.send(&coded(coding, body.as_bytes())?).await?.answered()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_take_no_more_memory_than_requests_may() -> Result<()> {
    const HELD: usize = 32 << 20;
    const AT_ONCE: usize = 16;
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--max-held-bytes", HELD.to_string()).ready().await?;
    let zeros = vec![b' '; 64 << 20];
    let mut bombs = Vec::new();
    for coding in codings::ALL {
        bombs.push(coded(coding, &zeros)?);
    }
    drop(zeros);
    for bomb in &bombs {
        assert!(bomb.body.len() < 1 << 20, "{} bytes", bomb.body.len());
        agent.send(bomb).await?;
    }
    let before = agent.peak_memory()?;
    for bomb in bombs {
        let asking = (0..AT_ONCE).map(|_| agent.send(&bomb));
        for reply in futures_util::future::try_join_all(asking).await? {
            // Too much of it, or too many at once.
            assert!([413, 429].contains(&reply.status), "{}", reply.text());
            reply.error()?;
        }
        // One alone hears what is wrong with it.
        let reply = agent.send(&bomb).await?;
        assert_eq!(reply.status, 413, "{}", reply.text());
    }
    let grown = agent.peak_memory()?.saturating_sub(before);
    println!("{AT_ONCE} bombs of 64 MiB at once, three times: {} KiB more than one alone", grown >> 10);
    // They would be 1 GiB. The allocator keeps some of what was given back to it, for each thread.
    assert!(grown < 4 * HELD as u64, "the agent grew by {} KiB", grown >> 10);
    agent.infer(&Ask::image(image())).await?.answered()?;
    Ok(())
}

#[tokio::test]
async fn a_body_is_as_large_as_it_is_once_decompressed() -> Result<()> {
    const LIMIT: usize = 65_536;
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--max-body-bytes", LIMIT.to_string()).ready().await?;
    let body = Ask::image(image()).body().to_string();
    let filled = |length: usize| format!("{body}{}", " ".repeat(length - body.len()));
    for coding in codings::ALL {
        agent.send(&coded(coding, filled(LIMIT).as_bytes())?).await?.answered()?;
        let reply = agent.send(&coded(coding, filled(LIMIT + 1).as_bytes())?).await?;
        assert_eq!(reply.status, 413, "{coding}: {}", reply.text());
        assert!(reply.error()?.contains("--max-body-bytes"), "{}", reply.text());
    }
    Ok(())
}

/// An agent with a model that gives back what it takes.
async fn echoing() -> Result<(Site, Agent)> {
    let site = Site::new()?;
    let model = std::fs::read(checkout().join("e2e/models/datatypes.onnx"))?;
    site.offer("datatypes.onnx", &model)?;
    let file = Artifact { uri: "file:///datatypes.onnx".to_owned(), sha256: digits::sha256(&model) };
    site.manifests().model(&Model::of("datatypes", &file))?;
    let agent = site.agent().ready().await?;
    Ok((site, agent))
}

/// A request of that model about these numbers; the other inputs are empty.
fn echo(numbers: &[f32]) -> Request {
    const TYPES: [&str; 13] = [
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16",
        "FP64", "BYTES",
    ];
    let mut inputs =
        vec![json!({"name": "FP32", "datatype": "FP32", "shape": [1, numbers.len()], "data": numbers})];
    // Of as many rows as each other, which are as empty as can be.
    inputs.extend(TYPES.map(|kind| json!({"name": kind, "datatype": kind, "shape": [1, 0], "data": []})));
    let body = json!({"inputs": inputs, "outputs": [{"name": "FP32_back"}]});
    Request::post("/v2/models/datatypes/infer", body.to_string())
}

fn echoed(coding: &str, reply: &Reply) -> Result<Value> {
    let body = if coding.is_empty() { reply.body.to_vec() } else { unpacked(coding, &reply.body)? };
    let body: Value = serde_json::from_slice(&body)?;
    Ok(body["outputs"][0]["data"].clone())
}

#[tokio::test]
async fn an_answer_is_compressed_where_that_is_asked_for_and_pays() -> Result<()> {
    let (_site, agent) = echoing().await?;
    let many: Vec<f32> = (0..20_000_u16).map(|number| f32::from(number % 100) / 4.0).collect();
    let plain = agent.send(&echo(&many)).await?.answered()?;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "accept-encoding"));
    for (asked, coding) in [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1, zstd;q=0.5", "gzip"),
        ("br, identity", ""),
        ("gzip;q=0", ""),
        ("*", ""),
    ] {
        let reply = agent.send(&echo(&many).header("accept-encoding", asked)).await?.answered()?;
        assert_eq!(reply.header("content-encoding"), coding, "{asked}");
        assert_eq!(reply.header("vary"), "accept-encoding", "{asked}");
        assert_eq!(reply.header("content-type"), "application/json", "{asked}");
        assert_eq!(echoed(coding, &reply)?, json!(many), "{asked}");
        assert!(
            coding.is_empty() || reply.body.len() < plain.body.len() / 4,
            "{asked}: {}",
            reply.body.len()
        );
    }
    // Outputs in binary are compressed with their JSON, whose length stays what it was.
    let mut request = echo(&many).header("accept-encoding", "zstd");
    let mut body: Value = serde_json::from_slice(&request.body)?;
    body["outputs"][0]["parameters"] = json!({"binary_data": true});
    request.body = body.to_string().into();
    let reply = agent.send(&request).await?.answered()?;
    assert_eq!(reply.header("content-encoding"), "zstd");
    let whole = unpacked("zstd", &reply.body)?;
    let length: usize = reply.header("inference-header-content-length").parse()?;
    let (json, elements) = whole.split_at_checked(length).context("the JSON is longer than the body")?;
    let json: Value = serde_json::from_slice(json)?;
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], elements.len());
    let expected: Vec<u8> = many.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert!(elements == expected);

    // What is tiny and what is close to noise stays as it is, unless the client does not take it so.
    let few = echo(&[1.5]);
    let reply = agent.send(&few.clone().header("accept-encoding", "gzip")).await?.answered()?;
    assert_eq!((reply.header("content-encoding"), reply.header("vary")), ("", ""));
    let reply = agent.send(&few.header("accept-encoding", "gzip, identity;q=0")).await?.answered()?;
    assert_eq!(echoed("gzip", &reply)?, json!([1.5]));
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits((state >> 2) | 0x3000_0000)
    };
    let noise: Vec<f32> = std::iter::repeat_with(&mut next).take(50_000).collect();
    let mut request = echo(&noise).header("accept-encoding", "gzip, zstd");
    let mut body: Value = serde_json::from_slice(&request.body)?;
    body["outputs"][0]["parameters"] = json!({"binary_data": true});
    request.body = body.to_string().into();
    assert_eq!(agent.send(&request).await?.answered()?.header("content-encoding"), "");
    Ok(())
}

#[tokio::test]
async fn another_tier_is_asked_uncompressed_and_for_no_coding() -> Result<()> {
    let edge = upstreams::answering().await?;
    let (_site, agent) = scenes::device_under(&Policy::named("near").edge(&edge.url())).await?;
    let ask = Ask::image(image());
    let request = coded("zstd", ask.body().to_string().as_bytes())?.header("accept-encoding", "gzip");
    let reply = agent.send(&request).await?.answered()?;
    assert_eq!(reply.route()?.tier, "edge");
    let seen = edge.requests();
    assert_eq!(seen.len(), 1);
    let codings = (seen[0].header("content-encoding"), seen[0].header("accept-encoding"));
    assert_eq!(codings, (None, Some("identity")));
    assert_eq!(serde_json::from_slice::<Value>(&seen[0].body)?, ask.body());
    Ok(())
}

/// An agent with a model of a scalar, a matrix of any size and inputs that may be left out.
async fn shaped() -> Result<(Site, Agent)> {
    let site = Site::new()?;
    let model = std::fs::read(checkout().join("e2e/models/shapes.onnx"))?;
    site.offer("shapes.onnx", &model)?;
    let file = Artifact { uri: "file:///shapes.onnx".to_owned(), sha256: digits::sha256(&model) };
    site.manifests().model(&Model::of("shapes", &file))?;
    let agent = site.agent().ready().await?;
    Ok((site, agent))
}

fn input(name: &str, datatype: &str, shape: &[usize], data: Value) -> Value {
    json!({"name": name, "datatype": datatype, "shape": shape, "data": data})
}

#[tokio::test]
async fn inputs_that_the_model_has_a_value_for_may_be_left_out_and_are_told() -> Result<()> {
    let (_site, agent) = shaped().await?;
    let metadata = agent.get("/v2/models/shapes").await?.answered()?.json()?;
    let told: Vec<(&str, bool)> = metadata["inputs"]
        .as_array()
        .context("inputs")?
        .iter()
        .map(|input| (input["name"].as_str().unwrap_or_default(), input["parameters"]["optional"] == true))
        .collect();
    assert_eq!(told[..2], [("x", false), ("count", false)]);
    assert!(told[2..].contains(&("scale", true)) && told[2..].contains(&("offset", true)), "{told:?}");
    let config = agent.get("/v2/models/shapes/config").await?.answered()?.json()?;
    let optional = |name: &str| {
        let inputs = config["input"].as_array();
        inputs.and_then(|inputs| inputs.iter().find(|input| input["name"] == name)?.get("optional").cloned())
    };
    assert_eq!((optional("x"), optional("scale")), (None, Some(json!(true))));

    let x = input("x", "FP32", &[2, 2], json!([1, 2, 3, 4]));
    let count = input("count", "INT64", &[], json!([7]));
    let scale = input("scale", "FP32", &[], json!([10]));
    let offset = input("offset", "FP32", &[1], json!([-1]));
    for (inputs, y) in [
        (vec![&x, &count], [3, 5, 7, 9]),
        (vec![&scale, &x, &count], [11, 21, 31, 41]),
        (vec![&x, &count, &offset, &scale], [9, 19, 29, 39]),
        (vec![&x, &count], [3, 5, 7, 9]),
    ] {
        let reply = agent.infer(&Ask::inputs(json!(inputs)).model("shapes")).await?.answered()?.outputs()?;
        assert_eq!(reply[0]["data"], json!(y.map(f64::from)));
        assert_eq!((&reply[1]["data"], &reply[1]["shape"]), (&json!([7]), &json!([])));
    }
    for (inputs, named) in [
        (vec![x.clone()], "\"count\" is missing"),
        (vec![x.clone(), count.clone(), input("scales", "FP32", &[], json!([1]))], "no input \"scales\""),
        (vec![x.clone(), count.clone(), input("scale", "FP32", &[1], json!([1]))], "\"scale\": shape [1]"),
        (vec![x.clone(), count.clone(), input("scale", "FP64", &[], json!([1]))], "\"scale\": datatype FP64"),
    ] {
        let reply = agent.infer(&Ask::inputs(json!(inputs)).model("shapes")).await?;
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert!(reply.error()?.contains(named), "{}", reply.text());
    }
    Ok(())
}

#[tokio::test]
async fn scalars_and_shapes_without_elements_go_both_ways_in_json_and_in_binary() -> Result<()> {
    let (_site, agent) = shaped().await?;
    for (rows, columns) in [(0, 3), (3, 0), (0, 0), (1, 1), (2, 3)] {
        let numbers: Vec<f32> = (0..rows * columns).map(|number| number as f32).collect();
        let expected: Vec<f32> = numbers.iter().map(|number| number * 2.0 + 1.0).collect();
        let json = json!({"inputs": [
            input("count", "INT64", &[], json!([-7])),
            input("x", "FP32", &[rows, columns], json!(numbers)),
        ]});
        let elements: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let binary = json!({
            "parameters": {"binary_data_output": true},
            "inputs": [
                {"name": "count", "datatype": "INT64", "shape": [], "parameters": {"binary_data_size": 8}},
                {"name": "x", "datatype": "FP32", "shape": [rows, columns],
                    "parameters": {"binary_data_size": elements.len()}},
            ],
        })
        .to_string();
        let body = [binary.as_bytes(), &(-7_i64).to_le_bytes(), &elements].concat();
        let path = "/v2/models/shapes/infer";
        let reply = agent.send(&Request::post(path, json.to_string())).await?.answered()?.outputs()?;
        assert_eq!((&reply[0]["shape"], &reply[0]["data"]), (&json!([rows, columns]), &json!(expected)));
        assert_eq!((&reply[1]["shape"], &reply[1]["data"]), (&json!([]), &json!([-7])));

        let request =
            Request::post(path, body).header("inference-header-content-length", &binary.len().to_string());
        let reply = agent.send(&request).await?.answered()?;
        let length: usize = reply.header("inference-header-content-length").parse()?;
        let told: Value = serde_json::from_slice(&reply.body[..length])?;
        assert_eq!(told["outputs"][0]["shape"], json!([rows, columns]));
        let behind: Vec<u8> = expected.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(reply.body[length..], [&behind[..], &(-7_i64).to_le_bytes()].concat());
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_whose_deadline_passes_while_it_is_written_is_a_504_at_once() -> Result<()> {
    const SCORES: usize = 8_000_000;
    let (_site, device) = patient_under(&Policy::named("near").private(true)).await?;
    let whole = device.send(&many(SCORES, &json!({}))).await?;
    // What comes before the outputs is told before they are written.
    let told = String::from_utf8_lossy(&whole.body[..1_000]).into_owned();
    let told = told.split_once("\"latency_ms\":").and_then(|(_, rest)| rest.split(',').next());
    let computed: f64 = told.context("no latency_ms")?.parse()?;
    // Half way through the writing, and far into the packing, which takes longer.
    for (packed, share) in [(None, 0.3), (Some("gzip"), 0.6)] {
        let ask = |parameters: Value| {
            let ask = many(SCORES, &parameters);
            packed.map_or(ask.clone(), |coding| ask.header("accept-encoding", coding))
        };
        let whole = device.send(&ask(json!({}))).await?;
        assert_eq!((whole.status, whole.header("content-encoding")), (200, packed.unwrap_or_default()));
        let written = whole.took.as_secs_f64() * 1e3 - computed;
        let deadline = computed + share * written;
        let mut late = Vec::new();
        for _ in 0..5 {
            let reply = device.send(&ask(json!({"max_latency_ms": deadline}))).await?;
            let took = reply.took.as_secs_f64() * 1e3;
            // A machine that is busy may need all of the time to compute, or be late itself.
            if reply.status == 504
                && reply.text().contains("was not written")
                && took < deadline + 0.15 * written
            {
                late.clear();
                break;
            }
            late.push(format!(
                "{took} ms {}",
                String::from_utf8_lossy(&reply.body[..reply.body.len().min(200)])
            ));
        }
        assert!(late.is_empty(), "{packed:?}, within {deadline} ms, {written} ms to write: {late:#?}");
    }
    Ok(())
}
