//! How many tiers a policy asks: one, one and perhaps a second, or several at once.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Duration, Tier};

/// How many tiers are asked.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The one that the rules choose.
    #[default]
    Select,
    /// The node itself and, where it is not sure of its answer, a verifier.
    Speculative,
    /// Several at once; their answers are combined.
    Ensemble,
}

/// Who answers where the node is not sure of its own answer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Speculative {
    /// The node's answer counts where its confidence is above this. Default 0.9.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub threshold: Option<f64>,
    /// The tier that answers in place of a node that is not sure: Edge or Cloud.
    #[serde(deserialize_with = "verifier")]
    #[schemars(with = "Verifier")]
    pub verifier: Tier,
    /// Asks the verifier also where the node has not answered after so long; whoever answers first, and is sure, counts.
    /// 0s asks both at once. Absent: the verifier is asked only once the node has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('0s')").message("parallelAfter must not be negative"))]
    pub parallel_after: Option<Duration>,
}

/// Who may verify.
#[derive(Deserialize, JsonSchema)]
enum Verifier {
    /// The gateway of the node's site.
    Edge,
    /// The data centre.
    Cloud,
}

/// A tier by its name. The device is read as what it is, so that who checks a policy can say why it is none here; no error
/// names it among those that are accepted.
fn verifier<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tier, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name == "Device" {
        return Ok(Tier::Device);
    }
    Verifier::deserialize(name.into_deserializer()).map(|verifier| match verifier {
        Verifier::Edge => Tier::Edge,
        Verifier::Cloud => Tier::Cloud,
    })
}

/// Who is asked at once, and what becomes of the answers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.combine) && self.combine == 'WeightedMean') == has(self.weights)")
        .message("weights are for combine: WeightedMean, which needs them"),
    validation = Rule::new("!has(self.weights) || self.weights.size() == self.members.size()")
        .message("weights must have one number for each member"),
    validation = Rule::new("!has(self.quorum) || self.quorum <= self.members.size()")
        .message("quorum must not exceed the number of members")
)]
pub struct Ensemble {
    /// The tiers that are asked. The node itself is the tier that it is.
    #[schemars(length(min = 2, max = 3), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(validation = Rule::new("self.all(tier, self.exists_one(other, other == tier))").message("members must name each tier once at most"))]
    pub members: Vec<Tier>,
    /// How their answers become one. Default Mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combine: Option<Combine>,
    /// For WeightedMean: what each member counts, in the order of `members`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 3), inner(range(min = 0.0, max = 1_000_000.0)), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(validation = Rule::new("self.all(weight, weight > 0.0)").message("weights must be positive: a member that counts nothing need not be asked"))]
    pub weights: Option<Vec<f64>>,
    /// How many members must answer. Where fewer do, the fallback order says what happens. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3), extend("format" = "int32"))]
    pub quorum: Option<u16>,
}

/// How several answers become one.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Combine {
    /// Floating-point outputs are averaged.
    #[default]
    Mean,
    /// The same, each member by its weight.
    WeightedMean,
    /// Each row is that of the most confident member among those that vote for the class with the most votes.
    Vote,
    /// Each row is that of the most confident member.
    MaxConfidence,
}
