//! Bearer tokens that a file lists, over both protocols.

use anyhow::{Result, ensure};
use terrace_e2e::agent::Agent;
use terrace_e2e::codings::packed;
use terrace_e2e::grpc::{
    self, NOT_FOUND, OK, PERMISSION_DENIED, RESOURCE_EXHAUSTED, Stalled, UNAUTHENTICATED,
};
use terrace_e2e::http::{Reply, Request};
use terrace_e2e::manifests::Model;
use terrace_e2e::wait;

use super::{ALL, BANK, SHOP, ask, by, names, site, tokens, with_tokens};

#[tokio::test]
async fn an_agent_that_others_reach_asks_who_calls_or_does_not_start() -> Result<()> {
    let site = site()?;
    for flag in ["--listen-http", "--listen-grpc"] {
        let exit = site.agent().set(flag, "0.0.0.0:0").run().await?;
        assert_eq!(exit.status.code(), Some(2), "a wrong flag, which a restart does not mend: {}", exit.log);
        for words in [flag, "--caller-tokens", "--jwt-jwks", "--client-ca", "--allow-anonymous"] {
            assert!(exit.log.contains(words), "no {words} in {}", exit.log);
        }
    }
    let open = site.agent().set("--listen-http", "0.0.0.0:0").switch("--allow-anonymous").ready().await?;
    drop(open);
    let exit = site.agent().set("--caller-tokens", "/nonexistent").run().await?;
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.log.contains("--caller-tokens") && exit.log.contains("/nonexistent"), "{}", exit.log);
    Ok(())
}

