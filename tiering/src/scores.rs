//! Whether what a member of an ensemble gives as scores can be scores at all. One that gives anything else is left out: an
//! average with it, or a maximum, would be as wrong as it is.

use terrace_crds::confidence::ConfidenceMethod;

use crate::combine::MemberAnswer;
use crate::complexity::Elements;
use crate::confidence::{Measure, may_be_probability};
use crate::mode::Combine;

/// Why numbers cannot be scores. Names none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// One is none, or endless.
    #[error("its scores hold a number that is not finite")]
    NotFinite,
    /// One is less than nothing, or more than certain.
    #[error(
        "its scores are no probabilities: one is below -0.01 or above 1.01 (spec.confidence.method is Softmax where a model gives logits)"
    )]
    NoProbability,
}

/// Whether the scores of an answer can be combined with those of others. Of an answer without scores, nothing: that is
/// [`combine`](crate::combine)'s to tell, by name.
///
/// A vote needs to know which score is the largest, and no more.
pub fn are_scores(how: Combine, measure: &Measure, answer: &MemberAnswer<'_>) -> Result<(), Impossible> {
    let Some(scores) = answer.outputs.iter().find(|output| output.name == measure.output()) else {
        return Ok(());
    };
    let scores: Elements<'_> = scores.elements;
    if how == Combine::Vote {
        return if scores.all_floats(|score| !score.is_nan()) { Ok(()) } else { Err(Impossible::NotFinite) };
    }
    if !scores.all_floats(f64::is_finite) {
        return Err(Impossible::NotFinite);
    }
    if measure.method() != ConfidenceMethod::Softmax && !scores.all_floats(may_be_probability) {
        return Err(Impossible::NoProbability);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use terrace_crds::Tier;
    use terrace_crds::confidence::Confidence;

    use super::*;
    use crate::combine::MemberOutput;

    const F16_NAN: u16 = 0x7e00;
    const BF16_NAN: u16 = 0x7fc0;

    fn judged(how: Combine, method: ConfidenceMethod, scores: Elements<'_>) -> Result<(), Impossible> {
        let spec = Confidence { output: "scores".to_owned(), method, temperature: None };
        let measure = Measure::parse(&spec).unwrap();
        let shape = &[1, 2][..];
        let label = MemberOutput { name: "label", shape: &[1], elements: Elements::F32(&[f32::NAN]) };
        let outputs = vec![label, MemberOutput { name: "scores", shape, elements: scores }];
        are_scores(how, &measure, &MemberAnswer { tier: Tier::Cloud, weight: 1.0, outputs })
    }

    #[test]
    fn what_cannot_be_a_score_is_found_and_a_vote_asks_for_less() {
        use Combine::{MaxConfidence, Mean, Vote, WeightedMean};
        use ConfidenceMethod::{Entropy, Margin, Probability, Softmax};
        let (nan, endless, much) =
            (Err(Impossible::NotFinite), Err(Impossible::NotFinite), Err(Impossible::NoProbability));
        for how in [Mean, WeightedMean, MaxConfidence, Vote] {
            for method in [Softmax, Probability, Margin, Entropy] {
                let (vote, logits) = (how == Vote, method == Softmax);
                let free = |fault| if vote { Ok(()) } else { fault };
                for (scores, expected) in [
                    ([0.25, 0.75], Ok(())),
                    ([-0.01, 1.01], Ok(())),
                    ([f64::NAN, 0.5], nan),
                    ([f64::INFINITY, 0.5], free(endless)),
                    ([0.5, f64::NEG_INFINITY], free(endless)),
                    ([2.5, 0.0], if logits { Ok(()) } else { free(much) }),
                    ([-0.02, 1.0], if logits { Ok(()) } else { free(much) }),
                ] {
                    assert_eq!(
                        judged(how, method, Elements::F64(&scores)),
                        expected,
                        "{how:?} {method:?} {scores:?}"
                    );
                }
                let halves = [F16_NAN, 0];
                assert_eq!(judged(how, method, Elements::F16(&halves)), nan);
                assert_eq!(judged(how, method, Elements::F32(&[0.5, f32::NAN])), nan);
                assert_eq!(judged(how, method, Elements::Bf16(&[BF16_NAN])), nan);
                // No numbers of that kind: another error, with the output's name.
                assert_eq!(judged(how, method, Elements::I64(&[7, 7])), Ok(()));
            }
        }
    }
}
