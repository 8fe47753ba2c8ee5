//! Three tiers: who is chosen, who steps in, and what travels between them.

mod choice;
mod fallback;
mod forwarding;
mod placement;

use std::sync::LazyLock;

use anyhow::Result;
use terrace_e2e::agent::Agent;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::scenes::url;
use terrace_e2e::site::Site;
use terrace_e2e::{digits, scenes};

/// Time enough for anything that succeeds, on a machine that is busy with other tests.
const AMPLE: u64 = 2_000;

fn image() -> &'static [f32] {
    &digits::test_set().images[0]
}

/// A device with three tiers above and below: each serves its own model, the cloud under another name.
struct Three {
    device: Agent,
    edge: Agent,
    cloud: Agent,
    _sites: [Site; 3],
}

impl Three {
    async fn start(policy: impl FnOnce(Policy) -> Policy) -> Result<Self> {
        let (edge_site, edge) = scenes::tier("Edge", "digits-edge", "digits").await?;
        let (cloud_site, cloud) = scenes::tier("Cloud", "digits-cloud", "digits-large").await?;
        let site = Site::new()?;
        let tiers = Policy::named("near").edge(&url(&edge)).cloud(&url(&cloud));
        site.manifests().policy(&policy(tiers))?;
        let model = Model::digits("digits-device")?.policy("near").called("cloud", "digits-large");
        site.manifests().model(&model)?;
        let device = site.agent().ready().await?;
        let three = Self { device, edge, cloud, _sites: [edge_site, cloud_site, site] };
        // Connections are there and code is paged in before anything is in a hurry.
        for tier in ["device", "edge", "cloud"] {
            three.device.infer(&Ask::image(image()).parameter("tier", tier)).await?.answered()?;
        }
        Ok(three)
    }
}

/// The reply of the chosen tier. One that was too slow on a busy machine is rightly replaced; it is asked again.
async fn in_time(device: &Agent, ask: &Ask) -> Result<terrace_e2e::http::Reply> {
    let mut reply = device.infer(ask).await?;
    for _ in 0..20 {
        let late = reply.status == 504 || (reply.status == 200 && reply.walk()?.contains("TimedOut"));
        if !late {
            break;
        }
        reply = device.infer(ask).await?;
    }
    reply.answered()
}

static CLOUDY: LazyLock<Ask> = LazyLock::new(|| Ask::image(image()).complexity(0.9));
