//! Tokens of every kind, as they come in a header, and what is said of each.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, clippy::format_collect)] // helpers of tests fail like tests

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use http::{HeaderMap, HeaderValue, header};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_000_000;
const ISSUER: &str = "https://kubernetes.default.svc";

fn rules() -> Rules {
    Rules { issuers: vec![ISSUER.to_owned()], audiences: vec!["terrace".to_owned()], leeway: 30 }
}

/// What a kubelet asks a token for.
fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": ["terrace"], "sub": "system:serviceaccount:shop:till",
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 3600,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "till", "uid": "1"}},
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

/// Someone who signs with ES256.
struct Signer {
    id: &'static str,
    key: KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        Self { id, key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    fn jwk(&self) -> Value {
        let key = DecodingKey::from_ec_der(self.key.der_bytes());
        let mut jwk =
            serde_json::to_value(Jwk::from_decoding_key(&key, Some(Algorithm::ES256)).unwrap()).unwrap();
        jwk["kid"] = json!(self.id);
        jwk
    }

    fn sign_as(&self, header: Header, claims: &Value) -> String {
        encode(&header, claims, &EncodingKey::from_ec_der(self.key.serialized_der())).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) }, claims)
    }
}

fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}

fn caller(keys: &Keys, token: &str, now: u64) -> Result<Caller, Denied> {
    keys.caller(token, &Sha256::digest(token.as_bytes()).into(), &rules(), now)
}

fn shop() -> Caller {
    Caller::of(["shop".to_owned()])
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digit = |bits: u32| DIGITS[(bits & 63) as usize] as char;
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        text.extend((0..=three.len()).map(|place| digit(bits >> (18 - 6 * place))));
    }
    text
}

#[test]
fn a_service_accounts_token_is_its_namespaces() {
    let signer = Signer::new("1");
    let keys = Keys::parse(&jwks(&[Signer::new("0").jwk(), signer.jwk()])).unwrap();
    let token = signer.sign(&claims());
    for _ in 0..2 {
        assert_eq!(caller(&keys, &token, NOW), Ok(shop()));
    }
    assert_eq!(caller(&keys, &signer.sign(&with("aud", json!("terrace"))), NOW), Ok(shop()));
}

#[test]
fn what_a_token_says_wrong_is_told() {
    let signer = Signer::new("1");
    let keys = Keys::parse(&jwks(&[signer.jwk()])).unwrap();
    for (claim, value, expected) in [
        ("iss", json!("https://elsewhere"), Denied::WrongIssuer),
        ("iss", Value::Null, Denied::WrongIssuer),
        ("iss", json!(7), Denied::WrongIssuer),
        ("aud", json!(["https://kubernetes.default.svc"]), Denied::WrongAudience),
        ("aud", json!([]), Denied::WrongAudience),
        ("aud", Value::Null, Denied::WrongAudience),
        ("exp", json!(NOW - 31), Denied::TokenExpired),
        ("exp", json!(-1), Denied::Malformed),
        ("exp", json!("tomorrow"), Denied::Malformed),
        ("exp", Value::Null, Denied::Malformed),
        ("nbf", json!(NOW + 31), Denied::NotYetValid),
        ("nbf", json!("now"), Denied::Malformed),
        ("sub", json!("system:serviceaccount:shop"), Denied::NoServiceAccount),
        ("sub", json!("system:serviceaccount:*:till"), Denied::NoServiceAccount),
        ("sub", json!("system:serviceaccount:shop:till:more"), Denied::NoServiceAccount),
        ("sub", json!("system:node:kiosk"), Denied::NoServiceAccount),
        ("sub", json!(""), Denied::NoServiceAccount),
    ] {
        assert_eq!(
            caller(&keys, &signer.sign(&with(claim, value.clone())), NOW),
            Err(expected),
            "{claim}={value}"
        );
    }
    for (claim, value) in [("exp", json!(NOW - 30)), ("nbf", json!(NOW + 30)), ("nbf", Value::Null)] {
        assert_eq!(
            caller(&keys, &signer.sign(&with(claim, value.clone())), NOW),
            Ok(shop()),
            "{claim}={value}"
        );
    }
}

