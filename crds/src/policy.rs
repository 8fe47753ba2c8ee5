//! `TierPolicy`: which tier answers a request.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mode::{Ensemble, Mode, Speculative};
use crate::{Duration, Tier};

/// Which tier answers a request. Writers: the user writes `spec`, the operator `status`.
///
/// Without `rules` the default ones hold: a private request, or an easy one in a hurry (complexity below 0.3 and less
/// than 50 ms), is answered by the device; one that is easier than 0.7 or has less than 200 ms by the edge; all
/// others by the cloud.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "terrace.dev",
    version = "v1alpha1",
    kind = "TierPolicy",
    plural = "tierpolicies",
    singular = "tierpolicy",
    shortname = "tpol",
    category = "terrace",
    namespaced,
    status = "TierPolicyStatus",
    derive = "PartialEq",
    doc = "Which tier answers a request: device, edge or cloud. The user writes spec, the operator writes status.",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label: at most 63 lower-case letters, digits and hyphens"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].status", description = "Whether the nodes are told of this generation"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode", description = "How many tiers are asked"),
    printcolumn(name = "Edge", type_ = "string", json_path = ".status.edge", description = "Where the edge answers: a URL, or the label whose value names a site"),
    printcolumn(name = "Cloud", type_ = "string", json_path = ".spec.tiers.cloud.url", description = "Where the cloud answers"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since it was created")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.mode) && self.mode == 'Speculative') == has(self.speculative)")
        .message("mode: Speculative needs the field speculative, and no other mode has it"),
    validation = Rule::new("(has(self.mode) && self.mode == 'Ensemble') == has(self.ensemble)")
        .message("mode: Ensemble needs the field ensemble, and no other mode has it"),
    validation = Rule::new("!has(self.speculative) || (has(self.tiers) && (self.speculative.verifier == 'Edge' ? has(self.tiers.edge) : has(self.tiers.cloud)))")
        .message("tiers must say how the verifier of speculative is reached"),
    validation = Rule::new("!has(self.ensemble) || self.ensemble.members.all(tier, tier == 'Device' || (has(self.tiers) && (tier == 'Edge' ? has(self.tiers.edge) : has(self.tiers.cloud))))")
        .message("tiers must say how each of the ensemble's members but the device is reached"),
    validation = Rule::new("!has(self.mode) || self.mode == 'Select' || !(has(self.rules) || has(self.complexity) || has(self.requestHeaders))")
        .message("rules, complexity and requestHeaders go with mode: Select: the other modes ask no rule")
)]
pub struct TierPolicySpec {
    /// How many tiers are asked. Default Select.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What holds where a request states nothing stricter.
    #[serde(default, skip_serializing_if = "RequestDefaults::is_empty")]
    pub defaults: RequestDefaults,
    /// The tiers beyond the node. One that is not configured is never used.
    #[serde(default, skip_serializing_if = "Tiers::is_empty")]
    pub tiers: Tiers,
    /// What happens when the chosen tier does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Which tier a request is for. The first rule whose condition holds wins; one that fails is passed over; where none
    /// holds, the node itself answers. Absent: the default rules. A private request is asked of no rule: it is
    /// answered by the node, or by nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Option<Vec<TierRule>>,
    /// How hard a request is that does not say so itself. Default: the entropy of its inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complexity: Option<Complexity>,
    /// The headers that rules may read, by their names in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"), inner(regex(pattern = r"^[a-z0-9!#$%&'*+.^_`|~-]{1,64}$")))]
    pub request_headers: Vec<String>,
    /// For mode Speculative: who answers where the node is not sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculative: Option<Speculative>,
    /// For mode Ensemble: who is asked, and what becomes of the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ensemble: Option<Ensemble>,
}

/// A rule of a policy.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TierRule {
    /// The condition, in Terrace CEL: `request.bytes > 1000000 && tiers.edge.available`.
    #[schemars(length(min = 1, max = 1024))]
    pub when: String,
    /// The tier of requests for which it holds. One that is not configured leaves the fallback order.
    pub tier: Tier,
    /// What answers give as the reason. Default: the rule's place, `Rule[2]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Z][A-Za-z0-9]{0,31}$"))]
    pub name: Option<String>,
}

/// How hard a request is, from 0 to 1, where it does not say so itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.method) && self.method == 'InputSize') == has(self.fullBytes)")
        .message("fullBytes is needed with method InputSize, and belongs to it alone"),
    validation = Rule::new("(has(self.method) && self.method == 'Expression') == has(self.expression)")
        .message("expression is needed with method Expression, and belongs to it alone")
)]
pub struct Complexity {
    /// How it is measured. Default Entropy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<ComplexityMethod>,
    /// With InputSize: the bytes of a request whose complexity is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub full_bytes: Option<u64>,
    /// With Expression: Terrace CEL that gives a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub expression: Option<String>,
}

/// How complexity is measured.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComplexityMethod {
    /// The Shannon entropy of the inputs, as a share of its maximum.
    #[default]
    Entropy,
    /// The bytes of the inputs, as a share of fullBytes.
    InputSize,
    /// What an expression says, brought between 0 and 1.
    Expression,
}

/// What holds where a request states nothing stricter.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RequestDefaults {
    /// The longest that a request may take. Absent: no deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("maxLatency must be positive"))]
    pub max_latency: Option<Duration>,
    /// Every request is private: nothing of it leaves the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy_required: Option<bool>,
}

impl RequestDefaults {
    /// Whether nothing is set.
    pub const fn is_empty(&self) -> bool {
        self.max_latency.is_none() && self.privacy_required.is_none()
    }
}

