//! The Open Inference Protocol as clients speak it, and everything that they get wrong.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits::{self, TOLERANCE};
use terrace_e2e::http::{Reply, Request, raw};
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Model;
use terrace_e2e::scenes;
use terrace_e2e::site::Site;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const MODELS: [&str; 4] = ["digits-device", "digits-device-r2", "digits-edge", "digits-cloud"];

/// Stands in every wrong request as a value, and may stand in no error.
const CANARY: &str = "canary8675309";

/// A device that serves all digits models, each under its own name.
async fn all_models() -> Result<(Site, Agent)> {
    let site = Site::new()?;
    for name in MODELS {
        site.manifests().model(&Model::digits(name)?.named(name))?;
    }
    let agent = site.agent().ready().await?;
    Ok((site, agent))
}

fn image() -> &'static [f32] {
    &digits::test_set().images[0]
}

#[tokio::test]
async fn every_route_of_the_protocol_answers() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let version = agent.infer(&Ask::image(image())).await?.answered()?.model_version()?;

    let server = agent.get("/v2").await?.answered()?.json()?;
    assert_eq!(server["name"], "terrace");
    assert!(server["version"].is_string() && server["extensions"].is_array(), "{server}");
    assert_eq!(agent.get("/v2/health/live").await?.answered()?.json()?, json!({"live": true}));
    assert_eq!(agent.get("/v2/health/ready").await?.answered()?.json()?, json!({"ready": true}));

    for model in ["digits", "default.digits"] {
        for path in [format!("/v2/models/{model}"), format!("/v2/models/{model}/versions/{version}")] {
            let metadata = agent.get(&path).await?.answered()?.json()?;
            assert_eq!(metadata["name"], model);
            assert_eq!(metadata["versions"], json!([version]));
            assert_eq!(metadata["inputs"], json!([{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]));
            let outputs = json!([
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
                {"name": "label", "datatype": "INT64", "shape": [-1]},
            ]);
            assert_eq!(metadata["outputs"], outputs);

            let ready = agent.get(&format!("{path}/ready")).await?.answered()?.json()?;
            assert_eq!(ready, json!({"name": model, "ready": true}));
            let mut request = Ask::image(image()).request();
            request.path = format!("{path}/infer");
            let reply = agent.send(&request).await?.answered()?;
            assert_eq!(reply.header("content-type"), "application/json");
            assert_eq!(reply.json()?["model_name"], "digits");
        }
    }
    for path in
        ["/v2/models/digits/versions/7", "/v2/models/digits/versions/7/ready", "/v2/models/nobody", "/v3"]
    {
        let reply = agent.get(path).await?;
        assert_eq!(reply.status, 404, "{path}");
        reply.error()?;
    }
    let reply = agent.get("/v2/models/digits/infer").await?;
    assert_eq!(reply.status, 405);
    reply.error()?;
    Ok(())
}

