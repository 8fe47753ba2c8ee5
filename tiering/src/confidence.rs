//! How sure a model is of an answer: a number from 0 to 1, read from the scores in one of its outputs.
//!
//! The last axis of the output holds the scores of one decision, one for each class; every axis before it counts
//! decisions, the first one the rows of the batch. A row is as sure as its least sure decision, and a request as its
//! least sure row. Where there is nothing to go by, no decision or a decision without scores, the confidence is 0:
//! nothing says that the model is sure. A shape without elements may claim any number of rows at no cost to whoever
//! sends it; so what is done, and kept, goes by the elements that are there.
//!
//! An output of one axis holds one score a row, unless the model declares how long the axis is: then its elements
//! are the scores of one decision. A single score stands for two classes: a probability p for p and 1 − p, a logit z
//! for z and 0.

use terrace_crds::confidence::{Confidence, ConfidenceMethod};

use crate::complexity::Elements;
use crate::policy::Fault;

/// How far from 0 and 1 a probability may lie: narrow floats add up to a little more than 1.
const SLACK: f64 = 0.01;
const MAX_NAME_CHARS: usize = 256;

/// How the confidence of a model's answers is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    output: String,
    method: ConfidenceMethod,
    temperature: f64,
    /// An output of one axis is one decision.
    one_axis_is_one_decision: bool,
}

/// An output whose elements are no floating-point numbers, or not as many as its shape says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotScores;

/// How sure a model is of each row of an answer. Where no row has a score there are none.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows(Vec<f64>);

/// Which class each decision of each row is for. Where no row has a score there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Classes {
    /// Row by row.
    all: Vec<Option<u32>>,
    per_row: usize,
}

impl Measure {
    /// What `spec` asks for, or everything that is wrong with it.
    pub fn parse(spec: &Confidence) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, message: &str| {
            faults.push(Fault::new(format!("spec.confidence.{field}"), message));
        };
        if spec.output.is_empty() || spec.output.chars().count() > MAX_NAME_CHARS {
            fault("output", "must be the name of an output of the model, of at most 256 characters");
        }
        let temperature = spec.temperature.unwrap_or(1.0);
        if !(0.01..=100.0).contains(&temperature) {
            fault("temperature", "must be from 0.01 to 100");
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            output: spec.output.clone(),
            method: spec.method,
            temperature,
            one_axis_is_one_decision: false,
        })
    }

    /// The same as a spec, with every default written out.
    pub fn to_spec(&self) -> Confidence {
        Confidence { output: self.output.clone(), method: self.method, temperature: Some(self.temperature) }
    }

    /// The same, for a model that declares the output with these dimensions; a negative one may have any length.
    #[must_use]
    pub fn declared(mut self, shape: &[i64]) -> Self {
        self.one_axis_is_one_decision = matches!(shape, [length] if *length >= 0);
        self
    }

    /// The output that holds the scores.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// What the scores are.
    pub(crate) const fn method(&self) -> ConfidenceMethod {
        self.method
    }

    /// How sure the model is, by the scores in its output.
    pub fn rows(&self, scores: Elements<'_>, shape: &[usize]) -> Result<Rows, NotScores> {
        let decisions = self.decisions(scores, shape)?;
        let mut row = Vec::with_capacity(decisions.classes);
        let of_row = |number: usize| {
            let least = (0..decisions.per_row).map(|decision| {
                decisions.read(number, decision, &mut row);
                self.of(&mut row)
            });
            least.reduce(f64::min).unwrap_or(0.0)
        };
        Ok(Rows((0..decisions.rows).map(of_row).collect()))
    }

    /// Which class each decision of each row is for: the first of those with the largest score. Of a single score, 1
    /// stands for what it is the probability of, and 0 for the opposite. A decision without scores is for none.
    pub(crate) fn classes(&self, scores: Elements<'_>, shape: &[usize]) -> Result<Classes, NotScores> {
        let decisions = self.decisions(scores, shape)?;
        let mut row = Vec::with_capacity(decisions.classes);
        let mut all = Vec::with_capacity(decisions.rows * decisions.per_row);
        for number in 0..decisions.rows {
            for decision in 0..decisions.per_row {
                decisions.read(number, decision, &mut row);
                all.push(self.class(&row).and_then(|class| u32::try_from(class).ok()));
            }
        }
        Ok(Classes { all, per_row: decisions.per_row })
    }

    /// How many rows an output of this shape says that it has.
    pub(crate) fn count(&self, shape: &[usize]) -> usize {
        self.axes(shape).0
    }

    fn axes(&self, shape: &[usize]) -> (usize, usize, usize) {
        match *shape {
            [] => (1, 1, 1),
            [length] if self.one_axis_is_one_decision => (1, 1, length),
            [length] => (length, 1, 1),
            [rows, ref middle @ .., classes] => {
                (rows, middle.iter().copied().fold(1, usize::saturating_mul), classes)
            }
        }
    }

    fn decisions<'a>(&self, scores: Elements<'a>, shape: &[usize]) -> Result<Decisions<'a>, NotScores> {
        let count = scores.floats().ok_or(NotScores)?;
        if count == 0 && shape.contains(&0) {
            return Ok(Decisions { scores, rows: 0, per_row: 0, classes: 0 });
        }
        let (rows, per_row, classes) = self.axes(shape);
        let claimed = rows.checked_mul(per_row).and_then(|decisions| decisions.checked_mul(classes));
        if claimed != Some(count) {
            return Err(NotScores);
        }
        Ok(Decisions { scores, rows, per_row, classes })
    }

    fn class(&self, scores: &[f64]) -> Option<usize> {
        if let [score] = scores {
            let middle = if self.method == ConfidenceMethod::Softmax { 0.0 } else { 0.5 };
            return Some(usize::from(*score > middle));
        }
        let largest = |best: Option<(usize, f64)>, (class, score): (usize, f64)| match best {
            Some((_, most)) if score.is_nan() || score <= most => best,
            _ => Some((class, score)),
        };
        scores.iter().copied().enumerate().fold(None, largest).map(|(class, _)| class)
    }

    /// How sure one decision is. Uses `scores` up.
    fn of(&self, scores: &mut Vec<f64>) -> f64 {
        if scores.is_empty() || !scores.iter().all(|score| score.is_finite()) {
            return 0.0;
        }
        if self.method == ConfidenceMethod::Softmax {
            if scores.len() == 1 {
                scores.push(0.0);
            }
            return softmax(scores, self.temperature);
        }
        if !scores.iter().all(|score| may_be_probability(*score)) {
            return 0.0;
        }
        for score in scores.iter_mut() {
            *score = score.clamp(0.0, 1.0);
        }
        if let [probability] = scores[..] {
            scores.push(1.0 - probability);
        }
        if !self.temper(scores) {
            return 0.0;
        }
        let confidence = match self.method {
            ConfidenceMethod::Margin => margin(scores),
            ConfidenceMethod::Entropy => 1.0 - normalised_entropy(scores),
            ConfidenceMethod::Softmax | ConfidenceMethod::Probability => largest(scores),
        };
        confidence.clamp(0.0, 1.0)
    }

    /// Raises each probability to the power of 1 / temperature and scales them to add up to 1: the same as dividing their
    /// logarithms before a softmax. At temperature 1 they are left as the model gave them. False where none is above 0.
    fn temper(&self, probabilities: &mut [f64]) -> bool {
        let most = largest(probabilities);
        if most <= 0.0 {
            return false;
        }
        if (self.temperature - 1.0).abs() > f64::EPSILON {
            for p in probabilities.iter_mut() {
                *p = (*p / most).powf(1.0 / self.temperature);
            }
            let sum: f64 = probabilities.iter().sum();
            for p in probabilities {
                *p /= sum;
            }
        }
        true
    }
}

