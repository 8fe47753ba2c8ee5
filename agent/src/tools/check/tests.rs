//! Checks of small files, by hand.

use std::fs;

use super::*;
use crate::tools::parsed;

fn said(line: &[&str]) -> (bool, String, String) {
    let (mut out, mut warnings) = (Vec::new(), Vec::new());
    let accepted = run(&parsed(line).unwrap(), &mut out, &mut warnings).unwrap();
    (accepted, String::from_utf8(out).unwrap(), String::from_utf8(warnings).unwrap())
}

fn check(files: &[&Path]) -> (bool, String) {
    let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let (accepted, told, _) = said(&files);
    (accepted, told)
}

const GOOD: &str = "\
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata: {name: mine}
spec:
  rules:
    - {when: request.maxLatencyMs < 50, tier: Device}
";
const BAD: &str = "\
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata: {name: mine}
spec:
  rules:
    - {when: 'true', tier: Device}
    - when: >-
        request.bytes > 10 &&
        request.maxLatency < 50
      tier: Edge
---
apiVersion: terrace.dev/v1alpha1
kind: InferenceModel
metadata: {name: digits}
spec:
  source: {uri: 'ftp://a/b', sha256: abc}
";

#[test]
fn what_is_right_is_accepted_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("good.yaml");
    fs::write(&file, GOOD).unwrap();
    let (accepted, told) = check(&[&file]);
    assert!(accepted, "{told}");
    assert_eq!(told, format!("{}: accepted: 0 models, 1 policy\n", file.display()));
    assert!(check(&[folder.path()]).0);
}

#[test]
fn what_is_wrong_is_told_with_its_file_line_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.yaml"), folder.path().join("bad.yaml"));
    fs::write(&good, GOOD).unwrap();
    fs::write(&bad, BAD).unwrap();
    let (accepted, told) = check(&[&bad]);
    assert!(!accepted);
    let lines: Vec<&str> = told.lines().collect();
    let start = format!("{}:7: spec.rules[1].when: 1:31: request has no field maxLatency", bad.display());
    assert!(lines[0].starts_with(&start), "{told}");
    assert!(lines[1].starts_with(&format!("{}:16: spec.source", bad.display())), "{told}");
    assert_eq!(lines.len(), 3, "{told}");

    let (accepted, told) = check(&[&good, &bad]);
    assert!(!accepted && told.contains("good.yaml: accepted"), "{told}");
}

#[test]
fn a_folder_is_checked_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.yaml", "b.yaml"] {
        fs::write(folder.path().join(name), GOOD).unwrap();
    }
    let (accepted, told) = check(&[folder.path()]);
    assert!(!accepted && told.contains("TierPolicy default/mine is in a.yaml already"), "{told}");
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let args = parsed(["/does/not/exist.yaml"]).unwrap();
    let error = run(&args, &mut Vec::new(), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.starts_with("/does/not/exist.yaml cannot be read"), "{error}");
}

/// A model with this source, and what comes after it.
fn model(source: &str, more: &str) -> String {
    format!(
        "apiVersion: terrace.dev/v1alpha1\nkind: InferenceModel\nmetadata: {{name: digits}}\nspec:\n  source: {{{source}}}\n{more}"
    )
}

fn policy(spec: &str) -> String {
    format!("apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata: {{name: near}}\nspec: {spec}\n")
}

