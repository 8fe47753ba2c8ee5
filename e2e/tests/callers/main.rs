//! Who may call the data ports, and what each caller may use.

mod certificates;
mod jwt;
mod tokens;

use anyhow::{Context as _, Result};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits;
use terrace_e2e::http::{Reply, Request};
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Model;
use terrace_e2e::site::Site;
use terrace_e2e::volume::Volume;

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
