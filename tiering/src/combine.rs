//! Several answers to one request become one.
//!
//! What goes by numbers is averaged: in the modes Mean and WeightedMean every floating-point output, element by
//! element. Everything else is taken over as it is, row by row, from one of the members:
//!
//! - `Mean`, `WeightedMean`: from the most confident of those that are for the same class as the averaged scores, or
//!   of all, where none is.
//! - `Vote`: from the most confident of those that are for the class with the most votes. Where two classes have as
//!   many, the most confident member decides between them.
//! - `MaxConfidence`: from the most confident.
//!
//! Of members that are as confident as each other the one that the policy names first counts. An output that does not
//! have as many rows as the scores is taken over whole, from the member that is most confident of the request. A member
//! that is left alone answers as it is.

use terrace_crds::Tier;

use crate::complexity::Elements;
use crate::confidence::{Classes, Measure, Rows};
use crate::mode::Combine;

/// What one member answered.
#[derive(Clone, Debug)]
pub struct MemberAnswer<'a> {
    /// The tier that it is.
    pub tier: Tier,
    /// What it counts in a weighted mean.
    pub weight: f64,
    /// Its outputs; their names differ.
    pub outputs: Vec<MemberOutput<'a>>,
}

/// One output of one member.
#[derive(Clone, Copy, Debug)]
pub struct MemberOutput<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dimensions.
    pub shape: &'a [usize],
    /// Its elements, as many as its dimensions say.
    pub elements: Elements<'a>,
}

/// The answer of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Combined {
    /// What becomes of each output, in the order in which the first member has them. Shape and element type are those
    /// of the members.
    pub outputs: Vec<CombinedOutput>,
    /// How sure the answer is: by the averaged scores, else by those of the members that it is taken from.
    pub confidence: f64,
}

/// Where an output comes from. Members are counted in the order of the answers.
#[derive(Clone, Debug, PartialEq)]
pub enum CombinedOutput {
    /// The mean of all members.
    Mean(Vec<f64>),
    /// Of this member.
    Whole(usize),
    /// Each row of another one.
    Rows(Vec<usize>),
}

/// Why answers cannot become one. Names members and outputs, and nothing that is in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// A member lacks an output.
    #[error("{tier} answered without the output {output:?}, which {other} has")]
    Missing {
        /// The member that lacks it.
        tier: Tier,
        /// The one that has it.
        other: Tier,
        /// The output.
        output: String,
    },
    /// An output has other types or dimensions at other members.
    #[error("the output {output:?} is {left} at {tier} and {right} at {other}")]
    Differs {
        /// The output.
        output: String,
        /// One member.
        tier: Tier,
        /// What the output is there.
        left: String,
        /// Another member.
        other: Tier,
        /// What the output is there.
        right: String,
    },
    /// A member has no scores to go by.
    #[error(
        "{tier} answered without scores: spec.confidence of the model names the output {output:?}, which must hold floating-point numbers there, too"
    )]
    NoScores {
        /// The member.
        tier: Tier,
        /// The output that should hold scores.
        output: String,
    },
    /// There is nothing to combine.
    #[error("no member answered")]
    Nobody,
}

