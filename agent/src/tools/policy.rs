//! The policy that a tool is asked about, out of a file of manifests.

use kube::ResourceExt as _;
use terrace_tiering::Policy;

use crate::manifests;

/// The only policy of a file; or, of several, the one with this name.
pub(super) fn read(file: &str, name: Option<&str>) -> anyhow::Result<Policy> {
    let text = super::text(file, manifests::MOST_BYTES)?;
    let set = manifests::read_text(file, &text, "default").map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", faults.join("\n"))
    })?;
    let mut named = set.policies.iter().filter(|policy| name.is_none_or(|name| policy.name_any() == name));
    let policy = match (named.next(), named.next()) {
        (Some(policy), None) => policy,
        (None, _) => anyhow::bail!("{file} has no such TierPolicy"),
        (Some(_), Some(_)) => anyhow::bail!("{file} has several TierPolicies: say which with --policy-name"),
    };
    Policy::parse(&policy.spec).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{file}: {}", faults.join("; "))
    })
}
