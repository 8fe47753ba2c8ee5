//! What `kubectl apply -f e2e/manifests/cluster/` makes: agents that ask who calls, and devices that ask their gateway over TLS,
//! as who they are. The control plane is real, and a kubelet's part is played: files from what the API server has.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::cluster::{self, AGENTS, Cluster, Kubelet, Operator, SYSTEM};
use terrace_e2e::digits;
use terrace_e2e::http::{Reply, Request};
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::pki::{Authority, Pair, TlsClient};
use terrace_e2e::site::Site;
use terrace_e2e::wait;

const ZONE: (&str, &str) = ("topology.kubernetes.io/zone", "oslo");
const EDGE: (&str, &str) = ("terrace.dev/tier", "edge");
/// What the agents' certificate is for, as the manifests have it.
const NAME: &str = "terrace-agent.terrace-agents.svc";
const TOKEN: &str = "/etc/terrace/credentials/default/edge/token";

/// What the Secret `terrace-tls` holds.
async fn write_tls(cluster: &Cluster, pair: &Pair, authorities: &str) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "terrace-tls"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authorities},
    });
    let secrets = Api::<Secret>::namespaced(cluster.client(), AGENTS);
    secrets.patch("terrace-tls", &PatchParams::apply("admin").force(), &Patch::Apply(secret)).await?;
    Ok(())
}

/// Waits until the ConfigMap holds these keys and no others, and the issuer.
async fn wait_published(cluster: &Cluster, count: usize) -> Result<()> {
    let (issuer, keys) = cluster.token_keys().await?;
    let of = |jwks: &str| -> Result<BTreeMap<String, Value>> {
        let jwks: Value = serde_json::from_str(jwks)?;
        let keys = jwks["keys"].as_array().context("no keys")?;
        keys.iter().map(|key| Ok((key["kid"].as_str().context("no kid")?.to_owned(), key.clone()))).collect()
    };
    ensure!(of(&keys)?.len() == count, "the API server has {keys}");
    let maps = Api::<ConfigMap>::namespaced(cluster.client(), AGENTS);
    wait::until("the keys to be published", || async {
        let data = maps.get("terrace-jwks").await?.data.context("no data")?;
        let published = of(data.get("jwks.json").context("no keys")?)?;
        ensure!(data.get("issuer") == Some(&issuer) && published == of(&keys)?, "{data:?}");
        Ok(())
    })
    .await
}

/// A node whose agent is the DaemonSet's.
struct Node {
    agent: Agent,
    kubelet: Kubelet,
    _site: Site,
}

impl Node {
    async fn start(cluster: &Cluster, name: &str) -> Result<Self> {
        let site = Site::new()?;
        let kubelet = cluster.kubelet(&site, name).await?;
        let agent = cluster.daemon(&kubelet, &site, name).await?.start().await?;
        Ok(Self { agent, kubelet, _site: site })
    }

    async fn send(&self, client: &TlsClient, request: &Request) -> Result<Reply> {
        client.open(self.agent.http).await?.send(request).await
    }
}

/// A site with a kiosk and a gateway.
struct Scene {
    cluster: Cluster,
    kiosk: Node,
    gateway: Node,
    /// Trusts the agents' first authority.
    client: TlsClient,
    authority: Authority,
    /// The token of an app of the models' namespace.
    app: String,
    operator: Operator,
}

fn client_of(authorities: &str) -> Result<TlsClient> {
    TlsClient::new(authorities, None)?.expecting(NAME)
}

fn by(token: Option<&str>, ask: Ask) -> Request {
    match token {
        Some(token) => ask.header("authorization", &format!("Bearer {token}")).request(),
        None => ask.request(),
    }
}

fn digit() -> Ask {
    Ask::image(&digits::test_set().images[0])
}

