//! Rules of a policy's own: which wins, what is passed over, and what an explanation tells of it.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use terrace_crds::mode::{Ensemble, Mode};
use terrace_crds::policy::{Complexity, ComplexityMethod, TierRule};
use terrace_crds::{Tier, TierPolicySpec};
use terrace_tiering::{
    BreakerState, Decision, EvalError, Facts, Input, LocalModel, Node, Outcome, Policy, Reason, RemoteState,
    Requirements, Snapshot, Stated, decide, explain,
};

use crate::arbitrary::{node, policy, sketch, stated};
use crate::{DEVICE, Sketch, decided, tiers};

fn rules(rules: &[(&str, Tier)]) -> Sketch {
    let rules = rules.iter().map(|(when, tier)| ((*when).to_owned(), *tier)).collect();
    Sketch { rules: Some(rules), ..Sketch::both_tiers() }
}

fn latency(max_latency_ms: f64) -> Stated {
    Stated { max_latency_ms: Some(max_latency_ms), ..Stated::default() }
}

fn reason(decision: &Decision) -> &str {
    decision.reason.as_str()
}

fn failed(decision: &Decision) -> Vec<usize> {
    decision.failed.rules().collect()
}

/// A request for `shop.digits` of two images and a weight, with a header, on a labelled node.
struct Images;

impl Facts for Images {
    fn entropy(&self) -> f64 {
        0.4
    }
    fn bytes(&self) -> u64 {
        602_116
    }
    fn batch(&self) -> usize {
        2
    }
    fn input_count(&self) -> usize {
        2
    }
    fn input(&self, name: &str) -> Option<Input<'_>> {
        match name {
            "image" => Some(Input { shape: &[2, 3, 224, 224], datatype: "UINT8" }),
            "weight" => Some(Input { shape: &[], datatype: "FP32" }),
            _ => None,
        }
    }
    fn header(&self, name: &str) -> Option<&str> {
        (name == "x-class").then_some("gold")
    }
    fn model_namespace(&self) -> &'static str {
        "shop"
    }
    fn model_name(&self) -> &'static str {
        "digits"
    }
    fn label(&self, key: &str) -> Option<&str> {
        (key == "topology.kubernetes.io/zone").then_some("hall-3")
    }
}

fn with_headers(rules: &[(&str, Tier)]) -> TierPolicySpec {
    let rules =
        rules.iter().map(|(when, tier)| TierRule { when: (*when).to_owned(), tier: *tier, name: None });
    TierPolicySpec {
        rules: Some(rules.collect()),
        request_headers: vec!["x-class".to_owned(), "x-none".to_owned()],
        ..Sketch::both_tiers().spec()
    }
}

fn on(policy: &Policy, snapshot: &Snapshot, stated: Stated) -> Decision {
    let requirements = Requirements::tighten(policy, snapshot.node.tier, stated, Stated::default()).unwrap();
    decide(policy, &requirements, snapshot, Images)
}

#[test]
fn the_first_rule_that_matches_wins_and_those_behind_it_are_not_asked() {
    let policy = rules(&[
        ("request.maxLatencyMs < 10", Tier::Device),
        ("request.maxLatencyMs < 100", Tier::Edge),
        ("request.batch / 0 == 1", Tier::Cloud),
    ])
    .policy();
    for (max_latency_ms, tier, rule) in [(5.0, Tier::Device, "Rule[0]"), (50.0, Tier::Edge, "Rule[1]")] {
        let decision = decided(&policy, DEVICE, latency(max_latency_ms), 0.5);
        assert_eq!((decision.candidates[0].tier, reason(&decision)), (tier, rule));
        assert_eq!(failed(&decision), Vec::<usize>::new());
        assert_eq!(decision.complexity, None);
    }
}

#[test]
fn the_chosen_tier_comes_first_and_the_fallback_order_behind_it() {
    let policy = rules(&[("true", Tier::Cloud)]).policy();
    let decision = decided(&policy, DEVICE, Stated::default(), 0.5);
    assert_eq!(tiers(&decision), [Tier::Cloud, Tier::Device, Tier::Edge]);
}

