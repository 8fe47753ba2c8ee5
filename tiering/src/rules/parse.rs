//! The rules of a policy's spec, checked and compiled; and the headers that they may read.

use std::sync::Arc;

use terrace_crds::TierPolicySpec;
use terrace_crds::policy::TierRule as Spec;

use super::{MAX_RULES, Rule, RuleName};
use crate::cel::{Declarations, Expression, Type};
use crate::decide::Reason;
use crate::policy::Fault;
use crate::stated::is_refused_header;

/// The most headers that rules may read; also in the CRD's schema.
const MAX_HEADERS: usize = 16;
/// The longest name of a header, in bytes.
const MAX_HEADER_NAME: usize = 64;
/// Headers whose values are secrets: they would stand in explanations.
const SECRET_HEADERS: [&str; 13] = [
    "api-key",
    "apikey",
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-access-token",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-forwarded-client-cert",
    "x-goog-api-key",
];

/// The headers that `spec.requestHeaders` lists.
pub(crate) fn headers(spec: &TierPolicySpec, faults: &mut Vec<Fault>) -> Vec<String> {
    const FIELD: &str = "spec.requestHeaders";
    if spec.request_headers.len() > MAX_HEADERS {
        faults.push(Fault::new(FIELD, format!("must list at most {MAX_HEADERS} headers")));
    }
    for (place, name) in spec.request_headers.iter().enumerate() {
        let wrong = if !is_header_name(name) {
            "must be a header's name in lower case, of at most 64 characters".to_owned()
        } else if SECRET_HEADERS.contains(&name.as_str()) {
            "carries a secret, which would stand in explanations and records: rules cannot read it".to_owned()
        } else if name.starts_with("terrace-") {
            "is Terrace's own: rules read request.maxLatencyMs and request.complexity, and a private request is asked of none"
                .to_owned()
        } else if is_refused_header(name) {
            "is what a request is refused for: it is taken for a header of Terrace's, misspelt; choose another name"
                .to_owned()
        } else if spec.request_headers[..place].contains(name) {
            "stands here a second time".to_owned()
        } else {
            continue;
        };
        faults.push(Fault::new(format!("{FIELD}[{place}]"), wrong));
    }
    spec.request_headers.clone()
}

fn is_header_name(name: &str) -> bool {
    let is_token =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=MAX_HEADER_NAME).contains(&name.len()) && name.bytes().all(is_token)
}

/// The rules that `spec.rules` has; none where the default ones hold.
pub(crate) fn parse(
    rules: Option<&[Spec]>,
    headers: &[String],
    faults: &mut Vec<Fault>,
) -> Option<Arc<[Rule]>> {
    const FIELD: &str = "spec.rules";
    let rules = rules?;
    if rules.is_empty() {
        faults.push(Fault::new(FIELD, "must have at least one rule; leave it away for the default rules"));
    }
    if rules.len() > MAX_RULES {
        faults.push(Fault::new(FIELD, format!("must have at most {MAX_RULES} rules")));
    }
    let declarations = Declarations { headers, complexity: true };
    let mut parsed: Vec<Rule> = Vec::with_capacity(rules.len());
    for (place, rule) in rules.iter().enumerate() {
        let name = match &rule.name {
            None => RuleName::at(place),
            Some(name) => match accepted(name, &parsed) {
                Ok(name) => name,
                Err(message) => {
                    faults.push(Fault::new(format!("{FIELD}[{place}].name"), message));
                    RuleName::at(place)
                }
            },
        };
        match Expression::compile(&rule.when, Type::Bool, &declarations) {
            Ok(when) => parsed.push(Rule { name, is_named: rule.name.is_some(), when, tier: rule.tier }),
            Err(error) => faults.push(Fault::new(format!("{FIELD}[{place}].when"), error.to_string())),
        }
    }
    Some(parsed.into())
}

/// A mode that asks no rule has none.
pub(crate) fn refuse_unasked(spec: &TierPolicySpec, faults: &mut Vec<Fault>) {
    let fields = [
        ("spec.rules", spec.rules.is_some()),
        ("spec.complexity", spec.complexity.is_some()),
        ("spec.requestHeaders", !spec.request_headers.is_empty()),
    ];
    let there = fields.into_iter().filter(|(_, is_there)| *is_there);
    faults.extend(
        there.map(|(field, _)| Fault::new(field, "goes with mode: Select; the other modes ask no rule")),
    );
}

/// A rule's name, where it says what no other reason says.
fn accepted(name: &str, before: &[Rule]) -> Result<RuleName, String> {
    let parsed = RuleName::parse(name)
        .ok_or("must be CamelCase: an upper-case letter, then letters and digits, at most 32 in all")?;
    if Reason::RESERVED.iter().any(|reason| reason.as_str() == name) {
        return Err("is the reason of decisions that no rule takes: choose another one".to_owned());
    }
    if before.iter().any(|rule| rule.name == parsed) {
        return Err("is another rule's name already".to_owned());
    }
    Ok(parsed)
}

impl Rule {
    /// The same as a spec.
    pub(crate) fn to_spec(&self) -> Spec {
        Spec {
            when: self.when.text().to_owned(),
            tier: self.tier,
            name: self.is_named.then(|| self.name.as_str().to_owned()),
        }
    }
}
