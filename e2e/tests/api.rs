//! What the API server takes of Terrace's kinds, and what it says to the rest: schema bounds and CEL rules, for real.

use anyhow::{Context as _, Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, Resource as _};
use serde_json::{Value, json};
use terrace_crds::{InferenceModel, InferenceNode, TierPolicy};
use terrace_e2e::cluster::Cluster;

/// A row: what, the object's spec or name, and the words of the refusal; empty where it is accepted.
type Row = (&'static str, Value, &'static str);

fn digest() -> String {
    "0".repeat(64)
}

fn pinned() -> Value {
    json!({"uri": "file:///m.onnx", "sha256": digest()})
}

/// Creates nothing: the API server judges, and forgets.
async fn judge(client: &Client, resource: &ApiResource, namespaced: bool, object: Value) -> Result<String> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let api = if namespaced {
        Api::<DynamicObject>::namespaced_with(client.clone(), "default", resource)
    } else {
        Api::all_with(client.clone(), resource)
    };
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    match api.create(&parameters, &object).await {
        Ok(_) => Ok(String::new()),
        Err(kube::Error::Api(status)) => {
            ensure!(status.code == 422 || status.code == 400, "{status:?}");
            Ok(status.message)
        }
        Err(error) => Err(error.into()),
    }
}

fn object(resource: &ApiResource, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec})
}

fn check(what: &str, said: &str, expected: &str, faults: &mut Vec<String>) {
    let fits = if expected.is_empty() { said.is_empty() } else { said.contains(expected) };
    if !fits {
        faults.push(format!("{what}: {said:?}, not {expected:?}"));
    }
}

async fn check_specs(client: &Client, resource: &ApiResource, namespaced: bool, rows: &[Row]) -> Result<()> {
    let mut faults = Vec::new();
    for (what, spec, expected) in rows {
        let said = judge(client, resource, namespaced, object(resource, "a", spec)).await?;
        check(what, &said, expected, &mut faults);
    }
    assert!(faults.is_empty(), "{}: {faults:#?}", resource.kind);
    Ok(())
}

fn model(rest: Value) -> Value {
    let mut spec = json!({"source": pinned()});
    if let (Some(spec), Value::Object(rest)) = (spec.as_object_mut(), rest) {
        spec.extend(rest);
    }
    spec
}

