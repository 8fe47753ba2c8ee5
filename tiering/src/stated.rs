//! What a request states about itself, in its parameters and in its headers.

use terrace_crds::Tier;

use crate::policy::Lacking;
use crate::spelling::{
    asks_for_privacy, claims_to_be_ours, is_prefixed, meant, meant_by_extension, speaks_of_privacy,
};

/// How much of an unknown name an error repeats.
const MAX_NAME_CHARS: usize = 64;

const MILLISECONDS: &str = "a finite number of milliseconds, 0 or more";
const MICROSECONDS: &str = "a whole number of microseconds, 0 (none) or more";
const BOOLEAN: &str = "true or false";
const UNIT: &str = "a number from 0 to 1";
const TIER: &str = "device, edge or cloud";

/// What a request states. Everything is optional, and everything only tightens what the policy says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stated {
    /// The answer is of no use later than this after the request's headers were read.
    pub max_latency_ms: Option<f64>,
    /// Nothing of the request may leave the node.
    pub privacy_required: Option<bool>,
    /// How hard the request is, from 0 to 1, in place of an estimate.
    pub complexity: Option<f64>,
    /// The only tier that may answer.
    pub tier: Option<Tier>,
    /// The request was forwarded once, by a node of this tier.
    pub hop: Option<Tier>,
}

/// A parameter's value, whatever protocol carried it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParameterValue<'a> {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// Any other number.
    Double(f64),
    /// A text.
    Str(&'a str),
}

/// Why a request cannot be taken as it is. The client must change it; each message names the field and what is
/// accepted there, never the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    /// A parameter has a value that means nothing.
    #[error("parameter {name} must be {expected}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What is accepted.
        expected: &'static str,
    },
    /// A header has a value that means nothing.
    #[error("header {name} must be {expected}")]
    Header {
        /// The header.
        name: &'static str,
        /// What is accepted.
        expected: &'static str,
    },
    /// A parameter looks like ours and is not.
    #[error("unknown parameter {name:?}: max_latency_ms, privacy_required, complexity and tier are known")]
    UnknownParameter {
        /// The parameter, cut to a sane length.
        name: String,
    },
    /// A parameter is ours but for its spelling.
    #[error("unknown parameter {name:?}: as a parameter it is called {known}")]
    MisspeltParameter {
        /// The parameter, cut to a sane length.
        name: String,
        /// What is meant.
        known: &'static str,
    },
    /// A header looks like ours and is not.
    #[error(
        "unknown header {name}: terrace-max-latency-ms, terrace-privacy-required, terrace-complexity and terrace-tier are known"
    )]
    UnknownHeader {
        /// The header, cut to a sane length.
        name: String,
    },
    /// A header is ours but for its spelling.
    #[error("unknown header {name}: as a header it is called {known}")]
    MisspeltHeader {
        /// The header, cut to a sane length.
        name: String,
        /// What is meant.
        known: &'static str,
    },
    /// Something of ours stands where nothing reads it.
    #[error("{place}: {name:?}: {known} belongs in the request's parameters")]
    Misplaced {
        /// Where: `inputs[0].parameters`.
        place: String,
        /// The parameter, cut to a sane length.
        name: String,
        /// What is meant.
        known: &'static str,
    },
    /// Two tiers are asked for.
    #[error("tier is stated more than once, and not the same")]
    TierConflict,
    /// The tier that is asked for is not among those that may answer.
    #[error("tier must be {}", told(*here, *edge, *cloud, *lacking))]
    TierNotConfigured {
        /// The node's own tier.
        here: Tier,
        /// Whether the policy has the edge.
        edge: bool,
        /// Whether it has the cloud.
        cloud: bool,
        /// What the model lacks to have a policy at all.
        lacking: Option<Lacking>,
    },
    /// Another tier is asked for, and nothing may leave the node.
    #[error("tier asks for another tier than this node, and the request or the model's policy is private")]
    TierNotPrivate,
}