#[test]
fn each_says_what_it_alone_refuses_and_the_flags_of_agents_count() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let digest = "0123456789abcdef".repeat(4);
    let pinned = |uri: &str| model(&format!("uri: '{uri}', sha256: {digest}"), "");
    let published = |uri: &str| model(&format!("uri: 'https://a.example/a', sha256From: '{uri}'"), "");
    let at = |url: &str| policy(&format!("{{tiers: {{cloud: {{url: '{url}'}}}}}}"));
    let foreign = policy("{}") + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let (standalone, operator) = (Some(Follower::Standalone), Some(Follower::Cluster));
    for (text, flags, refused_by) in [
        (pinned("https://a.example/a"), &[][..], None),
        (pinned("file:///a"), &[], standalone),
        (pinned("file:///a"), &["--file-root", "/srv"], None),
        (pinned("http://a.example/a"), &[], standalone),
        (pinned("http://a.example/a"), &["--allow-http-sources"], None),
        (at("http://127.0.0.1:1"), &[], standalone),
        (at("http://127.0.0.1:1"), &["--allow-upstream", "127.0.0.1"], None),
        (at("https://cloud.example"), &["--allow-upstream", "other.example"], standalone),
        (published("https://a.example/sums"), &[], None),
        (published("file:///sums"), &["--file-root", "/srv"], operator),
        (policy("{tiers: {edge: {site: {}}}}"), &[], standalone),
        (foreign, &[], standalone),
    ] {
        fs::write(&file, &text).unwrap();
        let line = |by: &[&'static str]| [&[file.to_str().unwrap()][..], flags, by].concat();
        let (accepted, told, _) = said(&line(&[]));
        assert_eq!(accepted, refused_by.is_none(), "{text}{told}");
        if let Some(by) = refused_by {
            assert!(told.lines().all(|line| line.ends_with(&format!(" ({})", by.alone()))), "{told}");
        }
        for (name, by) in [("cluster", Follower::Cluster), ("standalone", Follower::Standalone)] {
            let (accepted, told, _) = said(&line(&["--for", name]));
            assert_eq!(accepted, refused_by != Some(by), "{name}: {text}{told}");
            assert!(!told.contains("refuses this"), "{told}");
        }
    }
}

#[test]
fn what_agents_of_a_cluster_do_not_reach_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, policy("{tiers: {cloud: {url: 'https://cloud.example'}}}")).unwrap();
    let line = [file.to_str().unwrap(), "--for", "cluster", "--allow-upstream", "other.example"];
    let (accepted, told, warnings) = said(&line);
    assert!(accepted && told.contains("accepted"), "{told}");
    assert!(
        warnings.starts_with("warning: ") && warnings.contains("a.yaml:4: spec.tiers.cloud.url: "),
        "{warnings}"
    );
    assert!(!said(&[&line[..], &["--strict"]].concat()).0);
}

#[test]
fn what_does_not_fit_together_is_a_warning_with_its_line_over_all_files() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one.yaml"), folder.path().join("other.yaml"));
    let source = format!("uri: 'https://a.example/a', sha256: {}", "0123456789abcdef".repeat(4));
    fs::write(&one, model(&source, "  policyRef: {name: near}\n")).unwrap();
    fs::write(&other, policy("{rules: [{when: 'true', tier: Cloud}]}")).unwrap();
    let (one, other) = (one.to_str().unwrap(), other.to_str().unwrap());
    let (accepted, _, warnings) = said(&[one]);
    assert!(
        accepted && warnings.starts_with(&format!("warning: {one}:6: spec.policyRef: no TierPolicy")),
        "{warnings}"
    );
    assert_eq!((said(&[one, "--strict"]).0, said(&[other, "--strict"]).0), (false, false));
    for files in [&[one, other][..], &[folder.path().to_str().unwrap()]] {
        let (accepted, _, warnings) = said(files);
        assert!(accepted, "{warnings}");
        assert_eq!(warnings.lines().count(), 1, "{warnings}");
        assert!(warnings.contains("other.yaml:4: spec.rules[0].tier: is Cloud"), "{warnings}");
    }
}

#[test]
fn nothing_checked_is_nothing_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let (accepted, told) = check(&[folder.path()]);
    assert!(!accepted && told.ends_with("holds no *.yaml, *.yml or *.json\n"), "{told}");
    let file = folder.path().join("a.yaml");
    fs::write(&file, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n").unwrap();
    let (accepted, told, _) = said(&[file.to_str().unwrap(), "--for", "cluster"]);
    assert!(!accepted && told.contains("and 1 of other kinds\nnothing was checked"), "{told}");
}
