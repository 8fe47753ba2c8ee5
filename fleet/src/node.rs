//! What one node should serve: an entry for every model, with a reason where the node does not serve it.

use std::collections::BTreeMap;

use terrace_crds::confidence::Confidence;
use terrace_crds::model::{ResolvedSource, Runtime, Verification};
use terrace_crds::node::{NodeModel, NotPlaced};
use terrace_crds::{InferenceNodeSpec, Tier, TierPolicySpec};
use terrace_tiering::Policy;

use crate::digest::Sha256;
use crate::model::{DigestSource, ModelPlan};
use crate::revision::{RevisionContent, hash, revision_name};

/// The longest message of an entry, as in the CRD's schema.
const MAX_MESSAGE_CHARS: usize = 1024;

/// A node, as far as it matters for what it should serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The tier that it is.
    pub tier: Tier,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// The label that says which tier a node is; without it a node is a device.
const TIER_LABEL: &str = "terrace.dev/tier";

impl NodeFacts {
    /// A node as Kubernetes knows it.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        Self { tier: Self::tier_of(labels), labels: labels.clone() }
    }

    /// The tier of a node with these labels.
    pub fn tier_of(labels: &BTreeMap<String, String>) -> Tier {
        labels.get(TIER_LABEL).and_then(|name| Tier::parse(name)).unwrap_or_default()
    }
}

/// A model that nodes should serve.
#[derive(Clone, Copy, Debug)]
pub struct WantedModel<'a> {
    /// What it asks for.
    pub plan: &'a ModelPlan,
    /// What its checksum file was last read to say, if it ever was. Of no account where the model pins its digest.
    pub published: Option<Sha256>,
}

/// The last accepted generation of a policy.
#[derive(Clone, Copy, Debug)]
pub struct NamedPolicy<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What it says.
    pub policy: &'a Policy,
}

/// What a node should serve, and what stands in the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// The node's spec.
    pub spec: InferenceNodeSpec,
    /// Models whose digest is not known yet: they have no entry, or keep the artifact that they had.
    pub waiting: Vec<Note>,
    /// Models that are served otherwise than they ask.
    pub warnings: Vec<Note>,
}

/// What is to be said of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why, as one word.
    pub reason: NoteReason,
    /// Why, for a person, with what to do about it.
    pub message: String,
}

/// Why something is to be said of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteReason {
    /// Its checksum file was never read.
    DigestUnknown,
    /// It names a policy that is not there, or was never accepted.
    PolicyNotFound,
    /// Its policy goes by how sure it is of its answers, and it does not say how that is measured.
    ConfidenceMissing,
}

impl NoteReason {
    /// The name in conditions.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DigestUnknown => "DigestUnknown",
            Self::PolicyNotFound => "PolicyNotFound",
            Self::ConfidenceMissing => "ConfidenceMissing",
        }
    }
}

