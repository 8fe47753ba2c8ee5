//! Tiers that are asked for, that no policy configures, or that a model is placed on.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::LABEL;
use terrace_e2e::{scenes, upstreams};

use super::{CLOUDY, image};

#[tokio::test]
async fn a_stated_tier_is_obeyed_or_refused_by_name() -> Result<()> {
    let edge = upstreams::answering().await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").edge(&edge.url())).await?;
    let ask = Ask::image(image());
    assert_eq!(device.infer(&ask.clone().parameter("tier", "edge")).await?.answered()?.labels()?, [LABEL]);
    let before = edge.requests().len();
    for ask in [
        ask.clone().parameter("tier", "cloud"),
        ask.clone().header("terrace-tier", "cloud"),
        ask.clone().parameter("tier", "Edge"),
        ask.clone().parameter("tier", "edge").header("terrace-tier", "device"),
        ask.clone().parameter("tier", "edge").private(),
    ] {
        let reply = device.infer(&ask).await?;
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert!(reply.error()?.contains("tier"), "{}", reply.text());
    }
    assert_eq!(edge.requests().len(), before);
    Ok(())
}

#[tokio::test]
async fn a_tier_that_is_not_configured_leaves_the_fallback_order() -> Result<()> {
    let edge = upstreams::answering().await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").edge(&edge.url())).await?;
    let reply = device.infer(&CLOUDY).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("device", "fallback", "TierNotConfigured"));
    Ok(())
}

#[tokio::test]
async fn callers_of_a_model_that_is_placed_elsewhere_are_forwarded() -> Result<()> {
    let edge = upstreams::answering().await?;
    let site = Site::new()?;
    site.manifests().policy(&Policy::named("near").edge(&edge.url()))?;
    site.manifests().model(&Model::digits("digits-edge")?.on("Edge").policy("near"))?;
    let device = site.agent().ready().await?;
    let reply = device.infer(&Ask::image(image())).await?.answered()?;
    assert_eq!(reply.route()?.tier, "edge");
    assert_eq!(device.get("/v2/models/digits/ready").await?.status, 200);
    assert_eq!(device.get("/v2/models/digits").await?.status, 404);
    assert_eq!(device.infer(&Ask::image(image()).private()).await?.status, 503);
    assert_eq!(edge.requests().len(), 1);
    let model = device.model("digits").await?;
    assert_eq!(model.serving_sha256, None);
    let why = model.error.context("no reason why it is not placed")?;
    assert_eq!(why.reason, "TierMismatch", "{}", why.message);
    Ok(())
}

#[tokio::test]
async fn a_policy_whose_tier_is_not_allowed_is_refused_with_its_line() -> Result<()> {
    let edge = upstreams::answering().await?;
    let site = Site::new()?;
    site.manifests().policy(&Policy::named("near").edge("http://10.1.2.3:8000"))?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let device = site.agent().ready().await?;
    device.wait_condition("ManifestsAccepted", "False", "policy-near.yaml:7: spec.tiers.edge.url").await?;
    device
        .wait_condition("PoliciesFound", "False", "default.digits: there is no accepted TierPolicy")
        .await?;
    let reply = device.infer(&Ask::image(image())).await?.answered()?;
    assert_eq!(reply.route()?.tier, "device", "a model without an accepted policy stays on the node");
    assert_eq!(reply.parameter("complexity")?, Value::Null);
    site.manifests().policy(&Policy::named("near").edge(&edge.url()))?;
    device.wait_condition("ManifestsAccepted", "True", "").await?;
    device.wait_condition("PoliciesFound", "True", "").await?;
    terrace_e2e::wait::until("the policy to be in force", || async {
        let reply = device.infer(&Ask::image(image())).await?.answered()?;
        ensure!(reply.route()?.tier == "edge", "{}", reply.text());
        Ok(())
    })
    .await
}
