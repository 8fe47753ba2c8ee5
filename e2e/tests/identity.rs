//! What agents and operator may do, tried with the tokens that their pods would have.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use terrace_crds::{InferenceModel, InferenceNode};
use terrace_e2e::cluster::{AGENTS, Cluster, SYSTEM};
use terrace_e2e::digits;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Model;
use terrace_e2e::site::Site;

/// What the API server says to an attempt: `ok`, or the words of its refusal with their code.
fn verdict<T>(answer: kube::Result<T>) -> Result<String> {
    match answer {
        Ok(_) => Ok("ok".to_owned()),
        Err(kube::Error::Api(status)) => Ok(format!("{} {}", status.code, status.message)),
        Err(error) => Err(error.into()),
    }
}

fn nodes(client: &Client) -> Api<InferenceNode> {
    Api::all(client.clone())
}

fn status_of(name: &str) -> Patch<Value> {
    Patch::Apply(json!({
        "apiVersion": "terrace.dev/v1alpha1", "kind": "InferenceNode", "metadata": {"name": name},
        "status": {"agent": {"version": "0", "runtime": "none"}},
    }))
}

async fn write_status(client: &Client, name: &str) -> Result<String> {
    verdict(
        nodes(client)
            .patch_status(name, &PatchParams::apply("terrace-agent").force(), &status_of(name))
            .await,
    )
}

async fn write_spec(client: &Client, name: &str) -> Result<String> {
    let spec = json!({
        "apiVersion": "terrace.dev/v1alpha1", "kind": "InferenceNode", "metadata": {"name": name},
        "spec": {"tier": "Cloud"},
    });
    verdict(nodes(client).patch(name, &PatchParams::apply("mallory").force(), &Patch::Apply(spec)).await)
}

async fn create(client: &Client, name: &str) -> Result<String> {
    let node = InferenceNode::new(name, Default::default());
    verdict(nodes(client).create(&PostParams::default(), &node).await)
}

async fn delete(client: &Client, name: &str) -> Result<String> {
    verdict(nodes(client).delete(name, &DeleteParams::default()).await)
}

fn assert_refused(what: &str, verdict: &str, words: &str) {
    assert!(verdict.starts_with("403 ") && verdict.contains(words), "{what}: {verdict}");
}

/// Two nodes with agents, and an InferenceNode for each.
async fn cluster() -> Result<Cluster> {
    let cluster = Cluster::start().await?;
    for node in ["node-a", "node-b"] {
        cluster.add_node(node, &[]).await?;
        ensure!(create(&cluster.client(), node).await? == "ok");
    }
    Ok(cluster)
}

#[tokio::test]
async fn an_agent_writes_the_status_of_its_own_node_and_nothing_else() -> Result<()> {
    let cluster = cluster().await?;
    let agent = cluster.client_with(&cluster.agent_token("node-a").await?)?;
    assert_eq!(write_status(&agent, "node-a").await?, "ok");
    let seen = nodes(&agent).get("node-b").await?;
    assert_eq!(seen.metadata.name.as_deref(), Some("node-b"), "reads are not isolated");

    let bound = "this token is bound to node node-a, and the object is node-b";
    assert_refused("another's status", &write_status(&agent, "node-b").await?, bound);
    assert_refused("its own spec", &write_spec(&agent, "node-a").await?, "");
    assert_refused("another's spec", &write_spec(&agent, "node-b").await?, "");
    assert_refused("deletion", &delete(&agent, "node-a").await?, "");
    assert_refused("creation", &create(&agent, "node-c").await?, "");
    let everything =
        verdict(nodes(&agent).delete_collection(&DeleteParams::default(), &ListParams::default()).await)?;
    assert_refused("deletion of all", &everything, "");

    let models = Api::<InferenceModel>::namespaced(agent.clone(), "default");
    assert_refused("models", &verdict(models.list(&ListParams::default()).await)?, "inferencemodels");
    let secrets = Api::<Secret>::all(agent.clone());
    assert_refused("secrets", &verdict(secrets.list(&ListParams::default()).await)?, "secrets");
    let own = Api::<Secret>::namespaced(agent, AGENTS);
    assert_refused("secrets of its namespace", &verdict(own.get("any").await)?, "secrets");
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_bound_to_no_node_writes_nothing() -> Result<()> {
    let cluster = cluster().await?;
    let unbound = cluster.client_with(&cluster.token(AGENTS, "terrace-agent").await?)?;
    let refused = write_status(&unbound, "node-a").await?;
    assert_refused("without the claim", &refused, "this token is bound to no node");
    let nobody = cluster.client_with(&cluster.token(AGENTS, "default").await?)?;
    assert_refused("another account", &write_status(&nobody, "node-a").await?, "");
    Ok(())
}

#[tokio::test]
async fn the_admission_policy_holds_where_a_role_is_too_wide() -> Result<()> {
    let cluster = cluster().await?;
    cluster
        .apply(&format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: too-wide}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}\n\
             subjects: [{{kind: ServiceAccount, name: terrace-agent, namespace: {AGENTS}}}]\n"
        ))
        .await?;
    let agent = cluster.client_with(&cluster.agent_token("node-a").await?)?;
    // The binding reaches the authorizer in a moment.
    terrace_e2e::wait::until("the wide role to count", || async {
        let verdict = verdict(Api::<Secret>::all(agent.clone()).list(&ListParams::default()).await)?;
        ensure!(verdict == "ok", "{verdict}");
        Ok(())
    })
    .await?;
    assert_eq!(write_status(&agent, "node-a").await?, "ok");
    let rule = "an agent writes the status of its own";
    assert_refused("another's status", &write_status(&agent, "node-b").await?, rule);
    assert_refused("its own spec", &write_spec(&agent, "node-a").await?, rule);
    assert_refused("another's spec", &write_spec(&agent, "node-b").await?, rule);
    assert_refused("creation", &create(&agent, "node-c").await?, rule);
    assert_refused("deletion", &delete(&agent, "node-b").await?, rule);
    assert_refused("deletion of its own", &delete(&agent, "node-a").await?, rule);
    let everything =
        verdict(nodes(&agent).delete_collection(&DeleteParams::default(), &ListParams::default()).await)?;
    assert_refused("deletion of all", &everything, rule);
    assert_eq!(nodes(&agent).list(&ListParams::default()).await?.items.len(), 2);
    Ok(())
}

