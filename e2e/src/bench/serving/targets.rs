//! What the data plane is to reach, and whether it does.

use crate::bench::figures::{Report, Samples, figure, row};

/// On which side of a figure what is measured must lie.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}
use Bound::{AtLeast, AtMost};

/// One figure that is to be reached.
struct Row {
    what: String,
    unit: &'static str,
    bound: Bound,
    measured: Samples,
}

/// All of them.
#[derive(Default)]
pub struct Targets(Vec<Row>);

impl Targets {
    /// Notes what was measured, once a round, for a figure.
    pub fn note(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        bound: Bound,
        measured: impl IntoIterator<Item = f64>,
    ) {
        self.0.push(Row { what: what.into(), unit, bound, measured: measured.into_iter().collect() });
    }

    /// The table.
    pub fn tell(self, report: &mut Report) {
        if self.0.is_empty() {
            return;
        }
        report.section(
            "Targets",
            "The median of the rounds, with the interval in which it lies at 95 % (order statistics). A target is met where \
             the whole interval is on its side, and open where the interval reaches over it: then the noise is larger than \
             what is missing.",
        );
        let rows: Vec<Vec<String>> = self.0.iter().map(Row::cells).collect();
        report.table(&["", "target", "measured", "met"], &rows);
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let (sign, target) = match self.bound {
            AtLeast(target) => ('≥', target),
            AtMost(target) => ('≤', target),
        };
        let (least, most) = self.interval();
        let measured = format!("{} [{}, {}]", figure(self.measured.median()), figure(least), figure(most));
        let target = format!("{sign} {} {}", figure(target), self.unit);
        row(&self.what, [target.trim_end().to_owned(), measured, self.verdict().to_owned()])
    }

    /// Where the middle lies; from the least to the most of too few.
    fn interval(&self) -> (f64, f64) {
        self.measured.interval().unwrap_or((self.measured.quantile(0.0), self.measured.max()))
    }

    fn verdict(&self) -> &'static str {
        let (least, most) = self.interval();
        // The target's side first.
        let (worst, best, is_met): (_, _, fn(f64, f64) -> bool) = match self.bound {
            AtLeast(target) => (least - target, most - target, |is, zero| is >= zero),
            AtMost(target) => (most - target, least - target, |is, zero| is <= zero),
        };
        match (is_met(worst, 0.0), is_met(best, 0.0)) {
            (true, _) => "met",
            (false, true) => "open",
            (false, false) => "not met",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_by_the_whole_interval() {
        let verdict = |bound, least: u32, most: u32| {
            let measured = (least..=most).map(f64::from).collect();
            Row { what: String::new(), unit: "", bound, measured }.verdict()
        };
        // The interval of eleven is from the second to the tenth.
        assert_eq!(verdict(AtLeast(2.0), 1, 11), "met");
        assert_eq!(verdict(AtLeast(2.5), 1, 11), "open");
        assert_eq!(verdict(AtLeast(10.5), 1, 11), "not met");
        assert_eq!(verdict(AtMost(10.0), 1, 11), "met");
        assert_eq!(verdict(AtMost(9.5), 1, 11), "open");
        assert_eq!(verdict(AtMost(1.5), 1, 11), "not met");
    }

    #[test]
    fn a_row_tells_target_measured_and_verdict() {
        let row = Row {
            what: "x".to_owned(),
            unit: "ms",
            bound: AtMost(0.4),
            measured: [0.3; 11].into_iter().collect(),
        };
        assert_eq!(row.cells(), ["x", "≤ 0.40 ms", "0.30 [0.30, 0.30]", "met"]);
        let nothing = Row { measured: Samples::from_iter([]), ..row };
        assert_eq!(nothing.verdict(), "not met");
    }
}