/// Combines answers, at least one of them, by the scores that `measure` names.
pub fn combine(
    how: Combine,
    measure: &Measure,
    answers: &[MemberAnswer<'_>],
) -> Result<Combined, CombineError> {
    let (first, others) = answers.split_first().ok_or(CombineError::Nobody)?;
    if others.is_empty() {
        return Ok(Combined {
            outputs: vec![CombinedOutput::Whole(0); first.outputs.len()],
            confidence: alone(measure, first),
        });
    }
    for other in others {
        same_outputs(first, other)?;
    }
    // Before anything is computed: what does not fit should cost nothing.
    let rows = same_rows(how, measure, answers)?;
    let members: Vec<Scored<'_>> =
        answers.iter().map(|answer| Scored::of(measure, answer)).collect::<Result<_, _>>()?;
    // Where nobody has a score, rows are only claimed, and all are taken from the same member.
    let rows = if members.iter().all(|member| member.rows.as_slice().is_empty()) { 0 } else { rows };
    let averages = matches!(how, Combine::Mean | Combine::WeightedMean);
    let mut outputs: Vec<Option<CombinedOutput>> = Vec::with_capacity(first.outputs.len());
    for output in &first.outputs {
        let mean =
            if averages && output.elements.are_floats() { Some(mean(how, output, answers)?) } else { None };
        outputs.push(mean.map(CombinedOutput::Mean));
    }
    let averaged = if averages {
        let place = first.outputs.iter().position(|output| output.name == measure.output());
        let mean = place.and_then(|place| match &outputs[place] {
            Some(CombinedOutput::Mean(values)) => Some(values),
            _ => None,
        });
        mean.map(|values| Averaged::of(measure, values, members[0].scores.shape))
    } else {
        None
    };
    let classes: Vec<Classes> = match how {
        Combine::MaxConfidence => Vec::new(),
        Combine::Mean | Combine::WeightedMean | Combine::Vote => members
            .iter()
            .map(|member| measure.classes(member.scores.elements, member.scores.shape).unwrap_or_default())
            .collect(),
    };
    let chosen = Chosen::by(how, rows, &members, &classes, averaged.as_ref());
    let outputs = outputs
        .into_iter()
        .zip(&first.outputs)
        .map(|(mean, output)| mean.unwrap_or_else(|| chosen.taken(output, answers)))
        .collect();
    let confidence = averaged.map_or_else(|| chosen.confidence(&members), |averaged| averaged.confidence);
    Ok(Combined { outputs, confidence })
}

/// How sure a member is that is left alone; of what has no scores nobody is sure.
fn alone(measure: &Measure, answer: &MemberAnswer<'_>) -> f64 {
    Scored::of(measure, answer).map_or(0.0, |scored| scored.rows.least())
}

/// A member with its scores.
struct Scored<'a> {
    scores: MemberOutput<'a>,
    rows: Rows,
}

impl<'a> Scored<'a> {
    fn of(measure: &Measure, answer: &MemberAnswer<'a>) -> Result<Self, CombineError> {
        let scores = scores(measure, answer)?;
        let rows = measure.rows(scores.elements, scores.shape).map_err(|_| no_scores(measure, answer))?;
        Ok(Self { scores, rows })
    }
}

/// A member's scores.
fn scores<'a>(measure: &Measure, answer: &MemberAnswer<'a>) -> Result<MemberOutput<'a>, CombineError> {
    let scores = find(answer, measure.output()).filter(|scores| scores.elements.are_floats());
    scores.copied().ok_or_else(|| no_scores(measure, answer))
}

fn no_scores(measure: &Measure, answer: &MemberAnswer<'_>) -> CombineError {
    CombineError::NoScores { tier: answer.tier, output: measure.output().to_owned() }
}

/// How many rows every member has scores for. Where members are for classes, a class must be the same at all of them.
fn same_rows(how: Combine, measure: &Measure, answers: &[MemberAnswer<'_>]) -> Result<usize, CombineError> {
    let all: Vec<MemberOutput<'_>> =
        answers.iter().map(|answer| scores(measure, answer)).collect::<Result<_, _>>()?;
    let first = all[0];
    let rows = measure.count(first.shape);
    let fits = |scores: &MemberOutput<'_>| {
        let by_class = how != Combine::MaxConfidence;
        if by_class { scores.shape == first.shape } else { measure.count(scores.shape) == rows }
    };
    match all.iter().position(|scores| !fits(scores)) {
        Some(position) => Err(differs(&answers[0], &answers[position], &first, &all[position])),
        None => Ok(rows),
    }
}

/// What the averaged scores say.
struct Averaged {
    classes: Classes,
    confidence: f64,
}

impl Averaged {
    fn of(measure: &Measure, values: &[f64], shape: &[usize]) -> Self {
        let scores = Elements::F64(values);
        // They are floating-point numbers.
        let rows = measure.rows(scores, shape).unwrap_or_else(|_| Vec::new().into());
        Self { classes: measure.classes(scores, shape).unwrap_or_default(), confidence: rows.least() }
    }
}

/// From which member each row is taken.
struct Chosen {
    rows: Vec<usize>,
    /// The member that is most confident of the request as a whole.
    most_confident: usize,
}