/// What `node` should serve of `models` (no two of the same namespace and name).
///
/// Every model has an entry, sorted by namespace and name: with its artifact where it belongs on the node, else
/// with the reason why not, so that its callers are still forwarded.
///
/// A model that belongs here and whose digest is not known waits. It keeps the artifact that `previous` (the
/// node's spec until now) has for it, with the runtime and the verification that came along: what runs goes on
/// until what replaces it is known. Who answers is never kept: policy and names elsewhere are always the current
/// ones, so that a policy that turns private does not wait for a checksum server.
///
/// A model whose policy is not among `policies` gets none: its requests are private, and the node answers or nobody. The
/// same holds where its policy goes by a confidence that the model does not have: it is told of the policy, and sees. A
/// policy of `previous` is not kept either: its hash does not tell which policy it was, and another's
/// might allow what this one forbids. Callers pass the last accepted generation of each policy, and so keep it.
pub fn desired(
    models: &[WantedModel<'_>],
    policies: &[NamedPolicy<'_>],
    node: &NodeFacts,
    previous: Option<&InferenceNodeSpec>,
) -> Desired {
    let mut desired = Desired::default();
    desired.spec.tier = node.tier;
    let policies: BTreeMap<(&str, &str), &Policy> =
        policies.iter().map(|named| ((named.namespace, named.name), named.policy)).collect();
    let mut models: Vec<&WantedModel<'_>> = models.iter().collect();
    models.sort_by_key(|model| (model.plan.namespace(), model.plan.name()));
    for wanted in models {
        let plan = wanted.plan;
        let policy = plan.policy().and_then(|name| {
            let found = policies.get(&(plan.namespace(), name));
            if found.is_none() {
                desired.warnings.push(policy_not_found(plan, name));
            }
            found.copied()
        });
        let Some(work) = work(wanted, node, previous, &mut desired.waiting) else { continue };
        let lacks_confidence =
            |policy: &&Policy| policy.mode().needs_confidence() && work.confidence(plan).is_none();
        if let Some(policy) = policy.filter(lacks_confidence) {
            desired.warnings.push(confidence_missing(plan, policy));
        }
        let policy = policy.map(|policy| {
            read_labels(&mut desired.spec, policy, node);
            policy.to_spec()
        });
        let entry = entry(plan, work, policy.as_ref());
        if let (Some(hash), Some(policy)) = (&entry.policy, policy) {
            desired.spec.policies.insert(hash.clone(), policy);
        }
        desired.spec.models.push(entry);
    }
    desired
}

/// The labels of `node` that the rules of `policy` read.
fn read_labels(spec: &mut InferenceNodeSpec, policy: &Policy, node: &NodeFacts) {
    let labels = policy.labels().into_iter().filter_map(|key| node.labels.get_key_value(key));
    spec.labels.extend(labels.map(|(key, value)| (key.clone(), value.clone())));
}

/// Keeps what `previous` has of a model that cannot be read any more: its entry as a whole, policy included.
pub fn hold(
    spec: &mut InferenceNodeSpec,
    previous: &InferenceNodeSpec,
    node: &NodeFacts,
    (namespace, name): (&str, &str),
) {
    let is_it = |entry: &&NodeModel| entry.namespace == namespace && entry.name == name;
    let Some(entry) = previous.models.iter().find(is_it) else { return };
    if let Some((hash, policy)) = entry.policy.as_ref().and_then(|hash| previous.policies.get_key_value(hash))
    {
        if let Ok(policy) = Policy::parse(policy) {
            read_labels(spec, &policy, node);
        }
        spec.policies.insert(hash.clone(), policy.clone());
    }
    spec.models.push(entry.clone());
    spec.models.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
}

/// What a node does with a model.
enum Work {
    /// It runs this.
    Run {
        artifact: ResolvedSource,
        runtime: Runtime,
        verification: Option<Verification>,
        confidence: Option<Confidence>,
    },
    /// It runs nothing. The digest is part of the revision's name where it is known.
    Forward { why: NotPlaced, digest: Option<Sha256> },
}

impl Work {
    /// How sure what runs is of its answers: it is told of the artifact's outputs, so it comes and goes with it.
    const fn confidence<'a>(&'a self, plan: &'a ModelPlan) -> Option<&'a Confidence> {
        match self {
            Self::Run { confidence, .. } => confidence.as_ref(),
            Self::Forward { .. } => plan.confidence.as_ref(),
        }
    }
}

/// `None` where the node cannot be told yet.
fn work(
    wanted: &WantedModel<'_>,
    node: &NodeFacts,
    previous: Option<&InferenceNodeSpec>,
    waiting: &mut Vec<Note>,
) -> Option<Work> {
    let plan = wanted.plan;
    let digest = match plan.digest {
        DigestSource::Pinned(digest) => Some(digest),
        DigestSource::Published { .. } => wanted.published,
    };
    if let Some(why) = not_placed(plan, node) {
        return Some(Work::Forward { why, digest });
    }
    if let Some(digest) = digest {
        return Some(Work::Run {
            artifact: ResolvedSource { uri: plan.uri.to_string(), sha256: digest.to_string() },
            runtime: plan.runtime.clone(),
            verification: plan.verification.clone(),
            confidence: plan.confidence.clone(),
        });
    }
    let kept = previous.and_then(|spec| artifact_in(spec, plan));
    waiting.push(digest_unknown(plan, kept.is_some()));
    kept
}

/// What `spec` runs for a model.
fn artifact_in(spec: &InferenceNodeSpec, plan: &ModelPlan) -> Option<Work> {
    let entry =
        spec.models.iter().find(|entry| entry.namespace == plan.namespace && entry.name == plan.name)?;
    let artifact = entry.artifact.clone()?;
    Some(Work::Run {
        artifact,
        runtime: entry.runtime.clone(),
        verification: entry.verification.clone(),
        confidence: entry.confidence.clone(),
    })
}

/// Why a model does not belong on a node; `None` where it does.
pub(crate) fn not_placed(plan: &ModelPlan, node: &NodeFacts) -> Option<NotPlaced> {
    let tier = plan.placement.tier;
    if tier != node.tier {
        let message = format!("the model is placed on the {tier} tier, and this node is {}", node.tier);
        return Some(NotPlaced { reason: "TierMismatch".to_owned(), message });
    }
    let mut selector = plan.placement.node_selector.iter();
    let (key, value) = selector.find(|(key, value)| node.labels.get(*key) != Some(*value))?;
    let message = match node.labels.get(key) {
        Some(other) => format!("the model needs a node with {key}={value}, and this node has {key}={other}"),
        None => format!("the model needs a node with {key}={value}, and this node has no such label"),
    };
    let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
    Some(NotPlaced { reason: "NodeSelectorMismatch".to_owned(), message })
}

fn entry(plan: &ModelPlan, work: Work, policy: Option<&TierPolicySpec>) -> NodeModel {
    let confidence = work.confidence(plan).cloned();
    let (artifact, not_placed, runtime, verification, digest) = match work {
        Work::Run { artifact, runtime, verification, .. } => {
            let digest = artifact.sha256.clone();
            (Some(artifact), None, runtime, verification, Some(digest))
        }
        Work::Forward { why, digest } => {
            let digest = digest.map(|digest| digest.to_string());
            (None, Some(why), plan.runtime.clone(), plan.verification.clone(), digest)
        }
    };
    let uri = artifact.as_ref().map_or_else(|| plan.uri.to_string(), |artifact| artifact.uri.clone());
    let content = RevisionContent {
        uri: &uri,
        sha256: digest.as_deref(),
        runtime: &runtime,
        verification: verification.as_ref(),
        confidence: confidence.as_ref(),
        upstreams: &plan.upstreams,
        policy,
    };
    NodeModel {
        namespace: plan.namespace.clone(),
        name: plan.name.clone(),
        revision: revision_name(&plan.name, &content),
        artifact,
        not_placed,
        upstreams: plan.upstreams.clone(),
        runtime,
        verification,
        confidence,
        policy: policy.map(hash),
        allowed_namespaces: plan.allowed_namespaces.clone(),
    }
}

fn digest_unknown(plan: &ModelPlan, kept: bool) -> Note {
    let meanwhile =
        if kept { "what it had goes on until it is" } else { "this node cannot serve it until it is" };
    Note {
        namespace: plan.namespace.clone(),
        name: plan.name.clone(),
        reason: NoteReason::DigestUnknown,
        message: format!("the checksum file that sha256From names has not been read; {meanwhile}"),
    }
}

fn policy_not_found(plan: &ModelPlan, policy: &str) -> Note {
    Note {
        namespace: plan.namespace.clone(),
        name: plan.name.clone(),
        reason: NoteReason::PolicyNotFound,
        message: format!(
            "there is no accepted TierPolicy {policy:?} in namespace {:?}; until there is, every request is private and answered on the node itself",
            plan.namespace
        ),
    }
}

fn confidence_missing(plan: &ModelPlan, policy: &Policy) -> Note {
    Note {
        namespace: plan.namespace.clone(),
        name: plan.name.clone(),
        reason: NoteReason::ConfidenceMissing,
        message: format!(
            "its policy has mode: {}, which goes by how sure the model is, and the model has no spec.confidence; until it has, every request is private and answered on the node itself",
            policy.mode().as_str()
        ),
    }
}
