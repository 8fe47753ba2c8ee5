//! Recorded decisions: what a request was, what was decided on it, and what happened; one JSON object a line.
//!
//! For `terrace-agent simulate`. Elements of tensors and ids are never recorded. Of a private request nothing is but
//! that it came, and how its answer went: a record may be carried elsewhere.

mod writer;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use terrace_crds::Tier;
use terrace_tiering::{Decision, Facts as _, Policy, Snapshot, Stated};

use crate::executor::{Answer, Attempt};
use crate::facts::RequestFacts;
use crate::seen::Seen;
pub use writer::{Recorder, Settings};

/// The most inputs of a request that are recorded.
const MAX_INPUTS: usize = 32;
/// The longest name of an input that is recorded.
const MAX_NAME: usize = 128;

/// A request, a decision, and what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// When its headers had been read.
    pub time: Timestamp,
    /// The model that it asked for: `namespace.name`.
    pub model: String,
    /// The tier of the node that decided.
    #[serde(with = "tier_name")]
    pub node: Tier,
    /// Nothing of it may leave the node, so nothing of it is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// What it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// What the node knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Seen>,
    /// What was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decided>,
    /// What happened.
    pub happened: Happened,
}

/// What a request was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The bytes of its inputs' elements.
    pub bytes: u64,
    /// The first dimension of its first input.
    pub batch: usize,
    /// Its inputs, without their elements.
    pub inputs: Vec<RecordedInput>,
    /// The entropy of its inputs.
    pub entropy: f64,
    /// The complexity that it stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complexity: Option<f64>,
    /// The deadline that it stated, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<f64>,
    /// The tier that it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_tier_name")]
    pub tier: Option<Tier>,
    /// The tier of the node that forwarded it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_tier_name")]
    pub hop: Option<Tier>,
    /// The headers that its model's policy lists; none of one that the request did not have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Option<String>>,
}

/// An input, without its elements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedInput {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// Why.
    pub reason: String,
    /// The tiers to try, in order.
    pub candidates: Vec<String>,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Happened {
    /// Who answered; none where nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// As what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Why, where that was known only once the answer was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The status that the client saw.
    pub code: u16,
    /// From its headers to its answer.
    pub latency_ms: f64,
    /// How sure this node's own model was, where it answered and its scores were there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_confidence: Option<f64>,
    /// What was tried, where somebody answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Tried>,
}

/// One try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Where.
    pub tier: String,
    /// How it ended.
    pub outcome: String,
    /// How long it took.
    pub ms: f64,
    /// It was asked a second time, because the first answer was late.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hedged: bool,
}

impl From<&Attempt> for Tried {
    fn from(attempt: &Attempt) -> Self {
        let &Attempt { tier, outcome, ms, hedged } = attempt;
        Self { tier: tier.to_owned(), outcome: outcome.to_owned(), ms, hedged }
    }
}

impl Record {
    /// Somebody answered, or nobody; and the node's own model was so sure, where that was noted.
    pub fn ended(&mut self, answer: Option<&Answer>, sure: Option<f64>) {
        self.happened.node_confidence = sure;
        let Some(answer) = answer else { return };
        self.happened.reason = answer.reason.as_ref().map(|reason| reason.as_str().to_owned());
        self.happened.attempts = answer.attempts.iter().map(Into::into).collect();
    }

    /// A decision that was just taken; what happens is filled in later.
    pub fn begin(
        policy: &Policy,
        stated: &Stated,
        snapshot: &Snapshot,
        decision: &Decision,
        facts: &RequestFacts<'_, '_>,
    ) -> Self {
        let mut record = Self {
            time: Timestamp::now(),
            model: facts.model.to_string(),
            node: snapshot.node.tier,
            private: decision.privacy_required,
            request: None,
            state: None,
            decision: None,
            happened: Happened::default(),
        };
        if decision.privacy_required {
            return record;
        }
        let inputs = facts.request.inputs.iter().take(MAX_INPUTS).map(|input| RecordedInput {
            name: input.tensor.name().chars().take(MAX_NAME).collect(),
            datatype: input.tensor.data().datatype().as_str().to_owned(),
            shape: input.tensor.shape().to_vec(),
        });
        let headers = policy.request_headers().iter();
        let headers = headers.map(|name| (name.clone(), facts.header(name).map(ToOwned::to_owned)));
        record.request = Some(Request {
            bytes: facts.bytes(),
            batch: facts.batch(),
            inputs: inputs.collect(),
            entropy: facts.entropy(),
            complexity: stated.complexity,
            max_latency_ms: stated.max_latency_ms,
            tier: stated.tier,
            hop: stated.hop,
            headers: headers.collect(),
        });
        record.state = Some(Seen::from(snapshot));
        let candidates = decision.candidates.iter().map(|candidate| candidate.tier.as_str().to_owned());
        record.decision =
            Some(Decided { reason: decision.reason.as_str().to_owned(), candidates: candidates.collect() });
        record
    }
}

/// A tier by its name on the wire.
mod tier_name {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};
    use terrace_crds::Tier;

    #[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
    pub(super) fn serialize<S: Serializer>(tier: &Tier, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(tier.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tier, D::Error> {
        let name = String::deserialize(deserializer)?;
        Tier::parse(&name).ok_or_else(|| D::Error::custom("expected device, edge or cloud"))
    }
}

/// The same where there may be none.
mod optional_tier_name {
    use serde::{Deserializer, Serializer};
    use terrace_crds::Tier;

    #[allow(clippy::trivially_copy_pass_by_ref, clippy::ref_option)] // as serde calls it
    pub(super) fn serialize<S: Serializer>(tier: &Option<Tier>, serializer: S) -> Result<S::Ok, S::Error> {
        match tier {
            Some(tier) => serializer.serialize_str(tier.as_str()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Tier>, D::Error> {
        super::tier_name::deserialize(deserializer).map(Some)
    }
}
