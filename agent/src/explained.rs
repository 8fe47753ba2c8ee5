//! An explanation of a decision, and who of those that it names would be passed over now: for programs (JSON) and for people (text). The values of a request's headers and
//! sizes stand in it: it goes to whoever asked, and nowhere else.

use std::fmt;

use serde::Serialize;
use terrace_crds::Tier;
use terrace_tiering::{
    ExplainedRule, Facts, Mode, Outcome, Plan, Policy, RequirementError, Requirements, SkipReason, Snapshot,
    Stated, explain, outlook,
};

/// An explanation of a decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// None, where nobody said which.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The tier of the node that would decide.
    node: &'static str,
    mode: &'static str,
    reason: String,
    /// Who answers where the node is not sure.
    #[serde(skip_serializing_if = "Option::is_none")]
    verifier: Option<Asked>,
    /// Who is asked at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<Asked>,
    /// How many of them must answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    quorum: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complexity: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    complexity_failed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_latency_ms: Option<f64>,
    private: bool,
    candidates: Vec<Candidate>,
    skipped: Vec<Skipped>,
    /// What a client would be told, where nobody may answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    default_rules: bool,
    rules: Vec<Rule>,
}

/// A tier that would be asked, or would be if it were not passed over.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    tier: &'static str,
    /// Why it would be passed over now.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_skip: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Candidate {
    source: &'static str,
    #[serde(flatten)]
    asked: Asked,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Skipped {
    tier: &'static str,
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Rule {
    name: String,
    when: String,
    tier: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    read: Vec<Read>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Read {
    name: String,
    /// None: it is not there.
    value: Option<String>,
}

impl Explained {
    /// What would be decided on a request that states this in its parameters and headers, and why.
    pub fn of(
        policy: &Policy,
        (parameters, headers): (Stated, Stated),
        snapshot: &Snapshot,
        facts: &dyn Facts,
    ) -> Result<Self, RequirementError> {
        let requirements = Requirements::tighten(policy, snapshot.node.tier, parameters, headers)?;
        let explanation = explain(policy, &requirements, snapshot, facts);
        let decision = explanation.decision;
        let outlook = outlook(policy, &decision, snapshot, requirements.max_latency());
        let candidates = decision.candidates.iter().zip(outlook.candidates);
        let candidates: Vec<Candidate> = candidates
            .map(|(one, why)| Candidate { source: one.source.as_str(), asked: Asked::of(one.tier, why) })
            .collect();
        let skipped =
            decision.skipped.iter().map(|one| Skipped { tier: one.tier.as_str(), why: one.why.as_str() });
        let (mut verifier, mut members) = (None, Vec::new());
        match &decision.plan {
            Plan::Walk => {}
            Plan::Speculate(plan) => verifier = Some(Asked::of(plan.verifier, outlook.verifier)),
            Plan::Ensemble(asked) => {
                let asked = asked.iter().zip(outlook.members);
                members.extend(asked.map(|(member, why)| Asked::of(member.tier, why)));
            }
        }
        let quorum = match policy.mode() {
            Mode::Ensemble(ensemble) => Some(ensemble.quorum),
            Mode::Select | Mode::Speculative(_) => None,
        };
        // The other modes ask none.
        let has_rules = *policy.mode() == Mode::Select;
        let rules = explanation.rules.into_iter().filter(|_| has_rules);
        Ok(Self {
            mode: policy.mode().as_str(),
            verifier,
            members,
            quorum,
            model: Some(format!("{}.{}", facts.model_namespace(), facts.model_name())),
            node: snapshot.node.tier.as_str(),
            reason: decision.reason.as_str().to_owned(),
            complexity: decision.complexity,
            complexity_failed: decision.failed.complexity(),
            max_latency_ms: requirements.max_latency_ms(),
            private: decision.privacy_required,
            refusal: (candidates.is_empty() && decision.plan == Plan::Walk).then(|| decision.refusal()),
            candidates,
            skipped: skipped.collect(),
            default_rules: has_rules && explanation.is_default,
            rules: rules.map(Rule::from).collect(),
        })
    }
}

impl Explained {
    /// The same for no model in particular, unless a rule read which.
    pub fn of_any_model(self) -> Result<Self, String> {
        let mut read = self.rules.iter().flat_map(|rule| rule.read.iter().map(move |read| (rule, read)));
        match read.find(|(_, read)| matches!(&*read.name, "model.namespace" | "model.name")) {
            Some((rule, read)) => {
                Err(format!("{} reads {}: say which model it is with --model", rule.name, read.name))
            }
            None => Ok(Self { model: None, ..self }),
        }
    }
}

impl Asked {
    fn of(tier: Tier, would_skip: Option<SkipReason>) -> Self {
        Self { tier: tier.as_str(), would_skip: would_skip.map(SkipReason::as_str) }
    }

    /// That it would be, for a person.
    fn passed_over(&self) -> String {
        self.would_skip.map(|why| format!(": would be passed over now: {why}")).unwrap_or_default()
    }
}

impl From<ExplainedRule> for Rule {
    fn from(rule: ExplainedRule) -> Self {
        let (outcome, error) = match rule.outcome {
            Outcome::Matched => ("matched", None),
            Outcome::NotMatched => ("notMatched", None),
            Outcome::Failed(error) => ("failed", Some(error.to_string())),
            Outcome::NotAsked => ("notAsked", None),
        };
        Self {
            name: rule.name,
            when: rule.when,
            tier: Tier::as_str(rule.tier),
            outcome,
            error,
            read: rule.read.into_iter().map(|(name, value)| Read { name, value }).collect(),
        }
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.model {
            Some(model) => f.write_str(model)?,
            None => f.write_str("a model (--model says which)")?,
        }
        write!(f, " on a node of tier {}", self.node)?;
        if let Some(complexity) = self.complexity {
            write!(f, ", complexity {complexity:.3}")?;
        }
        if self.complexity_failed {
            f.write_str(" (its expression failed, so it counts as hard)")?;
        }
        if let Some(limit) = self.max_latency_ms {
            write!(f, ", at most {limit} ms")?;
        }
        f.write_str(if self.private { ", private\n" } else { "\n" })?;

        if self.mode != "Select" {
            return self.write_decision(f);
        }
        f.write_str(if self.default_rules { "\nthe default rules:\n" } else { "\nrules:\n" })?;
        for rule in &self.rules {
            let mark = match rule.outcome {
                "matched" => "matches",
                "notMatched" => "no",
                "failed" => "fails",
                _ => "not asked",
            };
            let when = rule.when.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(f, "  {:<9}  {} -> {}: {when}", mark, rule.name, rule.tier)?;
            if let Some(error) = &rule.error {
                writeln!(f, "               {error}")?;
            }
            for read in &rule.read {
                let value = read.value.as_deref().unwrap_or("not there");
                writeln!(f, "               {} = {value}", read.name)?;
            }
        }

        self.write_decision(f)
    }
}

impl Explained {
    fn write_decision(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nreason {}", self.reason)?;
        if !self.members.is_empty() {
            f.write_str("  at once:\n")?;
        }
        for member in &self.members {
            writeln!(f, "    {}{}", member.tier, member.passed_over())?;
        }
        if let Some(quorum) = self.quorum.filter(|_| !self.members.is_empty() && !self.candidates.is_empty())
        {
            writeln!(f, "  where fewer than {quorum} of them answer:")?;
        }
        for (place, Candidate { source, asked }) in self.candidates.iter().enumerate() {
            writeln!(f, "  {}. {} ({source}){}", place + 1, asked.tier, asked.passed_over())?;
            if let Some(verifier) = self.verifier.as_ref().filter(|_| place == 0) {
                writeln!(f, "     where it is not sure: {}{}", verifier.tier, verifier.passed_over())?;
            }
        }
        for skipped in &self.skipped {
            writeln!(f, "  not {}: {}", skipped.tier, skipped.why)?;
        }
        if let Some(refusal) = &self.refusal {
            writeln!(f, "  {refusal}")?;
        }
        Ok(())
    }
}