#[test]
fn a_tier_that_is_not_configured_leaves_the_fallback_order() {
    let policy = Sketch { cloud: false, ..rules(&[("true", Tier::Cloud)]) }.policy();
    let decision = decided(&policy, DEVICE, Stated::default(), 0.5);
    assert_eq!((tiers(&decision), reason(&decision)), (vec![Tier::Device, Tier::Edge], "TierNotConfigured"));
}

#[test]
fn a_rule_that_fails_is_passed_over_and_noted() {
    let policy = rules(&[
        ("request.batch / 0 == 1", Tier::Cloud),
        ("node.labels.rack == 'a'", Tier::Cloud),
        ("true", Tier::Edge),
    ])
    .policy();
    let decision = decided(&policy, DEVICE, Stated::default(), 0.5);
    assert_eq!((decision.candidates[0].tier, reason(&decision)), (Tier::Edge, "Rule[2]"));
    assert_eq!(failed(&decision), [0, 1]);
}

#[test]
fn where_no_rule_is_left_the_node_answers_itself() {
    let none = rules(&[("false", Tier::Cloud)]).policy();
    let all_failed = rules(&[("request.batch / 0 == 1", Tier::Cloud)]).policy();
    for node in [DEVICE, Node { tier: Tier::Edge, ..DEVICE }] {
        let decision = decided(&none, node, Stated::default(), 0.5);
        assert_eq!((decision.candidates[0].tier, decision.reason), (node.tier, Reason::NoRuleMatched));
        let decision = decided(&all_failed, node, Stated::default(), 0.5);
        assert_eq!((decision.candidates[0].tier, decision.reason), (node.tier, Reason::RulesFailed));
        assert_eq!(failed(&decision), [0]);
    }
}

#[test]
fn a_named_rule_is_called_by_its_name() {
    let mut spec = with_headers(&[("true", Tier::Edge)]);
    spec.rules.as_mut().unwrap()[0].name = Some("GoldCustomers".to_owned());
    let policy = Policy::parse(&spec).unwrap();
    let decision = decided(&policy, DEVICE, Stated::default(), 0.5);
    assert_eq!(reason(&decision), "GoldCustomers");
    assert_eq!(policy.to_spec().rules, spec.rules);
}

#[test]
fn a_private_request_is_asked_of_no_rule() {
    let policy = rules(&[("true", Tier::Cloud)]).policy();
    let private = Stated { privacy_required: Some(true), ..Stated::default() };
    let decision = decided(&policy, DEVICE, private, 0.5);
    assert_eq!((tiers(&decision), decision.reason), (vec![Tier::Device], Reason::PrivacyRequired));
}

#[test]
fn rules_read_the_request_its_model_and_its_node() {
    for condition in [
        "request.bytes == 602116 && request.batch == 2 && size(request.inputs) == 2",
        "request.inputs['image'].shape == [2, 3, 224, 224] && request.inputs.image.datatype == 'UINT8'",
        "size(request.inputs.weight.shape) == 0 && !('mask' in request.inputs)",
        "request.complexity == 0.4",
        "request.headers['x-class'] == 'gold' && !('x-none' in request.headers)",
        "model.namespace == 'shop' && model.name == 'digits' && model.loaded",
        "node.tier == 'device' && node.labels['topology.kubernetes.io/zone'] == 'hall-3'",
        "request.maxLatencyMs == 120.0 && !request.privacyRequired",
    ] {
        let policy = Policy::parse(&with_headers(&[(condition, Tier::Edge)])).unwrap();
        let decision = on(&policy, &Snapshot::of(DEVICE), latency(120.0));
        assert_eq!(reason(&decision), "Rule[0]", "{condition}");
    }
}