impl Scene {
    async fn new() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let authority = Authority::new("agents")?;
        write_tls(&cluster, &authority.server_named(NAME)?, &authority.pem).await?;
        let operator = cluster.operator("operator-a").await?.leading().await?;
        wait_published(&cluster, 1).await?;
        cluster.add_node_of_daemons("kiosk", &[ZONE], cluster::host_ip()).await?;
        cluster.add_node_of_daemons("gateway", &[ZONE, EDGE], cluster::host_ip()).await?;
        let (kiosk, gateway) =
            (Node::start(&cluster, "kiosk").await?, Node::start(&cluster, "gateway").await?);
        cluster.apply_file(&cluster::examples().join("sites.yaml")).await?;
        let client = client_of(&authority.pem)?;
        // The readiness probe, which shows no token.
        for (name, node) in [("kiosk", &kiosk), ("gateway", &gateway)] {
            wait::until("an agent to be ready", || async {
                let reply = node.send(&client, &Request::get("/v2/health/ready")).await?;
                ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
                Ok(())
            })
            .await?;
            cluster.set_agent_ready(name, true).await?;
        }
        for model in ["digits", "digits-gateway"] {
            cluster.wait_model(model, "Ready", "True", "AllReady").await?;
        }
        let app = cluster.token_for("default", "default", "terrace").await?;
        Ok(Self { cluster, kiosk, gateway, client, authority, app, operator })
    }

    /// Waits until an app's requests go this way.
    async fn wait_route(&self, tier: &str, source: &str, reason: &str) -> Result<()> {
        self.wait_route_by(&self.client, tier, source, reason).await
    }

    async fn wait_route_by(&self, client: &TlsClient, tier: &str, source: &str, reason: &str) -> Result<()> {
        wait::until("requests to go another way", || async {
            let reply = self.kiosk.send(client, &by(Some(&self.app), digit())).await?.answered()?;
            ensure!(reply.route()? == Route::of(tier, source, reason), "{}", reply.text());
            Ok(())
        })
        .await
    }

    /// Waits until the device answers an app's requests itself, because the gateway failed so.
    async fn wait_refused(&self, outcome: &str) -> Result<()> {
        wait::until("the gateway to be of no use", || async {
            let reply = self.kiosk.send(&self.client, &by(Some(&self.app), digit())).await?.answered()?;
            ensure!(
                reply.route()? == Route::of("device", "fallback", "ModerateComplexity"),
                "{}",
                reply.text()
            );
            let attempts = reply.attempts()?;
            let is_so = attempts.iter().any(|attempt| attempt.tier == "edge" && attempt.outcome == outcome);
            ensure!(is_so, "{attempts:?}");
            Ok(())
        })
        .await
    }

    async fn set_tls(&self, tls: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"tiers": {"edge": {"tls": tls}}}}));
        self.cluster.policies().patch("gateway-of-the-site", &PatchParams::default(), &patch).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_for_its_certificate_and_for_the_keys_that_the_operator_brings() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.add_node_of_daemons("kiosk", &[], cluster::host_ip()).await?;
    let missing = async |what: &str| {
        let error = cluster.kubelet(&Site::new()?, "kiosk").await.err().context("it waits for nothing")?;
        ensure!(format!("{error:#}").contains(what), "{error:#}");
        anyhow::Ok(())
    };
    missing("secret \"terrace-tls\" not found").await?;
    let authority = Authority::new("agents")?;
    write_tls(&cluster, &authority.server_named(NAME)?, &authority.pem).await?;
    missing("configmap \"terrace-jwks\" not found").await?;
    // Made by hand once, and old now.
    cluster
        .kubectl(&[
            "create",
            "configmap",
            "terrace-jwks",
            "-n",
            AGENTS,
            "--from-literal=jwks.json={\"keys\":[]}",
        ])
        .await?;
    let operator = cluster.operator("operator-a").await?.leading().await?;
    wait_published(&cluster, 1).await?;
    let kiosk = Node::start(&cluster, "kiosk").await?;
    let reply = kiosk.send(&client_of(&authority.pem)?, &Request::get("/v2")).await?;
    assert_eq!((reply.status, reply.header("www-authenticate")), (401, r#"Bearer realm="terrace""#));
    // What is as it should be is not written again.
    assert!(operator.log().contains("tokens were published"), "{}", operator.log());
    drop(operator);
    let next = cluster.operator("operator-b").await?.leading().await?;
    wait::until("the next operator to look", || async {
        let looks = r#"terrace_operator_reconciliations_total{controller="keys",outcome="Done"}"#;
        ensure!(next.metric(looks).await? >= 1.0, "not yet");
        Ok(())
    })
    .await?;
    assert!(!next.log().contains("tokens were published"), "{}", next.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_asks_its_gateway_over_tls_with_its_own_token_and_nobody_else_gets_in() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.wait_route("edge", "primary", "ModerateComplexity").await?;

    // Who else may ask the gateway, by tokens of the real API server.
    let cluster = &scene.cluster;
    let own = fs::read_to_string(scene.kiosk.kubelet.path(TOKEN).context("no token")?)?;
    let for_others = cluster.token_for("default", "default", "vault").await?;
    let for_the_api_server = cluster.agent_token("kiosk").await?;
    let elsewhere = cluster.token_for(SYSTEM, "terrace-operator", "terrace").await?;
    for (token, status, reason) in [
        (None, 401, "NoCredentials"),
        (Some(&for_others), 401, "WrongAudience"),
        (Some(&for_the_api_server), 401, "WrongAudience"),
        (Some(&elsewhere), 403, "NotAllowed"),
        (Some(&own), 200, ""),
        (Some(&scene.app), 200, ""),
    ] {
        let label = format!("reason=\"{reason}\"");
        let gateway = &scene.gateway;
        let before = gateway.agent.counted("terrace_refused_total", &[&label]).await?;
        let request = by(token.map(String::as_str), digit().model("digits-gateway"));
        let reply = gateway.send(&scene.client, &request).await?;
        assert_eq!(reply.status, status, "{reason}: {}", reply.text());
        let refused = gateway.agent.counted("terrace_refused_total", &[&label]).await? - before;
        assert_eq!(refused, if status == 200 { 0.0 } else { 1.0 }, "{reason}");
    }

    // Whom the gateway must be: by another name it is nobody, and its certificate is not for its address.
    for tls in [json!({"serverName": "elsewhere.example"}), json!({"serverName": null})] {
        scene.set_tls(tls).await?;
        scene.wait_refused("ConnectFailed").await?;
        scene.set_tls(json!({"serverName": NAME})).await?;
        scene.wait_route("edge", "primary", "ModerateComplexity").await?;
    }

    // A model that does not allow the agents' namespace, and a policy that names credentials that nobody mounted.
    for (allowed, bearer, outcome) in
        [(json!([]), "edge", "BadStatus"), (json!([AGENTS]), "vault", "CredentialsUnavailable")]
    {
        let patch = Patch::Merge(json!({"spec": {"allowedNamespaces": allowed}}));
        scene.cluster.models().patch("digits-gateway", &PatchParams::default(), &patch).await?;
        let patch = Patch::Merge(json!({"spec": {"tiers": {"edge": {"auth": {"bearer": bearer}}}}}));
        scene.cluster.policies().patch("gateway-of-the-site", &PatchParams::default(), &patch).await?;
        scene.wait_refused(outcome).await?;
    }
    scene.cluster.apply_file(&cluster::examples().join("sites.yaml")).await?;
    scene.wait_route("edge", "primary", "ModerateComplexity").await?;

    // Cut off, a device still asks its gateway.
    scene.cluster.control_plane().stop_api_server()?;
    scene.kiosk.agent.wait_condition("Connected", "False", "").await?;
    scene.wait_route("edge", "primary", "ModerateComplexity").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_keys_rotate_and_no_agent_is_started_again() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.wait_route("edge", "primary", "ModerateComplexity").await?;
    let (old, new) = (scene.authority.pem.clone(), Authority::new("next agents")?);
    let pair = new.server_named(NAME)?;

    // First who vouches, then what they vouch for, then they alone.
    let trusts_new = client_of(&new.pem)?;
    write_tls(&scene.cluster, &scene.authority.server_named(NAME)?, &format!("{old}{}", new.pem)).await?;
    scene.kiosk.kubelet.sync().await?;
    scene.wait_route("edge", "primary", "ModerateComplexity").await?;
    write_tls(&scene.cluster, &pair, &format!("{old}{}", new.pem)).await?;
    scene.kiosk.kubelet.sync().await?;
    scene.gateway.kubelet.sync().await?;
    for node in [&scene.kiosk, &scene.gateway] {
        wait::until("the new certificate", || async {
            ensure!(node.send(&trusts_new, &Request::get("/v2/health/live")).await?.status == 200);
            Ok(())
        })
        .await?;
    }
    write_tls(&scene.cluster, &pair, &new.pem).await?;
    scene.kiosk.kubelet.sync().await?;
    scene.kiosk.agent.wait_log("credentials changed").await?;
    scene.wait_route_by(&trusts_new, "edge", "primary", "ModerateComplexity").await?;

    // Another key signs: the operator tells the agents, and what the old one signed is still taken.
    scene.cluster.control_plane().rotate_token_keys().await?;
    let by_new = scene.cluster.token_for("default", "default", "terrace").await?;
    let request = by(Some(&by_new), digit().model("digits-gateway"));
    let reply = scene.gateway.send(&trusts_new, &request).await?;
    assert_eq!(reply.status, 401, "{}", reply.text());
    assert!(scene.gateway.agent.counted("terrace_refused_total", &["reason=\"UnknownKey\""]).await? >= 1.0);
    drop(scene.operator);
    scene.operator = scene.cluster.operator("operator-b").await?.leading().await?;
    wait_published(&scene.cluster, 2).await?;
    scene.gateway.kubelet.sync().await?;
    for token in [&by_new, &scene.app] {
        let request = by(Some(token), digit().model("digits-gateway"));
        scene.gateway.send(&trusts_new, &request).await?.answered()?;
    }
    // The kiosk's own token is of the new key now.
    scene.kiosk.kubelet.sync().await?;
    let own = fs::read_to_string(scene.kiosk.kubelet.path(TOKEN).context("no token")?)?;
    assert_ne!(own.split('.').next(), scene.app.split('.').next(), "another key");
    scene.app = by_new;
    scene.wait_route_by(&trusts_new, "edge", "primary", "ModerateComplexity").await
}