impl Stated {
    /// What the parameters of a request state. Names that are not ours belong to others, and are passed over; what is ours
    /// but for its spelling is refused: nobody states that a request is private to have it passed over.
    pub fn from_parameters<'a>(
        parameters: impl IntoIterator<Item = (&'a str, ParameterValue<'a>)>,
    ) -> Result<Self, RequirementError> {
        parameters.into_iter().try_fold(Self::default(), |stated, (name, value)| {
            let Some(name) = PARAMETERS.into_iter().find(|known| *known == name) else {
                return unknown_parameter(name).map_or(Ok(stated), Err);
            };
            let one = Self::from_parameter(name, value)
                .map_err(|expected| RequirementError::Parameter { name, expected })?;
            stated.and(one)
        })
    }

    fn from_parameter(name: &str, value: ParameterValue<'_>) -> Result<Self, &'static str> {
        use ParameterValue::{Bool, Double, Int, Str};
        let number = || match value {
            Int(number) => Some(number as f64),
            Double(number) => Some(number),
            Bool(_) | Str(_) => None,
        };
        match name {
            "max_latency_ms" => Self::with_max_latency(number()),
            "privacy_required" => match value {
                Bool(private) => Self::with_privacy(Some(private)),
                Str(text) => Self::with_privacy(boolean(text)),
                Int(_) | Double(_) => Err(BOOLEAN),
            },
            "complexity" => Self::with_complexity(number()),
            "tier" => Self::with_tier(if let Str(text) = value { Tier::parse(text) } else { None }),
            // Triton's, which its clients set: microseconds, where 0 means none.
            _ => match value {
                Int(0) => Ok(Self::default()),
                Int(micros @ 1..) => Self::with_max_latency(Some(micros as f64 / 1e3)),
                Int(_) | Bool(_) | Double(_) | Str(_) => Err(MICROSECONDS),
            },
        }
    }

    /// What the headers of a request state. Names are compared without regard to case. Those of others are passed over;
    /// what begins with `terrace-`, or is ours but for its spelling, is refused.
    pub fn from_headers<'a, V: AsRef<[u8]>>(
        headers: impl IntoIterator<Item = (&'a str, V)>,
    ) -> Result<Self, RequirementError> {
        headers.into_iter().try_fold(Self::default(), |stated, (name, value)| {
            let Some(known) = HEADERS.into_iter().find(|known| known.eq_ignore_ascii_case(name)) else {
                return unknown_header(name).map_or(Ok(stated), Err);
            };
            // Bytes that are no text are no value that is accepted anywhere.
            let text = std::str::from_utf8(value.as_ref()).unwrap_or_default();
            let one = Self::from_header(known, text)
                .map_err(|expected| RequirementError::Header { name: known, expected })?;
            stated.and(one)
        })
    }

    fn from_header(name: &str, text: &str) -> Result<Self, &'static str> {
        match name {
            "terrace-max-latency-ms" => Self::with_max_latency(text.parse().ok()),
            "terrace-privacy-required" => Self::with_privacy(boolean(text)),
            "terrace-complexity" => Self::with_complexity(text.parse().ok()),
            "terrace-tier" => Self::with_tier(Tier::parse(text)),
            _ => Tier::parse(text).map(|hop| Self { hop: Some(hop), ..Self::default() }).ok_or(TIER),
        }
    }

    fn with_max_latency(milliseconds: Option<f64>) -> Result<Self, &'static str> {
        let valid = milliseconds.filter(|limit| limit.is_finite() && *limit >= 0.0);
        valid.map(|limit| Self { max_latency_ms: Some(limit), ..Self::default() }).ok_or(MILLISECONDS)
    }

    fn with_privacy(private: Option<bool>) -> Result<Self, &'static str> {
        private.map(|private| Self { privacy_required: Some(private), ..Self::default() }).ok_or(BOOLEAN)
    }

    fn with_complexity(complexity: Option<f64>) -> Result<Self, &'static str> {
        let valid = complexity.filter(|complexity| (0.0..=1.0).contains(complexity));
        valid.map(|complexity| Self { complexity: Some(complexity), ..Self::default() }).ok_or(UNIT)
    }

    fn with_tier(tier: Option<Tier>) -> Result<Self, &'static str> {
        tier.map(|tier| Self { tier: Some(tier), ..Self::default() }).ok_or(TIER)
    }

    /// Both statements together: the stricter of each. The larger complexity is the stricter, since it asks for
    /// the more capable tier; two tiers that differ cannot both be had.
    pub fn and(self, other: Self) -> Result<Self, RequirementError> {
        let tier = match (self.tier, other.tier) {
            (Some(one), Some(other)) if one != other => return Err(RequirementError::TierConflict),
            (one, other) => one.or(other),
        };
        Ok(Self {
            max_latency_ms: either(self.max_latency_ms, other.max_latency_ms, f64::min),
            privacy_required: either(self.privacy_required, other.privacy_required, |one, other| {
                one || other
            }),
            complexity: either(self.complexity, other.complexity, f64::max),
            tier,
            hop: self.hop.or(other.hop),
        })
    }
}

