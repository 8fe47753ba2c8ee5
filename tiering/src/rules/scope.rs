//! Where the variables of rules have their values from.

use std::cell::Cell;
use std::time::Duration;

use terrace_crds::Tier;

use crate::cel::{EvalError, RemoteField, Value, Variable, Variables};
use crate::decide::LocalModel;
use crate::facts::Facts;
use crate::policy::Policy;
use crate::requirements::Requirements;
use crate::snapshot::{RemoteState, Snapshot};

/// Everything that a decision goes by.
pub(crate) struct Scope<'a> {
    policy: &'a Policy,
    requirements: &'a Requirements,
    snapshot: &'a Snapshot,
    facts: &'a dyn Facts,
    /// Once it was asked for.
    complexity: Cell<Option<f64>>,
    complexity_failed: Cell<bool>,
}

impl<'a> Scope<'a> {
    pub(crate) const fn new(
        policy: &'a Policy,
        requirements: &'a Requirements,
        snapshot: &'a Snapshot,
        facts: &'a dyn Facts,
    ) -> Self {
        Self {
            policy,
            requirements,
            snapshot,
            facts,
            complexity: Cell::new(None),
            complexity_failed: Cell::new(false),
        }
    }

    pub(crate) const fn facts(&self) -> &'a dyn Facts {
        self.facts
    }

    /// How hard the request is: as it states, else as the policy measures it. Where that fails, 1: nobody knows that
    /// it is easy.
    pub(crate) fn complexity(&self) -> f64 {
        if let Some(known) = self.complexity.get() {
            return known;
        }
        let complexity = self.requirements.complexity().unwrap_or_else(|| {
            self.policy.complexity().measure(self).unwrap_or_else(|_| {
                self.complexity_failed.set(true);
                1.0
            })
        });
        self.complexity.set(Some(complexity));
        complexity
    }

    /// The complexity, if anyone asked for it.
    pub(crate) const fn asked_complexity(&self) -> Option<f64> {
        self.complexity.get()
    }

    /// Whether it was asked for, and the policy's expression failed.
    pub(crate) const fn complexity_failed(&self) -> bool {
        self.complexity_failed.get()
    }

    fn remote(&self, tier: Tier) -> Result<&RemoteState, EvalError> {
        self.snapshot.remote(tier).ok_or(EvalError::Absent)
    }
}

impl Variables for Scope<'_> {
    fn read(&self, variable: &Variable) -> Result<Value<'_>, EvalError> {
        Ok(match variable {
            Variable::PrivacyRequired => Value::Bool(self.requirements.privacy_required()),
            Variable::MaxLatencyMs => {
                Value::Double(self.requirements.max_latency_ms().unwrap_or(f64::INFINITY))
            }
            Variable::Complexity => Value::Double(self.complexity()),
            Variable::Bytes => Value::Int(i64::try_from(self.facts.bytes()).unwrap_or(i64::MAX)),
            Variable::Batch => whole(self.facts.batch()),
            Variable::InputCount => whole(self.facts.input_count()),
            // Never read: it has no value itself.
            Variable::Input(_) => return Err(EvalError::Mismatch),
            Variable::InputShape(name) => {
                Value::Shape(self.facts.input(name).ok_or(EvalError::Absent)?.shape)
            }
            Variable::InputDatatype(name) => {
                Value::Text(self.facts.input(name).ok_or(EvalError::Absent)?.datatype)
            }
            Variable::Header(name) => Value::Text(self.facts.header(name).ok_or(EvalError::Absent)?),
            Variable::ModelNamespace => Value::Text(self.facts.model_namespace()),
            Variable::ModelName => Value::Text(self.facts.model_name()),
            Variable::ModelLoaded => Value::Bool(self.snapshot.node.model == LocalModel::Serving),
            Variable::NodeTier => Value::Text(self.snapshot.node.tier.as_str()),
            Variable::Label(key) => Value::Text(self.facts.label(key).ok_or(EvalError::Absent)?),
            Variable::QueueDepth => whole(self.snapshot.local.queued),
            Variable::InFlight => whole(self.snapshot.local.in_flight),
            Variable::PredictedLatencyMs => time(self.snapshot.local.predicted)?,
            Variable::Remote(tier, field) => match field {
                RemoteField::Configured => Value::Bool(self.policy.remote(*tier).is_some()),
                RemoteField::Available => {
                    Value::Bool(self.policy.remote(*tier).is_some() && self.remote(*tier)?.available)
                }
                RemoteField::RttMs => time(self.remote(*tier)?.rtt)?,
                RemoteField::PredictedLatencyMs => time(self.remote(*tier)?.predicted_p90)?,
                RemoteField::Breaker => Value::Text(self.remote(*tier)?.breaker.as_str()),
                RemoteField::InFlight => whole(self.remote(*tier)?.in_flight),
            },
        })
    }

    fn has(&self, variable: &Variable) -> bool {
        match variable {
            Variable::MaxLatencyMs => self.requirements.max_latency_ms().is_some(),
            Variable::Input(name) => self.facts.input(name).is_some(),
            // Not worth a pass over the inputs.
            Variable::Complexity => true,
            variable => self.read(variable).is_ok(),
        }
    }
}

fn whole(count: usize) -> Value<'static> {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

fn time(duration: Option<Duration>) -> Result<Value<'static>, EvalError> {
    duration.map(|duration| Value::Double(duration.as_secs_f64() * 1e3)).ok_or(EvalError::Absent)
}
