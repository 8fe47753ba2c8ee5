//! Models come, change and go while clients go on asking.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use terrace_crds::node::ModelPhase;
use terrace_e2e::digits::{self, Artifact};
use terrace_e2e::expected::Expected;
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::load::{self, Load, Rhythm};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::server::{Pace, Plan, Server, authority};
use terrace_e2e::site::Site;
use terrace_e2e::wait;
use terrace_e2e::{scenes, upstreams};

const ONE: &str = "digits-device";
const TWO: &str = "digits-device-r2";

fn image() -> &'static [f32] {
    &digits::test_set().images[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_four_swaps_under_load_fail_no_request_and_mix_no_answer() -> Result<()> {
    const SWAPS: usize = 24;
    let models = [Model::digits(ONE)?, Model::digits(TWO)?];
    let expected =
        Arc::new(Expected::record(&[(ONE, models[0].clone()), (TWO, models[1].clone())], 40).await?);
    let site = Site::new()?;
    site.manifests().model(&models[0])?;
    let agent = site.agent().ready().await?;

    let load = Load::start(&agent, &expected, 4, Rhythm::WithoutPause).await?;
    for swap in 1..=SWAPS {
        let model = &models[swap % 2];
        site.manifests().model(model)?;
        let serving = agent.wait_serving("digits", model.sha256()).await?.serving_revision;
        let reply = agent.send(expected.request(swap)).await?;
        assert_eq!(
            Some(expected.check(swap, reply)?),
            serving,
            "what is asked after the swap is answered by the new one"
        );
    }
    let answers = load.stop().await?;
    let answers = load::by_revision(&answers);
    assert_eq!(answers.len(), 2, "{answers:?}");
    let (least, total) = (answers.values().min().copied(), answers.values().sum::<usize>());
    assert!(total >= 2_000 && least >= Some(200), "{answers:?}");
    assert_eq!(agent.counted("terrace_requests_total", &["code=\"5"]).await?, 0.0);
    println!("{SWAPS} swaps, {total} requests, none failed: {answers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_revision_goes_first_and_comes_back_where_the_new_one_cannot_serve() -> Result<()> {
    let site = Site::new()?;
    let [one, two] = [ONE, TWO].map(|which| Model::digits(which).map(Model::replacing));
    let (one, two) = (one?, two?);
    site.manifests().model(&one)?;
    let agent = site.agent().ready().await?;

    for model in [&two, &one, &two] {
        site.manifests().model(model)?;
        // Whoever asks meanwhile is answered by one of them, or is told to come again.
        loop {
            let reply = agent.infer(&Ask::image(image())).await?;
            if reply.status == 503 {
                assert_eq!(reply.header("retry-after"), "1", "{reply:?}");
            } else {
                reply.answered()?;
            }
            if agent.model("digits").await?.serving_sha256.as_deref() == Some(model.sha256()) {
                break;
            }
        }
        agent.wait_log("taken away, to be replaced").await?;
        agent.infer(&Ask::image(image())).await?.answered()?;
    }
    let taken = agent.log().matches("taken away, to be replaced").count();
    assert_eq!(taken, 3, "{}", agent.log());

    let before = agent.infer(&Ask::image(image())).await?.answered()?.outputs()?;
    let bad = Model::of("digits", &digits::bad("wrong-shape")?).with_cases(digits::cases_file(ONE)?);
    site.manifests().model(&bad.replacing())?;
    let failed = agent.wait_failed("digits", "CasesFailed").await?;
    wait::until("the old revision to serve again", || async {
        let model = agent.model("digits").await?;
        ensure!(model.serving_sha256.as_deref() == Some(two.sha256()), "{model:?}");
        ensure!(model.error == failed.error, "what failed is still told: {model:?}");
        Ok(())
    })
    .await?;
    assert_eq!(agent.infer(&Ask::image(image())).await?.answered()?.outputs()?, before);
    Ok(())
}

#[tokio::test]
async fn how_a_model_is_swapped_loads_nothing_anew() -> Result<()> {
    let (site, agent) = scenes::device().await?;
    agent.infer(&Ask::image(image())).await?.answered()?;
    let model = Model::digits(ONE)?.replacing();
    let was = agent.model("digits").await?.desired_revision;
    site.manifests().model(&model)?;
    wait::until("the other revision to serve", || async {
        let model = agent.model("digits").await?;
        ensure!(
            model.desired_revision != was && model.serving_revision == model.desired_revision,
            "{model:?}"
        );
        Ok(())
    })
    .await?;
    assert_eq!(agent.counted("terrace_model_runs_total", &[]).await?, 1.0, "it is the same as was loaded");
    assert!(!agent.log().contains("taken away"));
    Ok(())
}

#[tokio::test]
async fn a_bad_update_never_serves_and_the_old_revision_goes_on() -> Result<()> {
    let (site, agent) = scenes::device().await?;
    let good = Model::digits(ONE)?;
    let before = agent.infer(&Ask::image(image())).await?.answered()?;
    let (outputs, version) = (before.outputs()?, before.model_version()?);
    let bad = |name| Ok::<_, anyhow::Error>(Model::of("digits", &digits::bad(name)?));
    let cases = digits::cases_file(ONE)?;

    let mut last = version.clone();
    for (what, model, reason) in [
        ("another digest", good.clone().pinned(&"0".repeat(64)), "DigestMismatch"),
        (
            "a missing file",
            good.clone().from("file:///models/nowhere.onnx").pinned(&"1".repeat(64)),
            "FetchFailed",
        ),
        ("junk", bad("junk")?, "LoadFailed"),
        ("half a model", bad("truncated")?, "LoadFailed"),
        ("nine digits", bad("wrong-shape")?.with_cases(cases.clone()), "CasesFailed"),
        ("a memory bomb", bad("memory-bomb")?, ""),
        ("a memory bomb at run", bad("memory-bomb-at-run")?.with_cases(cases.clone()), ""),
        ("cases of another model", good.clone().with_cases(digits::cases_file(TWO)?), "CasesFailed"),
        ("cases that are none", good.clone().with_cases(digits::model(ONE)?), "CasesUnreadable"),
        (
            "cases with another digest",
            good.clone().with_cases(Artifact { sha256: "2".repeat(64), ..cases }),
            "DigestMismatch",
        ),
    ] {
        site.manifests().model(&model)?;
        let failed = wait::until("the update to fail", || async {
            let model = agent.model("digits").await?;
            let is_newer = model.desired_revision.as_ref() != Some(&last);
            ensure!(is_newer && model.phase == ModelPhase::Failed, "{what}: {model:?}");
            Ok(model)
        })
        .await?;
        last.clone_from(failed.desired_revision.as_ref().context("no desired revision")?);
        let error = failed.error.with_context(|| format!("{what}: no error"))?;
        assert!(reason.is_empty() || error.reason == reason, "{what}: {error:?}");
        assert!(!error.message.is_empty(), "{what}");
        assert_eq!(failed.serving_revision.as_deref(), Some(version.as_str()), "{what}");
        let told = agent
            .log()
            .lines()
            .filter(|line| line.contains(&error.reason) && line.contains("what serves goes on"))
            .count();
        assert!(told > 0, "{what}: no line about {} in\n{}", error.reason, agent.log());
        assert_eq!(agent.admin("/readyz").await?.status, 200, "{what}");

        let reply = agent.infer(&Ask::image(image())).await?.answered()?;
        assert_eq!((reply.outputs()?, reply.model_version()?), (outputs.clone(), version.clone()), "{what}");
        assert_eq!(
            agent
                .counted("terrace_activations_total", &[&format!("outcome=\"{}\"", error.reason)])
                .await?
                .min(1.0),
            1.0
        );
    }
    let peak = agent.peak_memory()?;
    assert!(peak < 400 << 20, "the bombs went off in the agent itself: {} MiB", peak >> 20);

    let next = Model::digits(TWO)?;
    site.manifests().model(&next)?;
    let served = agent.wait_serving("digits", next.sha256()).await?;
    assert_eq!(
        served.error, None,
        "a good one after all the bad ones serves, and nothing is held against it"
    );
    Ok(())
}

#[tokio::test]
async fn a_model_that_never_ends_is_given_up() -> Result<()> {
    let (site, agent) = scenes::device().await?;
    let endless = Model::of("digits", &digits::bad("endless-loop")?).with_cases(digits::cases_file(ONE)?);
    site.manifests().model(&endless)?;
    let failed = wait::until_within("the model to be given up", Duration::from_secs(150), || async {
        let model = agent.model("digits").await?;
        ensure!(model.phase == ModelPhase::Failed, "{model:?}");
        Ok(model)
    })
    .await?;
    assert!(failed.error.is_some_and(|error| error.message.contains("time")));
    assert_eq!(agent.infer(&Ask::image(image())).await?.answered()?.labels()?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_damaged_on_disk_are_fetched_anew() -> Result<()> {
    let (site, agent) = scenes::device().await?;
    let sha256 = digits::model(ONE)?.sha256;
    agent.kill9()?;
    let blob = site.data_dir().join("blobs/sha256").join(&sha256);
    let mut bytes = std::fs::read(&blob)?;
    bytes[700] ^= 1;
    std::fs::write(&blob, bytes)?;
    let agent = site.agent().ready().await?;
    agent.wait_serving("digits", &sha256).await?;
    agent.infer(&Ask::image(image())).await?.answered()?;
    assert_eq!(digits::sha256(&std::fs::read(&blob)?), sha256);
    Ok(())
}

#[tokio::test]
async fn a_change_of_policy_alone_swaps_without_loading_again() -> Result<()> {
    let edge = upstreams::answering().await?;
    let (site, agent) = scenes::device_under(&Policy::named("near")).await?;
    let ask = Ask::image(image());
    let first = agent.infer(&ask).await?.answered()?;
    assert_eq!(first.route()?, Route::of("device", "fallback", "TierNotConfigured"));
    // A load would need the model's file, which lies in the store; it could not be read any more.
    let blob = site.data_dir().join("blobs/sha256").join(digits::model(ONE)?.sha256);
    std::fs::remove_file(&blob)?;
    site.manifests().policy(&Policy::named("near").edge(&edge.url()))?;
    let second = wait::until("the new policy", || async {
        let reply = agent.infer(&ask).await?.answered()?;
        ensure!(reply.route()?.tier == "edge", "{}", reply.text());
        agent.infer(&ask.clone().private()).await?.answered()
    })
    .await?;
    assert_eq!(second.outputs()?, first.outputs()?);
    assert_ne!(second.model_version()?, first.model_version()?, "another policy is another revision");
    let log = agent.log();
    assert_eq!(log.matches("fetched").count(), 2, "the model and its cases, once:\n{log}");
    Ok(())
}

#[tokio::test]
async fn a_model_whose_manifest_is_removed_is_gone_and_the_others_stay() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits(ONE)?)?;
    site.manifests().model(&Model::digits(TWO)?.named("other"))?;
    let agent = site.agent().ready().await?;
    agent.infer(&Ask::image(image())).await?.answered()?;
    site.manifests().remove("digits.yaml")?;
    wait::until("the model to be gone", || async {
        let reply = agent.infer(&Ask::image(image())).await?;
        ensure!(reply.status == 404, "{}", reply.text());
        reply.error()
    })
    .await?;
    assert!(agent.model("digits").await.is_err());
    agent.infer(&Ask::image(image()).model("other")).await?.answered()?;
    wait::until("its file to be removed", || async {
        let blob = site.data_dir().join("blobs/sha256").join(digits::model(ONE)?.sha256);
        ensure!(!blob.exists(), "{} is still there", blob.display());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_broken_manifest_is_told_with_its_line_and_takes_nothing_away() -> Result<()> {
    let (site, agent) = scenes::device().await?;
    let version = agent.infer(&Ask::image(image())).await?.answered()?.model_version()?;
    let good = Model::digits(TWO)?.yaml();
    let digest = format!("    sha256: \"{}\"\n", digits::model(TWO)?.sha256);
    for (text, told) in [
        (good.replace("uri: file:///", "uri: ftp://host/"), "digits.yaml:7: spec.source.uri: scheme ftp"),
        (
            good.replace("uri: file:///", "uri: http://127.0.0.1:1/"),
            "digits.yaml:7: spec.source.uri: http://",
        ),
        (good.replace("uri: file:///", "uri: https://10.1.2.3/"), "digits.yaml:7: spec.source.uri: 10.1.2.3"),
        (good.replace(&digest, ""), "digits.yaml:6: spec.source: needs exactly one of sha256"),
        (good.replace(&digest, "    sha256: abc\n"), "digits.yaml:8: spec.source.sha256"),
        (good.replace("placement:", "plaecment:"), "digits.yaml:9: spec.plaecment: is not known"),
        ("{ junk: [".to_owned(), "digits.yaml:1"),
        (String::new(), "digits.yaml: is empty"),
    ] {
        site.manifests().write("digits.yaml", &text)?;
        agent.wait_condition("ManifestsAccepted", "False", told).await?;
        let reply = agent.infer(&Ask::image(image())).await?.answered()?;
        assert_eq!(reply.model_version()?, version, "{told}");
        assert!(agent.log().contains(told), "{told} is not in the log");
    }
    // What served serves again, although the folder now says nothing that can be understood.
    agent.kill9()?;
    let agent = site.agent().ready().await?;
    agent.wait_condition("ManifestsAccepted", "False", "digits.yaml: is empty").await?;
    assert_eq!(agent.infer(&Ask::image(image())).await?.answered()?.model_version()?, version);

    site.manifests().write("digits.yaml", &good)?;
    agent.wait_serving("digits", &digits::model(TWO)?.sha256).await?;
    agent.wait_condition("ManifestsAccepted", "True", "").await
}

#[tokio::test]
async fn a_manifest_that_never_was_right_says_that_nothing_of_it_holds() -> Result<()> {
    let (site, agent) = scenes::device().await?;
    site.manifests().write("new.yaml", "{ junk: [")?;
    agent.wait_log("manifest refused; nothing of it holds until it is mended fault=new.yaml:1").await?;
    site.manifests().write("digits.yaml", "{ junk: [")?;
    agent.wait_log("manifest refused; what it said before still holds fault=digits.yaml:1").await
}

#[tokio::test]
async fn a_folder_that_is_gone_is_not_an_empty_one() -> Result<()> {
    let (site, agent) = scenes::device().await?;
    let aside = site.folder().join("aside");
    std::fs::rename(site.manifests().folder(), &aside)?;
    agent.wait_condition("ManifestsAccepted", "False", "cannot be read").await?;
    agent.wait_log("the manifests cannot be read; what they said before still holds").await?;
    agent.infer(&Ask::image(image())).await?.answered()?;
    std::fs::rename(&aside, site.manifests().folder())?;
    agent.wait_condition("ManifestsAccepted", "True", "").await
}

/// The checksum file of a model, as `sha256sum` writes it.
fn checksums(bytes: &[u8]) -> String {
    format!("# published today\n{}  out/digits.onnx\n{}  other.onnx\n", digits::sha256(bytes), "3".repeat(64))
}

#[tokio::test]
async fn what_is_published_anew_is_served_without_anyone_asking() -> Result<()> {
    let (one, two) = (digits::model_bytes(ONE)?, digits::model_bytes(TWO)?);
    let site = Site::new()?;
    site.offer("digits.onnx", &one)?;
    site.offer("SHA256SUMS", checksums(&one).as_bytes())?;
    let model =
        Model::digits(ONE)?.without_cases().from("file:///digits.onnx").published("file:///SHA256SUMS", "1s");
    site.manifests().model(&model)?;
    let agent = site.agent().ready().await?;
    agent.wait_serving("digits", &digits::sha256(&one)).await?;

    site.offer("digits.onnx", &two)?;
    site.offer("SHA256SUMS", checksums(&two).as_bytes())?;
    agent.wait_serving("digits", &digits::sha256(&two)).await?;

    // Nothing to read any more: what was resolved last goes on, also in the next process.
    std::fs::remove_file(site.files().join("SHA256SUMS"))?;
    agent.wait_log("the checksum file gives no digest").await?;
    agent.infer(&Ask::image(image())).await?.answered()?;
    agent.kill9()?;
    let agent = site.agent().ready().await?;
    agent.wait_serving("digits", &digits::sha256(&two)).await?;
    agent.wait_log("the checksum file gives no digest").await?;

    site.offer("digits.onnx", &one)?;
    site.offer("SHA256SUMS", checksums(&one).as_bytes())?;
    agent.wait_serving("digits", &digits::sha256(&one)).await?;
    Ok(())
}

/// A web server with models: whole, cut off, moved, and one whose digest is published.
async fn models_over(tls: bool, elsewhere: String) -> Result<Server> {
    let (one, two) = (digits::model_bytes(ONE)?, digits::model_bytes(TWO)?);
    let script = move |seen: &terrace_e2e::server::Seen| match seen.path() {
        "/one.onnx" => Plan::ok(one.clone()),
        "/two.onnx" => Plan::ok(two.clone()).pace(Pace::Pieces(256, Duration::from_millis(2))),
        "/cut.onnx" => Plan::ok(two.clone()).pace(Pace::CutAfter(900)),
        "/moved.onnx" => Plan::status(302, "").header("location", "/two.onnx"),
        "/away.onnx" => Plan::status(302, "").header("location", &elsewhere),
        _ => Plan::status(404, ""),
    };
    if tls { Server::start_tls(script).await } else { Server::start(script).await }
}

fn web(server: &Server, path: &str, which: &str) -> Result<Model> {
    Ok(Model::digits(which)?.from(&format!("{}{path}", server.url())))
}

#[tokio::test]
async fn models_come_over_http_where_that_is_allowed_and_whole_or_not_at_all() -> Result<()> {
    let server = models_over(false, "http://10.1.2.3/two.onnx".to_owned()).await?;
    let site = Site::new()?;
    site.manifests().model(&web(&server, "/one.onnx", ONE)?)?;
    let refused = site.agent().ready().await?;
    refused
        .wait_condition("ManifestsAccepted", "False", "digits.yaml:7: spec.source.uri: http:// sources")
        .await?;
    assert_eq!(refused.infer(&Ask::image(image())).await?.status, 404);
    assert_eq!(server.connections(), 0);
    refused.kill9()?;

    let agent = site.agent().switch("--allow-http-sources").ready().await?;
    agent.wait_serving("digits", &digits::model(ONE)?.sha256).await?;
    for (path, reason) in
        [("/cut.onnx", "FetchFailed"), ("/away.onnx", "SourceNotAllowed"), ("/none.onnx", "FetchFailed")]
    {
        site.manifests().model(&web(&server, path, TWO)?)?;
        agent.wait_failed("digits", reason).await.with_context(|| path.to_owned())?;
        agent.infer(&Ask::image(image())).await?.answered()?;
    }
    site.manifests().model(&web(&server, "/moved.onnx", TWO)?)?;
    agent.wait_serving("digits", &digits::model(TWO)?.sha256).await?;
    Ok(())
}

#[tokio::test]
async fn models_come_over_https_from_servers_that_are_trusted() -> Result<()> {
    let plain = models_over(false, String::new()).await?;
    let server = models_over(true, format!("{}/two.onnx", plain.url())).await?;
    let site = Site::new()?;
    site.manifests().model(&web(&server, "/two.onnx", TWO)?)?;
    let distrusts = site.agent().start().await?;
    let failed = distrusts.wait_failed("digits", "FetchFailed").await?;
    assert!(failed.error.is_some_and(|error| error.message.contains("UnknownIssuer")));
    distrusts.kill9()?;

    let agent = site.agent().env("SSL_CERT_FILE", authority()).ready().await?;
    agent.wait_serving("digits", &digits::model(TWO)?.sha256).await?;
    site.manifests().model(&web(&server, "/away.onnx", ONE)?)?;
    agent.wait_failed("digits", "SourceNotAllowed").await?;
    assert_eq!(plain.connections(), 0, "a redirect led from https to http");
    Ok(())
}

#[tokio::test]
async fn a_checksum_file_over_http_is_followed_and_its_absence_survived() -> Result<()> {
    let (one, two) = (digits::model_bytes(ONE)?, digits::model_bytes(TWO)?);
    let stage = Arc::new(AtomicUsize::new(0));
    let at = Arc::clone(&stage);
    let server = Server::start(move |seen| {
        let now = if at.load(Ordering::Relaxed) == 0 { &one } else { &two };
        match (seen.path(), at.load(Ordering::Relaxed)) {
            (_, 2..) => Plan::ok("").pace(Pace::HangUp),
            ("/digits.onnx", _) => Plan::ok(now.clone()),
            _ => Plan::ok(checksums(now)),
        }
    })
    .await?;
    let site = Site::new()?;
    let model = Model::digits(ONE)?.without_cases().from(&format!("{}/digits.onnx", server.url()));
    site.manifests().model(&model.published(&format!("{}/SHA256SUMS", server.url()), "1s"))?;
    let agent = site.agent().switch("--allow-http-sources").ready().await?;
    agent.wait_serving("digits", &digits::model(ONE)?.sha256).await?;
    stage.store(1, Ordering::Relaxed);
    agent.wait_serving("digits", &digits::model(TWO)?.sha256).await?;
    stage.store(2, Ordering::Relaxed);
    agent.wait_log("the checksum file gives no digest").await?;
    agent.infer(&Ask::image(image())).await?.answered()?;
    Ok(())
}