#[test]
fn rules_read_what_the_node_knows_of_itself_and_of_other_tiers() {
    let mut snapshot = Snapshot::of(DEVICE);
    snapshot.local.queued = 3;
    snapshot.local.in_flight = 1;
    snapshot.local.predicted = Some(Duration::from_micros(12_500));
    snapshot.edge = RemoteState {
        available: true,
        breaker: BreakerState::HalfOpen,
        predicted_p90: Some(Duration::from_millis(80)),
        rtt: Some(Duration::from_millis(4)),
        in_flight: 7,
    };
    for condition in [
        "device.queueDepth == 3 && device.inFlight == 1 && device.predictedLatencyMs == 12.5",
        "tiers.edge.configured && tiers.edge.available && tiers.edge.breaker == 'half-open'",
        "tiers.edge.rttMs == 4.0 && tiers.edge.predictedLatencyMs == 80.0 && tiers.edge.inFlight == 7",
        "!tiers.cloud.configured && !tiers.cloud.available && tiers.cloud.breaker == 'closed'",
        "!has(tiers.cloud.rttMs) && !has(tiers.cloud.predictedLatencyMs)",
    ] {
        let policy = Sketch { cloud: false, ..rules(&[(condition, Tier::Edge)]) }.policy();
        assert_eq!(reason(&on(&policy, &snapshot, Stated::default())), "Rule[0]", "{condition}");
    }
    let unloaded = Snapshot::of(Node { model: LocalModel::NotLoaded, ..DEVICE });
    let policy = rules(&[("!model.loaded && !has(device.predictedLatencyMs)", Tier::Edge)]).policy();
    assert_eq!(reason(&on(&policy, &unloaded, Stated::default())), "Rule[0]");
}

