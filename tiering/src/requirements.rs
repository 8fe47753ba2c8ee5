//! What holds for one request: the stricter of its model's policy and of what it states itself.

use std::time::Duration;

use terrace_crds::Tier;

use crate::policy::Policy;
use crate::stated::{RequirementError, Stated};

/// What holds for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Requirements {
    max_latency_ms: Option<f64>,
    privacy_required: bool,
    complexity: Option<f64>,
    tier: Option<Tier>,
    forwarded: bool,
}

impl Requirements {
    /// The stricter of the policy and of what a request states, on a node of tier `here`. A request only
    /// tightens: it is private if anyone says so, and its deadline is the nearest of all.
    ///
    /// A tier that the request asks for must be one that could answer: `here`, or a remote tier that the policy
    /// configures, and then the request must not be private. It is dropped from a forwarded request, which is
    /// answered here or nowhere: the node that forwarded it obeyed it.
    pub fn tighten(
        policy: &Policy,
        here: Tier,
        parameters: Stated,
        headers: Stated,
    ) -> Result<Self, RequirementError> {
        let defaults = Stated {
            max_latency_ms: policy.max_latency().map(milliseconds),
            privacy_required: Some(policy.privacy_required()),
            ..Stated::default()
        };
        let all = defaults.and(parameters)?.and(headers)?;
        let private = all.privacy_required.unwrap_or(false);
        let forwarded = all.hop.is_some();
        let tier = all.tier.filter(|_| !forwarded);
        if let Some(asked) = tier.filter(|tier| *tier != here) {
            if policy.remote(asked).is_none() {
                let has = |tier| policy.remote(tier).is_some();
                let (edge, cloud) = (has(Tier::Edge), has(Tier::Cloud));
                let lacking = policy.lacking();
                return Err(RequirementError::TierNotConfigured { here, edge, cloud, lacking });
            }
            if private {
                return Err(RequirementError::TierNotPrivate);
            }
        }
        Ok(Self {
            max_latency_ms: all.max_latency_ms,
            privacy_required: private,
            complexity: all.complexity,
            tier,
            forwarded,
        })
    }

    /// The longest that the request may take, in milliseconds.
    pub const fn max_latency_ms(&self) -> Option<f64> {
        self.max_latency_ms
    }

    /// The longest that the request may take. `None` also where it is longer than can be told.
    pub fn max_latency(&self) -> Option<Duration> {
        self.max_latency_ms.and_then(|limit| Duration::try_from_secs_f64(limit / 1e3).ok())
    }

    /// Whether nothing of the request may leave the node.
    pub const fn privacy_required(&self) -> bool {
        self.privacy_required
    }

    /// How hard the request says that it is.
    pub const fn complexity(&self) -> Option<f64> {
        self.complexity
    }

    /// The only tier that may answer, where the request asks for one.
    pub const fn tier(&self) -> Option<Tier> {
        self.tier
    }

    /// Whether another node forwarded the request here.
    pub const fn forwarded(&self) -> bool {
        self.forwarded
    }
}

