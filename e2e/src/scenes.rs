//! Scenes that many tests begin with: one agent, its model served.

use anyhow::Result;

use crate::agent::Agent;
use crate::manifests::{Model, Policy};
use crate::site::Site;

/// A device that serves `digits-device` as `digits` without a policy.
pub async fn device() -> Result<(Site, Agent)> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().ready().await?;
    Ok((site, agent))
}

/// A device that serves `digits-device` as `digits` under `policy`, whose name must be `near`.
pub async fn device_under(policy: &Policy) -> Result<(Site, Agent)> {
    let site = Site::new()?;
    site.manifests().policy(policy)?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let agent = site.agent().ready().await?;
    Ok((site, agent))
}

/// An agent of another tier (`Edge`, `Cloud`) that serves the digits model `which` as `name`.
pub async fn tier(tier: &'static str, which: &str, name: &str) -> Result<(Site, Agent)> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits(which)?.named(name).on(tier))?;
    let agent = site.agent().tier(&tier.to_lowercase()).ready().await?;
    Ok((site, agent))
}

/// The base URL of an agent's data port.
pub fn url(agent: &Agent) -> String {
    format!("http://{}", agent.http)
}
