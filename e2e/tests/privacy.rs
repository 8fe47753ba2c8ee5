//! Nothing of a private request leaves the node: not a byte, on no connection, whatever goes wrong.
//!
//! Edge and cloud record every byte that they are sent. Other requests open their connections first, so that there
//! is a warm pool to leak into. Then private ones come, marked with canary values that are searched everywhere.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::agent::{Agent, Launch};
use terrace_e2e::http::Request;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::server::{Server, find};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams;
use terrace_e2e::{digits, grpc};

/// Stands in ids, header values and parameters.
const CANARY: &str = "canary-5e1f0c";
/// The digits of canary numbers, wherever the point is.
const DIGITS: &str = "4831927";

/// A device between two recorders that were asked before.
struct Watched {
    device: Agent,
    edge: Server,
    cloud: Server,
    before: [(usize, usize); 2],
    site: Site,
}

impl Watched {
    async fn start(policy: Policy, model: Model, launch: impl FnOnce(Launch) -> Launch) -> Result<Self> {
        let (edge, cloud) = (upstreams::answering().await?, upstreams::answering().await?);
        let site = Site::new()?;
        site.manifests().policy(&policy.edge(&edge.url()).cloud(&cloud.url()))?;
        let measure = "{output: probabilities, method: Probability}";
        site.manifests().model(&model.policy("near").confidence(measure))?;
        // Another model under an open policy of the same tiers: its requests make the pools warm.
        site.manifests().policy(&Policy::named("open").edge(&edge.url()).cloud(&cloud.url()))?;
        site.manifests().model(&Model::digits("digits-device")?.named("open").policy("open"))?;
        let device = launch(site.agent()).set("--log", "debug").ready().await?;
        let mut watched = Self { device, edge, cloud, before: [(0, 0); 2], site };
        watched.warm_up().await?;
        Ok(watched)
    }

    async fn warm_up(&mut self) -> Result<()> {
        for complexity in [0.5, 0.9] {
            for _ in 0..3 {
                let ask = Ask::image(&digits::test_set().images[0]).model("open").complexity(complexity);
                ensure!(self.device.infer(&ask).await?.answered()?.route()?.tier != "device");
            }
        }
        self.before = self.seen();
        ensure!(
            self.before.iter().all(|(bytes, connections)| *bytes > 0 && *connections > 0),
            "{:?}",
            self.before
        );
        Ok(())
    }

    /// Bytes and connections of edge and cloud.
    fn seen(&self) -> [(usize, usize); 2] {
        [&self.edge, &self.cloud].map(|server| (server.bytes().len(), server.connections()))
    }

    /// Nothing was sent since the pools were warm, and no canary is anywhere.
    async fn assert_silent(&self) -> Result<()> {
        assert_eq!(self.seen(), self.before, "(bytes, connections) at edge and cloud");
        let metrics = self.device.admin("/metrics").await?.text();
        // Every run of this model was for a private request: how large they were is counted nowhere.
        let of_model = ["model=\"default.digits\""];
        for bytes in ["terrace_model_input_bytes_total", "terrace_model_output_bytes_total"] {
            assert_eq!(self.device.counted(bytes, &of_model).await?, 0.0, "{bytes}");
        }
        let (rows, asked) = ("terrace_model_rows_total", "terrace_requests_total");
        let (rows, asked) =
            (self.device.counted(rows, &of_model).await?, self.device.counted(asked, &of_model).await?);
        assert!(rows <= asked, "{rows} rows of {asked} requests");
        let status = self.device.admin("/status").await?.text();
        for (place, bytes) in [
            ("the edge", self.edge.bytes()),
            ("the cloud", self.cloud.bytes()),
            ("the log", self.device.log().into_bytes()),
            ("the metrics", metrics.into_bytes()),
            ("the status", status.into_bytes()),
        ] {
            for canary in canaries() {
                assert_eq!(
                    find(&bytes, &canary),
                    None,
                    "{:?} is in {place}",
                    String::from_utf8_lossy(&canary)
                );
            }
        }
        for (path, bytes) in self.site.stored()? {
            for canary in canaries() {
                assert_eq!(
                    find(&bytes, &canary),
                    None,
                    "{:?} is in {path}",
                    String::from_utf8_lossy(&canary)
                );
            }
        }
        assert!(self.device.log().contains(" DEBUG "), "the log is detailed");
        Ok(())
    }
}

