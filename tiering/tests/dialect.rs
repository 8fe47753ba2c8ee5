//! docs/policies.md says where Terrace CEL differs from CEL in Kubernetes: each row does what it says.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests fail like tests

use terrace_crds::policy::TierRule;
use terrace_crds::{Tier, TierPolicySpec};
use terrace_tiering::{LocalModel, Node, Outcome, Policy, Requirements, Snapshot, Stated, explain};

const PAGE: &str = include_str!("../../docs/policies.md");

/// What a rule says of a request without a deadline, inputs and headers.
fn said(when: &str) -> Result<Outcome, String> {
    let spec = TierPolicySpec {
        rules: Some(vec![TierRule { when: when.to_owned(), tier: Tier::Device, name: None }]),
        request_headers: vec!["x-class".to_owned()],
        ..TierPolicySpec::default()
    };
    let policy = Policy::parse(&spec).map_err(|faults| faults[0].message.clone())?;
    let requirements =
        Requirements::tighten(&policy, Tier::Device, Stated::default(), Stated::default()).unwrap();
    let snapshot = Snapshot::of(Node { tier: Tier::Device, model: LocalModel::Serving });
    Ok(explain(&policy, &requirements, &snapshot, &|| 0.5).rules[0].outcome)
}

#[test]
fn each_row_of_the_dialects_table_does_what_it_says() {
    let table = PAGE.split("| expression | Kubernetes | Terrace |").nth(1).unwrap();
    let mut rows = 0;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        rows += 1;
        let row = row.replace("\\|", "\u{1}");
        let cells: Vec<String> =
            row.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect();
        let [expression, kubernetes, terrace] = <[String; 3]>::try_from(cells).unwrap();
        let said = said(expression.trim_matches('`'));
        let expected = if terrace == "the same" { &kubernetes } else { &terrace };
        match said {
            Err(message) => {
                let part = terrace.strip_prefix("not accepted: `").and_then(|rest| rest.strip_suffix('`'));
                let part = part.unwrap_or_else(|| panic!("{expression}: {message}"));
                assert!(message.contains(part), "{expression}: {message}");
            }
            Ok(Outcome::Matched) => {
                assert!(
                    expected.starts_with("true") || expected.starts_with("ordering"),
                    "{expression}: true"
                );
            }
            Ok(Outcome::NotMatched) => assert!(expected.starts_with("false"), "{expression}: false"),
            Ok(Outcome::Failed(_)) => assert!(expected.starts_with("fails"), "{expression}: fails"),
            Ok(Outcome::NotAsked) => panic!("{expression} was not asked"),
        }
    }
    assert!(rows >= 20, "{rows} rows");
}

#[test]
fn the_page_names_every_variable_and_none_that_is_not() {
    let table = PAGE.split("| variable | type | |").nth(1).unwrap();
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cell = row.split('|').nth(1).unwrap();
        for variable in cell.split('`').skip(1).step_by(2) {
            let (base, is_field) = match variable.strip_prefix('.') {
                Some(field) => (format!("request.inputs['x'].{field}"), true),
                None => (variable.to_owned(), false),
            };
            // Compared with itself, whatever its type; a list is not comparable, and has a size.
            let when = if base.ends_with("shape") {
                format!("size({base}) >= 0")
            } else {
                format!("{base} == {base}")
            };
            assert!(said(&when).is_ok(), "{variable} ({is_field}): {:?}", said(&when));
        }
    }
    let unknown = |place: &str| said(&format!("{place}.nothing == 1")).unwrap_err();
    for (place, listed) in [("request", 7), ("model", 3), ("node", 2), ("device", 3), ("tiers.edge", 6)] {
        let message = unknown(place);
        let fields: Vec<&str> = message.split_once("expected ").unwrap().1.split(", ").collect();
        assert_eq!(fields.len(), listed, "{message}");
        for field in fields {
            assert!(table.contains(&format!("{place}.{field}")), "the page lacks {place}.{field}");
        }
    }
}