/// What names of a request's parameters can be meant by a name that stands elsewhere in it, where nothing reads it; none,
/// where the name belongs to others.
pub fn misplaced(name: &str) -> Option<&'static str> {
    let known = meant(name, &SHORT).or_else(|| meant_by_extension(name, &SHORT[..UNMISTAKABLE]));
    let known = known.or_else(|| claims_to_be_ours(name).then_some("what begins with terrace-"));
    known.or_else(|| speaks_of_privacy(name).then_some(PRIVACY))
}

/// Refuses names that are meant to be parameters of the request. `place` says where they stand.
pub fn refuse_misplaced<'a>(
    names: impl IntoIterator<Item = &'a str>,
    place: impl Fn() -> String,
) -> Result<(), RequirementError> {
    let found = names.into_iter().find_map(|name| Some((name, misplaced(name)?)));
    found.map_or(Ok(()), |(name, known)| {
        Err(RequirementError::Misplaced { place: place(), name: cut(name), known })
    })
}

/// Parameters that are ours, and Triton's `timeout`.
const PARAMETERS: [&str; 5] = ["max_latency_ms", "privacy_required", "complexity", "tier", "timeout"];
/// Headers that are ours. The last is no statement of the caller's: an agent sets it when it forwards.
const HEADERS: [&str; 5] = [
    "terrace-max-latency-ms",
    "terrace-privacy-required",
    "terrace-complexity",
    "terrace-tier",
    "terrace-hop",
];
/// Names of ours alone. Headers as people misspell them: without what all of ours begin with, in the same order.
const SHORT: [&str; 4] = ["max_latency_ms", "privacy_required", "complexity", "tier"];
/// The one that must not be passed over.
const PRIVACY: &str = "privacy_required";
const PRIVACY_HEADER: &str = "terrace-privacy-required";
/// How many of those mean nothing else.
const UNMISTAKABLE: usize = 2;

/// What is wrong with a parameter's name that is not known; nothing, where it belongs to others.
fn unknown_parameter(name: &str) -> Option<RequirementError> {
    let known = meant(name, &PARAMETERS).or_else(|| meant_by_extension(name, &SHORT[..UNMISTAKABLE]));
    match known {
        Some(known) => Some(RequirementError::MisspeltParameter { name: cut(name), known }),
        None if claims_to_be_ours(name) => Some(RequirementError::UnknownParameter { name: cut(name) }),
        // Who means something else by it hears so; who means this would not hear that it leaves the node.
        None => speaks_of_privacy(name)
            .then(|| RequirementError::MisspeltParameter { name: cut(name), known: PRIVACY }),
    }
}