impl Chosen {
    fn by(
        how: Combine,
        rows: usize,
        members: &[Scored<'_>],
        classes: &[Classes],
        averaged: Option<&Averaged>,
    ) -> Self {
        // How many members stand behind what a member says of a row.
        let support = |member: usize, row: usize| match (how, averaged) {
            (Combine::Vote, _) => {
                classes.iter().filter(|other| other.of(row) == classes[member].of(row)).count()
            }
            (Combine::Mean | Combine::WeightedMean, Some(averaged)) => {
                usize::from(averaged.classes.of(row) == classes[member].of(row))
            }
            (Combine::MaxConfidence, _) | (Combine::Mean | Combine::WeightedMean, None) => 0,
        };
        let of_row =
            |row: usize| best(members.len(), |member| (support(member, row), members[member].rows.get(row)));
        Self {
            rows: (0..rows).map(of_row).collect(),
            most_confident: best(members.len(), |member| (0, members[member].rows.least())),
        }
    }

    /// Where an output that is not averaged is taken from.
    fn taken(&self, output: &MemberOutput<'_>, answers: &[MemberAnswer<'_>]) -> CombinedOutput {
        match self.rows[..] {
            [] => CombinedOutput::Whole(self.most_confident),
            [only] => CombinedOutput::Whole(only),
            [first, ref more @ ..] => {
                let has_rows = |answer: &MemberAnswer<'_>| {
                    find(answer, output.name).is_some_and(|same| same.shape == output.shape)
                };
                if output.shape.first() != Some(&self.rows.len()) || !answers.iter().all(has_rows) {
                    CombinedOutput::Whole(self.most_confident)
                } else if more.iter().all(|member| *member == first) {
                    CombinedOutput::Whole(first)
                } else {
                    CombinedOutput::Rows(self.rows.clone())
                }
            }
        }
    }

    fn confidence(&self, members: &[Scored<'_>]) -> f64 {
        let of_row = |(row, member): (usize, &usize)| members[*member].rows.get(row);
        self.rows.iter().enumerate().map(of_row).reduce(f64::min).unwrap_or(0.0)
    }
}

/// The first of those with the greatest key.
fn best(count: usize, key: impl Fn(usize) -> (usize, f64)) -> usize {
    let mut best = (0, key(0));
    for member in 1..count {
        let (support, confidence) = key(member);
        if support > best.1.0 || (support == best.1.0 && confidence > best.1.1) {
            best = (member, (support, confidence));
        }
    }
    best.0
}

/// The mean of an output that every member has, in the same shape and type.
fn mean(
    how: Combine,
    output: &MemberOutput<'_>,
    answers: &[MemberAnswer<'_>],
) -> Result<Vec<f64>, CombineError> {
    let weight = |answer: &MemberAnswer<'_>| if how == Combine::WeightedMean { answer.weight } else { 1.0 };
    let all: f64 = answers.iter().map(weight).sum();
    // As many as there are, whatever is claimed.
    let mut sums = vec![0.0; output.elements.floats().unwrap_or_default()];
    for answer in answers {
        let Some(same) = find(answer, output.name) else { continue };
        if same.shape != output.shape {
            return Err(differs(&answers[0], answer, output, same));
        }
        same.elements.add_to(&mut sums, weight(answer) / all);
    }
    Ok(sums)
}

/// Each of two members has the outputs of the other, of the same types.
fn same_outputs(first: &MemberAnswer<'_>, other: &MemberAnswer<'_>) -> Result<(), CombineError> {
    let missing = |at: &MemberAnswer<'_>, from: &MemberAnswer<'_>, output: &str| CombineError::Missing {
        tier: at.tier,
        other: from.tier,
        output: output.to_owned(),
    };
    for output in &first.outputs {
        let same = find(other, output.name).ok_or_else(|| missing(other, first, output.name))?;
        if same.elements.datatype() != output.elements.datatype() {
            return Err(differs(first, other, output, same));
        }
    }
    match other.outputs.iter().find(|output| find(first, output.name).is_none()) {
        Some(more) => Err(missing(first, other, more.name)),
        None => Ok(()),
    }
}

fn differs(
    one: &MemberAnswer<'_>,
    other: &MemberAnswer<'_>,
    left: &MemberOutput<'_>,
    right: &MemberOutput<'_>,
) -> CombineError {
    let told = |output: &MemberOutput<'_>| format!("{} {:?}", output.elements.datatype(), output.shape);
    CombineError::Differs {
        output: left.name.to_owned(),
        tier: one.tier,
        left: told(left),
        other: other.tier,
        right: told(right),
    }
}

fn find<'o, 'a>(answer: &'o MemberAnswer<'a>, name: &str) -> Option<&'o MemberOutput<'a>> {
    answer.outputs.iter().find(|output| output.name == name)
}
