//! What this node answers for: one entry a model, each replaced as a whole.
//!
//! A request takes its entry once and keeps it to the end, so an answer comes from exactly one revision whatever
//! is swapped meanwhile. Written by `sync` alone, read by `serve` and `rest`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use terrace_crds::Tier;
use terrace_crds::model::Upstreams;
use terrace_crds::node::ExecutionStatus;
use terrace_engine::Model;
use terrace_tiering::{Latency, Measure, Policy, Sites};

use crate::sync::revision::Revision;
use crate::upstream::{Reach, Upstream};

/// A model's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ModelKey {
    /// The model that a URL names: `namespace.name`, or `name` in the default namespace.
    pub fn from_url(segment: &str, default_namespace: &str) -> Self {
        let (namespace, name) = segment.split_once('.').unwrap_or((default_namespace, segment));
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The name that a URL carries for it.
    pub fn to_url(&self, default_namespace: &str) -> Cow<'_, str> {
        if self.namespace == default_namespace {
            Cow::Borrowed(&self.name)
        } else {
            Cow::Owned(self.to_string())
        }
    }
}

impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

/// Everything that one request needs to know of its model.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which model.
    pub key: ModelKey,
    /// The same as metrics name it.
    pub label: Arc<str>,
    /// Which tier answers, and where this node reaches it.
    pub policy: Arc<Policy>,
    /// How the tiers of the policy are reached; the registry makes it of the policy.
    pub reach: Arc<Reach>,
    /// What the model is called on other tiers.
    pub upstreams: Upstreams,
    /// Namespaces whose callers may use it beside its own.
    pub allowed_namespaces: Vec<String>,
    /// How sure the model is of an answer, where it says so.
    pub measure: Option<Measure>,
    /// The model on this node.
    pub local: Local,
}

impl Entry {
    /// The loaded revision, if there is one.
    pub const fn served(&self) -> Option<&Arc<Served>> {
        match &self.local {
            Local::Serving(served) => Some(served),
            Local::Absent | Local::NotPlaced => None,
        }
    }

    /// The same on a node with these sites.
    fn at(&self, sites: &Sites, upstream: &Upstream) -> Self {
        let policy = Policy::clone(&self.policy).at(sites);
        let reach = Arc::new(upstream.reach(&self.key.namespace, &self.label, &policy));
        Self { policy: Arc::new(policy), reach, ..self.clone() }
    }

    /// What the model is called on `tier`.
    pub fn name_on(&self, tier: Tier, default_namespace: &str) -> String {
        let upstream = match tier {
            Tier::Device => None,
            Tier::Edge => self.upstreams.edge.as_ref(),
            Tier::Cloud => self.upstreams.cloud.as_ref(),
        };
        upstream.map_or_else(
            || self.key.to_url(default_namespace).into_owned(),
            |upstream| upstream.model.clone(),
        )
    }
}

/// A model on this node.
#[derive(Clone, Debug)]
pub enum Local {
    /// It answers.
    Serving(Arc<Served>),
    /// It belongs here, and no revision of it could be loaded yet.
    Absent,
    /// It does not belong here; its callers are forwarded.
    NotPlaced,
}

/// A revision that answers.
#[derive(Debug)]
pub struct Served {
    /// The revision, whole.
    pub of: Arc<Revision>,
    /// The digest of its artifact.
    pub sha256: String,
    /// The loaded model; revisions that differ in their policy alone share it.
    pub model: Arc<Model>,
    /// What the status says of how it is run, where it asks for execution providers.
    pub execution: Option<ExecutionStatus>,
    /// How long its answers take; revisions that share a model share it.
    pub pace: Arc<Mutex<Latency>>,
}

impl Served {
    /// How long its answers take.
    pub fn pace(&self) -> MutexGuard<'_, Latency> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision's name.
    pub fn revision(&self) -> &str {
        &self.of.model.revision
    }
}

/// Every model that callers of this node may ask for.
#[derive(Debug, Default)]
pub struct Registry(ArcSwap<Table>);

#[derive(Clone, Debug, Default)]
struct Table {
    entries: HashMap<ModelKey, Arc<Entry>>,
    /// Where this node is: what every entry's policy is resolved with.
    sites: Sites,
}