fn models() -> Vec<Row> {
    let source = |source: Value| json!({"source": source});
    let with = |field: &str, value: Value| {
        let mut source = pinned();
        source[field] = value;
        json!({"source": source})
    };
    let cases = json!({"uri": "file:///c", "sha256": digest()});
    let from = json!({"uri": "file:///m", "sha256From": "https://a/s"});
    let every = |interval: &str| json!({"source": {"uri": "file:///m", "sha256From": "https://a/s", "syncInterval": interval}});
    let labels: serde_json::Map<String, Value> =
        (0..33).map(|label| (format!("l{label}"), json!("v"))).collect();
    vec![
        ("pinned", model(json!({})), ""),
        ("a checksum file", source(from), ""),
        ("no source", json!({}), "spec.source: Required value"),
        ("no digest", source(json!({"uri": "file:///m"})), "exactly one of sha256 and sha256From"),
        ("two digests", with("sha256From", json!("https://a/s")), "exactly one of sha256 and sha256From"),
        (
            "an interval for a pinned source",
            with("syncInterval", json!("5m")),
            "syncInterval needs sha256From",
        ),
        ("an interval", every("1s"), ""),
        ("a short interval", every("999ms"), "syncInterval must be at least 1s"),
        ("a negative interval", every("-5m"), "syncInterval must be at least 1s"),
        ("an interval of another form", every("5s-5s"), "syncInterval"),
        ("another scheme", with("uri", json!("ftp://a/m")), "spec.source.uri"),
        ("a scheme alone", with("uri", json!("https://")), "spec.source.uri"),
        ("a digest in capitals", with("sha256", json!("A".repeat(64))), "spec.source.sha256"),
        ("a short digest", with("sha256", json!("0".repeat(63))), "spec.source.sha256"),
        (
            "another scheme of the checksum file",
            source(json!({"uri": "file:///m", "sha256From": "s"})),
            "sha256From",
        ),
        ("an edge", model(json!({"placement": {"tier": "Edge"}})), ""),
        (
            "another tier",
            model(json!({"placement": {"tier": "edge"}})),
            "spec.placement.tier: Unsupported value",
        ),
        ("33 labels", model(json!({"placement": {"nodeSelector": labels}})), "must have at most 32 items"),
        ("a name elsewhere", model(json!({"upstreams": {"edge": {"model": "vision.digits"}}})), ""),
        (
            "a path elsewhere",
            model(json!({"upstreams": {"edge": {"model": "../digits"}}})),
            "spec.upstreams.edge.model",
        ),
        ("threads", model(json!({"runtime": {"threads": 256, "instances": 64}})), ""),
        ("no thread", model(json!({"runtime": {"threads": 0}})), "spec.runtime.threads"),
        ("257 threads", model(json!({"runtime": {"threads": 257}})), "spec.runtime.threads"),
        ("batching", model(json!({"runtime": {"batching": {"maxSize": 1024}}})), ""),
        (
            "no batch",
            model(json!({"runtime": {"batching": {"maxSize": 0}}})),
            "spec.runtime.batching.maxSize",
        ),
        ("65 instances", model(json!({"runtime": {"instances": 65}})), "spec.runtime.instances"),
        ("cases", model(json!({"verification": {"cases": cases, "maxLatency": "5ms"}})), ""),
        (
            "a ceiling without cases",
            model(json!({"verification": {"maxLatency": "5ms"}})),
            "maxLatency needs cases",
        ),
        (
            "a ceiling of nothing",
            model(json!({"verification": {"cases": cases, "maxLatency": "0s"}})),
            "maxLatency must be positive",
        ),
        (
            "cases without a digest",
            model(json!({"verification": {"cases": {"uri": "file:///c"}}})),
            "cases.sha256: Required value",
        ),
        (
            "a tolerance above one",
            model(
                json!({"verification": {"cases": {"uri": "file:///c", "sha256": digest(), "tolerance": 1.5}}}),
            ),
            "tolerance",
        ),
        (
            "a confidence",
            model(json!({"confidence": {"output": "p", "method": "Softmax", "temperature": 2}})),
            "",
        ),
        (
            "a confidence of another method",
            model(json!({"confidence": {"output": "p", "method": "softmax"}})),
            "spec.confidence.method: Unsupported value",
        ),
        (
            "a confidence of nothing",
            model(json!({"confidence": {"method": "Softmax"}})),
            "spec.confidence.output: Required value",
        ),
        (
            "no temperature at all",
            model(json!({"confidence": {"output": "p", "method": "Softmax", "temperature": 0}})),
            "spec.confidence.temperature",
        ),
        ("a policy", model(json!({"policyRef": {"name": "near"}})), ""),
        (
            "a policy of another namespace",
            model(json!({"policyRef": {"name": "other/near"}})),
            "spec.policyRef.name",
        ),
    ]
}