/// Exact for whole milliseconds, so that a policy's 50 ms are not a hair less than the rules' 50 ms.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use terrace_crds::TierPolicySpec;
    use terrace_crds::policy::{RemoteTier, RequestDefaults, Tiers};

    use super::*;
    use crate::policy::Lacking;

    fn policy(max_latency: Option<u64>, private: bool) -> Policy {
        let edge = RemoteTier { url: Some("http://edge:8000".to_owned()), ..RemoteTier::default() };
        let spec = TierPolicySpec {
            defaults: RequestDefaults {
                max_latency: max_latency.map(|limit| Duration::from_millis(limit).into()),
                privacy_required: Some(private),
            },
            tiers: Tiers { edge: Some(edge), cloud: None },
            ..TierPolicySpec::default()
        };
        Policy::parse(&spec).unwrap()
    }

    fn tier(tier: Tier) -> Stated {
        Stated { tier: Some(tier), ..Stated::default() }
    }

    fn latency(limit: f64) -> Stated {
        Stated { max_latency_ms: Some(limit), ..Stated::default() }
    }

    fn privacy(private: bool) -> Stated {
        Stated { privacy_required: Some(private), ..Stated::default() }
    }

    fn tighten(
        policy: &Policy,
        parameters: Stated,
        headers: Stated,
    ) -> Result<Requirements, RequirementError> {
        Requirements::tighten(policy, Tier::Device, parameters, headers)
    }

    #[test]
    fn the_nearest_deadline_holds() {
        let none = Stated::default();
        for (of_policy, parameters, headers, expected) in [
            (None, none, none, None),
            (Some(50), none, none, Some(50.0)),
            (Some(50), latency(80.0), none, Some(50.0)),
            (Some(50), latency(20.0), none, Some(20.0)),
            (Some(50), latency(20.0), latency(10.0), Some(10.0)),
            (None, latency(20.0), latency(30.0), Some(20.0)),
        ] {
            let requirements = tighten(&policy(of_policy, false), parameters, headers).unwrap();
            assert_eq!(requirements.max_latency_ms(), expected);
        }
    }

    #[test]
    fn privacy_from_anyone_holds() {
        for of_policy in [false, true] {
            for of_parameters in [false, true] {
                for of_headers in [false, true] {
                    let policy = policy(None, of_policy);
                    let requirements = tighten(&policy, privacy(of_parameters), privacy(of_headers)).unwrap();
                    assert_eq!(requirements.privacy_required(), of_policy || of_parameters || of_headers);
                }
            }
        }
        let unpolicied = tighten(&Policy::local_only(), privacy(false), privacy(false)).unwrap();
        assert!(unpolicied.privacy_required());
    }

    #[test]
    fn a_tier_must_be_able_to_answer() {
        let open = policy(None, false);
        let none = Stated::default();
        assert_eq!(tighten(&open, tier(Tier::Edge), none).unwrap().tier(), Some(Tier::Edge));
        assert_eq!(tighten(&open, none, tier(Tier::Device)).unwrap().tier(), Some(Tier::Device));
        let refused = |tightened: Result<Requirements, RequirementError>| tightened.unwrap_err().to_string();
        assert_eq!(
            refused(tighten(&open, tier(Tier::Cloud), none)),
            "tier must be device or edge: the model's policy has no other on this node"
        );
        assert_eq!(tighten(&open, tier(Tier::Edge), tier(Tier::Device)), Err(RequirementError::TierConflict));
        assert_eq!(tighten(&open, tier(Tier::Edge), privacy(true)), Err(RequirementError::TierNotPrivate));
        assert_eq!(
            tighten(&policy(None, true), tier(Tier::Edge), none),
            Err(RequirementError::TierNotPrivate)
        );
        assert!(tighten(&open, tier(Tier::Device), privacy(true)).is_ok());
        let none_at_all = Policy::local_only();
        assert_eq!(
            refused(tighten(&none_at_all, tier(Tier::Edge), none)),
            "tier must be device: the model has no accepted policy, so this node alone may answer"
        );
        let unsure = Policy::without(Lacking::Confidence);
        assert!(refused(tighten(&unsure, tier(Tier::Cloud), none)).contains("no spec.confidence"));
        assert!(tighten(&none_at_all, tier(Tier::Device), none).is_ok());
        let at_the_edge = |asked| Requirements::tighten(&open, Tier::Edge, tier(asked), none);
        assert!(at_the_edge(Tier::Edge).is_ok());
        assert_eq!(
            refused(at_the_edge(Tier::Device)),
            "tier must be edge: the model's policy has no other on this node"
        );
    }

    #[test]
    fn a_forwarded_request_has_its_tier_behind_it() {
        let hop = Stated { hop: Some(Tier::Device), ..Stated::default() };
        let requirements =
            Requirements::tighten(&policy(None, true), Tier::Cloud, tier(Tier::Edge), hop).unwrap();
        assert!(requirements.forwarded());
        assert_eq!(requirements.tier(), None);
    }

    #[test]
    fn a_deadline_too_far_to_tell_is_none() {
        let far = tighten(&policy(None, false), latency(f64::MAX), Stated::default()).unwrap();
        assert_eq!(far.max_latency(), None);
        let near = tighten(&policy(None, false), latency(0.25), Stated::default()).unwrap();
        assert_eq!(near.max_latency(), Some(Duration::from_micros(250)));
    }
}
