//! A node's spec fits into one object, whatever it is asked to hold.

#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

use serde_json::json;
use terrace_crds::InferenceNodeSpec;
use terrace_crds::node::NodeModel;
use terrace_fleet::{NODE_SPEC_TOO_LARGE, fit};

fn spec(models: usize, uri: usize) -> InferenceNodeSpec {
    let model = |number: usize| -> NodeModel {
        serde_json::from_value(json!({
            "namespace": "default", "name": format!("model-{number:05}"), "revision": format!("imodel-{number:05}"),
            "artifact": {"uri": format!("https://models.example/{}", "m".repeat(uri)), "sha256": "a".repeat(64)},
            "runtime": {"threads": 2},
            "policy": format!("policy-{number}"),
        }))
        .unwrap()
    };
    let policies = (0..models)
        .map(|number| (format!("policy-{number}"), serde_json::from_value(json!({})).unwrap()))
        .collect();
    InferenceNodeSpec { models: (0..models).map(model).collect(), policies, ..InferenceNodeSpec::default() }
}

fn bytes(spec: &InferenceNodeSpec) -> usize {
    serde_json::to_vec(spec).unwrap().len()
}

/// Served, only forwarded, and left out.
fn counts(spec: &InferenceNodeSpec, models: usize) -> (usize, usize, usize) {
    let served = spec.models.iter().filter(|model| model.artifact.is_some()).count();
    (served, spec.models.len() - served, models - spec.models.len())
}

#[test]
fn what_fits_is_left_alone() {
    let fits = spec(64, 100);
    for room in [bytes(&fits), 512 << 10] {
        let mut same = fits.clone();
        fit(&mut same, room);
        assert_eq!(same, fits);
    }
}

#[test]
fn the_last_models_are_not_served_and_say_why() {
    let mut large = spec(100, 1000);
    let room = bytes(&large) - 1;
    fit(&mut large, room);
    assert!(bytes(&large) <= room);
    assert_eq!(counts(&large, 100), (99, 1, 0));
    let last = large.models.last().unwrap();
    let why = last.not_placed.as_ref().unwrap();
    assert_eq!(why.reason, NODE_SPEC_TOO_LARGE);
    assert!(why.message.contains("place fewer models"), "{}", why.message);
    assert_eq!(last.revision, "imodel-00099", "its callers are forwarded as before");
    assert_eq!(large.policies.len(), 100);
}

#[test]
fn any_number_of_models_fits_into_any_room() {
    for (models, uri, room) in
        [(100, 1000, 64 << 10), (2_000, 200, 512 << 10), (20_000, 50, 512 << 10), (10, 10, 200), (3, 9, 0)]
    {
        let mut large = spec(models, uri);
        fit(&mut large, room);
        let (served, forwarded, left_out) = counts(&large, models);
        let empty = bytes(&InferenceNodeSpec::default());
        assert!(bytes(&large) <= room.max(empty), "{models}: {} bytes", bytes(&large));
        assert_eq!(large.policies.len(), served + forwarded, "no policy without its model");
        assert!(left_out == 0 || served == 0, "{served} are served while {left_out} are left out");
        // No more is taken than must be: one model served more would not fit.
        assert!(
            served == 0 || room - bytes(&large) < 2 * (uri + 400),
            "{models}: {} bytes unused",
            room - bytes(&large)
        );
    }
}