#[test]
fn faults_have_the_rules_place() {
    let rule = |when: &str, name: Option<&str>| TierRule {
        when: when.to_owned(),
        tier: Tier::Edge,
        name: name.map(str::to_owned),
    };
    let spec = TierPolicySpec {
        rules: Some(vec![
            rule("true", Some("Easy")),
            rule("request.maxLatency < 50", Some("Easy")),
            rule("request.bytes", Some("lower")),
            rule("request.headers['x-b'] == ''", Some("NoEdgeAgent")),
            rule("true", Some("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456")),
        ]),
        request_headers: [
            "x-a",
            "x-a",
            "X-B",
            "authorization",
            "terrace-tier",
            "",
            "x-terrace-class",
            "privacy",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..TierPolicySpec::default()
    };
    let faults = Policy::parse(&spec).unwrap_err();
    let told: Vec<(&str, &str)> = faults.iter().map(|fault| (&*fault.field, &*fault.message)).collect();
    let expected = [
        ("spec.requestHeaders[1]", "stands here a second time"),
        ("spec.requestHeaders[2]", "must be a header's name in lower case"),
        ("spec.requestHeaders[3]", "carries a secret"),
        ("spec.requestHeaders[4]", "is Terrace's own"),
        ("spec.requestHeaders[5]", "must be a header's name"),
        ("spec.requestHeaders[6]", "is what a request is refused for"),
        ("spec.requestHeaders[7]", "is what a request is refused for"),
        ("spec.rules[1].name", "is another rule's name"),
        ("spec.rules[1].when", "1:9: request has no field maxLatency"),
        ("spec.rules[2].name", "must be CamelCase"),
        ("spec.rules[2].when", "1:1: must give a bool, and gives an int"),
        ("spec.rules[3].name", "is the reason of decisions that no rule takes"),
        ("spec.rules[3].when", "1:16: the header x-b is not among spec.requestHeaders"),
        ("spec.rules[4].name", "must be CamelCase"),
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for ((field, message), (expected_field, part)) in told.into_iter().zip(expected) {
        assert_eq!(field, expected_field);
        assert!(message.starts_with(part), "{field}: {message}");
    }
    let fields = |spec: &TierPolicySpec| {
        Policy::parse(spec).unwrap_err().into_iter().map(|fault| fault.to_string()).collect::<Vec<_>>()
    };
    let unasked = TierPolicySpec {
        mode: Some(Mode::Ensemble),
        ensemble: Some(Ensemble {
            members: vec![Tier::Device, Tier::Cloud],
            combine: None,
            weights: None,
            quorum: None,
        }),
        ..with_headers(&[("true", Tier::Edge)])
    };
    let expected = "goes with mode: Select; the other modes ask no rule";
    assert_eq!(
        fields(&unasked),
        [format!("spec.rules: {expected}"), format!("spec.requestHeaders: {expected}")]
    );
    let none = TierPolicySpec { rules: Some(Vec::new()), ..TierPolicySpec::default() };
    assert_eq!(
        fields(&none),
        ["spec.rules: must have at least one rule; leave it away for the default rules"]
    );
    let many = TierPolicySpec { rules: Some(vec![rule("true", None); 33]), ..TierPolicySpec::default() };
    assert_eq!(fields(&many), ["spec.rules: must have at most 32 rules"]);
}

#[test]
fn a_policy_names_the_labels_that_it_reads() {
    let complexity = Complexity {
        method: Some(ComplexityMethod::Expression),
        expression: Some("node.labels.camera == 'hd' ? 1.0 : 0.1".to_owned()),
        full_bytes: None,
    };
    let rules = with_headers(&[
        ("node.labels['a/b'] == 'x' || 'c' in node.labels", Tier::Edge),
        ("has(node.labels.d) && request.bytes > 1", Tier::Edge),
    ]);
    let policy = Policy::parse(&TierPolicySpec { complexity: Some(complexity), ..rules }).unwrap();
    assert_eq!(policy.labels().into_iter().collect::<Vec<_>>(), ["a/b", "c", "camera", "d"]);
    assert!(Sketch::both_tiers().policy().labels().is_empty());
}

#[test]
fn a_policy_with_everything_resolves_to_itself() {
    let spec = TierPolicySpec {
        complexity: Some(Complexity {
            method: Some(ComplexityMethod::InputSize),
            full_bytes: Some(1 << 20),
            expression: None,
        }),
        ..with_headers(&[("request.headers['x-class'] == 'gold'", Tier::Edge), ("true", Tier::Cloud)])
    };
    let policy = Policy::parse(&spec).unwrap();
    assert_eq!(Policy::parse(&policy.to_spec()).unwrap(), policy);
    let other = Policy::parse(&with_headers(&[("true", Tier::Cloud)])).unwrap();
    assert_ne!(policy, other);
}

#[test]
fn an_explanation_tells_what_each_rule_read_and_said() {
    let policy = Policy::parse(&with_headers(&[
        ("request.maxLatencyMs < 50 && request.complexity < 0.3", Tier::Device),
        ("request.headers['x-none'] == 'a' || request.batch > 9", Tier::Cloud),
        ("node.labels['topology.kubernetes.io/zone'] == 'hall-3' && has(tiers.edge.rttMs)", Tier::Edge),
        ("request.complexity < 0.5", Tier::Edge),
        ("true", Tier::Cloud),
    ]))
    .unwrap();
    let requirements =
        Requirements::tighten(&policy, Tier::Device, Stated::default(), Stated::default()).unwrap();
    let explanation = explain(&policy, &requirements, &Snapshot::of(DEVICE), &Images);
    assert_eq!(reason(&explanation.decision), "Rule[3]");
    assert!(!explanation.is_default);
    let read = |pairs: &[(&str, Option<&str>)]| -> Vec<(String, Option<String>)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
    };
    let told: Vec<_> = explanation.rules.into_iter().map(|rule| (rule.outcome, rule.read)).collect();
    assert_eq!(told[0], (Outcome::NotMatched, read(&[("request.maxLatencyMs", Some("infinite"))])));
    let absent = read(&[("request.headers['x-none']", None), ("request.batch", Some("2"))]);
    assert_eq!(told[1], (Outcome::Failed(EvalError::Absent), absent));
    let known = read(&[
        ("node.labels['topology.kubernetes.io/zone']", Some("\"hall-3\"")),
        ("tiers.edge.rttMs", None),
    ]);
    assert_eq!(told[2], (Outcome::NotMatched, known));
    assert_eq!(told[3], (Outcome::Matched, read(&[("request.complexity", Some("0.4"))])));
    assert_eq!(told[4], (Outcome::NotAsked, read(&[])));
}

#[test]
fn the_default_rules_are_explained_by_the_reasons_that_they_give() {
    let policy = Sketch::both_tiers().policy();
    let stated = Stated { privacy_required: Some(true), ..Stated::default() };
    let requirements = Requirements::tighten(&policy, Tier::Device, stated, Stated::default()).unwrap();
    let explanation = explain(&policy, &requirements, &Snapshot::of(DEVICE), &|| 0.5);
    let names: Vec<&str> = explanation.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "PrivacyRequired",
            "LowComplexityTightDeadline",
            "ModerateDeadline",
            "ModerateComplexity",
            "HighComplexity"
        ]
    );
    assert_eq!(reason(&explanation.decision), names[0]);
}