/// A policy of each mode, that asks other tiers as eagerly as it can.
fn modes() -> [Policy; 4] {
    [
        Policy::named("near"),
        Policy::named("near").speculative("{verifier: Edge, threshold: 1, parallelAfter: 0s}"),
        Policy::named("near").speculative("{verifier: Cloud, threshold: 1}"),
        Policy::named("near").ensemble("{members: [Device, Edge, Cloud], quorum: 3}"),
    ]
}

/// What to search for: texts, and numbers as text and as floats on a wire.
fn canaries() -> Vec<Vec<u8>> {
    let value = pixel(0);
    vec![
        CANARY.into(),
        DIGITS.into(),
        value.to_le_bytes().into(),
        value.to_be_bytes().into(),
        f64::from(value).to_le_bytes().into(),
    ]
}

/// A number that no image has and no arithmetic makes by chance.
fn pixel(place: usize) -> f32 {
    // 0.4831927, 1.4831927 …: below 16, as pixels are.
    (place % 8) as f32 + 0.483_192_7
}

/// An image of canary values, with an id, a parameter and a header of the same kind.
fn marked() -> Ask {
    let pixels: Vec<Value> = (0..64).map(|place| json!(f64::from(place % 8) + 0.483_192_7)).collect();
    Ask::inputs(json!([{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": pixels}]))
        .id(CANARY)
        .parameter("note", CANARY)
        .header("x-request-id", CANARY)
        .header("traceparent", "00-4831927483192748319274831927abcd-4831927483192700-01")
}

/// Every way to say that a request is private.
fn private() -> Vec<Ask> {
    vec![
        marked().parameter("privacy_required", true),
        marked().parameter("privacy_required", "true"),
        marked().header("terrace-privacy-required", "true"),
        marked().header("Terrace-Privacy-Required", "true"),
        marked().parameter("privacy_required", false).header("terrace-privacy-required", "true"),
        marked().parameter("privacy_required", true).header("terrace-privacy-required", "false"),
    ]
}

/// The same with everything that draws a request to another tier.
fn drawn(asks: Vec<Ask>) -> Vec<Ask> {
    let drawn = asks.into_iter().flat_map(|ask| {
        [
            ask.clone(),
            ask.clone().complexity(0.904_831_927),
            ask.clone().complexity(0.5).within(199.483_192_7),
            ask.clone().header("terrace-complexity", "1.0").within(4831.927),
            ask.parameter("timeout", 4_831_927),
        ]
    });
    drawn.collect()
}

#[tokio::test]
async fn a_private_request_is_answered_by_the_device_and_leaves_no_trace() -> Result<()> {
    for policy in modes() {
        let watched = Watched::start(policy, Model::digits("digits-device")?, |launch| launch).await?;
        for ask in drawn(private()) {
            let reply = watched.device.infer(&ask).await?.answered()?;
            let route = reply.route()?;
            assert_eq!(
                (route.tier.as_str(), route.reason.as_str()),
                ("device", "PrivacyRequired"),
                "{:?}",
                ask.body()
            );
            assert_eq!(reply.json()?["id"], CANARY, "its own client is told its id");
        }
        watched.assert_silent().await?;
    }
    Ok(())
}

#[tokio::test]
async fn privacy_in_another_spelling_is_refused_and_not_passed_over() -> Result<()> {
    const SPELT: [&str; 6] = [
        "terrace-privacy-required",
        "terrace_privacy_required",
        "Privacy_Required",
        "privacy-required",
        "privacyRequired",
        "x-terrace-privacy-required",
    ];
    let policy = Policy::named("near").with("rules: [{when: 'true', tier: Cloud}]");
    let watched = Watched::start(policy, Model::digits("digits-device")?, |launch| launch).await?;
    for name in SPELT {
        let reply = watched.device.infer(&marked().parameter(name, true)).await?;
        assert_eq!(reply.status, 400, "{name}: {}", reply.text());
        let told = format!("unknown parameter {name:?}: as a parameter it is called privacy_required");
        assert_eq!(reply.error()?, told);
        let mut connection = grpc::Connection::open(watched.device.grpc, None).await?;
        let call = grpc::inference("digits", &digits::test_set().images[0], name);
        let reply = connection.call("ModelInfer", None, &call).await?;
        assert_eq!(reply.code, grpc::INVALID_ARGUMENT, "{name}: {}", reply.words);
        assert!(reply.words.contains("privacy_required"), "{}", reply.words);
        if name == "terrace-privacy-required" {
            continue;
        }
        let reply = watched.device.infer(&marked().header(name, "true")).await?;
        assert_eq!(reply.status, 400, "{name}: {}", reply.text());
        assert!(reply.error()?.ends_with(": as a header it is called terrace-privacy-required"));
    }
    watched.assert_silent().await?;
    for name in ["private", "privacy_requierd", "isPrivate"] {
        let reply = watched.device.infer(&marked().parameter(name, true)).await?;
        assert_eq!(reply.status, 400, "{name}: {}", reply.text());
        assert!(reply.error()?.contains("privacy_required"), "{name}: {}", reply.text());
    }
    watched.assert_silent().await?;
    // The same in the right spelling is answered; of what belongs to others, the cloud hears.
    let mut connection = grpc::Connection::open(watched.device.grpc, None).await?;
    let call = grpc::inference("digits", &digits::test_set().images[0], "privacy_required");
    assert_eq!(connection.call("ModelInfer", None, &call).await?.code, grpc::OK);
    watched.assert_silent().await?;
    let foreign = Ask::image(&digits::test_set().images[0]).parameter("priority_class", true);
    let reply = watched.device.infer(&foreign);
    assert_eq!(reply.await?.answered()?.route()?.tier, "cloud");
    Ok(())
}

#[tokio::test]
async fn privacy_where_nothing_reads_it_is_refused_and_not_passed_over() -> Result<()> {
    let policy = Policy::named("near").with("rules: [{when: 'true', tier: Cloud}]");
    let watched = Watched::start(policy, Model::digits("digits-device")?, |launch| launch).await?;
    let (image, belongs) =
        (&digits::test_set().images[0], "privacy_required belongs in the request's parameters");
    for name in ["privacy_required", "privacyRequired", "terrace-privacy-required", "x-privacy-required"] {
        let parameters = json!({name: true});
        for place in ["/inputs/0/parameters", "/outputs/0/parameters", "", "/inputs/0", "/outputs/0"] {
            let mut body = marked().outputs(&["label"]).body();
            let (parent, value) = match place.rsplit_once('/') {
                Some((parent, "parameters")) => (parent, ("parameters", parameters.clone())),
                _ => (place, (name, json!(true))),
            };
            body.pointer_mut(parent).expect(place)[value.0] = value.1;
            let request = Request::post("/v2/models/digits/infer", body.to_string());
            let reply = watched.device.send(&request).await?;
            assert_eq!(reply.status, 400, "{name} in {place:?}: {}", reply.text());
            let error = reply.error()?;
            assert!(error.contains(name) && error.ends_with(belongs), "{name} in {place:?}: {error}");
        }
        let path = format!("/v2/models/digits/infer?batch=1&{name}=true");
        let reply = watched.device.send(&Request::post(path, marked().body().to_string())).await?;
        assert_eq!(reply.status, 400, "{name} in the query: {}", reply.text());
        assert!(reply.error()?.starts_with("the URL's query: "), "{name}: {}", reply.text());
        for of in [grpc::Of::Input, grpc::Of::Output] {
            let mut connection = grpc::Connection::open(watched.device.grpc, None).await?;
            let call = grpc::inference_with("digits", image, (of, name));
            let reply = connection.call("ModelInfer", None, &call).await?;
            assert_eq!(reply.code, grpc::INVALID_ARGUMENT, "{name} in {of:?}: {}", reply.words);
            let words = reply.words.replace("%20", " ");
            assert!(words.ends_with(belongs), "{name} in {of:?}: {words}");
        }
    }
    for field in ["Parameters", "params", "parameter"] {
        let mut body = marked().body();
        body[field] = json!({"privacy_required": true});
        let reply = watched.device.send(&Request::post("/v2/models/digits/infer", body.to_string())).await?;
        assert_eq!(reply.status, 400, "{field}: {}", reply.text());
        let error = reply.error()?;
        assert!(error.contains(field) && error.ends_with(belongs), "{field}: {error}");
    }
    for name in [
        "x-terrace-privacy",
        "x-terrace-private",
        "X-Privacy-Required",
        "x_terrace_private",
        "Privacy",
        "x-private",
        "require-privacy",
    ] {
        let reply = watched.device.infer(&marked().header(name, "true")).await?;
        assert_eq!(reply.status, 400, "{name}: {}", reply.text());
        assert!(reply.error()?.contains("terrace-privacy-required"), "{name}: {}", reply.text());
    }
    watched.assert_silent().await?;
    // What belongs to others goes wherever the request goes.
    let foreign = json!([{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": image,
        "parameters": {"shared": true}, "note": 1}]);
    let foreign = Ask::inputs(foreign).header("x-tier", "gold").header("private-token", "a");
    assert_eq!(watched.device.infer(&foreign).await?.answered()?.route()?.tier, "cloud");
    Ok(())
}

#[tokio::test]
async fn no_request_opens_a_policy_that_is_private() -> Result<()> {
    for policy in modes() {
        let policy = policy.private(true);
        let watched = Watched::start(policy, Model::digits("digits-device")?, |launch| launch).await?;
        for ask in drawn(vec![
            marked(),
            marked().parameter("privacy_required", false),
            marked().header("terrace-privacy-required", "false"),
        ]) {
            let reply = watched.device.infer(&ask).await?.answered()?;
            assert_eq!(reply.route()?.reason, "PrivacyRequired", "{:?}", ask.body());
        }
        watched.assert_silent().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_private_request_that_asks_for_another_tier_is_refused() -> Result<()> {
    let watched =
        Watched::start(Policy::named("near"), Model::digits("digits-device")?, |launch| launch).await?;
    for ask in private() {
        for tier in ["edge", "cloud"] {
            for ask in [ask.clone().parameter("tier", tier), ask.clone().header("terrace-tier", tier)] {
                let reply = watched.device.infer(&ask).await?;
                assert_eq!(reply.status, 400, "{:?}", ask.body());
                let error = reply.error()?;
                assert!(error.contains("tier") && !error.contains(CANARY), "{error}");
            }
        }
    }
    watched.assert_silent().await
}

#[tokio::test]
async fn a_private_request_has_no_answer_where_the_device_has_no_model() -> Result<()> {
    let missing = Model::digits("digits-device")?.from("file:///nowhere.onnx");
    let junk = Model::of("digits", &digits::bad("junk")?);
    let wrong = Model::digits("digits-device")?.pinned(&"0".repeat(64));
    let elsewhere = Model::digits("digits-edge")?.on("Edge");
    let absent = missing.clone();
    let models = [missing, junk, wrong, elsewhere];
    for (model, policy) in
        models.into_iter().zip(modes()).chain(modes().map(|policy| (absent.clone(), policy)))
    {
        let watched = Watched::start(policy, model, |launch| launch).await?;
        for ask in drawn(private()) {
            let reply = watched.device.infer(&ask).await?;
            assert_eq!(reply.status, 503, "{}", reply.text());
            let error = reply.error()?;
            assert!(error.contains("private") && !error.contains(CANARY), "{error}");
        }
        watched.assert_silent().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_private_request_that_fails_on_the_device_fails() -> Result<()> {
    let short = json!([{"name": "image", "datatype": "FP32", "shape": [1, 3], "data": [4.831_927, 4.831_927, 4.831_927]}]);
    for policy in modes() {
        let watched = Watched::start(policy, Model::digits("digits-device")?, |launch| launch).await?;
        for (ask, status) in [
            (Ask::inputs(short.clone()).id(CANARY).private(), 400),
            (marked().private().header("terrace-wibble", CANARY), 400),
            (marked().parameter("privacy_required", CANARY), 400),
            (marked().parameter("privacy_required", 4_831_927), 400),
            (marked().private().within(0), 504),
            (marked().private().within(0.000_483_192_7), 504),
            (marked().private().parameter("complexity", CANARY), 400),
            (marked().private().outputs(&["4831927"]), 400),
        ] {
            let reply = watched.device.infer(&ask).await?;
            assert_eq!(reply.status, status, "{:?}: {}", ask.body(), reply.text());
        }
        watched.assert_silent().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_private_request_is_not_forwarded_when_the_device_is_overloaded() -> Result<()> {
    // A batch that this model takes long for, and room for one request beside it.
    let model = Model::of("digits", &digits::model("digits-cloud")?);
    for policy in modes() {
        overload(policy, model.clone()).await?;
    }
    Ok(())
}

async fn overload(policy: Policy, model: Model) -> Result<()> {
    let watched = Watched::start(policy, model, |launch| launch.set("--queue", "1")).await?;
    let pixels: Vec<f32> = (0..6_000 * 64).map(pixel).collect();
    let long = Ask::batch(6_000, &pixels).id(CANARY).private();
    let (mut answered, mut busy) = (0, 0);
    for _ in 0..5 {
        let burst: Vec<_> = (0..6)
            .map(|_| {
                let (address, request) = (watched.device.http, long.request());
                tokio::spawn(async move { terrace_e2e::http::send(address, &request).await })
            })
            .collect();
        for reply in burst {
            let reply = reply.await??;
            match reply.status {
                200 => answered += 1,
                429 => {
                    busy += 1;
                    assert!(!reply.header("retry-after").is_empty());
                }
                status => panic!("{status} {}", reply.text()),
            }
        }
        if busy > 0 {
            break;
        }
    }
    assert!(answered > 0 && busy > 0, "{answered} answered, {busy} told that it is busy");
    watched.assert_silent().await
}

#[tokio::test]
async fn the_recorders_would_notice() -> Result<()> {
    let watched =
        Watched::start(Policy::named("near"), Model::digits("digits-device")?, |launch| launch).await?;
    watched.device.infer(&marked().complexity(0.9)).await?.answered()?;
    assert_ne!(watched.seen(), watched.before, "a request that is not private is forwarded");
    for canary in &canaries()[..2] {
        assert!(find(&watched.cloud.bytes(), canary).is_some(), "{}", String::from_utf8_lossy(canary));
    }
    for policy in &modes()[1..] {
        let eager = Watched::start(policy.clone(), Model::digits("digits-device")?, |launch| launch).await?;
        eager.device.infer(&marked()).await?.answered()?;
        let seen = [eager.edge.bytes(), eager.cloud.bytes()];
        assert!(seen.iter().any(|bytes| find(bytes, CANARY.as_bytes()).is_some()), "{policy:?} asks nobody");
    }
    let quiet = Duration::from_secs(5);
    ensure!(watched.device.infer(&marked().private()).await?.took < quiet);
    Ok(())
}

#[tokio::test]
async fn a_policy_that_turns_private_holds_at_once_while_its_revision_cannot_serve() -> Result<()> {
    let mut watched =
        Watched::start(Policy::named("near"), Model::digits("digits-device")?, |launch| launch).await?;
    let open = watched.device.infer(&Ask::image(&digits::test_set().images[0]).complexity(0.5)).await?;
    assert_eq!(open.answered()?.route()?.tier, "edge");
    watched.before = watched.seen();

    // Together with an update that never comes.
    let never = Model::digits("digits-device")?.pinned(&"0".repeat(64));
    watched.site.manifests().model(&never.clone().policy("near"))?;
    watched.device.wait_failed("digits", "DigestMismatch").await?;
    let edge = watched.edge.url();
    watched.site.manifests().policy(&Policy::named("near").private(true).edge(&edge))?;
    let silent = async |device: &Agent| -> Result<()> {
        for ask in drawn(vec![marked()]) {
            let reply = device.infer(&ask).await?.answered()?;
            ensure!(reply.route()?.tier == "device", "{}", reply.text());
        }
        Ok(())
    };
    terrace_e2e::wait::until("the policy to hold", || async {
        let reply = watched.device.infer(&Ask::image(&digits::test_set().images[0]).complexity(0.5)).await?;
        ensure!(reply.answered()?.route()?.reason == "PrivacyRequired", "not private yet");
        Ok(())
    })
    .await?;
    watched.before = watched.seen();
    silent(&watched.device).await?;
    watched.assert_silent().await?;

    // After a crash, too, which serves the old revision again from disk.
    let launch = watched.site.agent().set("--log", "debug");
    watched.device.terminate()?;
    watched.device = launch.ready().await?;
    silent(&watched.device).await?;
    watched.assert_silent().await?;

    // And no longer once it is open again.
    watched.site.manifests().policy(&Policy::named("near").edge(&edge))?;
    terrace_e2e::wait::until("the policy to be open again", || async {
        let reply = watched.device.infer(&Ask::image(&digits::test_set().images[0]).complexity(0.5)).await?;
        ensure!(reply.answered()?.route()?.tier == "edge", "still private");
        Ok(())
    })
    .await
}
