//! How the tiers that may answer are asked: one after the other, one and perhaps its verifier, or several at once.

use terrace_crds::Tier;

use crate::decide::{Reason, Source, Walk};
use crate::mode::{Ensemble, Member, Mode, Speculative};

/// How the candidates of a decision are asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// One after the other, until one answers.
    Walk,
    /// The first one is the node. Where it is not sure of its answer, the verifier is asked, and where it gives none, the
    /// others follow, one after the other.
    Speculate(Speculative),
    /// These are asked at once. Where too few of them answer, the candidates follow, one after the other; those that
    /// were asked already are not asked again.
    Ensemble(Vec<Member>),
}

impl Plan {
    /// The tiers that may be asked beyond the candidates.
    pub(crate) fn tiers(&self) -> impl Iterator<Item = Tier> + '_ {
        let (verifier, members) = match self {
            Self::Walk => (None, &[][..]),
            Self::Speculate(speculative) => (Some(speculative.verifier), &[][..]),
            Self::Ensemble(members) => (None, &members[..]),
        };
        verifier.into_iter().chain(members.iter().map(|member| member.tier))
    }
}

/// The plan of a mode that does not go by rules, with its reason; what follows it is in `walk`. `None` where the rules
/// choose.
pub(crate) fn of_mode(mode: &Mode, walk: &mut Walk<'_>) -> Option<(Plan, Reason)> {
    match mode {
        Mode::Select => None,
        Mode::Speculative(speculative) => Some(speculate(*speculative, walk)),
        Mode::Ensemble(ensemble) => Some(together(ensemble, walk)),
    }
}

/// The node answers, and what it is not sure of is verified. A node that is the verifier's tier has nobody above it:
/// its answer stands.
fn speculate(speculative: Speculative, walk: &mut Walk<'_>) -> (Plan, Reason) {
    let here = walk.here();
    let answers = walk.visit(here, Source::Primary);
    walk.visit_fallback();
    match (answers, here == speculative.verifier) {
        (true, true) => (Plan::Walk, Reason::VerifierHere),
        (true, false) => (Plan::Speculate(speculative), Reason::Speculative),
        (false, _) => (Plan::Walk, Reason::Speculative),
    }
}

/// The members that can be asked are, where they can be enough.
fn together(ensemble: &Ensemble, walk: &mut Walk<'_>) -> (Plan, Reason) {
    let members: Vec<Member> =
        ensemble.members.iter().filter(|member| walk.can_ask(member.tier)).copied().collect();
    walk.visit_fallback();
    if members.len() < ensemble.quorum {
        (Plan::Walk, Reason::QuorumNotMet)
    } else {
        (Plan::Ensemble(members), Reason::Ensemble)
    }
}