impl Rows {
    /// How sure the model is of the request as a whole: of its least sure row. Of no row at all it is not sure.
    pub fn least(&self) -> f64 {
        self.0.iter().copied().reduce(f64::min).unwrap_or(0.0)
    }

    /// Of one row; 0 where there is no such row.
    pub fn get(&self, row: usize) -> f64 {
        self.0.get(row).copied().unwrap_or(0.0)
    }

    /// Of each row that has a score.
    pub fn as_slice(&self) -> &[f64] {
        &self.0
    }
}

impl Classes {
    /// Of one row; nothing where there is no such row.
    pub(crate) fn of(&self, row: usize) -> &[Option<u32>] {
        let first = row.saturating_mul(self.per_row);
        self.all.get(first..first.saturating_add(self.per_row)).unwrap_or_default()
    }
}

impl From<Vec<f64>> for Rows {
    fn from(rows: Vec<f64>) -> Self {
        Self(rows)
    }
}

/// The scores of a batch, decision by decision.
struct Decisions<'a> {
    scores: Elements<'a>,
    rows: usize,
    per_row: usize,
    classes: usize,
}

impl Decisions<'_> {
    /// Puts the scores of one decision into `row`.
    fn read(&self, number: usize, decision: usize, row: &mut Vec<f64>) {
        let first = (number * self.per_row + decision) * self.classes;
        row.clear();
        // There are as many elements as that; a score that is missing all the same makes nobody sure.
        row.extend((first..first + self.classes).map(|place| self.scores.float(place).unwrap_or(f64::NAN)));
    }
}

/// Whether a number may stand for a probability.
pub(crate) fn may_be_probability(score: f64) -> bool {
    (-SLACK..=1.0 + SLACK).contains(&score)
}

/// The largest probability that the softmax of these logits gives.
fn softmax(logits: &[f64], temperature: f64) -> f64 {
    let most = largest(logits);
    let sum: f64 = logits.iter().map(|logit| ((logit - most) / temperature).exp()).sum();
    // The largest logit gives 1, so there is something to divide by.
    1.0 / sum
}

fn largest(scores: &[f64]) -> f64 {
    scores.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// The largest less the second.
fn margin(probabilities: &[f64]) -> f64 {
    let (mut first, mut second) = (0.0, 0.0);
    for &p in probabilities {
        if p > first {
            (first, second) = (p, first);
        } else if p > second {
            second = p;
        }
    }
    first - second
}

/// Shannon entropy of these, scaled to add up to 1, as a share of the most that it can be.
fn normalised_entropy(probabilities: &[f64]) -> f64 {
    let sum: f64 = probabilities.iter().sum();
    let shares = probabilities.iter().map(|p| p / sum).filter(|share| *share > 0.0);
    let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
    entropy / (probabilities.len() as f64).ln()
}
