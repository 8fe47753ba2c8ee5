//! A policy: is it accepted, and what did it last say that was.
//!
//! An unaccepted generation changes nothing on nodes: the last accepted one is kept as a ControllerRevision, which the
//! catalog falls back to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::Patch;
use kube::runtime::events::EventType;
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use terrace_crds::Tier;
use terrace_crds::TierPolicy;
use terrace_crds::policy::TierPolicyStatus;
use terrace_fleet::{Fault, NodeFacts, Verdict, policy_hash, sites_resolved};
use terrace_tiering::{Place, Policy};

use crate::catalog::{accepted, parse_policy};
use crate::conditions::{condition, reason_of};
use crate::context::{Context, Error, server_side_apply};
use crate::controller::{Done, RESYNC};
use crate::edge::{self, node_of};
use crate::revisions::{self, Kind, Revision};

/// How nodes fare is written no more often than this: they come one by one.
const SITES_EVERY: Duration = Duration::from_secs(1);

/// One look at a policy.
pub async fn look(policy: Arc<TierPolicy>, context: Arc<Context>) -> Result<Done, Error> {
    let waits = judge(&policy, &context).await?;
    Ok(Done { outcome: "Done", again: waits.unwrap_or(RESYNC) })
}

/// How long to wait where it is too early to write what is known.
async fn judge(policy: &TierPolicy, context: &Context) -> Result<Option<Duration>, Error> {
    if policy.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let parsed = parse_policy(policy);
    if let Ok(accepted) = &parsed {
        keep(policy, accepted, context).await?;
    }
    let in_force = accepted(policy, &context.world.revisions.state());
    let found = Findings {
        accepted: verdict(&parsed),
        edge: in_force.as_ref().and_then(edge),
        sites: in_force.as_ref().and_then(|policy| sites(policy, context)),
    };
    report(policy, &found, context).await
}

/// What a look found.
struct Findings {
    accepted: Verdict,
    /// Where the edge answers.
    edge: Option<String>,
    /// How the nodes fare, where the edge depends on their site.
    sites: Option<Verdict>,
}

/// Where the edge of a policy answers, in a few words.
fn edge(policy: &Policy) -> Option<String> {
    policy.remote(Tier::Edge).map(|edge| match edge.place() {
        Place::Url(url) => url.to_string(),
        Place::SiteUrl(url) => url.as_str().to_owned(),
        Place::Site { label } => format!("site by {label}"),
    })
}

fn sites(policy: &Policy, context: &Context) -> Option<Verdict> {
    let label = policy.site_label()?;
    let world = &context.world;
    let pods = world.pods.state();
    let with_agent: BTreeSet<&str> = pods.iter().filter_map(|pod| node_of(pod)).collect();
    let mut nodes: Vec<(String, NodeFacts)> = world
        .nodes
        .state()
        .iter()
        .filter(|node| with_agent.contains(&*node.name_any()))
        .map(|node| {
            let labels = node.labels();
            let site = labels.get_key_value(label).map(|(key, value)| (key.clone(), value.clone()));
            (
                node.name_any(),
                NodeFacts { tier: NodeFacts::tier_of(labels), labels: site.into_iter().collect() },
            )
        })
        .collect();
    nodes.sort_by(|(one, _), (other, _)| one.cmp(other));
    let nodes: Vec<(&str, &NodeFacts)> = nodes.iter().map(|(name, facts)| (&**name, facts)).collect();
    sites_resolved(policy, &nodes, &edge::agents(world))
}

/// The accepted policy as a revision of its own.
async fn keep(policy: &TierPolicy, accepted: &Policy, context: &Context) -> Result<(), Error> {
    let name = format!("tpol-{}-{}", policy.name_any(), &policy_hash(accepted)[..10]);
    let content = json!(accepted.to_spec());
    let revision = Revision { kind: Kind::Policy, name: &name, content, sha256_from: None };
    revisions::keep(context, policy, revision).await.map(drop)
}

fn verdict(parsed: &Result<Policy, Vec<Fault>>) -> Verdict {
    match parsed {
        Ok(_) => Verdict {
            holds: true,
            reason: "Accepted".to_owned(),
            message: "nodes are told of this generation".to_owned(),
        },
        Err(faults) => {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            let message = format!("{}; nodes go on with the last accepted generation", faults.join("; "));
            Verdict { holds: false, reason: "Invalid".to_owned(), message }
        }
    }
}

async fn report(policy: &TierPolicy, found: &Findings, context: &Context) -> Result<Option<Duration>, Error> {
    let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
    let before = policy.status.clone().unwrap_or_default();
    let generation = policy.metadata.generation;
    let now = Timestamp::now();
    let conditions = [("Accepted", Some(&found.accepted)), ("SitesResolved", found.sites.as_ref())];
    let conditions = conditions.into_iter().filter_map(|(type_, verdict)| {
        verdict.map(|verdict| condition(type_, verdict, generation, &before.conditions, now))
    });
    let after = TierPolicyStatus {
        observed_generation: generation,
        edge: found.edge.clone(),
        conditions: conditions.collect(),
    };
    if after == before {
        return Ok(None);
    }
    let turns = |status: &TierPolicyStatus| {
        let states = ["Accepted", "SitesResolved"].map(|type_| {
            reason_of(&status.conditions, type_)
                .map(|(status, reason)| (status.to_owned(), reason.to_owned()))
        });
        (states, status.observed_generation, status.edge.clone())
    };
    let may_wait = turns(&before) == turns(&after);
    if let Some(wait) = context.pacer.hold(&format!("{namespace}/tpol"), &name, may_wait, SITES_EVERY) {
        return Ok(Some(wait));
    }
    let api = Api::<TierPolicy>::namespaced(context.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": TierPolicy::api_version(&()), "kind": TierPolicy::kind(&()),
        "metadata": {"name": name, "namespace": namespace}, "status": after,
    });
    context.write(api.patch_status(&name, &server_side_apply(), &Patch::Apply(&patch))).await?;
    for (type_, verdict) in [("Accepted", Some(&found.accepted)), ("SitesResolved", found.sites.as_ref())] {
        let Some(verdict) = verdict else { continue };
        let now = if verdict.holds { "True" } else { "False" };
        let was = reason_of(&before.conditions, type_).map(|(status, _)| status);
        // That every site has its edge is news only where one had none.
        let is_news = was != Some(now) && (type_ == "Accepted" || was.is_some() || !verdict.holds);
        if is_news {
            let kind = if verdict.holds { EventType::Normal } else { EventType::Warning };
            context
                .tell(&policy.object_ref(&()), kind, (&*verdict.reason, verdict.message.clone()), None)
                .await;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use terrace_crds::policy::TierRule;
    use terrace_crds::{Tier, TierPolicySpec};

    use super::*;

    #[test]
    fn the_field_and_the_place_of_a_fault_stand_in_the_condition() {
        let rule = TierRule { when: "request.byte > 1".to_owned(), tier: Tier::Edge, name: None };
        let spec = TierPolicySpec { rules: Some(vec![rule]), ..TierPolicySpec::default() };
        let told = verdict(&Policy::parse(&spec));
        assert_eq!((told.holds, &*told.reason), (false, "Invalid"));
        let start = "spec.rules[0].when: 1:9: request has no field byte: expected";
        assert!(told.message.starts_with(start), "{}", told.message);
    }
}