fn complexity_of(expression: &str, facts: &Cell<usize>) -> Decision {
    let spec = TierPolicySpec {
        complexity: Some(Complexity {
            method: Some(ComplexityMethod::Expression),
            expression: Some(expression.to_owned()),
            full_bytes: None,
        }),
        ..Sketch::both_tiers().spec()
    };
    let policy = Policy::parse(&spec).unwrap();
    decided_counting(&policy, facts)
}

fn decided_counting(policy: &Policy, entropies: &Cell<usize>) -> Decision {
    let requirements =
        Requirements::tighten(policy, Tier::Device, Stated::default(), Stated::default()).unwrap();
    decide(policy, &requirements, &Snapshot::of(DEVICE), || {
        entropies.set(entropies.get() + 1);
        0.5
    })
}

#[test]
fn an_expression_says_how_hard_a_request_is_and_counts_as_hard_where_it_fails() {
    let entropies = Cell::new(0);
    for (expression, complexity, fails) in [
        ("0.25", 0.25, false),
        ("request.batch == 1 ? 0.1 : 0.9", 0.1, false),
        ("double(request.batch) / 4.0", 0.25, false),
        ("1", 1.0, false),
        ("7.5", 1.0, false),
        ("-2.0", 0.0, false),
        ("1.0 / 0.0", 1.0, false),
        ("0.0 / 0.0", 1.0, true),
        ("double(1 / (request.batch - 1))", 1.0, true),
        ("tiers.cloud.rttMs", 1.0, true),
    ] {
        let decision = complexity_of(expression, &entropies);
        assert_eq!(decision.complexity, Some(complexity), "{expression}");
        assert_eq!(decision.failed.complexity(), fails, "{expression}");
        let tier = if complexity < 0.7 { Tier::Edge } else { Tier::Cloud };
        assert_eq!(decision.candidates[0].tier, tier, "{expression}");
    }
    assert_eq!(entropies.get(), 0);
}

#[test]
fn complexity_is_measured_once_however_many_rules_read_it() {
    let entropies = Cell::new(0);
    let policy =
        rules(&[("request.complexity < 0.1", Tier::Device), ("request.complexity < 0.6", Tier::Edge)]);
    assert_eq!(reason(&decided_counting(&policy.policy(), &entropies)), "Rule[1]");
    assert_eq!(entropies.get(), 1);
}

#[test]
fn a_complexity_that_cannot_be_is_refused_where_it_stands() {
    use ComplexityMethod::{Entropy, Expression, InputSize};

    let parse = |method, full_bytes, expression: Option<&str>| {
        let complexity = Complexity { method, full_bytes, expression: expression.map(str::to_owned) };
        let spec = TierPolicySpec { complexity: Some(complexity), ..TierPolicySpec::default() };
        let faults = Policy::parse(&spec).err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.to_string()).collect::<Vec<_>>()
    };
    for (method, full_bytes, expression, expected) in [
        (None, None, None, None),
        (Some(Entropy), None, None, None),
        (Some(InputSize), Some(1), None, None),
        (Some(Expression), None, Some("0.5"), None),
        (Some(InputSize), None, None, Some("spec.complexity.fullBytes: is missing")),
        (Some(InputSize), Some(0), None, Some("spec.complexity.fullBytes: must be at least 1")),
        (None, Some(1), None, Some("spec.complexity.fullBytes: belongs to method InputSize alone")),
        (None, None, Some("1"), Some("spec.complexity.expression: belongs to method Expression alone")),
        (Some(Expression), None, None, Some("spec.complexity.expression: is missing")),
        (
            Some(Expression),
            None,
            Some("true"),
            Some("spec.complexity.expression: 1:1: must give a number, and gives a bool"),
        ),
        (
            Some(Expression),
            None,
            Some("request.complexity"),
            Some("spec.complexity.expression: 1:9: request.complexity is what this expression says"),
        ),
    ] {
        let faults = parse(method, full_bytes, expression);
        match expected {
            None => assert_eq!(faults, Vec::<String>::new()),
            Some(expected) => {
                assert!(faults.len() == 1 && faults[0].starts_with(expected), "{faults:?}, not {expected}");
            }
        }
    }
}