#[test]
fn a_token_is_taken_only_with_the_signature_of_the_key_that_it_names() {
    let (signer, other) = (Signer::new("1"), Signer::new("2"));
    let keys = Keys::parse(&jwks(&[signer.jwk(), other.jwk()])).unwrap();
    let token = signer.sign(&claims());
    let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
    let richer = base64url(with("sub", json!("system:serviceaccount:bank:till")).to_string().as_bytes());
    let none = base64url(br#"{"alg":"none","kid":"1"}"#);
    let public = signer.key.der_bytes();
    let hmac = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::HS256) };
    let es384 = base64url(br#"{"alg":"ES384","kid":"1"}"#);
    let critical = Header {
        kid: Some("1".to_owned()),
        crit: Some(vec!["b64".to_owned()]),
        ..Header::new(Algorithm::ES256)
    };
    for (token, expected) in [
        (format!("{head}.{richer}.{signature}"), Denied::BadSignature),
        (format!("{head}.{body}."), Denied::BadSignature),
        (format!("{head}.{body}.{}", &signature[2..]), Denied::BadSignature),
        (Signer { id: "2", key: Signer::new("1").key }.sign(&claims()), Denied::BadSignature),
        (Signer::new("3").sign(&claims()), Denied::UnknownKey),
        // Of two keys, nobody knows which is meant.
        (signer.sign_as(Header::new(Algorithm::ES256), &claims()), Denied::UnknownKey),
        (format!("{none}.{body}."), Denied::Malformed),
        (encode(&hmac, &claims(), &EncodingKey::from_secret(public)).unwrap(), Denied::WrongAlgorithm),
        (format!("{es384}.{body}.{signature}"), Denied::WrongAlgorithm),
        (signer.sign_as(critical, &claims()), Denied::Malformed),
        ("a.b.c".to_owned(), Denied::Malformed),
        ("..".to_owned(), Denied::Malformed),
        (format!("{head}.{}.{signature}", "A".repeat(17 << 10)), Denied::Malformed),
    ] {
        assert_eq!(caller(&keys, &token, NOW), Err(expected), "{token}");
    }
    let only = Keys::parse(&jwks(&[signer.jwk()])).unwrap();
    assert_eq!(caller(&only, &signer.sign_as(Header::new(Algorithm::ES256), &claims()), NOW), Ok(shop()));
}

#[test]
fn rs256_is_read_as_kubernetes_signs_it() {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let public = DecodingKey::from_rsa_der(key.der_bytes());
    for algorithm in [Some(Algorithm::RS256), None] {
        let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&public, algorithm).unwrap()).unwrap();
        jwk["kid"] = json!("rsa");
        jwk["use"] = json!("sig");
        let keys = Keys::parse(&jwks(&[jwk])).unwrap();
        let message = format!(
            "{}.{}",
            base64url(br#"{"alg":"RS256","kid":"rsa"}"#),
            base64url(claims().to_string().as_bytes())
        );
        let signature = base64url(&key.sign(message.as_bytes()).unwrap());
        assert_eq!(caller(&keys, &format!("{message}.{signature}"), NOW), Ok(shop()));
        let pss = base64url(br#"{"alg":"PS256","kid":"rsa"}"#);
        let (_, body) = message.split_once('.').unwrap();
        assert_eq!(caller(&keys, &format!("{pss}.{body}.{signature}"), NOW), Err(Denied::WrongAlgorithm));
    }
}

#[test]
fn a_token_that_is_remembered_ends_with_its_time_and_with_its_key() {
    let signer = Signer::new("1");
    let keys = Keys::parse(&jwks(&[signer.jwk()])).unwrap();
    let token = signer.sign(&claims());
    assert_eq!(caller(&keys, &token, NOW), Ok(shop()));
    assert_eq!(caller(&keys, &token, NOW + 3630), Ok(shop()));
    assert_eq!(caller(&keys, &token, NOW + 3631), Err(Denied::TokenExpired));
    // New keys remember nothing.
    let rotated = Keys::parse(&jwks(&[Signer::new("2").jwk()])).unwrap();
    assert_eq!(caller(&rotated, &token, NOW), Err(Denied::UnknownKey));
}

