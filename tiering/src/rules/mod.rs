//! Which tier a request is for: the rules of its policy, or the default ones.
//!
//! Called by `decide` for requests that nothing else has settled. The first rule that matches wins. One that fails is
//! passed over, and noted.

mod defaults;
mod name;
mod parse;
mod scope;

use terrace_crds::Tier;

use crate::cel::{EvalError, Expression};
use crate::decide::Reason;

pub(crate) use defaults::{default_rules, in_cel};
pub use name::RuleName;
pub(crate) use parse::{headers, parse, refuse_unasked};
pub(crate) use scope::Scope;

/// The most rules of a policy; also in the CRD's schema. Each has a bit in [`Failed`].
pub const MAX_RULES: usize = 32;

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What answers and explanations call it.
    pub(crate) name: RuleName,
    /// Whether its author named it.
    pub(crate) is_named: bool,
    pub(crate) when: Expression,
    pub(crate) tier: Tier,
}

impl Rule {
    /// What answers and explanations call it: its name, or its place, `Rule[2]`.
    pub const fn name(&self) -> &RuleName {
        &self.name
    }

    /// The condition, as it was written.
    pub fn when(&self) -> &str {
        self.when.text()
    }

    /// The tier of requests that it matches.
    pub const fn tier(&self) -> Tier {
        self.tier
    }
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) tier: Tier,
    pub(crate) reason: Reason,
    pub(crate) failed: Failed,
}

/// What failed while the rules were asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failed {
    /// A bit for each rule.
    rules: u32,
    /// The policy's complexity.
    pub(crate) complexity: bool,
}

impl Failed {
    /// Nothing failed.
    pub(crate) const NONE: Self = Self { rules: 0, complexity: false };

    /// Whether the complexity could not be told, and counted as 1.
    pub const fn complexity(self) -> bool {
        self.complexity
    }

    /// The places of the rules that failed.
    pub fn rules(self) -> impl Iterator<Item = usize> {
        (0..MAX_RULES).filter(move |place| self.rules >> place & 1 == 1)
    }

    /// Whether nothing failed.
    pub const fn is_none(self) -> bool {
        self.rules == 0 && !self.complexity
    }
}

/// The first of `rules` that matches. Where none does, `here`: the node itself.
pub(crate) fn first_match(
    rules: &[Rule],
    here: Tier,
    mut ask: impl FnMut(usize, &Rule) -> Result<bool, EvalError>,
) -> Choice {
    let mut failed = Failed::default();
    for (place, rule) in rules.iter().enumerate() {
        match ask(place, rule) {
            Ok(true) => return Choice { tier: rule.tier, reason: Reason::Rule(rule.name), failed },
            Ok(false) => {}
            Err(_) => failed.rules |= 1 << place,
        }
    }
    let reason = if failed.is_none() { Reason::NoRuleMatched } else { Reason::RulesFailed };
    Choice { tier: here, reason, failed }
}
