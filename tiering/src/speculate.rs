//! What to do next while a node and its verifier work on one request.
//!
//! The node's answer counts where its confidence is above the threshold. Where it is not, the verifier answers, and
//! where the verifier does not, the node's answer counts all the same, as unverified. A verifier that was asked early,
//! because the node was slow, counts as soon as it answers.

use crate::decide::{Reason, Source};
use crate::mode::Speculative;

/// How far the node is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Device {
    /// It works on it.
    Running,
    /// It gave no answer.
    Failed,
    /// It gave one, and is so sure of it.
    Answered(f64),
}

/// How far the verifier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verifier {
    /// It has not been asked.
    Idle,
    /// It works on it.
    Running,
    /// It gave no answer, or was not asked because it would give none in time.
    Failed,
    /// It gave one.
    Answered,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for whoever works on it and, where the verifier is idle, until the node counts as slow.
    Wait,
    /// Ask the verifier; go on waiting for the node, where it still works.
    AskVerifier,
    /// Answer as the node does.
    TakeDevice(Source, Reason),
    /// Answer as the verifier does.
    TakeVerifier(Source, Reason),
    /// Neither answers. The fallback order is left.
    FallBack,
}

/// What to do next. `slow`: the node has had as long as it may have alone.
pub const fn next(speculative: &Speculative, device: Device, verifier: Verifier, slow: bool) -> Next {
    match device {
        Device::Running => match verifier {
            Verifier::Answered => Next::TakeVerifier(Source::Verifier, Reason::DeviceSlow),
            Verifier::Idle if slow => Next::AskVerifier,
            Verifier::Idle | Verifier::Running | Verifier::Failed => Next::Wait,
        },
        Device::Answered(confidence) if confidence > speculative.threshold => {
            Next::TakeDevice(Source::Primary, Reason::Confident)
        }
        Device::Answered(_) => match verifier {
            Verifier::Idle => Next::AskVerifier,
            Verifier::Running => Next::Wait,
            Verifier::Answered => Next::TakeVerifier(Source::Verifier, Reason::NotConfident),
            Verifier::Failed => Next::TakeDevice(Source::Unverified, Reason::NotConfident),
        },
        Device::Failed => match verifier {
            Verifier::Running => Next::Wait,
            Verifier::Answered => Next::TakeVerifier(Source::Verifier, Reason::DeviceFailed),
            Verifier::Idle | Verifier::Failed => Next::FallBack,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use terrace_crds::Tier;

    use super::*;

    const NINETY: Speculative =
        Speculative { threshold: 0.9, verifier: Tier::Cloud, parallel_after: Some(Duration::ZERO) };

    #[test]
    fn every_standing_of_the_two_has_a_next_step() {
        use Device::{Answered as Sure, Failed as Broken, Running as Busy};
        use Next::{AskVerifier, FallBack, TakeDevice, TakeVerifier, Wait};
        use Reason::{Confident, DeviceFailed, DeviceSlow, NotConfident};
        for (device, verifier, slow, expected) in [
            (Busy, Verifier::Idle, false, Wait),
            (Busy, Verifier::Idle, true, AskVerifier),
            (Busy, Verifier::Running, true, Wait),
            (Busy, Verifier::Failed, true, Wait),
            (Busy, Verifier::Answered, true, TakeVerifier(Source::Verifier, DeviceSlow)),
            (Sure(0.95), Verifier::Idle, false, TakeDevice(Source::Primary, Confident)),
            (Sure(0.95), Verifier::Running, true, TakeDevice(Source::Primary, Confident)),
            (Sure(0.95), Verifier::Failed, true, TakeDevice(Source::Primary, Confident)),
            (Sure(0.95), Verifier::Answered, true, TakeDevice(Source::Primary, Confident)),
            // The seed says: above.
            (Sure(0.9), Verifier::Idle, false, AskVerifier),
            (Sure(0.1), Verifier::Idle, true, AskVerifier),
            (Sure(0.1), Verifier::Running, true, Wait),
            (Sure(0.1), Verifier::Answered, false, TakeVerifier(Source::Verifier, NotConfident)),
            (Sure(0.1), Verifier::Failed, false, TakeDevice(Source::Unverified, NotConfident)),
            (Sure(f64::NAN), Verifier::Idle, false, AskVerifier),
            (Broken, Verifier::Idle, false, FallBack),
            (Broken, Verifier::Idle, true, FallBack),
            (Broken, Verifier::Running, true, Wait),
            (Broken, Verifier::Failed, true, FallBack),
            (Broken, Verifier::Answered, true, TakeVerifier(Source::Verifier, DeviceFailed)),
        ] {
            assert_eq!(next(&NINETY, device, verifier, slow), expected, "{device:?} {verifier:?} {slow}");
        }
    }

    #[test]
    fn a_threshold_of_one_verifies_everything() {
        let all = Speculative { threshold: 1.0, ..NINETY };
        assert_eq!(next(&all, Device::Answered(1.0), Verifier::Idle, false), Next::AskVerifier);
        let none = Speculative { threshold: 0.0, ..NINETY };
        assert_eq!(
            next(&none, Device::Answered(1e-9), Verifier::Idle, false),
            Next::TakeDevice(Source::Primary, Reason::Confident)
        );
    }
}