/// A request of so many bytes.
struct Sized(u64);

impl Facts for Sized {
    fn entropy(&self) -> f64 {
        0.0
    }
    fn bytes(&self) -> u64 {
        self.0
    }
}

fn by_size(bytes: u64, full_bytes: u64) -> f64 {
    let complexity = Complexity {
        method: Some(ComplexityMethod::InputSize),
        full_bytes: Some(full_bytes),
        expression: None,
    };
    let spec = TierPolicySpec { complexity: Some(complexity), ..Sketch::both_tiers().spec() };
    let policy = Policy::parse(&spec).unwrap();
    let requirements =
        Requirements::tighten(&policy, Tier::Device, Stated::default(), Stated::default()).unwrap();
    decide(&policy, &requirements, &Snapshot::of(DEVICE), Sized(bytes)).complexity.unwrap()
}

#[test]
fn input_size_is_a_share_of_the_full_bytes() {
    for (bytes, full_bytes, expected) in
        [(0, 1, 0.0), (1, 4, 0.25), (3, 4, 0.75), (4, 4, 1.0), (5, 4, 1.0), (u64::MAX, 1, 1.0)]
    {
        assert_eq!(by_size(bytes, full_bytes).to_bits(), f64::to_bits(expected), "{bytes} of {full_bytes}");
    }
}

proptest! {
    #[test]
    fn input_size_lies_between_0_and_1_and_grows_with_the_bytes(
        one in any::<u64>(), other in any::<u64>(), full_bytes in 1..u64::MAX,
    ) {
        let (small, large) = (by_size(one.min(other), full_bytes), by_size(one.max(other), full_bytes));
        prop_assert!((0.0..=1.0).contains(&small) && (0.0..=1.0).contains(&large));
        prop_assert!(small <= large);
    }

    /// What is explained is what is decided, and the rule that is said to have matched is the reason.
    #[test]
    fn an_explanation_has_the_decision_itself(
        sketch in sketch(), node in node(), stated in stated(), complexity in 0.0..=1.0,
    ) {
        let policy = policy(sketch.as_ref());
        let Ok(requirements) = Requirements::tighten(&policy, node.tier, stated, Stated::default()) else {
            return Ok(());
        };
        let snapshot = Snapshot::of(node);
        let explanation = explain(&policy, &requirements, &snapshot, &|| complexity);
        let decision = decide(&policy, &requirements, &snapshot, || complexity);
        prop_assert_eq!(&explanation.decision, &decision);
        let matched: Vec<_> =
            explanation.rules.iter().filter(|rule| rule.outcome == Outcome::Matched).collect();
        let is_ruled = !matches!(
            decision.reason,
            Reason::Forwarded | Reason::NoPolicy | Reason::ConfidenceMissing | Reason::PrivacyRequired
                | Reason::RequestedTier | Reason::NoRuleMatched | Reason::RulesFailed
        );
        prop_assert_eq!(matched.len(), usize::from(is_ruled), "{:?}", explanation);
        if let [rule] = matched[..] && decision.reason != Reason::TierNotConfigured {
            prop_assert_eq!(&rule.name, decision.reason.as_str());
            prop_assert_eq!(rule.tier, decision.candidates.first().map_or(rule.tier, |first| if first.source == terrace_tiering::Source::Primary { first.tier } else { rule.tier }));
        }
    }
}

#[test]
fn no_rule_is_called_what_decisions_are_called_that_no_rule_takes() {
    for name in
        ["Forwarded", "NoPolicy", "PrivacyRequired", "TierNotConfigured", "SiteUnknown", "NoEdgeAgent"]
    {
        let rule = TierRule { when: "true".to_owned(), tier: Tier::Device, name: Some(name.to_owned()) };
        let spec = TierPolicySpec { rules: Some(vec![rule]), ..TierPolicySpec::default() };
        let faults = Policy::parse(&spec).unwrap_err();
        assert_eq!(faults[0].field, "spec.rules[0].name", "{name}");
    }
}
