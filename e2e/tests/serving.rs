//! The Open Inference Protocol as clients speak it.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits::{self, TOLERANCE};
use terrace_e2e::http::{Reply, Request, raw};
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::scenes;
use terrace_e2e::site::Site;

const MODELS: [&str; 4] = ["digits-device", "digits-device-r2", "digits-edge", "digits-cloud"];

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
    let (_site, agent) = scenes::device_under(&Policy::named("near")).await?;
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
