//! How long a decision takes, and how long measuring a complexity takes (`make bench-decide`).
//!
//! Each figure is the median of rounds, with the least and the greatest: the noise of the machine that it ran on.

use std::hint::black_box;
use std::time::{Duration, Instant};

use terrace_crds::policy::{Complexity, ComplexityMethod, RemoteTier, TierRule, Tiers};
use terrace_crds::{Tier, TierPolicySpec};
use terrace_tiering::{
    Elements, Facts, Input, LocalModel, Node, Policy, Requirements, Snapshot, Stated, decide, entropy,
};

const ROUNDS: usize = 21;
/// How long a round is, at least.
const ROUND: Duration = Duration::from_millis(20);

/// A request for an image model.
struct Image;

impl Facts for Image {
    fn entropy(&self) -> f64 {
        0.5
    }
    fn bytes(&self) -> u64 {
        602_112
    }
    fn input_count(&self) -> usize {
        1
    }
    fn input(&self, name: &str) -> Option<Input<'_>> {
        (name == "image").then_some(Input { shape: &[1, 3, 224, 224], datatype: "FP32" })
    }
    fn header(&self, name: &str) -> Option<&str> {
        (name == "x-class").then_some("silver")
    }
    fn label(&self, _: &str) -> Option<&str> {
        Some("hall-3")
    }
}

/// Ten rules of which the last matches, so that all are asked.
const TEN: [&str; 10] = [
    "request.privacyRequired && node.tier == 'device'",
    "request.maxLatencyMs < 50 && request.complexity < 0.3",
    "'x-class' in request.headers && request.headers['x-class'] == 'gold'",
    "request.inputs['image'].shape[0] > 8 || request.bytes > 4000000",
    "request.inputs['image'].datatype in ['FP16', 'BF16', 'INT8']",
    "device.queueDepth > 8 && tiers.edge.available && tiers.edge.breaker != 'open'",
    "has(tiers.edge.predictedLatencyMs) && tiers.edge.predictedLatencyMs * 2.0 < request.maxLatencyMs",
    "node.labels['topology.kubernetes.io/zone'].startsWith('yard')",
    "model.name.contains('large') && request.complexity > 0.9",
    "request.complexity < 0.7 || request.maxLatencyMs < 200",
];

fn policy(rules: &[&str], complexity: Option<Complexity>) -> Result<Policy, String> {
    let tier = |url: &str| Some(RemoteTier { url: Some(url.to_owned()), ..RemoteTier::default() });
    let rule = |when: &&str| TierRule { when: (*when).to_owned(), tier: Tier::Edge, name: None };
    let spec = TierPolicySpec {
        tiers: Tiers { edge: tier("http://edge:8000"), cloud: tier("http://cloud:8000") },
        rules: (!rules.is_empty()).then(|| rules.iter().map(rule).collect()),
        request_headers: vec!["x-class".to_owned()],
        complexity,
        ..TierPolicySpec::default()
    };
    Policy::parse(&spec).map_err(|faults| format!("{faults:?}"))
}

/// Nanoseconds of one call: the median of rounds, the least and the greatest.
fn measure(mut call: impl FnMut()) -> [f64; 3] {
    let mut calls = 1_u32;
    let mut round = |calls: u32| {
        let begun = Instant::now();
        for _ in 0..calls {
            call();
        }
        begun.elapsed()
    };
    while round(calls) < ROUND {
        calls = calls.saturating_mul(2);
    }
    let mut rounds: Vec<f64> =
        (0..ROUNDS).map(|_| round(calls).as_nanos() as f64 / f64::from(calls)).collect();
    rounds.sort_by(f64::total_cmp);
    [rounds[ROUNDS / 2], rounds[0], rounds[ROUNDS - 1]]
}

fn row(name: &str, [median, least, greatest]: [f64; 3], more: &str) {
    println!("| {name} | {median:.1} | {least:.1}–{greatest:.1} | {more} |");
}

fn decisions() -> Result<(), String> {
    println!("| decision | ns | least–greatest | |\n|---|---|---|---|");
    let snapshot = Snapshot::of(Node { tier: Tier::Device, model: LocalModel::Serving });
    let by_size =
        Complexity { method: Some(ComplexityMethod::InputSize), full_bytes: Some(1 << 20), expression: None };
    let stated = Stated { complexity: Some(0.5), ..Stated::default() };
    let private = Stated { privacy_required: Some(true), ..stated };
    for (name, policy, stated) in [
        ("default rules, complexity stated", policy(&[], None)?, stated),
        ("default rules, private", policy(&[], None)?, private),
        ("default rules, InputSize", policy(&[], Some(by_size))?, Stated::default()),
        ("one rule in CEL", policy(&TEN[9..], None)?, stated),
        ("ten rules in CEL, the last matches", policy(&TEN, None)?, stated),
    ] {
        let requirements = Requirements::tighten(&policy, Tier::Device, stated, Stated::default())
            .map_err(|error| error.to_string())?;
        let call = || {
            black_box(decide(black_box(&policy), black_box(&requirements), black_box(&snapshot), Image));
        };
        row(name, measure(call), "");
    }
    Ok(())
}

fn entropies() {
    println!("\n| entropy of | ns | least–greatest | ns a byte |\n|---|---|---|---|");
    for values in [64_usize, 1 << 10, 1 << 14, 1 << 16, 150_528, 1 << 20, 1 << 24] {
        let floats: Vec<f32> = (0..values).map(|place| (place % 251) as f32 * 0.37).collect();
        let bytes: Vec<u8> = (0..values).map(|place| u8::try_from(place % 251).unwrap_or_default()).collect();
        for (kind, elements, size) in
            [("FP32", Elements::F32(&floats), values * 4), ("UINT8", Elements::U8(&bytes), values)]
        {
            let measured = measure(|| {
                black_box(entropy(black_box(&[elements])));
            });
            row(&format!("{values} {kind}"), measured, &format!("{:.4}", measured[0] / size as f64));
        }
    }
}

fn main() -> Result<(), String> {
    decisions()?;
    entropies();
    Ok(())
}