/// The same of a header. Without `terrace-` before them, `tier` and `complexity` are words of others.
fn unknown_header(name: &str) -> Option<RequirementError> {
    let known: &[&str] = if is_prefixed(name) { &SHORT } else { &SHORT[..UNMISTAKABLE] };
    let of = |short: &str| SHORT.iter().zip(HEADERS).find(|(known, _)| **known == short);
    let known = meant(name, known).or_else(|| meant_by_extension(name, &SHORT[..UNMISTAKABLE]));
    match known.and_then(of) {
        Some((_, known)) => Some(RequirementError::MisspeltHeader { name: cut(name), known }),
        None if claims_to_be_ours(name) => Some(RequirementError::UnknownHeader { name: cut(name) }),
        // Headers come from much software: only what means nothing else is refused.
        None => asks_for_privacy(name)
            .then(|| RequirementError::MisspeltHeader { name: cut(name), known: PRIVACY_HEADER }),
    }
}

/// Whether a request with a header of this name is refused, so that no rule ever reads it.
pub(crate) fn is_refused_header(name: &str) -> bool {
    unknown_header(name).is_some()
}

/// Which tiers may be asked for, and why no other.
fn told(here: Tier, edge: bool, cloud: bool, lacking: Option<Lacking>) -> String {
    let is_there =
        |tier: &Tier| *tier == here || (*tier == Tier::Edge && edge) || (*tier == Tier::Cloud && cloud);
    let tiers: Vec<&str> = Tier::ALL.iter().filter(|tier| is_there(tier)).map(|tier| tier.as_str()).collect();
    let why = match lacking {
        None => "the model's policy has no other on this node",
        Some(Lacking::Policy) => "the model has no accepted policy, so this node alone may answer",
        Some(Lacking::Confidence) => {
            "the model has no spec.confidence, which the mode of its policy goes by, so this node alone may answer"
        }
    };
    format!("{}: {why}", tiers.join(" or "))
}

