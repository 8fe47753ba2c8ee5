//! Forwarding: one attempt at another tier, over the Open Inference Protocol's HTTP binding.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};
use terrace_crds::Tier;
use terrace_oip::{DecodedResponse, RelayedResponse};
use url::Url;

use crate::message::{JSON_LENGTH, Message};
use terrace_egress::{Denied, Egress};

/// Says that a request was forwarded once and must be answered where it arrives.
pub const HOP: HeaderName = HeaderName::from_static("terrace-hop");
/// The time that is left of a request's deadline, in milliseconds.
const MAX_LATENCY: HeaderName = HeaderName::from_static("terrace-max-latency-ms");
/// How much of an upstream's error text is passed on.
const MAX_ERROR_CHARS: usize = 512;

/// Reaches other tiers.
#[derive(Debug)]
pub struct Upstream {
    client: reqwest::Client,
    egress: Egress,
    /// The largest answer that is read.
    max_bytes: usize,
}

/// What is forwarded, and where.
#[derive(Debug)]
pub struct Forward<'a> {
    /// The tier that forwards.
    pub from: Tier,
    /// The tier's base URL.
    pub url: &'a Url,
    /// The model's name there.
    pub model: &'a str,
    /// The request, as it came.
    pub message: Message,
    /// How long the attempt may take.
    pub timeout: Duration,
    /// When the answer is due at the caller, if ever.
    pub deadline: Option<Instant>,
}

/// Another tier's answer: an inference response, still as that tier encoded it.
#[derive(Clone, Debug)]
pub struct Relayed(Message);

impl Relayed {
    fn new(message: Message) -> Result<Self, UpstreamError> {
        if message.json_length.is_some_and(|length| length > message.bytes.len()) {
            return Err(UpstreamError::Malformed("its JSON is said to be longer than it is".to_owned()));
        }
        let relayed = Self(message);
        relayed.response().map_err(|error| UpstreamError::Malformed(error.to_string()))?;
        Ok(relayed)
    }

    /// The response, its tensors untouched.
    pub fn response(&self) -> Result<RelayedResponse<'_>, terrace_oip::DecodeError> {
        RelayedResponse::from_json(self.0.json())
    }

    /// The response with its tensors.
    pub fn decode(&self) -> Result<DecodedResponse, terrace_oip::DecodeError> {
        DecodedResponse::from_http(&self.0.bytes, self.0.json_length)
    }

    /// The binary tensors behind it.
    pub fn tail(&self) -> Bytes {
        self.0.tail()
    }

    /// How much of it is JSON.
    pub fn json_length(&self) -> usize {
        self.0.json().len()
    }

    /// Whether there are any, be they empty.
    pub const fn is_binary(&self) -> bool {
        self.0.json_length.is_some()
    }
}

