//! Who may call the data ports, and what each caller may use.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use terrace_e2e::agent::{Agent, Launch};
use terrace_e2e::codings::packed;
use terrace_e2e::digits;
use terrace_e2e::grpc::{
    self, NOT_FOUND, OK, PERMISSION_DENIED, RESOURCE_EXHAUSTED, Stalled, UNAUTHENTICATED,
};
use terrace_e2e::http::{Connection, Reply, Request};
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Model;
use terrace_e2e::pki::{AUDIENCE, Authority, ISSUER, Pair, TlsClient, TokenIssuer, claims, now};
use terrace_e2e::site::Site;
use terrace_e2e::volume::Volume;
use terrace_e2e::{checkout, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const SHOP: &str = "shop-0123456789abcdef";
const BANK: &str = "bank-0123456789abcdef";
const ALL: &str = "all-0123456789abcdef==";

/// A site whose namespaces `shop` and `bank` have a model `digits` each.
fn site() -> Result<Site> {
    let site = Site::new()?;
    for namespace in ["shop", "bank"] {
        let model = Model::digits("digits-device")?.of_namespace(namespace);
        site.manifests().write(&format!("{namespace}.yaml"), &model.yaml())?;
    }
    Ok(site)
}

fn tokens(site: &Site) -> Result<Volume> {
    let lines = format!("# who may ask\nshop {SHOP}\n* {ALL}\n");
    Volume::new(site.folder().join("tokens"), &[("callers", &lines), ("bank", &format!("bank {BANK}"))])
}

async fn with_tokens(site: &Site) -> Result<(Volume, Agent)> {
    let volume = tokens(site)?;
    let agent = site.agent().set("--caller-tokens", volume.folder()).ready().await?;
    Ok((volume, agent))
}

fn by(request: Request, token: &str) -> Request {
    request.header("authorization", &format!("Bearer {token}"))
}

fn ask(namespace: &str) -> Request {
    let mut request = Ask::image(&digits::test_set().images[0]).request();
    request.path = format!("/v2/models/{namespace}.digits/infer");
    request
}

fn names(reply: &Reply) -> Result<Vec<String>> {
    let list = reply.json()?;
    let list = list.as_array().context("no list")?;
    list.iter().map(|model| Ok(model["name"].as_str().context("no name")?.to_owned())).collect()
}

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

fn service_accounts(site: &Site, keys: &[&TokenIssuer], leeway: &str) -> Result<(Volume, Launch)> {
    let volume = Volume::new(site.folder().join("keys"), &[("jwks.json", &jwks(keys))])?;
    let launch = site
        .agent()
        .set("--jwt-jwks", volume.file("jwks.json"))
        .set("--jwt-issuer", ISSUER)
        .set("--jwt-audience", AUDIENCE)
        .set("--jwt-leeway", leeway);
    Ok((volume, launch))
}

fn jwks(issuers: &[&TokenIssuer]) -> String {
    json!({"keys": issuers.iter().map(|issuer| issuer.jwk()).collect::<Vec<_>>()}).to_string()
}

#[tokio::test]
async fn service_account_tokens_are_checked_without_asking_anybody() -> Result<()> {
    let site = site()?;
    let issuer = TokenIssuer::new("1")?;
    let (_keys, launch) = service_accounts(&site, &[&issuer], "5s")?;
    let agent = launch.ready().await?;
    let token = issuer.token("shop", "till")?;
    for _ in 0..3 {
        agent.send(&by(ask("shop"), &token)).await?.answered()?;
    }
    assert_eq!(agent.send(&by(ask("bank"), &token)).await?.status, 403);
    agent.send(&by(ask("bank"), &issuer.token("bank", "till")?)).await?.answered()?;
    let with = |claim: &str, value: Value| -> Result<String> {
        let mut claims = claims("shop", "till")?;
        claims[claim] = value;
        issuer.sign(&claims)
    };
    let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { bail!("no JWT") };
    // {"alg":"none"}, and the same claims.
    let unsigned = format!("eyJhbGciOiJub25lIn0.{body}.");
    let longer = format!("{head}.{body}.{signature}A");
    for (token, reason) in [
        (with("iss", json!("https://elsewhere"))?, "WrongIssuer"),
        (with("aud", json!(["https://kubernetes.default.svc"]))?, "WrongAudience"),
        (with("exp", json!(now()? - 6))?, "TokenExpired"),
        (with("nbf", json!(now()? + 60))?, "NotYetValid"),
        (with("sub", json!("system:node:kiosk"))?, "NoServiceAccount"),
        (unsigned, "MalformedToken"),
        (longer, "BadSignature"),
        (TokenIssuer::new("1")?.token("shop", "till")?, "BadSignature"),
        (TokenIssuer::new("2")?.token("shop", "till")?, "UnknownKey"),
        ("no-jwt-at-all-0123".to_owned(), "UnknownToken"),
    ] {
        let label = format!("reason=\"{reason}\"");
        let before = agent.counted("terrace_refused_total", &[&label]).await?;
        let reply = agent.send(&by(ask("shop"), &token)).await?;
        assert_eq!(reply.status, 401, "{reason}: {}", reply.text());
        assert_eq!(agent.counted("terrace_refused_total", &[&label]).await?, before + 1.0, "{reason}");
    }
    let mut connection = grpc::Connection::open(agent.grpc, None).await?;
    let shop = grpc::named("shop.digits");
    assert_eq!(connection.call("ModelReady", Some(&token), &shop).await?.code, OK);
    let expired = connection.call("ModelReady", Some(&with("exp", json!(now()? - 6))?), &shop).await?;
    assert_eq!(
        (expired.code, expired.words.contains("expired")),
        (UNAUTHENTICATED, true),
        "{}",
        expired.words
    );
    Ok(())
}

#[tokio::test]
async fn a_token_ends_with_its_time_and_with_its_key_while_its_caller_is_connected() -> Result<()> {
    let site = site()?;
    let (old, new) = (TokenIssuer::new("old")?, TokenIssuer::new("new")?);
    let (mut keys, launch) = service_accounts(&site, &[&old], "0s")?;
    let agent = launch.ready().await?;
    let mut brief = claims("shop", "till")?;
    brief["exp"] = json!(now()? + 2);
    let brief = old.sign(&brief)?;
    let mut connection = agent.connect().await?;
    connection.send(&by(ask("shop"), &brief)).await?.answered()?;
    let refused = loop {
        let reply = connection.send(&by(ask("shop"), &brief)).await?;
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!((refused.status, refused.error()?.contains("expired")), (401, true));

    let (by_old, by_new) = (old.token("shop", "till")?, new.token("shop", "till")?);
    connection.send(&by(ask("shop"), &by_old)).await?.answered()?;
    keys.turn(&[("jwks.json", &jwks(&[&old, &new]))])?;
    // At once: the token has the file read.
    connection.send(&by(ask("shop"), &by_new)).await?.answered()?;
    keys.turn(&[("jwks.json", "{")])?;
    agent.wait_condition("CallerFilesRead", "False", "is no JWKS").await?;
    connection.send(&by(ask("shop"), &by_new)).await?.answered()?;
    keys.turn(&[("jwks.json", &jwks(&[&new]))])?;
    agent.wait_condition("CallerFilesRead", "True", "").await?;
    connection.send(&by(ask("shop"), &by_new)).await?.answered()?;
    assert_eq!(connection.send(&by(ask("shop"), &by_old)).await?.status, 401);
    Ok(())
}

fn tls_volume(site: &Site, pair: &Pair) -> Result<Volume> {
    Volume::new(site.folder().join("tls"), &files(pair))
}

fn files(pair: &Pair) -> [(&str, &str); 2] {
    [("tls.crt", &pair.certificate), ("tls.key", &pair.key)]
}

fn with_tls(launch: Launch, volume: &Volume) -> Launch {
    launch.set("--tls-cert", volume.file("tls.crt")).set("--tls-key", volume.file("tls.key"))
}

async fn secure(agent: &Agent, client: &TlsClient) -> Result<Connection> {
    client.open(agent.http).await
}

#[tokio::test]
async fn a_certificate_rotates_while_clients_stay_connected() -> Result<()> {
    let site = site()?;
    let (first, second) = (Authority::new("first")?, Authority::new("second")?);
    let (one, two) = (first.server()?, second.server()?);
    let mut volume = tls_volume(&site, &one)?;
    let agent = with_tls(site.agent(), &volume).ready().await?;
    let (trusts_one, trusts_two) = (TlsClient::new(&first.pem, None)?, TlsClient::new(&second.pem, None)?);
    let mut connected = secure(&agent, &trusts_one).await?;
    connected.send(&ask("shop")).await?.answered()?;
    assert!(secure(&agent, &trusts_two).await.is_err());

    // A key that is another certificate's: nothing changes, and somebody is told.
    volume.turn(&[("tls.crt", &two.certificate), ("tls.key", &one.key)])?;
    agent.wait_condition("CallerFilesRead", "False", "tls.crt").await?;
    secure(&agent, &trusts_one).await?.send(&ask("shop")).await?.answered()?;

    volume.turn(&files(&two))?;
    wait::until("the new certificate", || async {
        secure(&agent, &trusts_two).await?.send(&ask("shop")).await?.answered().map(drop)
    })
    .await?;
    agent.wait_condition("CallerFilesRead", "True", "").await?;
    assert!(secure(&agent, &trusts_one).await.is_err());
    connected.send(&ask("shop")).await?.answered()?;
    // The same certificate before gRPC.
    let mut connection = grpc::Connection::open(agent.grpc, Some(&trusts_two)).await?;
    assert_eq!(connection.call("ModelReady", None, &grpc::named("shop.digits")).await?.code, OK);
    Ok(())
}

#[tokio::test]
async fn both_protocols_are_spoken_over_tls_and_nothing_without_it() -> Result<()> {
    let site = site()?;
    let authority = Authority::new("authority")?;
    let volume = tls_volume(&site, &authority.server()?)?;
    let agent = with_tls(site.agent(), &volume).ready().await?;
    let client = TlsClient::new(&authority.pem, None)?;
    for port in [agent.http, agent.grpc] {
        for (offered, chosen) in
            [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
        {
            let stream = client.connect(port, offered).await?;
            let told = stream.get_ref().1.alpn_protocol().map(String::from_utf8_lossy);
            assert_eq!(told.as_deref(), chosen);
        }
        assert!(client.connect(port, &["smtp"]).await.is_err());
    }
    let plain =
        terrace_e2e::http::raw(agent.http, b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    assert!(!plain.contains("HTTP/1.1"), "{plain}");
    assert!(agent.counted("terrace_refused_total", &["reason=\"HandshakeFailed\""]).await? >= 1.0);

    // A greeting that never ends takes its connection along, and nobody else's.
    let mut stalled = TcpStream::connect(agent.http).await?;
    stalled.write_all(&[0x16, 3, 1, 2, 0]).await?;
    secure(&agent, &client).await?.send(&ask("shop")).await?.answered()?;
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(20), stalled.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a handshake has no end");
    assert_eq!(agent.counted("terrace_refused_total", &["reason=\"HandshakeTimedOut\""]).await?, 1.0);
    Ok(())
}

/// What comes of a request with a client certificate: its status, or none where there was no connection.
async fn status_with(agent: &Agent, authority: &str, pair: Option<&Pair>, request: &Request) -> Option<u16> {
    // With TLS 1.3 a client hears only after its handshake that it was refused.
    let client = TlsClient::new(authority, pair).ok()?;
    let mut connection = secure(agent, &client).await.ok()?;
    connection.send(request).await.ok().map(|reply| reply.status)
}

#[tokio::test]
async fn a_client_certificate_is_its_namespaces() -> Result<()> {
    let site = site()?;
    let (servers, clients) = (Authority::new("servers")?, Authority::new("clients")?);
    let volume = tls_volume(&site, &servers.server()?)?;
    let mut authorities = Volume::new(site.folder().join("clients"), &[("ca.crt", &clients.pem)])?;
    let launch = with_tls(site.agent(), &volume).set("--client-ca", authorities.file("ca.crt"));
    let agent = launch.clone().ready().await?;
    let till = clients.client("spiffe://site.example/ns/shop/sa/till")?;
    let other = clients.client("https://till.example")?;
    let stranger = Authority::new("strangers")?.client("spiffe://site.example/ns/shop/sa/till")?;
    let expired = clients.expired_client("spiffe://site.example/ns/shop/sa/till")?;
    let health = Request::get("/v2/health/live");
    for (pair, request, status) in [
        (Some(&till), ask("shop"), Some(200)),
        (Some(&till), ask("bank"), Some(403)),
        (Some(&other), ask("shop"), Some(401)),
        (Some(&stranger), ask("shop"), None),
        (Some(&stranger), health.clone(), None),
        (Some(&expired), ask("shop"), None),
        (None, ask("shop"), Some(401)),
        (None, health.clone(), Some(200)),
    ] {
        assert_eq!(status_with(&agent, &servers.pem, pair, &request).await, status, "{}", request.path);
    }
    assert_eq!(agent.counted("terrace_refused_total", &["reason=\"NoNamespace\""]).await?, 1.0);
    assert_eq!(agent.counted("terrace_refused_total", &["reason=\"CertificateRefused\""]).await?, 3.0);
    let client = TlsClient::new(&servers.pem, Some(&till))?;
    let mut calls = grpc::Connection::open(agent.grpc, Some(&client)).await?;
    assert_eq!(calls.call("ModelReady", None, &grpc::named("shop.digits")).await?.code, OK);
    assert_eq!(calls.call("ModelReady", None, &grpc::named("bank.digits")).await?.code, PERMISSION_DENIED);

    // Its authority goes: what is connected is not let in any more.
    let mut connected = secure(&agent, &client).await?;
    connected.send(&ask("shop")).await?.answered()?;
    let next = Authority::new("next clients")?;
    authorities.turn(&[("ca.crt", &next.pem)])?;
    wait::until("the old authority to be gone", || async {
        let fresh = next.client("spiffe://site.example/ns/shop/sa/till")?;
        let status = status_with(&agent, &servers.pem, Some(&fresh), &ask("shop")).await;
        ensure!(status == Some(200), "{status:?}");
        Ok(())
    })
    .await?;
    assert_eq!(connected.send(&ask("shop")).await?.status, 401);
    assert_eq!(calls.call("ModelReady", None, &grpc::named("shop.digits")).await?.code, UNAUTHENTICATED);
    drop(agent);

    authorities.turn(&[("ca.crt", &clients.pem)])?;
    let strict =
        launch.switch("--require-client-cert").set("--client-cert-namespace", "bank").ready().await?;
    for (pair, request, status) in [
        (Some(&other), ask("bank"), Some(200)),
        (Some(&other), ask("shop"), Some(403)),
        (Some(&till), ask("shop"), Some(200)),
        (None, health, None),
    ] {
        assert_eq!(status_with(&strict, &servers.pem, pair, &request).await, status, "{}", request.path);
    }
    assert_eq!(strict.counted("terrace_refused_total", &["reason=\"NoCertificate\""]).await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn a_token_says_who_calls_where_there_is_a_certificate_too() -> Result<()> {
    let site = site()?;
    let authority = Authority::new("authority")?;
    let (volume, tokens) = (tls_volume(&site, &authority.server()?)?, tokens(&site)?);
    fs::write(site.folder().join("ca.crt"), &authority.pem)?;
    let agent = with_tls(site.agent(), &volume)
        .set("--client-ca", site.folder().join("ca.crt"))
        .set("--caller-tokens", tokens.folder())
        .ready()
        .await?;
    let till = authority.client("spiffe://site.example/ns/shop/sa/till")?;
    for (pair, request, status) in [
        (Some(&till), ask("shop"), 200),
        (Some(&till), by(ask("bank"), BANK), 200),
        (Some(&till), by(ask("shop"), BANK), 403),
        // It is not made good by the certificate.
        (Some(&till), by(ask("shop"), "unknown-0123456789"), 401),
        (None, by(ask("shop"), SHOP), 200),
    ] {
        assert_eq!(status_with(&agent, &authority.pem, pair, &request).await, Some(status), "{request:?}");
    }
    Ok(())
}

#[tokio::test]
async fn tritons_clients_show_tokens_over_tls() -> Result<()> {
    let python = checkout().join(".tools/venv/test/bin/python");
    ensure!(python.exists(), "there is no {}: run `make test`, which makes it", python.display());
    let site = site()?;
    let authority = Authority::new("authority")?;
    let (volume, tokens) = (tls_volume(&site, &authority.server()?)?, tokens(&site)?);
    let ca = site.folder().join("ca.crt");
    fs::write(&ca, &authority.pem)?;
    let agent = with_tls(site.agent(), &volume).set("--caller-tokens", tokens.folder()).ready().await?;
    let mut command = std::process::Command::new(python);
    command.arg(checkout().join("e2e/tests/tritonclient_callers.py"));
    command.args([agent.http.to_string(), agent.grpc.to_string()]).arg(&ca).arg(SHOP);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}\nthe agent's log:\n{}", agent.log());
    Ok(())
}