#[tokio::test]
async fn a_token_opens_its_own_namespaces_models_and_shows_no_other() -> Result<()> {
    let site = site()?;
    let (_tokens, agent) = with_tokens(&site).await?;
    for (namespace, token, status) in [
        ("shop", SHOP, 200),
        ("bank", SHOP, 403),
        ("bank", BANK, 200),
        ("shop", ALL, 200),
        ("bank", ALL, 200),
        ("nowhere", ALL, 404),
        // Whether another namespace has such a model, nobody hears.
        ("nowhere", SHOP, 403),
    ] {
        assert_eq!(agent.send(&by(ask(namespace), token)).await?.status, status, "{namespace} {token}");
    }
    let own = agent.get("/v2/models/shop.nothing").await?;
    assert_eq!(own.status, 401);
    let own = agent.send(&by(Request::get("/v2/models/shop.nothing"), SHOP)).await?;
    assert_eq!(own.status, 404);
    let there = agent.send(&by(Request::get("/v2/models/bank.digits"), SHOP)).await?;
    let not_there = agent.send(&by(Request::get("/v2/models/bank.nothing"), SHOP)).await?;
    assert_eq!((there.status, there.error()?), (403, not_there.error()?), "the same words for both");
    assert!(!there.text().contains("bank"), "{}", there.text());

    for path in ["", "/ready", "/config", "/stats", "/versions/x", "/versions/x/ready", "/versions/x/stats"] {
        let reply = agent.send(&by(Request::get(format!("/v2/models/bank.digits{path}")), SHOP)).await?;
        assert_eq!(reply.status, 403, "{path}");
    }
    let index = agent.send(&by(Request::post("/v2/repository/index", ""), SHOP)).await?;
    assert_eq!(names(&index)?, ["shop.digits"]);
    let index = agent.send(&by(Request::get("/v2/repository/index"), ALL)).await?;
    assert_eq!(names(&index)?, ["bank.digits", "shop.digits"]);
    let stats = agent.send(&by(Request::get("/v2/models/stats"), BANK)).await?.json()?;
    assert_eq!(stats["model_stats"][0]["name"], "bank.digits");
    assert_eq!(stats["model_stats"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[tokio::test]
async fn who_shows_nothing_or_something_unknown_is_told_how_to_ask() -> Result<()> {
    let site = site()?;
    let (_tokens, agent) = with_tokens(&site).await?;
    let mut connection = agent.connect().await?;
    for (request, challenge) in [
        (ask("shop"), r#"Bearer realm="terrace""#),
        (by(ask("shop"), "canary-0123456789abcdef"), r#"Bearer realm="terrace", error="invalid_token""#),
        (by(ask("shop"), "canary.0123456789.abcdef"), r#"Bearer realm="terrace", error="invalid_token""#),
        (
            ask("shop").header("authorization", "Basic Y2FuYXJ5OmNhbmFyeQ=="),
            r#"Bearer realm="terrace", error="invalid_request""#,
        ),
        (Request::get("/v2"), r#"Bearer realm="terrace""#),
        (Request::get("/v2/models/stats"), r#"Bearer realm="terrace""#),
        (Request::post("/v2/repository/index", ""), r#"Bearer realm="terrace""#),
        (Request::get("/nothing"), r#"Bearer realm="terrace""#),
        (Request::get("/v2/health/live/"), r#"Bearer realm="terrace""#),
    ] {
        let reply = connection.send(&request).await?;
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, challenge), "{request:?}");
        assert!(!reply.error()?.contains("canary"), "{}", reply.text());
    }
    for path in ["/v2/health/live", "/v2/health/ready"] {
        assert_eq!(connection.send(&Request::get(path)).await?.status, 200, "probes have no token: {path}");
        assert_eq!(connection.send(&by(Request::get(path), "canary")).await?.status, 200, "{path}");
    }
    assert_eq!(agent.counted("terrace_refused_total", &["reason=\"NoCredentials\""]).await?, 6.0);
    assert_eq!(agent.counted("terrace_refused_total", &["reason=\"UnknownToken\""]).await?, 2.0);
    assert_eq!(agent.counted("terrace_refused_total", &["reason=\"NotBearer\""]).await?, 1.0);
    // Every line of the log, and everything that can be asked of the keeper's port.
    ensure!(http_put(&agent, "/log", "trace").await? == 204);
    agent.send(&by(ask("shop"), "canary-0123456789abcdef")).await?;
    agent.send(&by(ask("shop"), SHOP)).await?.answered()?;
    let mut calls = grpc::Connection::open(agent.grpc, None).await?;
    ensure!(calls.call("ServerMetadata", Some(SHOP), &[]).await?.code == OK);
    for text in [agent.log(), agent.admin("/status").await?.text(), agent.admin("/metrics").await?.text()] {
        for secret in [SHOP, BANK, ALL, "canary", "Y2FuYXJ5"] {
            assert!(!text.contains(secret), "{secret} stands in\n{text}");
        }
    }
    Ok(())
}

async fn http_put(agent: &Agent, path: &str, body: &str) -> Result<u16> {
    let mut request = Request::post(path, body.to_owned());
    request.method = http::Method::PUT;
    Ok(terrace_e2e::http::send(agent.admin, &request).await?.status)
}

#[tokio::test]
async fn the_same_holds_over_grpc() -> Result<()> {
    let site = site()?;
    let (_tokens, agent) = with_tokens(&site).await?;
    let mut connection = grpc::Connection::open(agent.grpc, None).await?;
    let (shop, bank) = (grpc::named("shop.digits"), grpc::named("bank.digits"));
    for (method, token, message, code) in [
        ("ServerLive", None, &[][..], OK),
        ("ServerReady", None, &[], OK),
        ("ServerMetadata", None, &[], UNAUTHENTICATED),
        ("RepositoryIndex", None, &[], UNAUTHENTICATED),
        ("ModelReady", None, &shop, UNAUTHENTICATED),
        ("ModelReady", Some("canary-0123456789abcdef"), &shop, UNAUTHENTICATED),
        ("ServerMetadata", Some(SHOP), &[], OK),
        ("ModelReady", Some(SHOP), &shop, OK),
        ("ModelReady", Some(SHOP), &bank, PERMISSION_DENIED),
        ("ModelMetadata", Some(SHOP), &bank, PERMISSION_DENIED),
        ("ModelConfig", Some(SHOP), &bank, PERMISSION_DENIED),
        ("ModelStatistics", Some(SHOP), &bank, PERMISSION_DENIED),
        ("ModelInfer", Some(SHOP), &bank, PERMISSION_DENIED),
        ("ModelInfer", None, &bank, UNAUTHENTICATED),
        ("ModelMetadata", Some(SHOP), &grpc::named("shop.nothing"), NOT_FOUND),
        ("ModelReady", Some(SHOP), &grpc::named("bank.nothing"), PERMISSION_DENIED),
        ("ModelMetadata", Some(BANK), &bank, OK),
    ] {
        let reply = connection.call(method, token, message).await?;
        assert_eq!(reply.code, code, "{method} {token:?}: {}", reply.words);
        assert!(!reply.words.contains("canary") && !reply.words.contains("bank"), "{}", reply.words);
    }
    // Who waits for a model of its own asks until it is there.
    for (name, ready) in [("shop.digits", &[8, 1][..]), ("shop.nothing", &[])] {
        let reply = connection.call("ModelReady", Some(SHOP), &grpc::named(name)).await?;
        assert_eq!((reply.code, &*reply.message), (OK, ready), "{name}: {}", reply.words);
    }
    for method in ["RepositoryIndex", "ModelStatistics"] {
        let told = connection.call(method, Some(SHOP), &[]).await?.message;
        let told = String::from_utf8_lossy(&told);
        assert!(told.contains("shop.digits") && !told.contains("bank"), "{method}: {told}");
    }
    Ok(())
}

#[tokio::test]
async fn what_anyone_may_ask_over_grpc_takes_nothing_from_callers() -> Result<()> {
    const HELD: usize = 1 << 20;
    let site = site()?;
    let tokens = tokens(&site)?;
    let launch = site.agent().set("--caller-tokens", tokens.folder());
    let agent = launch.set("--max-held-bytes", HELD.to_string()).ready().await?;
    // Most of what may be held, and as much again in gzip, of calls that never end.
    let large = grpc::framed(&vec![0; HELD - 20_000])?;
    let packed = packed("gzip", &vec![0; HELD - 20_000])?;
    let bomb = [&[1], &u32::try_from(packed.len())?.to_be_bytes()[..], &packed[..packed.len() - 1]].concat();
    let mut stalled = Vec::new();
    for method in ["ServerLive", "ServerReady"] {
        for (headers, sent) in
            [(&[][..], large.clone()), (&[("grpc-encoding", "gzip")][..], bomb.clone().into())]
        {
            stalled.push(Stalled::begin(agent.grpc, (method, None), headers, sent).await?);
        }
    }
    agent.send(&by(ask("shop"), SHOP)).await?.answered()?;
    for call in stalled {
        let reply = call.reply().await?;
        assert_eq!((reply.code, &*reply.message), (OK, &[8, 1][..]), "answered unread: {}", reply.words);
    }
    // Who only names a model needs little for that.
    let mut connection = grpc::Connection::open(agent.grpc, None).await?;
    let reply = connection.call("ModelReady", Some(SHOP), &vec![0; 100_000]).await?;
    assert_eq!(reply.code, RESOURCE_EXHAUSTED, "{}", reply.words);
    let named = grpc::named("shop.digits");
    assert_eq!(connection.call("ModelReady", Some(SHOP), &named).await?.code, OK);
    Ok(())
}

#[tokio::test]
async fn allowed_namespaces_hold_at_once_and_are_no_new_revision() -> Result<()> {
    let site = site()?;
    let (_tokens, agent) = with_tokens(&site).await?;
    let revision = |reply: &Reply| reply.model_version();
    let before = revision(&agent.send(&by(ask("bank"), BANK)).await?.answered()?)?;
    let model = Model::digits("digits-device")?.of_namespace("bank");
    let statuses = |status: u16| {
        let agent = &agent;
        wait::until("the change to hold", move || async move {
            let reply = agent.send(&by(ask("bank"), SHOP)).await?;
            ensure!(reply.status == status, "{} {}", reply.status, reply.text());
            Ok(reply)
        })
    };
    for (allowed, status) in [(&["shop"][..], 200), (&["till"], 403), (&["*"], 200), (&[], 403)] {
        site.manifests().write("bank.yaml", &model.clone().allowing(allowed).yaml())?;
        let reply = statuses(status).await?;
        if status == 200 {
            assert_eq!(revision(&reply)?, before, "{allowed:?}");
            let index = agent.send(&by(Request::get("/v2/repository/index"), SHOP)).await?;
            assert_eq!(names(&index)?, ["bank.digits", "shop.digits"]);
        }
    }
    // An edit that cannot serve shares nothing more, and takes away what it takes away.
    site.manifests().write("bank.yaml", &model.clone().allowing(&["shop"]).yaml())?;
    statuses(200).await?;
    site.manifests().write("bank.yaml", &model.clone().pinned(&"0".repeat(64)).yaml())?;
    statuses(403).await?;
    assert_eq!(
        revision(&agent.send(&by(ask("bank"), BANK)).await?.answered()?)?,
        before,
        "the old one serves on"
    );
    // A name that no namespace can have is refused with its field.
    site.manifests().write("bank.yaml", &model.allowing(&["Shop"]).yaml())?;
    agent.wait_condition("ManifestsAccepted", "False", "spec.allowedNamespaces").await
}

#[tokio::test]
async fn tokens_are_read_again_and_hold_for_open_connections_too() -> Result<()> {
    let site = site()?;
    let (mut volume, agent) = with_tokens(&site).await?;
    let mut connection = agent.connect().await?;
    connection.send(&by(ask("bank"), BANK)).await?.answered()?;
    // The file `bank` is gone with all that was in it.
    volume.turn(&[("callers", &format!("shop {SHOP}"))])?;
    wait::until("the token to be gone", || async {
        ensure!(agent.send(&by(ask("bank"), BANK)).await?.status == 401);
        Ok(())
    })
    .await?;
    assert_eq!(connection.send(&by(ask("bank"), BANK)).await?.status, 401);
    volume.turn(&[("callers", "shop short")])?;
    agent.wait_condition("CallerFilesRead", "False", "line 1: the token must have").await?;
    assert!(!agent.log().contains("short"), "{}", agent.log());
    connection.send(&by(ask("shop"), SHOP)).await?.answered()?;
    volume.turn(&[("callers", &format!("bank {SHOP}"))])?;
    agent.wait_condition("CallerFilesRead", "True", "").await?;
    assert_eq!(connection.send(&by(ask("shop"), SHOP)).await?.status, 403);
    connection.send(&by(ask("bank"), SHOP)).await?.answered()?;
    Ok(())
}
