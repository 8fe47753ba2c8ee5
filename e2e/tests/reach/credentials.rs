//! As whom a tier is asked.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::server::{Server, authority};
use terrace_e2e::site::Site;
use terrace_e2e::{upstreams, wait};

use super::cloudy;

/// Puts credentials where the agent finds them, as a whole.
fn put(site: &Site, path: &str, bytes: &[u8]) -> Result<()> {
    let path = site.folder().join("credentials").join(path);
    fs::create_dir_all(path.parent().context("no folder")?)?;
    fs::write(path.with_extension("new"), bytes)?;
    Ok(fs::rename(path.with_extension("new"), path)?)
}

#[tokio::test]
async fn a_tier_is_asked_as_its_policy_says_and_anew_when_that_changes() -> Result<()> {
    let cloud = Server::start_mutual(|_| upstreams::outputs()).await?;
    let site = Site::new()?;
    let policy = Policy::named("near")
        .cloud(&cloud.url())
        .having("tls: {authority: corp, clientCertificate: device}")
        .having("auth: {bearer: cloud}")
        .having("breaker: {failures: 1000}");
    site.manifests().policy(&policy)?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let device = site.agent().set("--credentials-dir", site.folder().join("credentials")).ready().await?;
    let walk = async || device.infer(&cloudy()).await?.answered()?.walk();
    let becomes = |expected: &'static str| {
        let walk = &walk;
        wait::until(expected, move || async move {
            let walk = walk().await?;
            ensure!(walk == expected, "{walk}");
            Ok(())
        })
    };
    assert_eq!(walk().await?, "cloud CredentialsUnavailable, device Answered");
    let told = device.admin("/status").await?.json()?["tiers"][0].clone();
    let why = told["credentials"].as_str().context("no word on credentials")?;
    assert!(why.contains("default/corp/ca.crt cannot be read: no such file"), "{why}");
    // In the folder of another namespace they are nobody's.
    put(&site, "other/corp/ca.crt", &fs::read(authority())?)?;

    let tls = |file: &str| fs::read(terrace_e2e::checkout().join("e2e/tests/tls").join(file));
    put(&site, "default/cloud/token", b"first-token\n")?;
    put(&site, "default/device/tls.crt", &tls("client.pem")?)?;
    put(&site, "default/device/tls.key", &tls("client.key")?)?;
    // Another authority: the server is not trusted.
    put(&site, "default/corp/ca.crt", &tls("client-ca.pem")?)?;
    becomes("cloud ConnectFailed, device Answered").await?;
    put(&site, "default/corp/ca.crt", &tls("ca.pem")?)?;
    becomes("cloud Answered").await?;
    let last = || cloud.requests().last().and_then(|seen| seen.header("authorization").map(str::to_owned));
    assert_eq!(last().as_deref(), Some("Bearer first-token"));

    put(&site, "default/cloud/token", b"second-token\n")?;
    wait::until("the second token to be sent", || async {
        ensure!(walk().await? == "cloud Answered");
        ensure!(last().as_deref() == Some("Bearer second-token"), "{:?}", last());
        Ok(())
    })
    .await?;
    // A certificate that the server does not know: it hangs up, and what is left of the old connection is not used.
    put(&site, "default/device/tls.crt", &tls("server.pem")?)?;
    put(&site, "default/device/tls.key", &tls("server.key")?)?;
    wait::until("the other certificate to be shown", || async {
        let walk = walk().await?;
        ensure!(walk.starts_with("cloud Connect"), "{walk}");
        Ok(())
    })
    .await?;
    for secret in ["first-token", "second-token"] {
        for text in
            [device.log(), device.admin("/status").await?.text(), device.admin("/metrics").await?.text()]
        {
            assert!(!text.contains(secret));
        }
    }
    Ok(())
}
