//! Figures out of samples, and the page that they are told on.

use std::fmt::{Display, Write as _};

/// Durations in milliseconds, or any other figures, sorted.
#[derive(Debug)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// The value below which this share of the samples lies; NaN where there is none.
    pub fn quantile(&self, share: f64) -> f64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let place = (share * self.0.len() as f64) as usize;
        self.0.get(place.min(self.0.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    /// The middle.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The greatest.
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Between which two samples the middle of what they are drawn from lies, at 95 % or more; none of too few.
    pub fn interval(&self) -> Option<(f64, f64)> {
        let count = self.0.len();
        // The chance that so few of the samples lie below the middle: a coin thrown for each.
        let (mut exactly, mut at_most) = (0.5_f64.powi(i32::try_from(count).ok()?), 0.0);
        let mut outside = 0;
        while at_most + exactly <= 0.025 {
            at_most += exactly;
            exactly *= (count - outside) as f64 / (outside + 1) as f64;
            outside += 1;
        }
        let least = self.0.get(outside.checked_sub(1)?)?;
        Some((*least, *self.0.get(count - outside)?))
    }

    /// `p50 | p99 | max`, as cells of a table.
    pub fn cells(&self) -> Vec<String> {
        vec![figure(self.median()), figure(self.quantile(0.99)), figure(self.max())]
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        let mut samples: Vec<f64> = samples.into_iter().collect();
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }
}

/// Three digits that mean something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A page of Markdown that grows.
#[derive(Debug, Default)]
pub struct Report(String);

impl Report {
    /// What is to stand below the head of a page.
    pub fn below() -> Self {
        Self("\n".to_owned())
    }

    /// Puts another page's part behind this.
    pub fn append(&mut self, part: &Self) {
        self.0.push_str(part.0.trim_start_matches('\n'));
    }

    /// Begins a section. Says so to whoever waits.
    pub fn section(&mut self, title: &str, method: &str) {
        eprintln!("measuring: {title}");
        let level = if self.0.is_empty() { "#" } else { "\n##" };
        let _ = write!(self.0, "{level} {title}\n\n{method}\n");
    }

    /// A table.
    pub fn table(&mut self, columns: &[&str], rows: &[Vec<String>]) {
        let rule: Vec<&str> = columns.iter().map(|_| "---").collect();
        let _ = write!(self.0, "\n| {} |\n| {} |\n", columns.join(" | "), rule.join(" | "));
        for row in rows {
            let _ = writeln!(self.0, "| {} |", row.join(" | "));
        }
    }

    /// A sentence.
    pub fn say(&mut self, text: impl Display) {
        let _ = write!(self.0, "\n{text}\n");
    }

    /// All of it.
    pub fn markdown(self) -> String {
        self.0
    }
}

/// A row that begins with a name.
pub fn row(name: &str, cells: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(cells).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_and_none_is_not_a_number() {
        let samples: Samples = (1..=100).rev().map(f64::from).collect();
        assert_eq!((samples.median(), samples.quantile(0.99), samples.max()), (51.0, 100.0, 100.0));
        assert!(Samples::from_iter([]).median().is_nan());
    }

    #[test]
    fn the_interval_of_the_middle_follows_from_the_binomial() {
        let of = |count: u32| (1..=count).map(f64::from).collect::<Samples>().interval();
        assert_eq!([of(0), of(5), of(6), of(8)], [None, None, Some((1.0, 6.0)), Some((1.0, 8.0))]);
        assert_eq!([of(11), of(20)], [Some((2.0, 10.0)), Some((6.0, 15.0))]);
    }
}
