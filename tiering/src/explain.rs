//! A decision with everything that led to it: which rules were asked, what they read, and what they said.

use std::cell::RefCell;

use terrace_crds::Tier;

use crate::cel::{EvalError, Value, Variable, Variables};
use crate::decide::{Decision, decide_by};
use crate::facts::Facts;
use crate::mode::Mode;
use crate::policy::Policy;
use crate::requirements::Requirements;
use crate::rules::{Rule, Scope, first_match, in_cel};
use crate::snapshot::Snapshot;

/// A decision, and what led to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What [`decide`](crate::decide) says.
    pub decision: Decision,
    /// The policy has no rules of its own: these are the default ones.
    pub is_default: bool,
    /// Every rule, in order.
    pub rules: Vec<ExplainedRule>,
}

/// A rule, and what it said.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedRule {
    /// What answers call it.
    pub name: String,
    /// The condition, as it was written.
    pub when: String,
    /// The tier of requests that it matches.
    pub tier: Tier,
    /// What it said.
    pub outcome: Outcome,
    /// The values that it read, in that order; none where there was none.
    pub read: Vec<(String, Option<String>)>,
}

/// What a rule said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It matches, and wins.
    Matched,
    /// It does not match.
    NotMatched,
    /// It has no value for this request, and is passed over.
    Failed(EvalError),
    /// It was not asked: another one had won, or no rule was needed.
    NotAsked,
}

/// Decides as [`decide`](crate::decide) does, in the same way, and tells what led to it.
pub fn explain(
    policy: &Policy,
    requirements: &Requirements,
    snapshot: &Snapshot,
    facts: &dyn Facts,
) -> Explanation {
    let scope = Scope::new(policy, requirements, snapshot, facts);
    let rules = policy.rules().unwrap_or_else(|| in_cel());
    let mut asked = Vec::with_capacity(rules.len());
    let mut ask = |_: usize, rule: &Rule| {
        let watched = Watched { scope: &scope, read: RefCell::default() };
        let outcome = rule.when.test(&watched);
        asked.push((outcome, watched.read.into_inner()));
        outcome
    };
    let decision = decide_by(policy, requirements, snapshot, &scope, &mut ask);
    let is_default = policy.rules().is_none();
    if is_default && *policy.mode() == Mode::Select && !decision.reason.is_settled() {
        // They are decided by code that asks nobody. That it agrees is tested.
        first_match(rules, snapshot.node.tier, ask);
    }
    let mut asked = asked.into_iter();
    let rules = rules.iter().map(|rule| {
        let (outcome, read) = match asked.next() {
            Some((Ok(true), read)) => (Outcome::Matched, read),
            Some((Ok(false), read)) => (Outcome::NotMatched, read),
            Some((Err(error), read)) => (Outcome::Failed(error), read),
            None => (Outcome::NotAsked, Vec::new()),
        };
        let (name, when) = (rule.name().to_string(), rule.when().to_owned());
        ExplainedRule { name, when, tier: rule.tier(), outcome, read }
    });
    Explanation { rules: rules.collect(), decision, is_default }
}

/// Writes down what is read.
struct Watched<'a> {
    scope: &'a Scope<'a>,
    read: RefCell<Vec<(String, Option<String>)>>,
}

impl Watched<'_> {
    fn note(&self, variable: &Variable, value: Option<String>) {
        let mut read = self.read.borrow_mut();
        let name = variable.to_string();
        if !read.iter().any(|(known, _)| *known == name) {
            read.push((name, value));
        }
    }
}

impl Variables for Watched<'_> {
    fn read(&self, variable: &Variable) -> Result<Value<'_>, EvalError> {
        let value = self.scope.read(variable);
        self.note(variable, value.ok().map(shown));
        value
    }

    fn has(&self, variable: &Variable) -> bool {
        let has = self.scope.has(variable);
        let value = match variable {
            // An input has no value itself; of a number that is never absent, that it was not stated is what counts.
            _ if !has => None,
            Variable::Input(_) => Some("present".to_owned()),
            Variable::Complexity => return has,
            variable => self.scope.read(variable).ok().map(shown),
        };
        self.note(variable, value);
        has
    }
}

fn shown(value: Value<'_>) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Double(value) if value.is_infinite() => "infinite".to_owned(),
        Value::Double(value) => format!("{value:?}"),
        Value::Text(value) => format!("{value:?}"),
        Value::Shape(value) => format!("{value:?}"),
    }
}