#[test]
fn a_jwks_is_read_with_what_else_stands_in_it() {
    let signer = Signer::new("1");
    let secret = json!({"kty": "oct", "k": "c2VjcmV0c2VjcmV0", "alg": "HS256", "kid": "s"});
    let mut encryption = Signer::new("2").jwk();
    encryption["use"] = json!("enc");
    let keys = Keys::parse(&jwks(&[secret.clone(), json!({"kty": "new"}), encryption.clone(), signer.jwk()]))
        .unwrap();
    assert_eq!(caller(&keys, &signer.sign(&claims()), NOW), Ok(shop()));
    for (json, words) in [
        (jwks(&[]), "holds no key"),
        (jwks(&[secret, encryption]), "holds no key"),
        (b"{\"keys\": 1}".to_vec(), "is no JWKS"),
        (b"".to_vec(), "is no JWKS"),
    ] {
        let fault = Keys::parse(&json).unwrap_err();
        assert!(fault.contains(words) && !fault.contains("c2Vj"), "{fault}");
    }
}

fn args(flags: &[&str]) -> Result<CallerArgs, String> {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        callers: CallerArgs,
    }
    let line = std::iter::once("terrace-agent").chain(flags.iter().copied());
    <Line as clap::Parser>::try_parse_from(line).map(|line| line.callers).map_err(|error| error.to_string())
}

#[test]
fn an_address_that_others_reach_needs_somebody_who_asks() {
    let check = |flags: &[&str], http: &str, grpc: &str| {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        args(flags).unwrap().check(&[("--listen-http", address(http)), ("--listen-grpc", address(grpc))])
    };
    for address in ["127.0.0.1:8000", "127.8.0.1:8000", "[::1]:8000", "[::ffff:127.0.0.1]:8000"] {
        assert_eq!(check(&[], address, address), Ok(()), "{address}");
    }
    for address in ["0.0.0.0:8000", "10.0.0.7:8000", "[::]:8000", "[::ffff:10.0.0.7]:8000"] {
        let fault = check(&[], "127.0.0.1:1", address).unwrap_err();
        assert!(fault.starts_with(&format!("--listen-grpc {address} ")), "{fault}");
        for flag in ["--caller-tokens", "--jwt-jwks", "--client-ca", "--allow-anonymous"] {
            assert!(fault.contains(flag), "{fault}");
        }
        assert!(check(&["--tls-cert=a", "--tls-key=b"], address, "127.0.0.1:1").is_err(), "TLS asks nobody");
        for flags in [
            &["--allow-anonymous"][..],
            &["--caller-tokens=t"],
            &["--jwt-jwks=j", "--jwt-issuer=i", "--jwt-audience=a"],
            &["--client-ca=c", "--tls-cert=a", "--tls-key=b"],
        ] {
            assert_eq!(check(flags, address, address), Ok(()), "{flags:?}");
        }
    }
    assert!(check(&["--allow-anonymous", "--caller-tokens=t"], "127.0.0.1:1", "127.0.0.1:1").is_err());
}

#[test]
fn flags_that_mean_nothing_alone_are_refused() {
    for flags in [
        &["--tls-cert=a"][..],
        &["--tls-key=a"],
        &["--client-ca=a"],
        &["--require-client-cert", "--tls-cert=a", "--tls-key=b"],
        &["--client-cert-namespace=shop"],
        &["--jwt-jwks=a"],
        &["--jwt-jwks=a", "--jwt-issuer=i"],
        &["--jwt-audience=a"],
        &["--jwt-leeway=6m"],
        &["--client-ca=c", "--tls-cert=a", "--tls-key=b", "--client-cert-namespace=Shop"],
    ] {
        assert!(args(flags).is_err(), "{flags:?}");
    }
}

fn headers(values: &[&str]) -> HeaderMap {
    let values = values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).unwrap()));
    values.collect()
}

