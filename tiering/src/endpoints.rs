//! Which of a tier's endpoints is asked.

use std::time::Duration;

/// What is expected of an endpoint that nothing is known of: it should be tried before one that is known to be slow.
const UNKNOWN: Duration = Duration::from_millis(1);

/// One of a tier's endpoints, as it stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Its breaker lets a request through, and it may have one more.
    pub available: bool,
    /// Requests that it has from this node now.
    pub in_flight: usize,
    /// How long an answer takes, nine times out of ten.
    pub predicted: Option<Duration>,
}

/// The endpoint that answers first, as far as can be told: the least latency for as many requests as it would have then.
/// Among equals `turn` decides, which should grow with each request. None where none is available.
pub fn pick(endpoints: impl ExactSizeIterator<Item = EndpointState>, turn: usize) -> Option<usize> {
    let count = endpoints.len();
    let cost = |state: &EndpointState| {
        state.predicted.unwrap_or(UNKNOWN).as_nanos().saturating_mul(state.in_flight as u128 + 1)
    };
    endpoints
        .enumerate()
        .filter(|(_, state)| state.available)
        .min_by_key(|(place, state)| (cost(state), (place + count - turn % count) % count))
        .map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn state(available: bool, in_flight: usize, predicted_ms: Option<u64>) -> EndpointState {
        let predicted = match predicted_ms {
            Some(ms) => Some(Duration::from_millis(ms)),
            None => None,
        };
        EndpointState { available, in_flight, predicted }
    }

    #[test]
    fn the_one_that_answers_first_is_asked() {
        for (endpoints, picked) in [
            (&[][..], None),
            (&[state(false, 0, None)], None),
            (&[state(false, 0, Some(1)), state(true, 9, Some(90))], Some(1)),
            (&[state(true, 0, Some(20)), state(true, 0, Some(10))], Some(1)),
            (&[state(true, 0, Some(20)), state(true, 2, Some(10))], Some(0)),
            (&[state(true, 0, Some(20)), state(true, 0, None)], Some(1)),
        ] {
            assert_eq!(pick(endpoints.iter().copied(), 0), picked, "{endpoints:?}");
        }
    }

    #[test]
    fn equals_take_turns() {
        let equals = [state(true, 0, None); 3];
        let picked: Vec<_> = (0..6).filter_map(|turn| pick(equals.into_iter(), turn)).collect();
        assert_eq!(picked, [0, 1, 2, 0, 1, 2]);
    }
}
