//! Why a tier did not answer with outputs, as whoever looks after the node is told it.

use std::sync::Arc;
use std::time::Duration;

use terrace_tiering::Misfit;

use super::error::UpstreamError;

/// A verifier's answer that is not used, in one word.
pub const DOES_NOT_FIT: &str = "DoesNotFit";

/// How a request to an endpoint ended last, where no outputs came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In one word, as in `attempts`.
    pub reason: &'static str,
    /// What happened, and what to do, as clients are told it.
    pub told: Arc<str>,
    /// The same with its causes, and with addresses. Nothing that was sent stands in it, and no element that came back; names
    /// of outputs that came back may, cut short.
    pub message: Arc<str>,
    /// When.
    pub at: Duration,
}

impl Trouble {
    /// Of a model that is called `name` there.
    pub fn of(error: &UpstreamError, name: &str, at: Duration) -> Self {
        let (told, message) = (error.told(name).into(), error.told_in_full(name).into());
        Self { reason: error.outcome(), told, message, at }
    }

    /// Of a verifier whose answer is not used, of a model that is called `name` there.
    pub fn misfit(misfit: &Misfit, name: &str, at: Duration) -> Self {
        let told: Arc<str> = format!(
            "the verifier's answer does not fit: {misfit}. Is the model that is called {name:?} there another one? Then spec.upstreams of the InferenceModel must say the name of its like"
        )
        .into();
        Self { reason: DOES_NOT_FIT, message: Arc::clone(&told), told, at }
    }
}

/// An endpoint, or a model there, that is not asked for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftAlone {
    /// The model, where the endpoint has answered others.
    pub model: Option<Arc<str>>,
    /// For how much longer, at most.
    pub left: Duration,
    /// How many requests in a row failed.
    pub times: u32,
    /// How the last of them did.
    pub last: Option<Arc<str>>,
}

impl LeftAlone {
    /// Whole seconds, of which the last may be a part.
    pub fn seconds(&self) -> u64 {
        let whole = self.left.as_secs();
        (whole + u64::from(self.left.subsec_nanos() > 0)).max(1)
    }
}

impl std::fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("is left alone")?;
        if let Some(model) = &self.model {
            write!(f, " with the model {model:?}")?;
        }
        write!(f, " for another {} s: it failed", self.seconds())?;
        match self.times {
            0 => {}
            1 => f.write_str(" once")?,
            times => write!(f, " {times} times in a row")?,
        }
        match &self.last {
            Some(last) if self.times > 1 => write!(f, ", the last time: {last}"),
            Some(last) => write!(f, ": {last}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_for_how_long_how_often_and_why() {
        let alone = |ms, times, model: Option<&str>| LeftAlone {
            model: model.map(Into::into),
            left: Duration::from_millis(ms),
            times,
            last: Some("no connection: connection refused".into()),
        };
        assert_eq!(
            alone(3_200, 3, None).to_string(),
            "is left alone for another 4 s: it failed 3 times in a row, the last time: no connection: connection refused"
        );
        assert_eq!(
            alone(0, 1, Some("digits")).to_string(),
            "is left alone with the model \"digits\" for another 1 s: it failed once: no connection: connection refused"
        );
        for (ms, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (60_000, 60)] {
            assert_eq!(alone(ms, 1, None).seconds(), seconds, "{ms}");
        }
    }
}
