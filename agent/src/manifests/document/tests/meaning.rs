use super::{assert_faults, model, model_and, policy};

#[test]
fn a_model_that_makes_no_sense_is_refused() {
    let source =
        |fields: &str| model(&format!("  source:\n    uri: https://models.example/a.onnx\n{fields}"));
    assert_faults(&[
        (
            "a short digest",
            source("    sha256: abc\n"),
            &["8: spec.source.sha256: must be a SHA-256: exactly 64 lower-case hexadecimal digits"],
        ),
        (
            "no digest",
            source(""),
            &[
                "6: spec.source: needs exactly one of sha256 and sha256From: what runs is always pinned by digest",
            ],
        ),
        (
            "two digests",
            source("    sha256: DIGEST\n    sha256From: https://models.example/SHA256SUMS\n"),
            &[
                "6: spec.source: needs exactly one of sha256 and sha256From: what runs is always pinned by digest",
            ],
        ),
        (
            "an interval without anything to read",
            source("    sha256: DIGEST\n    syncInterval: 15m\n"),
            &["9: spec.source.syncInterval: needs sha256From: a fixed sha256 never changes"],
        ),
        (
            "a scheme that nobody reads",
            source("    sha256: DIGEST\n").replace("https:", "ftp:"),
            &[
                "7: spec.source.uri: scheme ftp is not supported; use https://, file:// (below the agent's --file-root), or http:// with --allow-http-sources",
            ],
        ),
        (
            "what the flags do not allow",
            model_and(
                "  verification:
    cases:
      uri: https://elsewhere/cases.json
      sha256: DIGEST
",
            )
            .replace("sha256: DIGEST\n  ver", "sha256From: https://elsewhere/SHA256SUMS\n  ver"),
            &[
                "8: spec.source.sha256From: is not allowed here",
                "11: spec.verification.cases.uri: is not allowed here",
            ],
        ),
        (
            "numbers and names out of range",
            model_and(
                "  upstreams:
    edge:
      model: a/b
  runtime:
    threads: 0
    instances: 65
  verification:
    maxLatency: 0s
  policyRef:
    name: Near
",
            ),
            &[
                "11: spec.upstreams.edge.model: must be a model's name as in a URL, such as digits or vision.digits: at most 253 letters, digits, dots, hyphens and underscores, the first a letter or digit",
                "13: spec.runtime.threads: must be from 1 to 256",
                "14: spec.runtime.instances: must be from 1 to 64",
                "16: spec.verification.maxLatency: must be positive",
                "18: spec.policyRef.name: must be a DNS label: at most 63 lower-case letters, digits and hyphens, no hyphen at either end",
            ],
        ),
    ]);
}

#[test]
fn a_policy_that_makes_no_sense_is_refused() {
    assert_faults(&[(
        "urls, durations and order",
        policy(
            "  tiers:
    edge:
      url: http://user:secret@gateway.example
      port: 8000
    cloud:
      url: http://10.0.0.1
      timeout: 0s
  fallback:
    order: [Edge, Edge]
",
        ),
        &[
            "8: spec.tiers.edge.url: must not hold a user name or a password: everyone who can read the policy would read them",
            "9: spec.tiers.edge.port: is not known: expected auth, breaker, hedge, maxInFlight, protocol, site, timeout, tls, url",
            "11: spec.tiers.cloud.url: needs --allow-upstream",
            "12: spec.tiers.cloud.timeout: must be positive",
            "14: spec.fallback.order: must name each tier once at most",
        ],
    )]);
}
