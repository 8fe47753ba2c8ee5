//! Why another tier did not answer, and what that says of it.

use std::error::Error;
use std::time::Duration;

use http::StatusCode;
use terrace_egress::{ConnectError, Denied, TIER_CONNECT};
use terrace_tiering::{SkipReason, failure_weight};

/// How much of an upstream's error text is passed on.
const MAX_ERROR_CHARS: usize = 512;

/// What is said of a request that was refused without a word.
const NO_WORDS: &str = "the tier refused the request and did not say why";

/// Why a tier did not answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It was not asked.
    #[error("not asked: it {}", .0.text())]
    Skipped(SkipReason),
    /// The administrator does not allow the address.
    #[error("{0}")]
    NotAllowed(#[from] Denied),
    /// What it is to be asked with cannot be read.
    #[error("its credentials cannot be read")]
    CredentialsUnavailable,
    /// No connection could be made.
    #[error("no connection")]
    Connect(#[source] ConnectError),
    /// The connection broke before the answer was whole.
    #[error("the connection broke")]
    Broken(#[source] ConnectError),
    /// No whole answer in time.
    #[error("no answer within {} ms", timeout.as_millis())]
    TimedOut {
        /// The time that it had.
        timeout: Duration,
        /// The time that it may take where no deadline is nearer.
        full: Duration,
        /// It was connected to.
        connected: bool,
    },
    /// The tier says that the request itself is wrong; no other tier will like it better.
    #[error("{message}")]
    Rejected {
        /// Its words.
        message: String,
    },
    /// The tier answered, and not with outputs.
    #[error("status {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// How long it took, where it says that the deadline passed there.
        late: Option<(Duration, Duration)>,
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
    pub fn unsent(error: hyper_util::client::legacy::Error) -> Self {
        let is_connect = error.is_connect();
        Self::unconnected(Box::new(error), is_connect)
    }

    /// The same, of a connection that was to be made.
    pub fn unconnected(error: ConnectError, is_connect: bool) -> Self {
        match denial(&*error) {
            Some(denied) => Self::NotAllowed(denied.clone()),
            None if is_connect => Self::Connect(error),
            None => Self::Broken(error),
        }
    }

    /// One word for `attempts` and for metrics.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Skipped(why) => why.as_str(),
            Self::NotAllowed(_) => "NotAllowed",
            Self::CredentialsUnavailable => "CredentialsUnavailable",
            Self::Connect(_) => "ConnectFailed",
            Self::Broken(_) => "ConnectionBroken",
            Self::TimedOut { .. } => "TimedOut",
            Self::Rejected { .. } => "Rejected",
            Self::Status { .. } => "BadStatus",
            Self::TooLarge { .. } => "AnswerTooLarge",
            Self::Malformed(_) => "Malformed",
        }
    }

    /// What it counts for against the endpoint; none where it says nothing against it. An answer of 4xx is an answer: the
    /// endpoint is there. What a deadline cut short counts for the part of its time that it had: of the time to connect, or of
    /// its time-out.
    pub fn weight(&self) -> Option<f64> {
        match self {
            Self::Connect(_) | Self::Broken(_) | Self::Malformed(_) => Some(1.0),
            Self::TimedOut { timeout, full, connected: true } => Some(failure_weight(*timeout, *full)),
            Self::TimedOut { timeout, full, connected: false } => {
                Some(failure_weight(*timeout, TIER_CONNECT.min(*full)))
            }
            Self::Status { late: Some((took, full)), .. } => Some(failure_weight(*took, *full)),
            Self::Status { status, late: None } => status.is_server_error().then_some(1.0),
            Self::Skipped(_)
            | Self::NotAllowed(_)
            | Self::CredentialsUnavailable
            | Self::Rejected { .. }
            | Self::TooLarge { .. } => None,
        }
    }

    /// Whether the endpoint answered, if not as it should.
    pub const fn is_answer(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Status { .. } | Self::TooLarge { .. })
    }

    /// Whether nobody was there: nothing was sent.
    pub const fn is_unconnected(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::TimedOut { connected: false, .. })
    }
}

/// That an address may not be reached, where this is what an error comes from.
fn denial<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Denied> {
    error.downcast_ref().or_else(|| error.source().and_then(denial))
}

/// Whether a status says that the request is wrong, wherever it is sent.
pub const fn is_rejection(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
}

/// The words of an OIP error, cut to a sane length.
pub fn json_error(body: &[u8]) -> String {
    let error = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|body| body.get("error").and_then(|error| error.as_str().map(str::to_owned)));
    error.map_or_else(|| NO_WORDS.to_owned(), |error| printable(&error))
}

/// The words of a gRPC status, cut to a sane length.
pub fn grpc_error(message: &str) -> String {
    if message.is_empty() { NO_WORDS.to_owned() } else { printable(message) }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use terrace_egress::Egress;
    use url::Url;

    use super::*;

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
    fn what_counts_against_an_endpoint_is_that_it_did_not_answer() {
        let (second, status) = (Duration::from_secs(1), |code| StatusCode::from_u16(code).unwrap());
        let timed_out = |ms, connected| UpstreamError::TimedOut {
            timeout: Duration::from_millis(ms),
            full: second * 5,
            connected,
        };
        let answered = |code| UpstreamError::Status { status: status(code), late: None };
        for (error, weight) in [
            (UpstreamError::Connect("refused".into()), Some(1.0)),
            (UpstreamError::Broken("reset".into()), Some(1.0)),
            (timed_out(5_000, true), Some(1.0)),
            (timed_out(500, true), Some(0.1)),
            (timed_out(500, false), Some(0.5)),
            (timed_out(1_000, false), Some(1.0)),
            (answered(503), Some(1.0)),
            (UpstreamError::Status { status: status(504), late: Some((second, second * 5)) }, Some(0.2)),
            (answered(404), None),
            (answered(429), None),
            (UpstreamError::Rejected { message: String::new() }, None),
            (UpstreamError::Skipped(SkipReason::BreakerOpen), None),
        ] {
            assert_eq!(error.weight(), weight, "{error:?}");
        }
    }

    #[test]
    fn an_error_text_is_bounded_and_printable() {
        let long = format!("{{\"error\": \"a\\n{}\"}}", "b".repeat(2000));
        let text = json_error(long.as_bytes());
        assert_eq!(text.len(), MAX_ERROR_CHARS);
        assert!(text.starts_with("ab"));
        assert!(json_error(b"<html>").contains("did not say why"));
        assert_eq!((grpc_error("a\nb").as_str(), grpc_error("").as_str()), ("ab", NO_WORDS));
    }
}
