//! What several tools are given: the policy that they are asked about, and the labels of the node that decides.

use std::collections::BTreeMap;
use std::path::Path;

use kube::ResourceExt as _;
use terrace_crds::TierPolicy;
use terrace_tiering::Policy;

use crate::args;
use crate::manifests::{self, Fault};

/// The most names that an error tells.
const MOST_NAMES: usize = 8;

/// Which policy.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PolicyArgs {
    /// Manifest with the policy, a folder of manifests, or - for standard input.
    #[arg(long, value_name = "FILE")]
    policy: String,

    /// Which policy, where there are several: NAME, or NAMESPACE.NAME.
    #[arg(long, value_name = "NAME")]
    policy_name: Option<String>,
}

/// Where the node is.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LabelArgs {
    /// A label of the node that decides. Repeatable.
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = args::label)]
    pub(super) node_labels: Vec<(String, String)>,
}

impl LabelArgs {
    /// By key.
    pub(super) fn read(&self) -> BTreeMap<String, String> {
        self.node_labels.iter().cloned().collect()
    }
}

impl PolicyArgs {
    /// The only policy; or, of several, the one with the name.
    pub(super) fn read(&self) -> anyhow::Result<Policy> {
        let policies = self.policies()?;
        let policy = self.named(&policies)?;
        Policy::parse(&policy.spec).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}: {}", self.policy, faults.join("; "))
        })
    }

    fn policies(&self) -> anyhow::Result<Vec<TierPolicy>> {
        let file = &self.policy;
        let path = Path::new(file);
        let read = if path.is_dir() {
            manifests::read_folder(path, "default")?
        } else {
            let text = super::text(file, manifests::MOST_BYTES)?;
            manifests::read_text(file, &text, "default")
        };
        let sets = read.map_err(|faults: Vec<Fault>| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", faults.join("\n"))
        })?;
        Ok(sets.into_iter().flat_map(|set| set.policies).collect())
    }

    fn named<'p>(&self, policies: &'p [TierPolicy]) -> anyhow::Result<&'p TierPolicy> {
        let file = &self.policy;
        let full =
            |policy: &TierPolicy| format!("{}.{}", policy.namespace().unwrap_or_default(), policy.name_any());
        let is_meant = |policy: &&TierPolicy| match &self.policy_name {
            None => true,
            Some(name) => policy.name_any() == *name || full(policy) == *name,
        };
        let meant: Vec<&TierPolicy> = policies.iter().filter(is_meant).collect();
        let names = || super::listed(policies.iter().map(full), MOST_NAMES);
        match (&meant[..], &self.policy_name) {
            ([policy], _) => Ok(policy),
            _ if policies.is_empty() => anyhow::bail!("{file} has no TierPolicy"),
            ([], _) => anyhow::bail!("{file} has no such TierPolicy: it has {}", names()),
            (_, None) => {
                anyhow::bail!("{file} has several TierPolicies: say which with --policy-name: {}", names())
            }
            (_, Some(_)) => anyhow::bail!(
                "{file} has several TierPolicies of that name: say which with its namespace: {}",
                names()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tools::parsed;

    fn policy(namespace: &str, name: &str) -> String {
        format!(
            "apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{}}\n---\n"
        )
    }

    fn read(path: &Path, name: Option<&str>) -> Result<(), String> {
        let path = path.to_str().unwrap();
        let line =
            ["--policy", path].into_iter().chain(name.into_iter().flat_map(|name| ["--policy-name", name]));
        parsed::<PolicyArgs>(line).unwrap().read().map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_policy_is_found_in_a_file_or_a_folder_by_its_name_where_there_are_several() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, policy("shop", "near")).unwrap();
        assert_eq!(read(&file, None), Ok(()));
        assert_eq!(read(folder.path(), None), Ok(()));
        let error = read(&file, Some("far")).unwrap_err();
        assert!(error.ends_with("has no such TierPolicy: it has shop.near"), "{error}");

        fs::write(folder.path().join("b.yaml"), policy("farm", "near") + &policy("farm", "far")).unwrap();
        assert_eq!(read(folder.path(), Some("far")), Ok(()));
        assert_eq!(read(folder.path(), Some("shop.near")), Ok(()));
        let error = read(folder.path(), None).unwrap_err();
        assert!(error.ends_with("say which with --policy-name: shop.near, farm.near, farm.far"), "{error}");
        let error = read(folder.path(), Some("near")).unwrap_err();
        assert!(error.contains("say which with its namespace"), "{error}");
    }

    #[test]
    fn what_holds_no_policy_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path(), None).unwrap_err();
        assert!(error.ends_with("has no TierPolicy"), "{error}");
        fs::write(folder.path().join("a.yaml"), policy("a", "B")).unwrap();
        let error = read(folder.path(), None).unwrap_err();
        assert!(error.contains("a.yaml:3: metadata.name"), "{error}");
    }
}
