//! Series of measurements that alternated, and how one compares with another.

use super::target::Measured;
use crate::bench::figures::{Report, Samples, figure, row};

/// One target's measurements, one a round.
pub struct Series {
    pub name: String,
    pub rounds: Vec<Measured>,
}

/// What a measurement is looked at for.
pub type Figure = fn(&Measured) -> f64;

pub const RATE: Figure = |measured| measured.per_second;
pub const P50: Figure = |measured| measured.p50;
pub const P99: Figure = |measured| measured.p99;
pub const CPU: Figure = |measured| measured.cpu;

impl Series {
    /// Without measurements yet.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), rounds: Vec::new() }
    }

    /// The middle of the rounds that have this figure.
    pub fn median(&self, of: Figure) -> f64 {
        self.each(of).filter(|figure| figure.is_finite()).collect::<Samples>().median()
    }

    /// The middle as a cell of a table.
    pub fn cell(&self, of: Figure) -> String {
        known(self.median(of), figure)
    }

    /// The figure of each round.
    pub fn each(&self, of: Figure) -> impl Iterator<Item = f64> {
        self.rounds.iter().map(of)
    }

    /// This ÷ the other, round by round.
    pub fn ratios(&self, other: &Self, of: Figure) -> impl Iterator<Item = f64> {
        self.each(of).zip(other.each(of)).map(|(this, that)| this / that)
    }

    /// The same: the middle and its interval.
    pub fn over(&self, other: &Self, of: Figure) -> String {
        let ratios: Samples = self.ratios(other, of).collect();
        known(ratios.median(), |median| {
            let (least, most) = ratios.interval().unwrap_or((ratios.quantile(0.0), ratios.max()));
            format!("{} [{}, {}]", share(median), share(least), share(most))
        })
    }
}

fn known(value: f64, text: impl Fn(f64) -> String) -> String {
    if value.is_finite() { text(value) } else { "–".to_owned() }
}

/// A ratio, also where little is left of one.
fn share(value: f64) -> String {
    if value < 0.1 { format!("{value:.4}") } else { figure(value) }
}

/// The table of a comparison whose first series is the one that is compared with all others.
pub fn table(report: &mut Report, all: &[Series]) {
    let Some(first) = all.first() else { return };
    let rows: Vec<Vec<String>> = all
        .iter()
        .enumerate()
        .map(|(place, series)| {
            let figures =
                [RATE, P50, P99, CPU, |measured| measured.idle * 100.0, |measured| measured.load_cpu];
            let cells = figures.map(|figure| series.cell(figure));
            let ratio = |of| if place == 0 { String::new() } else { first.over(series, of) };
            row(&series.name, cells.into_iter().chain([RATE, P50, CPU].map(ratio)))
        })
        .collect();
    report.table(
        &[
            "",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "CPU µs",
            "idle, % of a core",
            "load's CPU µs",
            "first ÷ this: requests/s",
            "p50",
            "CPU",
        ],
        &rows,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(rates: &[f64]) -> Series {
        let none = f64::NAN;
        let measured = |rate: &f64| Measured {
            per_second: *rate,
            p50: none,
            p99: none,
            cpu: none,
            load_cpu: none,
            idle: none,
            late: none,
        };
        Series { name: String::new(), rounds: rates.iter().map(measured).collect() }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let (this, that) = (series(&[10.0, 100.0, 30.0]), series(&[5.0, 50.0, 10.0]));
        assert_eq!(this.over(&that, RATE), "2.00 [2.00, 3.00]");
        assert_eq!((this.over(&that, CPU), this.cell(P50)), ("–".to_owned(), "–".to_owned()));
    }
}
