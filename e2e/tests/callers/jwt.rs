//! Tokens of ServiceAccounts: checked by keys that are there already.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use terrace_e2e::agent::Launch;
use terrace_e2e::grpc::{self, OK, UNAUTHENTICATED};
use terrace_e2e::pki::{AUDIENCE, ISSUER, TokenIssuer, claims, now};
use terrace_e2e::site::Site;
use terrace_e2e::volume::Volume;

use super::{ask, by, site};

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