/// The tiers beyond the node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tiers {
    /// The site's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<RemoteTier>,
    /// The data centre.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("!has(self.site) && !(has(self.url) && self.url.contains('{'))")
            .message("sites are the edge's: cloud needs a url, and one that does not depend on the node's site")
    )]
    pub cloud: Option<RemoteTier>,
}

impl Tiers {
    /// Whether there is no tier beyond the node.
    pub const fn is_empty(&self) -> bool {
        self.edge.is_none() && self.cloud.is_none()
    }
}

/// A tier that is reached over the network: a Terrace agent, or any server of the Open Inference Protocol.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.url) != has(self.site)")
        .message("exactly one of url and site is needed"),
    validation = Rule::new("!has(self.auth) || (has(self.url) ? self.url.startsWith('https://') : has(self.tls))")
        .message("auth needs an https:// url, or tls for a site: credentials are not sent where anyone on the path can read them"),
    validation = Rule::new("!has(self.tls) || !has(self.url) || self.url.startsWith('https://')")
        .message("tls needs an https:// url"),
    validation = Rule::new("!has(self.url) || !self.url.matches('[^/]/v2/?$')")
        .message("url must not end in /v2: it is a base URL, to which /v2/… is added"),
    validation = Rule::new("!has(self.hedge) || duration(self.hedge.after) < (has(self.timeout) ? duration(self.timeout) : duration('5s'))")
        .message("hedge.after must be shorter than timeout, which is 5s where it is not stated")
)]
pub struct RemoteTier {
    /// The server's base URL, without `/v2`: `https://gateway.example:8000`. The edge's may hold `{site}`, which stands for
    /// the value of the node's own label topology.kubernetes.io/zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://[^/?#@]+(/[^?#]*)?$"), length(max = 2048))]
    pub url: Option<String>,
    /// The ready edge agents of the node's own site, as the operator finds them. For the edge alone, and in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<EdgeSite>,
    /// How it is asked. Default HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The longest that one attempt may take. Default 5s. A request's deadline shortens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("timeout must be positive"))]
    pub timeout: Option<Duration>,
    /// Whom an `https://` url is trusted by, and as whom it is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TierTls>,
    /// As whom it is asked, in each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<TierAuth>,
    /// When it is left alone because it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// The most requests that it has from one node at once; more go to other tiers. Default 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_in_flight: Option<u32>,
    /// When it is asked a second time because the first answer is late. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
}

/// How a tier is asked.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The Open Inference Protocol over HTTP.
    #[default]
    HTTP,
    /// The same over gRPC; the url has no path.
    GRPC,
}

/// TLS with a tier. The names of credentials are folders of the agent's for the policy's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TierTls {
    /// The credentials whose `ca.crt` holds the only authorities that vouch for the server. Absent: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub authority: Option<String>,
    /// The DNS name that the server's certificate must be for, and that the server is asked for (SNI). Absent: the host of the
    /// url, and for a site the address of each of its agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$"),
        length(max = 253)
    )]
    #[x_kube(validation = Rule::new("self.matches('[a-z]')").message("serverName must be a DNS name, not an address"))]
    pub server_name: Option<String>,
    /// The credentials whose `tls.crt` and `tls.key` say who the node is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub client_certificate: Option<String>,
}

/// What is sent with each request. Each name is a folder of the agent's credentials for the policy's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.bearer) != has(self.basic)").message("exactly one of bearer and basic is needed"))]
pub struct TierAuth {
    /// The credentials whose `token` is sent: a static one, or a projected ServiceAccount token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub bearer: Option<String>,
    /// The credentials whose `username` and `password` are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub basic: Option<String>,
}

/// A circuit breaker: after so many failures in a row an endpoint is left alone for a period, then one request tries it. A
/// model that fails where the endpoint answers is left alone there by the same numbers, and other models go on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxPeriod) || duration(self.maxPeriod) >= (has(self.period) ? duration(self.period) : duration('5s'))")
        .message("maxPeriod must not be shorter than period, which is 5s where it is not stated")
)]
pub struct Breaker {
    /// Failures in a row that open it: no connection, no answer in `timeout`, a status of 5xx, or nonsense. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub failures: Option<u32>,
    /// How long it stays open at first; twice as long each time. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("period must be positive"))]
    pub period: Option<Duration>,
    /// How long it stays open at most. Default 1m, or period where that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("maxPeriod must be positive"))]
    pub max_period: Option<Duration>,
}

/// A second request where the first answer is late; the one that answers first counts, the other is taken back.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Hedge {
    /// How late.
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("after must be positive"))]
    pub after: Duration,
    /// The most of all requests that are sent twice, in percent, beside the first five. Default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_extra_load: Option<u32>,
}

/// The edge agents of the node's own site: those on nodes with the same value of a label.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EdgeSite {
    /// The label of Nodes whose value names their site. Default topology.kubernetes.io/zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(
            pattern = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
        ),
        length(max = 317)
    )]
    pub label: Option<String>,
}

/// The label whose value names a node's site, unless a policy names another.
pub const SITE_LABEL: &str = "topology.kubernetes.io/zone";

/// What happens when the chosen tier does not answer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// Whether other tiers are tried. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The tiers to try, in this order. Default: Device, Edge, Cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(validation = Rule::new("self.all(tier, self.exists_one(other, other == tier))").message("order must name each tier once at most"))]
    pub order: Option<Vec<Tier>>,
}

/// What the operator saw.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TierPolicyStatus {
    /// The generation of the spec that this status tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the edge answers, of the last accepted generation: a URL, or the label whose value names a site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<String>,
    /// `Accepted`: false with what is wrong; the last accepted generation goes on. `SitesResolved`, where the edge depends on
    /// the node's site: false with the nodes that have no edge, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}
