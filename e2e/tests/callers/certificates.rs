//! Encrypted ports, and client certificates.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use terrace_e2e::agent::{Agent, Launch};
use terrace_e2e::grpc::{self, OK, PERMISSION_DENIED, UNAUTHENTICATED};
use terrace_e2e::http::{Connection, Request};
use terrace_e2e::pki::{Authority, Pair, TlsClient};
use terrace_e2e::site::Site;
use terrace_e2e::volume::Volume;
use terrace_e2e::{checkout, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{BANK, SHOP, ask, by, site, tokens};

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