#[tokio::test]
async fn a_model_of_another_namespace_is_called_by_its_full_name() -> Result<()> {
    let site = Site::new()?;
    let yaml = Model::digits("digits-device")?.yaml();
    site.manifests()
        .write("vision.yaml", &yaml.replace("  name: digits\n", "  name: digits\n  namespace: vision\n"))?;
    let agent = site.agent().ready().await?;
    let reply = agent.infer(&Ask::image(image()).model("vision.digits")).await?.answered()?;
    assert_eq!(reply.json()?["model_name"], "vision.digits");
    assert_eq!(agent.infer(&Ask::image(image())).await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn each_model_is_as_accurate_as_its_table_says_and_answers_its_cases() -> Result<()> {
    let (_site, agent) = all_models().await?;
    let set = digits::test_set();
    for model in MODELS {
        let labels = agent.infer(&Ask::images(&set.images).model(model)).await?.answered()?.labels()?;
        let right = labels.iter().zip(&set.labels).filter(|(label, truth)| label == truth).count();
        let accuracy = right as f64 / set.labels.len() as f64;
        let documented = digits::documented_accuracy(model)?;
        assert!((accuracy - documented).abs() <= 0.005, "{model}: {accuracy}, documented is {documented}");

        for case in digits::cases(model)? {
            let reply = agent.infer(&Ask::images(&case.images).model(model)).await?.answered()?;
            assert_eq!(reply.labels()?, case.labels, "{model}");
            let probabilities = reply.probabilities()?;
            assert_eq!(probabilities.len(), case.probabilities.len());
            for (got, expected) in probabilities.iter().zip(&case.probabilities) {
                assert!((got - expected).abs() <= TOLERANCE, "{model}: {got}, expected {expected}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_image_alone_has_the_same_label_as_in_a_batch_and_nested_data_as_flat() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let images = &digits::test_set().images[..50];
    let batch = agent.infer(&Ask::images(images)).await?.answered()?.labels()?;
    let mut connection = agent.connect().await?;
    for (image, label) in images.iter().zip(batch) {
        let reply = connection.send(&Ask::image(image).request()).await?.answered()?;
        assert_eq!(reply.labels()?, [label]);
        let nested = json!([{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": [image]}]);
        let nested = connection.send(&Ask::inputs(nested).request()).await?.answered()?;
        assert_eq!(nested.outputs()?, reply.outputs()?);
    }
    Ok(())
}

#[tokio::test]
async fn outputs_can_be_named_and_the_id_comes_back() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let reply =
        agent.infer(&Ask::image(image()).outputs(&["label"]).id("a \"b\" ü")).await?.answered()?.json()?;
    assert_eq!(reply["id"], "a \"b\" ü");
    let names: Vec<&Value> =
        reply["outputs"].as_array().context("outputs")?.iter().map(|output| &output["name"]).collect();
    assert_eq!(names, ["label"]);
    assert_eq!(reply["outputs"][0]["datatype"], "INT64");
    assert_eq!(reply["outputs"][0]["shape"], json!([1]));
    let without = agent.infer(&Ask::image(image())).await?.answered()?.json()?;
    assert_eq!(without.get("id"), None);
    Ok(())
}

#[tokio::test]
async fn an_answer_says_who_gave_it_and_why() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let reply = agent.infer(&Ask::image(image())).await?.answered()?;
    assert_eq!(reply.route()?, terrace_e2e::infer::Route::of("device", "primary", "NoPolicy"));
    assert_eq!(reply.walk()?, "device Answered");
    assert_eq!(reply.parameter("complexity")?, Value::Null, "no rule read it");
    let (latency, took) = (reply.latency_ms()?, reply.took.as_secs_f64() * 1e3);
    assert!(latency > 0.0 && latency <= took, "{latency} ms of {took}");
    let scalars = reply.json()?["parameters"].as_object().context("parameters")?.clone();
    assert!(scalars.values().all(|value| !value.is_object() && !value.is_array()), "{scalars:?}");
    Ok(())
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

#[tokio::test]
async fn requests_are_understood_as_curl_and_others_write_them() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let body = Ask::image(image()).body().to_string();
    let path = "/v2/models/digits/infer";
    let length = format!("content-length: {}", body.len());
    let chunks: String = body.as_bytes().chunks(100).fold(String::new(), |chunks, chunk| {
        chunks + &format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk))
    });
    let curl = "user-agent: curl/8.0\r\naccept: */*\r\ncontent-type: application/x-www-form-urlencoded";
    for request in [
        format!("POST {path} HTTP/1.1\r\nHost: localhost:18000\r\n{curl}\r\n{length}\r\n\r\n{body}"),
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\n{curl}\r\n{length}\r\nexpect: 100-continue\r\n\r\n{body}"
        ),
        format!("POST {path} HTTP/1.0\r\n{length}\r\n\r\n{body}"),
        format!("POST {path}?x=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{length}\r\n\r\n{body}"),
        format!("POST http://a{path} HTTP/1.1\r\nhost: a\r\n{length}\r\n\r\n{body}"),
        format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"),
    ] {
        let answer = raw(agent.http, request.as_bytes()).await?;
        assert!(answer.contains(" 200 OK\r\n") && answer.contains("\"label\""), "{request}\n{answer}");
    }
    let two = format!("POST {path} HTTP/1.1\r\nhost: a\r\n{length}\r\n\r\n{body}").repeat(2);
    let answers = raw(agent.http, two.as_bytes()).await?;
    assert_eq!(answers.matches(" 200 OK\r\n").count(), 2, "one after the other without waiting:\n{answers}");

    for garbage in [
        "GARBAGE\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "POST /v2 HTTP/1.1\r\ncontent-length: x\r\n\r\n",
    ] {
        let answer = raw(agent.http, garbage.as_bytes()).await?;
        assert!(!answer.contains(" 200 "), "{garbage:?}\n{answer}");
    }
    let answered: Reply = agent.infer(&Ask::image(image())).await?;
    answered.answered()?;
    Ok(())
}

#[tokio::test]
async fn what_models_did_is_counted_per_model_and_provider() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    for _ in 0..3 {
        agent.infer(&Ask::image(image())).await?.answered()?;
    }
    let text = agent.admin("/metrics").await?.text();
    let value = |series: &str| {
        let line = text.lines().find(|line| line.split('{').next() == Some(series)).context("no series")?;
        assert!(line.contains("provider=\"CPUExecutionProvider\""), "{line}");
        line.rsplit_once(' ').context("no value")?.1.parse::<f64>().context("no number")
    };
    // 64 numbers of four bytes in; ten of four and a label of eight out.
    let of_three = [("runs", 3.0), ("rows", 3.0), ("input_bytes", 3.0 * 256.0), ("output_bytes", 3.0 * 48.0)];
    for (name, expected) in of_three {
        let counted = value(&format!("terrace_model_{name}_total"))?;
        assert!((counted - expected).abs() < 0.5, "{name}: {counted}");
    }
    for (name, expected) in [("batch_rows_sum", 3.0), ("batch_rows_count", 3.0), ("queued", 0.0)] {
        let counted = value(&format!("terrace_model_{name}"))?;
        assert!((counted - expected).abs() < 0.5, "{name}: {counted}");
    }
    Ok(())
}

#[tokio::test]
async fn every_path_answers_the_methods_that_it_has_and_tells_them() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let version = agent.infer(&Ask::image(image())).await?.answered()?.model_version()?;
    let model = "/v2/models/digits";
    let of_version = format!("{model}/versions/{version}");
    let (get, post, both) = ("GET,HEAD", "POST", "GET,HEAD,POST");
    let mut paths = vec![
        ("/v2".to_owned(), get),
        ("/v2/health/live".to_owned(), get),
        ("/v2/health/ready".to_owned(), get),
        ("/v2/models/stats".to_owned(), get),
        ("/v2/repository/index".to_owned(), both),
    ];
    for base in [model, &of_version] {
        for (rest, allowed) in
            [("", get), ("/ready", get), ("/config", get), ("/stats", get), ("/infer", post)]
        {
            paths.push((format!("{base}{rest}"), allowed));
        }
    }
    let mut connection = agent.connect().await?;
    for (path, allowed) in paths {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            let asked = Request { method: method.parse()?, ..Request::get(path.as_str()) };
            let reply = connection.send(&asked).await?;
            if allowed.split(',').any(|known| known == method) {
                // An inference without a body is wrong, and yet heard.
                assert!([200, 400].contains(&reply.status), "{method} {path}: {}", reply.status);
                assert_eq!(reply.header("content-type"), "application/json", "{method} {path}");
                assert_eq!(method == "HEAD", reply.body.is_empty(), "{method} {path}: {}", reply.text());
            } else {
                assert_eq!(reply.status, 405, "{method} {path}: {}", reply.text());
                let mut told: Vec<&str> = reply.header("allow").split(',').collect();
                told.sort_unstable();
                assert_eq!(told.join(","), allowed, "{method} {path}");
                // An answer to HEAD has no body.
                if method != "HEAD" {
                    reply.error().with_context(|| format!("{method} {path}"))?;
                }
            }
        }
    }
    for path in [
        "/",
        "/v2/",
        "/v2/models",
        "/v2/models/digits/",
        "/v2/models/digits/unknown",
        "/v2/models/digits/versions",
        "/v2/models/digits/versions/7/config",
        "/v2/models/nobody/config",
        "/v2/models/nobody/stats",
        // No model control and no memory of the client's, whatever Triton has.
        "/v2/repository/models/digits/load",
        "/v2/repository/models/digits/unload",
        "/v2/systemsharedmemory/region/a/register",
        "/v2/trace/setting",
        "/v2/logging",
        "/v1/models/digits:predict",
        "/v2//models/digits",
        "/v2/models/../models/digits",
    ] {
        for asked in [Request::get(path), Request::post(path, "{}")] {
            // A model's own paths take GET alone.
            let reply = connection.send(&asked).await?;
            let is_wrong_method = reply.status == 405 && asked.method == "POST";
            assert!(reply.status == 404 || is_wrong_method, "{} {path}: {}", asked.method, reply.status);
            reply.error().with_context(|| path)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_index_lists_every_model_or_those_that_are_ready() -> Result<()> {
    let site = Site::new()?;
    let good = Model::digits("digits-device")?;
    site.manifests().model(&good)?;
    let missing = Model::digits("digits-edge")?.named("missing").from("file:///nowhere.onnx");
    site.manifests().model(&missing)?;
    let agent = site.agent().start().await?;
    agent.wait_serving("digits", good.sha256()).await?;
    agent.wait_failed("missing", "FetchFailed").await?;
    let names = |reply: Reply| -> Result<Vec<String>> {
        let models = reply.answered()?.json()?;
        let state = |model: &Value| format!("{} {}", model["name"], model["state"]).replace('"', "");
        Ok(models.as_array().context("a list")?.iter().map(state).collect())
    };
    let all = ["digits READY", "missing UNAVAILABLE"];
    for (body, expected) in [
        ("", &all[..]),
        ("{}", &all),
        ("{\"ready\": false}", &all),
        ("{\"ready\": true, \"x\": []}", &all[..1]),
    ] {
        let reply = agent.send(&Request::post("/v2/repository/index", body)).await?;
        assert_eq!(names(reply)?, expected, "{body}");
    }
    assert_eq!(names(agent.get("/v2/repository/index").await?)?, all);
    for body in ["{\"ready\": \"yes\"}", "[", "7"] {
        let reply = agent.send(&Request::post("/v2/repository/index", body)).await?;
        assert_eq!(reply.status, 400, "{}", reply.text());
        reply.error()?;
    }
    Ok(())
}
