//! Which node this is: as the token of the agent's pod says, which the API server bound to it.

use anyhow::{Context as _, bail};
use kube::config::AuthInfo;
use serde_json::Value;

/// The node in the claims of a bound ServiceAccount token.
pub fn node_name(auth: &AuthInfo) -> anyhow::Result<String> {
    let Some(path) = &auth.token_file else {
        bail!("give the node's name with --node-name: there is no ServiceAccount token that says it");
    };
    let token = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the ServiceAccount token {path}"))?;
    claimed(token.trim())
        .with_context(|| format!("the token {path} does not say which node it is bound to; give --node-name"))
}

/// Nothing is verified: whoever can write the token's file can set the flag as well.
fn claimed(token: &str) -> Option<String> {
    let claims = base64url(token.split('.').nth(1)?)?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims.pointer("/kubernetes.io/node/name")?.as_str().map(str::to_owned)
}

/// Base64 with the alphabet of URLs, without padding.
fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in text.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_read_from_the_claims() {
        // {"kubernetes.io":{"namespace":"terrace-agents","node":{"name":"kiosk-7","uid":"1"}},"sub":"?~"}
        let claims = "eyJrdWJlcm5ldGVzLmlvIjp7Im5hbWVzcGFjZSI6InRlcnJhY2UtYWdlbnRzIiwibm9kZSI6eyJuYW1lIjoia2lvc2stNyIsInVpZCI6IjEifX0sInN1YiI6Ij9-In0";
        assert_eq!(claimed(&format!("e30.{claims}.c2ln")).as_deref(), Some("kiosk-7"));
        // {"kubernetes.io":{"pod":{"name":"a"}}}
        assert_eq!(claimed("e30.eyJrdWJlcm5ldGVzLmlvIjp7InBvZCI6eyJuYW1lIjoiYSJ9fX0.c2ln"), None);
        for junk in ["", "a", "a.b.c", "a.%%.c", "a.e30.c"] {
            assert_eq!(claimed(junk), None, "{junk}");
        }
    }
}