fn cut(name: &str) -> String {
    name.chars().take(MAX_NAME_CHARS).collect()
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn either<T>(one: Option<T>, other: Option<T>, both: impl FnOnce(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(both(one, other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::ParameterValue::{Bool, Double, Int, Str};
    use super::*;

    fn parameter(name: &str, value: ParameterValue<'_>) -> Result<Stated, String> {
        Stated::from_parameters([(name, value)]).map_err(|error| error.to_string())
    }

    fn header(name: &str, value: &str) -> Result<Stated, String> {
        Stated::from_headers([(name, value)]).map_err(|error| error.to_string())
    }

    fn latency(milliseconds: f64) -> Stated {
        Stated { max_latency_ms: Some(milliseconds), ..Stated::default() }
    }

    #[test]
    fn a_deadline_is_a_finite_number_of_milliseconds() {
        assert_eq!(parameter("max_latency_ms", Int(50)), Ok(latency(50.0)));
        assert_eq!(parameter("max_latency_ms", Double(0.5)), Ok(latency(0.5)));
        assert_eq!(parameter("max_latency_ms", Int(0)), Ok(latency(0.0)));
        for value in [Int(-1), Double(-0.1), Double(f64::NAN), Double(f64::INFINITY), Bool(true), Str("50")] {
            let message = parameter("max_latency_ms", value).unwrap_err();
            assert_eq!(
                message,
                "parameter max_latency_ms must be a finite number of milliseconds, 0 or more"
            );
        }
        assert_eq!(header("terrace-max-latency-ms", "12.5"), Ok(latency(12.5)));
        for value in ["", "-1", "nan", "inf", "1e999", "50 ms", "0x32"] {
            let message = header("terrace-max-latency-ms", value).unwrap_err();
            assert!(
                message.starts_with("header terrace-max-latency-ms must be a finite"),
                "{value}: {message}"
            );
        }
    }

    #[test]
    fn tritons_timeout_is_a_deadline_in_microseconds_and_0_is_none() {
        assert_eq!(parameter("timeout", Int(1500)), Ok(latency(1.5)));
        assert_eq!(parameter("timeout", Int(0)), Ok(Stated::default()));
        for value in [Int(-1), Double(1.0), Str("5"), Bool(false)] {
            assert!(
                parameter("timeout", value).unwrap_err().starts_with("parameter timeout must be"),
                "{value:?}"
            );
        }
        let both = Stated::from_parameters([("timeout", Int(2000)), ("max_latency_ms", Int(5))]).unwrap();
        assert_eq!(both.max_latency_ms, Some(2.0));
    }

    #[test]
    fn privacy_is_a_boolean_or_its_name() {
        let private = |private| Ok(Stated { privacy_required: Some(private), ..Stated::default() });
        assert_eq!(parameter("privacy_required", Bool(true)), private(true));
        assert_eq!(parameter("privacy_required", Str("false")), private(false));
        assert_eq!(header("terrace-privacy-required", "true"), private(true));
        assert_eq!(header("Terrace-Privacy-Required", "true"), private(true));
        for value in [Int(1), Double(1.0), Str("True"), Str("yes"), Str("")] {
            let message = parameter("privacy_required", value).unwrap_err();
            assert_eq!(message, "parameter privacy_required must be true or false", "{value:?}");
        }
        for value in ["1", "TRUE", "true, false", ""] {
            assert!(header("terrace-privacy-required", value).is_err(), "{value}");
        }
        assert!(Stated::from_headers([("terrace-privacy-required", [0xff_u8])]).is_err());
    }

    #[test]
    fn complexity_lies_between_0_and_1() {
        for value in [Int(0), Int(1), Double(0.5)] {
            assert!(parameter("complexity", value).is_ok(), "{value:?}");
        }
        for value in [Int(2), Double(-0.001), Double(1.001), Double(f64::NAN), Str("0.5"), Bool(true)] {
            assert!(parameter("complexity", value).is_err(), "{value:?}");
        }
        assert_eq!(header("terrace-complexity", "0.25").unwrap().complexity, Some(0.25));
        assert!(header("terrace-complexity", "25%").is_err());
    }

    #[test]
    fn a_tier_has_a_name() {
        assert_eq!(parameter("tier", Str("edge")).unwrap().tier, Some(Tier::Edge));
        assert_eq!(header("terrace-tier", "cloud").unwrap().tier, Some(Tier::Cloud));
        for value in [Str("Edge"), Str("fog"), Int(1), Bool(true), Double(0.0)] {
            let message = parameter("tier", value).unwrap_err();
            assert_eq!(message, "parameter tier must be device, edge or cloud", "{value:?}");
        }
    }

    #[test]
    fn a_forwarded_request_says_where_it_comes_from() {
        assert_eq!(header("terrace-hop", "device").unwrap().hop, Some(Tier::Device));
        assert!(header("terrace-hop", "1").is_err());
    }

    #[test]
    fn unknown_headers_of_ours_are_refused_and_names_of_others_passed_over() {
        let message = header("terrace-privacy", "true").unwrap_err();
        assert!(message.starts_with("unknown header terrace-privacy: "), "{message}");
        for name in ["x-terrace-privacy", "X-Terrace-Private", "terrace_private", "x_terrace_x"] {
            let message = header(name, "true").unwrap_err();
            assert!(message.starts_with(&format!("unknown header {name}: terrace-max-")), "{message}");
        }
        assert!(header(&format!("terrace-{}", "a".repeat(9000)), "").unwrap_err().len() < 300);
        for name in [
            "traceparent",
            "terrace",
            "x-terrace",
            "tërrace-tier",
            "tier",
            "complexity",
            "x-tier",
            "x-complexity",
            "timeout",
            "private-token",
            "permissions-policy",
            "sec-private-state-token",
        ] {
            assert_eq!(header(name, "whatever"), Ok(Stated::default()), "{name}");
        }
        for name in ["temperature", "terrace", "terraced", "priority", "frontier", "binary_data_output"] {
            assert_eq!(parameter(name, Double(0.7)), Ok(Stated::default()), "{name}");
        }
    }

    #[test]
    fn a_name_of_ours_in_another_spelling_is_refused_with_the_right_one() {
        for (name, known) in [
            ("terrace-privacy-required", "privacy_required"),
            ("Privacy_Required", "privacy_required"),
            ("privacyRequired", "privacy_required"),
            ("maxLatencyMs", "max_latency_ms"),
            ("terrace_tier", "tier"),
            ("Tier", "tier"),
            ("Complexity", "complexity"),
            ("Timeout", "timeout"),
            ("x-privacy-required", "privacy_required"),
            ("privacy", "privacy_required"),
            ("is_private", "privacy_required"),
        ] {
            let message = parameter(name, Bool(true)).unwrap_err();
            assert_eq!(message, format!("unknown parameter {name:?}: as a parameter it is called {known}"));
        }
        let message = parameter("terrace-privacy", Bool(true)).unwrap_err();
        assert!(message.starts_with("unknown parameter \"terrace-privacy\": max_latency_ms, "), "{message}");
        assert!(parameter(&format!("terrace-\n{}", "a".repeat(9000)), Int(1)).unwrap_err().len() < 300);
        for (name, known) in [
            ("terrace-privacy_required", "terrace-privacy-required"),
            ("terrace_privacy_required", "terrace-privacy-required"),
            ("privacy_required", "terrace-privacy-required"),
            ("Privacy-Required", "terrace-privacy-required"),
            ("max-latency-ms", "terrace-max-latency-ms"),
            ("x-terrace-tier", "terrace-tier"),
            ("X-Privacy-Required", "terrace-privacy-required"),
            ("xMaxLatencyMs", "terrace-max-latency-ms"),
            ("terrace_complexity", "terrace-complexity"),
            ("privacy", "terrace-privacy-required"),
            ("X-Private", "terrace-privacy-required"),
            ("require-privacy", "terrace-privacy-required"),
        ] {
            let message = header(name, "true").unwrap_err();
            assert_eq!(message, format!("unknown header {name}: as a header it is called {known}"));
        }
    }

    #[test]
    fn what_is_ours_has_no_place_but_the_requests_parameters() {
        for (name, known) in [
            ("privacy_required", "privacy_required"),
            ("privacyRequired", "privacy_required"),
            ("x-privacy-required", "privacy_required"),
            ("terrace-privacy-required", "privacy_required"),
            ("max_latency_ms", "max_latency_ms"),
            ("tier", "tier"),
            ("Complexity", "complexity"),
            ("terrace-private", "what begins with terrace-"),
            ("x_terrace_private", "what begins with terrace-"),
        ] {
            assert_eq!(misplaced(name), Some(known), "{name}");
        }
        assert_eq!(misplaced("privacy"), Some("privacy_required"));
        for name in ["binary_data", "binary_data_size", "classification", "timeout", "x-tier", ""] {
            assert_eq!(misplaced(name), None, "{name}");
        }
        let place = || "inputs[1].parameters".to_owned();
        assert_eq!(refuse_misplaced(["binary_data", "shared_memory_region"], place), Ok(()));
        let message = refuse_misplaced(["binary_data", "Privacy-Required"], place).unwrap_err().to_string();
        let expected = "inputs[1].parameters: \"Privacy-Required\": privacy_required belongs in the request's parameters";
        assert_eq!(message, expected);
    }

    #[test]
    fn a_header_given_twice_means_the_stricter() {
        let twice = |name: &str, one: &str, other: &str| Stated::from_headers([(name, one), (name, other)]);
        let stated = twice("terrace-privacy-required", "true", "false").unwrap();
        assert_eq!(stated.privacy_required, Some(true));
        let stated = twice("terrace-max-latency-ms", "20", "10").unwrap();
        assert_eq!(stated.max_latency_ms, Some(10.0));
        assert_eq!(twice("terrace-tier", "edge", "cloud"), Err(RequirementError::TierConflict));
        assert_eq!(twice("terrace-tier", "edge", "edge").unwrap().tier, Some(Tier::Edge));
    }

    #[test]
    fn an_error_never_repeats_the_value() {
        for name in HEADERS {
            assert!(!header(name, "canary-value").unwrap_err().contains("canary"), "{name}");
        }
        for name in PARAMETERS {
            assert!(!parameter(name, Str("canary-value")).unwrap_err().contains("canary"), "{name}");
        }
    }
}