/// Why a tier did not answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The administrator does not allow the address.
    #[error("{0}")]
    NotAllowed(#[from] Denied),
    /// No connection could be made.
    #[error("no connection")]
    Connect(#[source] reqwest::Error),
    /// The connection broke before the answer was whole.
    #[error("the connection broke")]
    Broken(#[source] reqwest::Error),
    /// No whole answer in time.
    #[error("no answer within {} ms", timeout.as_millis())]
    TimedOut {
        /// The time that it had.
        timeout: Duration,
    },
    /// The tier says that the request itself is wrong; no other tier will like it better.
    #[error("{message}")]
    Rejected {
        /// The status that it said so with.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// The tier answered, and not with outputs.
    #[error("status {status}")]
    Status {
        /// The status.
        status: StatusCode,
    },
    /// The answer is larger than this agent takes.
    #[error("an answer larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The answer is no inference response.
    #[error("an answer that is no inference response: {0}")]
    Malformed(String),
}

impl UpstreamError {
    /// Why nothing came back. An address that may not be reached is known only once its name is resolved, deep inside.
    fn unsent(error: reqwest::Error) -> Self {
        match denial(&error) {
            Some(denied) => Self::NotAllowed(denied.clone()),
            None if error.is_connect() => Self::Connect(error),
            None => Self::Broken(error),
        }
    }

    /// One word for `attempts` and for metrics.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::NotAllowed(_) => "NotAllowed",
            Self::Connect(_) => "ConnectFailed",
            Self::Broken(_) => "ConnectionBroken",
            Self::TimedOut { .. } => "TimedOut",
            Self::Rejected { .. } => "Rejected",
            Self::Status { .. } => "BadStatus",
            Self::TooLarge { .. } => "AnswerTooLarge",
            Self::Malformed(_) => "Malformed",
        }
    }
}

impl Upstream {
    /// Takes answers of up to `max_bytes`.
    pub fn new(egress: Egress, max_bytes: usize) -> Result<Self, reqwest::Error> {
        Ok(Self { client: egress.upstream_client()?, egress, max_bytes })
    }

    /// One attempt. Nothing but the body, the hop and what is left of the deadline travels.
    pub async fn infer(&self, forward: Forward<'_>) -> Result<Relayed, UpstreamError> {
        let timeout = forward.timeout;
        tokio::time::timeout(timeout, self.exchange(forward))
            .await
            .unwrap_or(Err(UpstreamError::TimedOut { timeout }))
    }

    async fn exchange(&self, forward: Forward<'_>) -> Result<Relayed, UpstreamError> {
        self.egress.check_url(forward.url)?;
        let mut request = self
            .client
            .post(infer_url(forward.url, forward.model))
            .header(header::CONTENT_TYPE, forward.message.content_type())
            .header(HOP, HeaderValue::from_static(forward.from.as_str()));
        if let Some(length) = forward.message.json_length {
            request = request.header(JSON_LENGTH, length);
        }
        request = request.body(forward.message.bytes);
        if let Some(deadline) = forward.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            request = request.header(MAX_LATENCY, format!("{:.3}", left.as_secs_f64() * 1e3));
        }
        let response = request.send().await.map_err(UpstreamError::unsent)?;
        let status = response.status();
        let json_length = Message::json_length(response.headers());
        let body = self.read(response).await?;
        if status.is_success() {
            let json_length = json_length.map_err(|error| UpstreamError::Malformed(error.to_string()))?;
            Relayed::new(Message { bytes: body, json_length })
        } else if is_rejection(status) {
            Err(UpstreamError::Rejected { status, message: error_text(&body) })
        } else {
            Err(UpstreamError::Status { status })
        }
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Bytes, UpstreamError> {
        let too_large = UpstreamError::TooLarge { limit: self.max_bytes };
        let claimed = response.content_length().unwrap_or(0);
        if claimed > self.max_bytes as u64 {
            return Err(too_large);
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(UpstreamError::Broken)? {
            if body.len() + chunk.len() > self.max_bytes {
                return Err(too_large);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

/// That an address may not be reached, where this is what an error comes from.
fn denial<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Denied> {
    error.downcast_ref().or_else(|| error.source().and_then(denial))
}

/// `<base>/v2/models/<model>/infer`
fn infer_url(base: &Url, model: &str) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(["v2", "models", model, "infer"]);
    }
    url
}

/// Whether a status says that the request is wrong, wherever it is sent.
const fn is_rejection(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
}

/// The words of an OIP error, cut to a sane length.
fn error_text(body: &[u8]) -> String {
    let error = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|body| body.get("error").and_then(|error| error.as_str().map(str::to_owned)));
    error.map_or_else(
        || "the tier refused the request and did not say why".to_owned(),
        |error| error.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_one_segment_below_the_base() {
        let url = |base: &str, model: &str| infer_url(&Url::parse(base).unwrap(), model).to_string();
        assert_eq!(url("http://edge:8000", "digits"), "http://edge:8000/v2/models/digits/infer");
        assert_eq!(url("http://edge:8000/", "a.b"), "http://edge:8000/v2/models/a.b/infer");
        assert_eq!(url("http://edge/gateway/", "m"), "http://edge/gateway/v2/models/m/infer");
        assert_eq!(url("http://edge", "../admin"), "http://edge/v2/models/..%2Fadmin/infer");
    }

    #[test]
    fn a_denied_address_is_found_however_deep_it_lies() {
        #[derive(Debug, thiserror::Error)]
        #[error("a layer")]
        struct Layer(#[source] Box<dyn Error + Send + Sync>);

        let denied = Egress::new(Vec::new()).check_url(&Url::parse("http://127.0.0.1").unwrap()).unwrap_err();
        let error = Layer(Layer(denied.clone().into()).into());
        assert_eq!(denial(&error), Some(&denied));
        assert_eq!(denial(&Layer("refused".into())), None);
    }

    #[test]
    fn only_statuses_about_the_request_itself_reject_it() {
        for status in [400, 422] {
            assert!(is_rejection(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        // How large a request may be, each server says for itself.
        for status in [401, 403, 404, 408, 413, 429, 500, 502, 503, 504] {
            assert!(!is_rejection(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }

    #[test]
    fn an_error_text_is_bounded_and_printable() {
        let long = format!("{{\"error\": \"a\\n{}\"}}", "b".repeat(2000));
        let text = error_text(long.as_bytes());
        assert_eq!(text.len(), MAX_ERROR_CHARS);
        assert!(text.starts_with("ab"));
        assert!(error_text(b"<html>").contains("did not say why"));
    }
}
