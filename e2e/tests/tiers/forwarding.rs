//! What travels between tiers, and how far.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::scenes::url;
use terrace_e2e::server::Plan;
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::LABEL;
use terrace_e2e::{scenes, upstreams};

use super::{AMPLE, CLOUDY, image};

#[tokio::test]
async fn binary_tensors_are_passed_on_and_come_back_untouched() -> Result<()> {
    // A cloud that answers in binary, with bits that no float prints.
    let json = r#"{"model_name":"m","outputs":[{"name":"label","datatype":"INT64","shape":[1],"parameters":{"binary_data_size":8}}]}"#;
    let tail = [1, 2, 3, 4, 5, 6, 7, 8];
    let answer = Plan::ok([json.as_bytes(), &tail].concat())
        .header("inference-header-content-length", &json.len().to_string());
    let cloud = upstreams::planned(answer).await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&cloud.url())).await?;
    let pixels: Vec<u8> = image().iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    let head = r#"{"parameters":{"complexity":0.9,"binary_data_output":true},"inputs":[{"name":"image","datatype":"FP32","shape":[1,64],"parameters":{"binary_data_size":256}}]}"#;
    let body = [head.as_bytes(), &pixels].concat();
    let request = terrace_e2e::http::Request::post("/v2/models/digits/infer", body.clone())
        .header("inference-header-content-length", &head.len().to_string());
    let reply = device.send(&request).await?;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let length: usize = reply.header("inference-header-content-length").parse()?;
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    assert_eq!(reply.body[length..], tail);
    let told: Value = serde_json::from_slice(&reply.body[..length])?;
    assert_eq!(told["parameters"]["tier"], "cloud");

    let [seen] = <[_; 1]>::try_from(cloud.requests()).map_err(|_| anyhow::anyhow!("one request"))?;
    assert_eq!(seen.body, body);
    assert_eq!(seen.header("inference-header-content-length"), Some(&*head.len().to_string()));

    // And by the device itself.
    let private = request.header("terrace-privacy-required", "true");
    let reply = device.send(&private).await?;
    let length: usize = reply.header("inference-header-content-length").parse()?;
    let told: Value = serde_json::from_slice(&reply.body[..length])?;
    let sizes: Vec<_> = told["outputs"]
        .as_array()
        .context("no outputs")?
        .iter()
        .map(|output| &output["parameters"]["binary_data_size"])
        .collect();
    assert_eq!(sizes, [&json!(40), &json!(8)]);
    assert_eq!(reply.body.len(), length + 48);
    Ok(())
}

#[tokio::test]
async fn a_forwarded_request_carries_its_body_its_hop_and_the_time_that_is_left() -> Result<()> {
    let (edge, cloud) = (upstreams::answering().await?, upstreams::answering().await?);
    let policy = Policy::named("near").edge(&edge.url()).cloud(&format!("{}/gateway/", cloud.url()));
    let site = Site::new()?;
    site.manifests().policy(&policy)?;
    let model = Model::digits("digits-device")?.policy("near").called("cloud", "vision.digits-large");
    site.manifests().model(&model)?;
    let device = site.agent().ready().await?;

    let ask = CLOUDY
        .clone()
        .id("one")
        .header("authorization", "Bearer secret")
        .header("cookie", "secret")
        .header("x-trace", "secret");
    let reply = device.infer(&ask.clone().within(AMPLE)).await?.answered()?;
    let body = reply.json()?;
    assert_eq!((&body["model_name"], &body["id"]), (&json!("digits"), &json!("one")));
    assert_eq!(body["model_version"], "7", "the revision that answered is the cloud's");
    assert_eq!(body["parameters"]["made_up"], true, "what else the cloud says is passed on");
    assert_eq!(reply.labels()?, [LABEL]);

    let [seen] = <[_; 1]>::try_from(cloud.requests()).map_err(|_| anyhow::anyhow!("one request"))?;
    assert_eq!(seen.path(), "/gateway/v2/models/vision.digits-large/infer");
    assert_eq!(seen.body, ask.clone().within(AMPLE).request().body);
    assert_eq!(seen.header("terrace-hop"), Some("device"));
    let left: f64 = seen.header("terrace-max-latency-ms").unwrap_or_default().parse()?;
    assert!(left > 0.0 && left < AMPLE as f64, "{left}");
    let all = String::from_utf8_lossy(&cloud.bytes()).into_owned();
    assert!(!all.contains("secret"), "the client's own headers were passed on:\n{all}");

    device.infer(&Ask::image(image()).complexity(0.5)).await?.answered()?;
    let seen = edge.requests();
    assert_eq!(seen[0].path(), "/v2/models/digits/infer");
    assert_eq!(seen[0].header("terrace-max-latency-ms"), None);
    Ok(())
}

#[tokio::test]
async fn a_relayed_answer_keeps_its_outputs_to_the_letter() -> Result<()> {
    // Numbers that a float would not give back, and a field that nobody knows.
    let outputs =
        r#"[{"name":"label","datatype":"INT64","shape":[1],"data":[9007199254740993],"extra":1e-400}]"#;
    let body = format!(r#"{{"model_name":"m","outputs":{outputs},"unknown":{{"a":[1,2]}}}}"#);
    let cloud = upstreams::planned(Plan::ok(body)).await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&cloud.url())).await?;
    let text = device.infer(&CLOUDY).await?.answered()?.text();
    ensure!(text.contains(outputs), "{text}");
    ensure!(text.contains(r#""unknown":{"a":[1,2]}"#), "{text}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_forwarded_twice_even_where_two_agents_name_each_other() -> Result<()> {
    let (device_site, edge_site) = (Site::new()?, Site::new()?);
    let device = device_site.agent().ready().await?;
    let edge = edge_site.agent().tier("edge").ready().await?;
    // The edge has no model of its own that works, and would ask the device, which is its cloud.
    edge_site.manifests().policy(&Policy::named("near").cloud(&url(&device)))?;
    let broken = Model::digits("digits-edge")?.on("Edge").pinned(&"0".repeat(64)).policy("near");
    edge_site.manifests().model(&broken)?;
    device_site.manifests().policy(&Policy::named("near").edge(&url(&edge)))?;
    let model = Model::digits("digits-device")?.policy("near");
    device_site.manifests().model(&model)?;
    device.wait_serving("digits", model.sha256()).await?;
    edge.wait_failed("digits", "DigestMismatch").await?;

    let reply = device.infer(&Ask::image(image()).complexity(0.5)).await?.answered()?;
    assert_eq!(reply.walk()?, "edge BadStatus, device Answered");
    assert_eq!(device.counted("terrace_requests_total", &[]).await?, 1.0);
    assert_eq!(edge.counted("terrace_requests_total", &[]).await?, 1.0);
    assert_eq!(edge.counted("terrace_requests_total", &["code=\"503\""]).await?, 1.0);

    let reply = device.infer(&Ask::image(image()).parameter("tier", "edge").complexity(0.9)).await?;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(device.counted("terrace_requests_total", &[]).await?, 2.0);
    assert_eq!(edge.counted("terrace_requests_total", &[]).await?, 2.0);

    // The edge itself would forward what was not forwarded before.
    let reply = edge.infer(&Ask::image(image()).complexity(0.9)).await?.answered()?;
    assert_eq!(reply.route()?.tier, "cloud");
    assert_eq!(
        edge.infer(&Ask::image(image()).complexity(0.9).header("terrace-hop", "device")).await?.status,
        503
    );
    Ok(())
}
