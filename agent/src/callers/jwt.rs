//! JWTs of ServiceAccounts, checked without asking anybody: against keys on disk, for this agent's issuers and audiences.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use super::caller::{Caller, is_namespace};
use super::denied::Denied;
use super::files::{Fingerprint, Source};

/// The longest token that is looked at.
const MAX_CHARS: usize = 16 << 10;
/// The largest file of keys.
const MAX_BYTES: u64 = 1 << 20;
/// Tokens that are remembered, so that their signature is checked once.
const MAX_REMEMBERED: usize = 4096;

/// What a token must say.
#[derive(Debug)]
pub struct Rules {
    /// Who may have made it.
    pub issuers: Vec<String>,
    /// For whom; one of these.
    pub audiences: Vec<String>,
    /// How many seconds clocks may be apart.
    pub leeway: u64,
}

/// The keys of a JWKS.
pub struct Keys {
    keys: Vec<Key>,
    /// Tokens that these keys signed, by digest, and until when each holds. New keys remember nothing.
    remembered: Mutex<HashMap<[u8; 32], (Caller, u64)>>,
}

#[allow(clippy::struct_field_names)] // it is the key that a Key holds
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// Whether a token has the form of a JWT.
pub fn looks_like_one(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Keys {
    /// Of a JWKS. Keys that this agent has no use for are passed over, as the format wants it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(json)
            .map_err(|error| format!("is no JWKS, an object with a list of keys: line {}", error.line()))?;
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::of).collect();
        if keys.is_empty() {
            return Err("holds no key for RS256, RS384, RS512, ES256 or ES384".to_owned());
        }
        Ok(Self { keys, remembered: Mutex::default() })
    }

    /// Who has a token, whose digest this is.
    pub fn caller(&self, token: &str, digest: &[u8; 32], rules: &Rules, now: u64) -> Result<Caller, Denied> {
        if let Some((caller, until)) = self.lock().get(digest) {
            return if now <= *until { Ok(caller.clone()) } else { Err(Denied::TokenExpired) };
        }
        let (caller, until) = self.verify(token, rules, now)?;
        self.remember(*digest, caller.clone(), until, now);
        Ok(caller)
    }

    fn remember(&self, digest: [u8; 32], caller: Caller, until: u64, now: u64) {
        let mut remembered = self.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, (_, until)| *until >= now);
        }
        if remembered.len() >= MAX_REMEMBERED {
            // So many at once are no callers that come again; to check a signature anew costs microseconds.
            remembered.clear();
        }
        remembered.insert(digest, (caller, until));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (Caller, u64)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has a token, and until when it holds.
    fn verify(&self, token: &str, rules: &Rules, now: u64) -> Result<(Caller, u64), Denied> {
        if token.len() > MAX_CHARS {
            return Err(Denied::Malformed);
        }
        let header = decode_header(token).map_err(|_| Denied::Malformed)?;
        if header.crit.is_some() {
            // It says that it must not be taken by who does not know what that names.
            return Err(Denied::Malformed);
        }
        let key = self.key(header.kid.as_deref(), header.alg)?;
        let claims = decode::<Claims>(token, &key.key, &rules.validation(key.algorithm))
            .map_err(|error| denied(error.kind()))?
            .claims;
        let until = seconds(claims.exp).saturating_add(rules.leeway);
        if now > until {
            return Err(Denied::TokenExpired);
        }
        if claims.nbf.is_some_and(|from| seconds(from) > now.saturating_add(rules.leeway)) {
            return Err(Denied::NotYetValid);
        }
        let namespace = service_account(&claims.sub).ok_or(Denied::NoServiceAccount)?;
        Ok((Caller::of([namespace.to_owned()]), until))
    }

    /// The key that a token names, or the only one where it names none.
    fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&Key, Denied> {
        if !TAKEN.contains(&algorithm) {
            return Err(Denied::WrongAlgorithm);
        }
        let mut named = self.keys.iter().filter(|key| match id {
            Some(id) => key.id.as_deref() == Some(id),
            None => self.keys.len() == 1,
        });
        let Some(first) = named.next() else { return Err(Denied::UnknownKey) };
        let mut fitting = std::iter::once(first).chain(named).filter(|key| key.algorithm == algorithm);
        fitting.next().ok_or(Denied::WrongAlgorithm)
    }
}

/// What Kubernetes signs with, and its relatives. A key that says nothing of its algorithm is for the first of its kind.
const TAKEN: [Algorithm; 5] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::ES256, Algorithm::ES384];

impl Key {
    fn of(json: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(json).ok()?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let by_kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => KeyAlgorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                KeyAlgorithm::ES256
            }
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => {
                KeyAlgorithm::ES384
            }
            // A secret in a file of public keys, mostly; whatever it is, nothing that is signed with it is taken.
            _ => return None,
        };
        let algorithm = Algorithm::try_from(jwk.common.key_algorithm.unwrap_or(by_kind)).ok()?;
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let fits = TAKEN.contains(&algorithm) && key.family() == algorithm.family();
        fits.then_some(Self { id: jwk.common.key_id, algorithm, key })
    }
}

impl Rules {
    /// What the crate checks: signature, issuer and audience. Times are compared here, with a clock that is given.
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&self.issuers);
        validation.set_audience(&self.audiences);
        validation.validate_exp = false;
        validation
    }
}

fn denied(kind: &ErrorKind) -> Denied {
    match kind {
        ErrorKind::InvalidSignature => Denied::BadSignature,
        ErrorKind::InvalidAlgorithm => Denied::WrongAlgorithm,
        ErrorKind::InvalidIssuer => Denied::WrongIssuer,
        ErrorKind::InvalidAudience => Denied::WrongAudience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => Denied::WrongIssuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Denied::WrongAudience,
        _ => Denied::Malformed,
    }
}

/// The namespace of `system:serviceaccount:NAMESPACE:NAME`.
fn service_account(subject: &str) -> Option<&str> {
    let (namespace, name) = subject.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (is_namespace(namespace) && !name.is_empty() && !name.contains(':')).then_some(namespace)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it saturates, and what is negative is long over
const fn seconds(time: f64) -> u64 {
    time as u64
}

/// Where keys are read from.
#[derive(Debug)]
pub struct File(pub PathBuf);

impl Source for File {
    type Contents = Keys;

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(std::iter::once(self.0.as_path()))
    }

    fn load(&self) -> Result<Keys, String> {
        let told = |fault: String| format!("{}: {fault}", self.0.display());
        let size = fs::metadata(&self.0).map_err(|error| told(error.to_string()))?.len();
        if size > MAX_BYTES {
            return Err(told(format!("has more than {MAX_BYTES} bytes")));
        }
        let json = fs::read(&self.0).map_err(|error| told(error.to_string()))?;
        Keys::parse(&json).map_err(told)
    }
}