fn policies() -> Vec<Row> {
    let edge = |edge: Value| json!({"tiers": {"edge": edge}});
    vec![
        ("nothing", json!({}), ""),
        ("defaults", json!({"defaults": {"maxLatency": "50ms", "privacyRequired": true}}), ""),
        ("a deadline of nothing", json!({"defaults": {"maxLatency": "0s"}}), "maxLatency must be positive"),
        ("privacy as text", json!({"defaults": {"privacyRequired": "yes"}}), "privacyRequired"),
        ("an edge", edge(json!({"url": "http://edge:8000/base", "timeout": "2s"})), ""),
        ("an edge without url", edge(json!({})), "exactly one of url and site"),
        ("a site", edge(json!({"site": {}})), ""),
        ("a site by a label", edge(json!({"site": {"label": "example.com/store"}})), ""),
        (
            "a site by what is no label",
            edge(json!({"site": {"label": "example.com/"}})),
            "spec.tiers.edge.site.label",
        ),
        ("a site and a url", edge(json!({"site": {}, "url": "http://edge"})), "exactly one of url and site"),
        ("a site in a url", edge(json!({"url": "http://gateway.{site}.example"})), ""),
        ("a cloud at the site", json!({"tiers": {"cloud": {"site": {}}}}), "sites are the edge's"),
        (
            "a cloud at a url of the site",
            json!({"tiers": {"cloud": {"url": "http://{site}.example"}}}),
            "sites are the edge's",
        ),
        ("a user in the url", edge(json!({"url": "http://user:secret@edge"})), "spec.tiers.edge.url"),
        ("a url with the protocol's path", edge(json!({"url": "http://edge/v2"})), "must not end in /v2"),
        ("the same with a slash", edge(json!({"url": "http://edge/base/v2/"})), "must not end in /v2"),
        ("a host of that name", edge(json!({"url": "http://v2/"})), ""),
        (
            "a hedge after the time-out",
            edge(json!({"url": "http://edge", "timeout": "50ms", "hedge": {"after": "80ms"}})),
            "hedge.after must be shorter",
        ),
        ("a hedge before it", edge(json!({"url": "http://edge", "hedge": {"after": "80ms"}})), ""),
        (
            "a longest period below the first",
            edge(json!({"url": "http://edge", "breaker": {"period": "2m", "maxPeriod": "1m"}})),
            "maxPeriod must not be shorter",
        ),
        ("a long period", edge(json!({"url": "http://edge", "breaker": {"period": "2m"}})), ""),
        ("a query", edge(json!({"url": "http://edge?a=b"})), "spec.tiers.edge.url"),
        ("another scheme", edge(json!({"url": "grpc://edge"})), "spec.tiers.edge.url"),
        (
            "a time-out of nothing",
            edge(json!({"url": "http://edge", "timeout": "0s"})),
            "timeout must be positive",
        ),
        (
            "everything that a tier may say",
            edge(
                json!({"url": "https://edge", "protocol": "GRPC", "tls": {"authority": "corp", "serverName": "edge.example", "clientCertificate": "me"},
                "auth": {"basic": "edge"}, "breaker": {"failures": 3, "period": "1s", "maxPeriod": "1m"},
                "maxInFlight": 9, "hedge": {"after": "20ms", "maxExtraLoad": 5}}),
            ),
            "",
        ),
        ("another protocol", edge(json!({"url": "http://edge", "protocol": "SOAP"})), "protocol"),
        (
            "a token over http",
            edge(json!({"url": "http://edge", "auth": {"bearer": "edge"}})),
            "auth needs an https:// url",
        ),
        (
            "a server's name in capitals",
            edge(json!({"url": "https://edge", "tls": {"serverName": "Edge.example"}})),
            "spec.tiers.edge.tls.serverName",
        ),
        (
            "a server's name that is every name",
            edge(json!({"url": "https://edge", "tls": {"serverName": "*.example"}})),
            "spec.tiers.edge.tls.serverName",
        ),
        (
            "an address as the server's name",
            edge(json!({"url": "https://edge", "tls": {"serverName": "10.0.0.7"}})),
            "serverName must be a DNS name, not an address",
        ),
        (
            "credentials elsewhere",
            edge(json!({"url": "https://edge", "auth": {"bearer": "../edge"}})),
            "spec.tiers.edge.auth.bearer",
        ),
        (
            "nothing at once",
            edge(json!({"url": "http://edge", "maxInFlight": 0})),
            "spec.tiers.edge.maxInFlight",
        ),
        ("an order", json!({"fallback": {"order": ["Edge", "Device"]}}), ""),
        ("an empty order", json!({"fallback": {"order": []}}), "spec.fallback.order"),
        (
            "a tier twice",
            json!({"fallback": {"order": ["Edge", "Edge"]}}),
            "order must name each tier once at most",
        ),
        ("a rule", json!({"rules": [{"when": "true", "tier": "Edge", "name": "Always"}]}), ""),
        ("32 rules", json!({"rules": vec![json!({"when": "true", "tier": "Edge"}); 32]}), ""),
        ("33 rules", json!({"rules": vec![json!({"when": "true", "tier": "Edge"}); 33]}), "spec.rules"),
        ("no rule", json!({"rules": []}), "spec.rules"),
        ("a rule without tier", json!({"rules": [{"when": "true"}]}), "spec.rules[0].tier: Required value"),
        (
            "a long condition",
            json!({"rules": [{"when": "a".repeat(1025), "tier": "Edge"}]}),
            "spec.rules[0].when",
        ),
        (
            "a name in small letters",
            json!({"rules": [{"when": "true", "tier": "Edge", "name": "always"}]}),
            "spec.rules[0].name",
        ),
        ("entropy", json!({"complexity": {"method": "Entropy"}}), ""),
        ("input size", json!({"complexity": {"method": "InputSize", "fullBytes": 1024}}), ""),
        ("an expression", json!({"complexity": {"method": "Expression", "expression": "0.5"}}), ""),
        ("input size of what", json!({"complexity": {"method": "InputSize"}}), "fullBytes is needed"),
        (
            "bytes of entropy",
            json!({"complexity": {"fullBytes": 1}}),
            "fullBytes is needed with method InputSize",
        ),
        ("no byte", json!({"complexity": {"method": "InputSize", "fullBytes": 0}}), "fullBytes"),
        ("no expression", json!({"complexity": {"method": "Expression"}}), "expression is needed"),
        (
            "a rule that no mode asks",
            json!({"mode": "Speculative", "speculative": {"verifier": "Cloud"},
                "tiers": {"cloud": {"url": "http://cloud"}}, "rules": [{"when": "true", "tier": "Edge"}]}),
            "go with mode: Select",
        ),
        ("headers", json!({"requestHeaders": ["x-class", "x-a"]}), ""),
        ("a header in capitals", json!({"requestHeaders": ["X-Class"]}), "spec.requestHeaders[0]"),
        (
            "a header twice",
            json!({"requestHeaders": ["x-a", "x-a"]}),
            "spec.requestHeaders[1]: Duplicate value",
        ),
        (
            "four tiers",
            json!({"fallback": {"order": ["Edge", "Cloud", "Device", "Edge"]}}),
            "spec.fallback.order",
        ),
    ]
}