impl Registry {
    /// The entry of one model, as it stands now.
    pub fn get(&self, key: &ModelKey) -> Option<Arc<Entry>> {
        self.0.load().entries.get(key).cloned()
    }

    /// Every model that it has.
    pub fn keys(&self) -> Vec<ModelKey> {
        self.0.load().entries.keys().cloned().collect()
    }

    /// Puts `entry` in the place of what its model had. Requests that hold the old entry finish on it.
    pub fn publish(&self, entry: &Entry, upstream: &Upstream) {
        self.0.rcu(|table| {
            let mut table = Table::clone(table);
            let entry = Arc::new(entry.at(&table.sites, upstream));
            table.entries.insert(entry.key.clone(), entry);
            table
        });
    }

    /// This node is there from now on: requests that begin go to the tiers as they are reached from there.
    pub fn move_to(&self, sites: &Sites, upstream: &Upstream) {
        if self.0.load().sites == *sites {
            return;
        }
        self.0.rcu(|table| {
            let at = |(key, entry): (&ModelKey, &Arc<Entry>)| {
                let entry = match entry.policy.site_label() {
                    Some(_) => Arc::new(entry.at(sites, upstream)),
                    // The same wherever the node is.
                    None => Arc::clone(entry),
                };
                (key.clone(), entry)
            };
            Table { entries: table.entries.iter().map(at).collect(), sites: sites.clone() }
        });
    }

    /// Takes a model away. Requests that hold its entry finish on it.
    pub fn retire(&self, key: &ModelKey) {
        self.0.rcu(|table| {
            let mut table = Table::clone(table);
            table.entries.remove(key);
            table
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::body::Limits;
    use crate::room::Room;

    #[test]
    fn a_url_names_a_model_with_or_without_its_namespace() {
        let key = ModelKey::from_url("vision.digits", "default");
        assert_eq!((key.namespace.as_str(), key.name.as_str()), ("vision", "digits"));
        assert_eq!(key.to_url("default"), "vision.digits");
        let key = ModelKey::from_url("digits", "default");
        assert_eq!((key.namespace.as_str(), key.name.as_str()), ("default", "digits"));
        assert_eq!(key.to_url("default"), "digits");
    }

    #[test]
    fn a_node_that_moves_takes_every_model_along_and_so_does_a_model_that_comes_later() {
        let policy = |url: &str| {
            let spec = serde_json::json!({"tiers": {"edge": {"url": url}}});
            Arc::new(Policy::parse(&serde_json::from_value(spec).unwrap()).unwrap())
        };
        let entry = |name: &str, url: &str| Entry {
            allowed_namespaces: Vec::new(),
            key: ModelKey::from_url(name, "default"),
            label: name.into(),
            policy: policy(url),
            upstreams: Upstreams::default(),
            measure: None,
            reach: Arc::default(),
            local: Local::Absent,
        };
        let registry = Registry::default();
        let upstream = Upstream::new(
            &terrace_egress::Egress::new(Vec::new()),
            None,
            Limits { bytes: 1, room: Room::new(1) },
        );
        let edge = |name: &str| {
            let entry = registry.get(&ModelKey::from_url(name, "default")).unwrap();
            entry.policy.remote(Tier::Edge).unwrap().endpoints().map(|urls| urls[0].to_string())
        };
        let sites = |name: &str| -> Sites {
            let site = terrace_crds::node::NodeSite { name: name.to_owned(), edge: Vec::new() };
            [(terrace_crds::policy::SITE_LABEL.to_owned(), site)].into()
        };
        registry.publish(&entry("early", "http://{site}.example"), &upstream);
        registry.publish(&entry("fixed", "http://edge.example"), &upstream);
        assert!(edge("early").is_err());
        registry.move_to(&sites("oslo"), &upstream);
        registry.publish(&entry("late", "http://{site}.example"), &upstream);
        for name in ["early", "late"] {
            assert_eq!(edge(name), Ok("http://oslo.example/".to_owned()));
        }
        let fixed = registry.get(&ModelKey::from_url("fixed", "default")).unwrap();
        registry.move_to(&sites("bergen"), &upstream);
        for name in ["early", "late"] {
            assert_eq!(edge(name), Ok("http://bergen.example/".to_owned()));
        }
        let still = registry.get(&ModelKey::from_url("fixed", "default")).unwrap();
        assert!(Arc::ptr_eq(&fixed.policy, &still.policy));
    }
}