#[tokio::test]
async fn the_operator_writes_specs_and_no_agents_status() -> Result<()> {
    let cluster = cluster().await?;
    let operator = cluster.client_with(&cluster.token(SYSTEM, "terrace-operator").await?)?;
    assert_eq!(write_spec(&operator, "node-a").await?, "ok");
    assert_refused("status", &write_status(&operator, "node-a").await?, "inferencenodes/status");
    let secrets = Api::<Secret>::all(operator.clone());
    assert_refused("secrets", &verdict(secrets.list(&ListParams::default()).await)?, "secrets");
    // Of ConfigMaps it has the one that tells the agents whose tokens they take.
    for (namespace, name, words) in [
        (AGENTS, "terrace-jwks", ""),
        (AGENTS, "terrace", "configmaps"),
        (SYSTEM, "terrace-jwks", "configmaps"),
    ] {
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}});
        let maps = Api::<ConfigMap>::namespaced(operator.clone(), namespace);
        let written = maps.patch(name, &PatchParams::apply("mallory").force(), &Patch::Apply(map)).await;
        match verdict(written)? {
            written if words.is_empty() => assert_eq!(written, "ok"),
            refused => assert_refused(name, &refused, words),
        }
    }
    let model: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "terrace.dev/v1alpha1", "kind": "InferenceModel", "metadata": {"name": "digits"},
        "spec": {"source": {"uri": "https://models.example/m", "sha256": "0".repeat(64)}},
    }))?;
    let resource = kube::core::ApiResource::erase::<InferenceModel>(&());
    let models = Api::<DynamicObject>::namespaced_with(operator, "default", &resource);
    assert_refused(
        "a model",
        &verdict(models.create(&PostParams::default(), &model).await)?,
        "inferencemodels",
    );
    Ok(())
}

#[tokio::test]
async fn the_claim_of_a_pods_token_is_its_node() -> Result<()> {
    let cluster = cluster().await?;
    let agent = cluster.client_with(&cluster.agent_token("node-b").await?)?;
    let review = Api::<DynamicObject>::all_with(
        agent,
        &kube::core::ApiResource {
            group: "authentication.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "authentication.k8s.io/v1".to_owned(),
            kind: "SelfSubjectReview".to_owned(),
            plural: "selfsubjectreviews".to_owned(),
        },
    );
    let request = DynamicObject {
        types: Some(kube::core::TypeMeta {
            api_version: "authentication.k8s.io/v1".to_owned(),
            kind: "SelfSubjectReview".to_owned(),
        }),
        metadata: ObjectMeta::default(),
        data: json!({}),
    };
    let answer = review.create(&PostParams::default(), &request).await?;
    let extra = answer.data.pointer("/status/userInfo/extra").context("no extra")?;
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["node-b"]));
    Ok(())
}

#[tokio::test]
async fn an_apps_token_opens_its_namespaces_models_and_the_api_server_is_not_asked() -> Result<()> {
    let cluster = Cluster::start().await?;
    let (issuer, keys) = cluster.token_keys().await?;
    let app = cluster.token_for("default", "default", "terrace").await?;
    let other = cluster.token_for(SYSTEM, "terrace-operator", "terrace").await?;
    let for_the_api_server = cluster.token("default", "default").await?;
    drop(cluster);

    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let file = site.folder().join("jwks.json");
    std::fs::write(&file, keys)?;
    let agent = site
        .agent()
        .set("--jwt-jwks", &file)
        .set("--jwt-issuer", issuer)
        .set("--jwt-audience", "terrace")
        .ready()
        .await?;
    let ask = Ask::image(&digits::test_set().images[0]);
    for (token, status) in [(app, 200), (other, 403), (for_the_api_server, 401)] {
        let reply = agent.infer(&ask.clone().header("authorization", &format!("Bearer {token}"))).await?;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
    Ok(())
}