/// Of policies whose mode is not the default.
fn modes() -> Vec<Row> {
    let mode = |mode: &str, field: &str, value: Value| {
        json!({
            "mode": mode, field: value,
            "tiers": {"edge": {"url": "http://edge"}, "cloud": {"url": "http://cloud"}},
        })
    };
    let speculative = |value: Value| mode("Speculative", "speculative", value);
    let ensemble = |value: Value| mode("Ensemble", "ensemble", value);
    let nowhere = |mut policy: Value| {
        policy["tiers"] = json!({"edge": {"url": "http://edge"}});
        policy
    };
    let all = json!(["Device", "Edge", "Cloud"]);
    vec![
        ("the default mode", json!({"mode": "Select"}), ""),
        ("another mode", json!({"mode": "select"}), "spec.mode: Unsupported value"),
        (
            "speculation",
            speculative(json!({"verifier": "Cloud", "threshold": 1, "parallelAfter": "20ms"})),
            "",
        ),
        ("speculation by nothing", json!({"mode": "Speculative"}), "mode: Speculative needs the field"),
        (
            "a field without its mode",
            mode("Select", "speculative", json!({"verifier": "Edge"})),
            "no other mode",
        ),
        ("no verifier", speculative(json!({})), "verifier: Required value"),
        (
            "the device as verifier",
            speculative(json!({"verifier": "Device"})),
            "verifier: Unsupported value: \"Device\"",
        ),
        ("a verifier nowhere", nowhere(speculative(json!({"verifier": "Cloud"}))), "how the verifier"),
        ("more than sure", speculative(json!({"verifier": "Edge", "threshold": 1.5})), "threshold"),
        (
            "time that runs backwards",
            speculative(json!({"verifier": "Edge", "parallelAfter": "-1s"})),
            "must not be negative",
        ),
        ("an ensemble", ensemble(json!({"members": all, "quorum": 3, "combine": "Vote"})), ""),
        ("one alone", ensemble(json!({"members": ["Device"]})), "spec.ensemble.members"),
        ("one twice", ensemble(json!({"members": ["Edge", "Edge"]})), "once at most"),
        ("a member nowhere", nowhere(ensemble(json!({"members": all}))), "ensemble's members"),
        ("more than all", ensemble(json!({"members": ["Device", "Edge"], "quorum": 3})), "must not exceed"),
        ("no quorum", ensemble(json!({"members": ["Device", "Edge"], "quorum": 0})), "quorum"),
        ("weights", ensemble(json!({"members": all, "combine": "WeightedMean", "weights": [1, 2, 0.5]})), ""),
        ("no weights", ensemble(json!({"members": all, "combine": "WeightedMean"})), "which needs them"),
        ("weights for nothing", ensemble(json!({"members": all, "weights": [1, 1, 1]})), "which needs them"),
        (
            "too few weights",
            ensemble(json!({"members": all, "combine": "WeightedMean", "weights": [1, 2]})),
            "one number for each member",
        ),
        (
            "a weight of nothing",
            ensemble(json!({"members": all, "combine": "WeightedMean", "weights": [1, 2, 0]})),
            "must be positive",
        ),
    ]
}

