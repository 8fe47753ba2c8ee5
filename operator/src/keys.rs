//! Whose tokens the agents take: the API server's issuer and public keys, kept in a ConfigMap that the agents' pods mount. So
//! agents check tokens without asking anybody, and nobody copies keys by hand.
//!
//! The leader looks every minute, and writes only what has changed. What cannot be read changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::Patch;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::context::{Context, Error, server_side_apply};

/// The ConfigMap, in the agents' namespace.
const NAME: &str = "terrace-jwks";
/// The keys, as a JWKS: the file that `--jwt-jwks` names.
const KEYS: &str = "jwks.json";
/// Who makes the tokens: `--jwt-issuer`.
const ISSUER: &str = "issuer";
/// What the API server says of its tokens.
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// The keys that it takes.
const JWKS: &str = "/openid/v1/jwks";
/// How often it is asked.
const EVERY: Duration = Duration::from_mins(1);
/// How soon again where that failed.
const RETRY: Duration = Duration::from_secs(5);

/// What the API server says cannot be used. What was published before holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unusable {
    /// No issuer.
    #[error("{DISCOVERY} of the API server names no issuer")]
    Issuer,
    /// No keys. Published, they would shut everybody out.
    #[error("{JWKS} of the API server holds no keys")]
    Keys,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
enum Unpublished {
    #[error(transparent)]
    Api(#[from] Error),
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

impl Unpublished {
    /// One word for metrics.
    fn category(&self) -> &'static str {
        match self {
            Self::Api(error) => error.category(),
            Self::Unusable(_) => "Unusable",
        }
    }
}

/// Keeps the ConfigMap in `namespace` as the API server's keys are, for ever.
pub async fn publish(context: Arc<Context>, namespace: String) -> anyhow::Result<()> {
    let mut told = None;
    loop {
        let begun = Instant::now();
        let done = look(&context, &namespace).await;
        let outcome = done.as_ref().map_or_else(Unpublished::category, |()| "Done");
        context.metrics.reconciled("keys", outcome, begun.elapsed());
        // The same trouble is told once.
        let trouble = done.as_ref().err().map(ToString::to_string);
        if let Some(error) = trouble.as_ref().filter(|_| trouble != told) {
            warn!(namespace, name = NAME, error, retry_in = ?RETRY,
                "the keys of ServiceAccounts' tokens could not be published; what was published before holds");
        }
        told = trouble;
        tokio::time::sleep(if done.is_ok() { EVERY } else { RETRY }).await;
    }
}

/// One look.
async fn look(context: &Context, namespace: &str) -> Result<(), Unpublished> {
    let get = |path: &'static str| {
        let mut request = Request::new(Vec::new());
        *request.uri_mut() = http::Uri::from_static(path);
        context.read(context.client.request_text(request))
    };
    let published = published(&get(DISCOVERY).await?, &get(JWKS).await?)?;
    let api = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
    let there = context.read(api.get_opt(NAME)).await?;
    if there.and_then(|there| there.data).as_ref() == Some(&published) {
        return Ok(());
    }
    let patch = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": namespace}, "data": published,
    });
    context.write(api.patch(NAME, &server_side_apply(), &Patch::Apply(&patch))).await?;
    info!(namespace, name = NAME, "the keys of ServiceAccounts' tokens were published");
    Ok(())
}

/// What the ConfigMap holds, of what the API server says. Pure.
fn published(discovery: &str, jwks: &str) -> Result<BTreeMap<String, String>, Unusable> {
    #[derive(Deserialize)]
    struct Discovery {
        issuer: String,
    }
    #[derive(Deserialize)]
    struct Jwks {
        keys: Vec<Value>,
    }
    let Discovery { issuer } = serde_json::from_str(discovery).map_err(|_| Unusable::Issuer)?;
    let Jwks { keys } = serde_json::from_str(jwks).map_err(|_| Unusable::Keys)?;
    // The servers of one cluster may list them in different orders: that is no change.
    let mut keys: Vec<String> = keys.iter().map(Value::to_string).collect();
    keys.sort();
    keys.dedup();
    if issuer.is_empty() {
        return Err(Unusable::Issuer);
    }
    if keys.is_empty() {
        return Err(Unusable::Keys);
    }
    let jwks = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
    Ok(BTreeMap::from([(ISSUER.to_owned(), issuer), (KEYS.to_owned(), jwks)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISCOVERED: &str =
        r#"{"issuer":"https://kubernetes.default.svc","jwks_uri":"https://10.0.0.1/openid/v1/jwks"}"#;

    #[test]
    fn keys_are_published_whatever_order_a_server_lists_them_in() {
        let one =
            published(DISCOVERED, r#"{"keys":[{"kid":"b","kty":"RSA"},{"kty":"RSA","kid":"a"}]}"#).unwrap();
        let other =
            published(DISCOVERED, r#"{"keys":[{"kid":"a","kty":"RSA"},{"kid":"b","kty":"RSA"}]}"#).unwrap();
        assert_eq!(one, other);
        assert_eq!(one[KEYS], r#"{"keys":[{"kid":"a","kty":"RSA"},{"kid":"b","kty":"RSA"}]}"#);
        assert_eq!(one[ISSUER], "https://kubernetes.default.svc");
    }

    #[test]
    fn what_would_shut_everybody_out_is_not_published() {
        let keys = r#"{"keys":[{"kid":"a"}]}"#;
        for (discovery, jwks, unusable) in [
            ("{}", keys, Unusable::Issuer),
            (r#"{"issuer":""}"#, keys, Unusable::Issuer),
            ("<html>", keys, Unusable::Issuer),
            (DISCOVERED, r#"{"keys":[]}"#, Unusable::Keys),
            (DISCOVERED, "{}", Unusable::Keys),
            (DISCOVERED, "", Unusable::Keys),
        ] {
            assert_eq!(published(discovery, jwks), Err(unusable), "{discovery} {jwks}");
        }
    }
}