fn open(folder: &Path, flags: &[&str]) -> Callers {
    let flags: Vec<String> =
        flags.iter().map(|flag| flag.replace("DIR", &folder.display().to_string())).collect();
    Callers::open(&args(&flags.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_header_is_read_as_the_protocol_has_it() {
    const TOKEN: &str = "0123456789abcdef";
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokens"), format!("shop {TOKEN}")).unwrap();
    let callers = open(folder.path(), &["--caller-tokens=DIR/tokens"]);
    for (values, expected) in [
        (&[&*format!("Bearer {TOKEN}")][..], Ok(shop())),
        (&[&format!("bearer  {TOKEN}")], Ok(shop())),
        (&[], Err(Denied::NoCredentials)),
        (&[&format!("Basic {TOKEN}")], Err(Denied::NotBearer)),
        (&[TOKEN], Err(Denied::NotBearer)),
        (&["Bearer "], Err(Denied::UnknownToken)),
        (&[&format!("Bearer {TOKEN}"), &format!("Bearer {TOKEN}")], Err(Denied::NotBearer)),
        (&[&format!("Bearer {TOKEN}x")], Err(Denied::UnknownToken)),
        (&["Bearer a.b.c"], Err(Denied::UnknownToken)),
    ] {
        assert_eq!(callers.identify(&headers(values), None).await, expected, "{values:?}");
    }
    let nobody_asks = open(folder.path(), &[]);
    assert_eq!(nobody_asks.identify(&headers(&["Bearer x"]), None).await, Ok(Caller::anyone()));
}

#[tokio::test]
async fn a_token_of_a_new_key_has_the_file_read_before_its_time() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    fs::write(&file, jwks(&[old.jwk()])).unwrap();
    let issuer = format!("--jwt-issuer={ISSUER}");
    let callers = open(folder.path(), &["--jwt-jwks=DIR/jwks.json", &issuer, "--jwt-audience=terrace"]);
    let mut claims = claims();
    claims["exp"] = json!(unix_now() + 600);
    let told = |token: String| {
        let callers = &callers;
        async move { callers.identify(&headers(&[&format!("Bearer {token}")]), None).await }
    };
    assert_eq!(told(old.sign(&claims)).await, Ok(shop()));
    fs::write(&file, jwks(&[new.jwk()])).unwrap();
    // Nobody follows the files here: the token itself has them read.
    assert_eq!(told(new.sign(&claims)).await, Ok(shop()));
    assert_eq!(told(old.sign(&claims)).await, Err(Denied::UnknownKey));
}

/// The processor's time that this thread has had.
fn cpu() -> Duration {
    let told = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(told.split(' ').next().unwrap().parse().unwrap())
}

/// What the layer costs a request: `cargo test --release -p terrace-agent -- --ignored --nocapture what_it_costs`
#[tokio::test]
#[ignore = "prints figures, asserts nothing"]
async fn what_it_costs() {
    const ROUNDS: u32 = 20_000;
    let signer = Signer::new("1");
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..100).map(|number| format!("shop {number:016}\n")).collect();
    fs::write(folder.path().join("tokens"), lines).unwrap();
    fs::write(folder.path().join("jwks"), jwks(&[signer.jwk()])).unwrap();
    let issuer = format!("--jwt-issuer={ISSUER}");
    let callers = open(
        folder.path(),
        &["--caller-tokens=DIR/tokens", "--jwt-jwks=DIR/jwks", &issuer, "--jwt-audience=terrace"],
    );
    let mut claims = claims();
    claims["exp"] = json!(unix_now() + 600);
    let jwt = signer.sign(&claims);
    for (what, token) in
        [("the last of 100 static tokens", format!("{:016}", 99)), ("a JWT, remembered", jwt.clone())]
    {
        let headers = headers(&[&format!("Bearer {token}")]);
        let begun = cpu();
        for _ in 0..ROUNDS {
            callers.identify(&headers, None).await.unwrap();
        }
        println!("{what}: {:?}", cpu().saturating_sub(begun) / ROUNDS);
    }
    let keys = Keys::parse(&jwks(&[signer.jwk()])).unwrap();
    let begun = cpu();
    for number in 0..1000_u64 {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        keys.caller(&jwt, &digest, &rules(), unix_now()).unwrap();
    }
    println!("a JWT for the first time (ES256): {:?}", cpu().saturating_sub(begun) / 1000);
}