fn nodes() -> Vec<Row> {
    let node = |rest: Value| {
        let mut entry = json!({"namespace": "a", "name": "b", "revision": "r"});
        if let (Some(entry), Value::Object(rest)) = (entry.as_object_mut(), rest) {
            entry.extend(rest);
        }
        json!({"models": [entry]})
    };
    let artifact = json!({"uri": "file:///m", "sha256": digest()});
    let why = json!({"reason": "TierMismatch", "message": "it is for another tier"});
    let entry = json!({"namespace": "a", "name": "b", "revision": "r", "notPlaced": why});
    let gateway = json!({"node": "gw", "address": "fd00::7", "httpPort": 8000});
    vec![
        ("nothing", json!({}), ""),
        ("an artifact", node(json!({"artifact": artifact})), ""),
        ("a reason", node(json!({"notPlaced": why})), ""),
        (
            "both",
            node(json!({"artifact": artifact, "notPlaced": why})),
            "exactly one of artifact and notPlaced",
        ),
        ("neither", node(json!({})), "exactly one of artifact and notPlaced"),
        (
            "a site",
            json!({"sites": {"topology.kubernetes.io/zone": {"name": "oslo", "edge": [gateway]}}}),
            "",
        ),
        (
            "nine gateways",
            json!({"sites": {"topology.kubernetes.io/zone": {"name": "oslo", "edge": vec![gateway; 9]}}}),
            "must have at most 8 items",
        ),
        ("257 models", json!({"models": vec![entry; 257]}), "must have at most 256 items"),
    ]
}

#[tokio::test]
async fn every_bound_and_rule_accepts_and_refuses() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client();
    let kind = ApiResource::erase::<InferenceModel>(&());
    check_specs(&client, &kind, true, &models()).await?;
    check_specs(&client, &ApiResource::erase::<TierPolicy>(&()), true, &policies()).await?;
    check_specs(&client, &ApiResource::erase::<TierPolicy>(&()), true, &modes()).await?;
    check_specs(&client, &ApiResource::erase::<InferenceNode>(&()), false, &nodes()).await?;

    let mut faults = Vec::new();
    let label = "DNS label";
    for (name, expected) in [("a", ""), (&*"a".repeat(63), ""), (&"a".repeat(64), label), ("a.b", label)] {
        let said = judge(&client, &kind, true, object(&kind, name, &model(json!({})))).await?;
        check(name, &said, expected, &mut faults);
    }
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

#[tokio::test]
async fn plain_and_server_side_apply_agree_and_fields_are_explained() -> Result<()> {
    let cluster = Cluster::start().await?;
    let models = cluster.models();
    let digits: InferenceModel = serde_json::from_value(json!({
        "apiVersion": "terrace.dev/v1alpha1", "kind": "InferenceModel", "metadata": {"name": "digits"},
        "spec": model(json!({"placement": {"nodeSelector": {"arch": "arm64"}}})),
    }))?;
    // As kubectl apply does without --server-side: created, then patched.
    models.create(&PostParams::default(), &digits).await?;
    let merged = models
        .patch(
            "digits",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"placement": {"tier": "Edge"}}})),
        )
        .await?;
    assert_eq!(merged.metadata.generation, Some(2));
    let mut applied = digits.clone();
    applied.spec.placement = merged.spec.placement.clone();
    let applied =
        models.patch("digits", &PatchParams::apply("kubectl").force(), &Patch::Apply(&applied)).await?;
    assert_eq!(applied.spec, merged.spec);
    assert_eq!(applied.metadata.generation, Some(2), "nothing changed");

    // What `kubectl explain` reads.
    let request = http::Request::get("/openapi/v3/apis/terrace.dev/v1alpha1").body(Vec::new())?;
    let openapi: Value = serde_json::from_str(&cluster.client().request_text(request).await?)?;
    let schemas = openapi.pointer("/components/schemas").and_then(Value::as_object).context("no schemas")?;
    for (kind, documented) in [
        (
            InferenceModel::kind(&()),
            &["source", "placement", "runtime", "verification", "confidence", "policyRef"][..],
        ),
        (TierPolicy::kind(&()), &["mode", "defaults", "tiers", "fallback", "speculative", "ensemble"]),
        (InferenceNode::kind(&()), &["tier", "models", "policies"]),
    ] {
        let schema = &schemas[&format!("dev.terrace.v1alpha1.{kind}")];
        ensure!(schema["description"].is_string(), "{kind} has no description");
        for field in documented {
            let field = &schema["properties"]["spec"]["properties"][field];
            let told = field["description"].is_string() || field["allOf"].is_array();
            ensure!(told, "{kind}: {field}");
        }
    }
    Ok(())
}
