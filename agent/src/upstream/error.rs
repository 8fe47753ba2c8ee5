//! Why another tier did not answer, and what that says of it.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::StatusCode;
use terrace_egress::{ConnectError, Denied, NoAddress, Said, TIER_CONNECT, causes};
use terrace_tiering::{SkipReason, Unanswered, failure_weight};

use super::trouble::LeftAlone;
use crate::room::Full;

/// How much of an upstream's error text is passed on.
const MAX_ERROR_CHARS: usize = 512;

/// An error that is longer is not looked into.
pub const MAX_ERROR_BYTES: usize = 64 << 10;

/// What is said of a request that was refused without a word.
const NO_WORDS: &str = "the tier refused the request and did not say why";

/// Why a tier did not answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It was not asked.
    #[error("not asked: it {}", .0.text())]
    Skipped(SkipReason),
    /// It is left alone for a while.
    #[error("{0}")]
    LeftAlone(LeftAlone),
    /// The request cannot be said in the form in which the tier is asked.
    #[error("the request cannot be put into the form in which that tier is asked")]
    NotExpressible,
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
    /// The server does no more for the request, and says why over HTTP/2.
    #[error("{}", match said { Said::Reset(_) => "the request's stream was reset", Said::GoAway(_) => "the connection broke" })]
    TakenBack {
        /// What it said.
        said: Said,
        /// How long it took, of the time that it may take, where it may be the deadline that passed there.
        late: Option<(Duration, Duration)>,
        /// All that is known.
        #[source]
        source: ConnectError,
    },
    /// The same while there was more of the request to send: the other side may have had enough of it.
    #[error("the connection broke while the request was being sent")]
    CutShort(#[source] ConnectError),
    /// No whole answer in time.
    #[error("no {} within {} ms", if *.connected { "answer" } else { "connection" }, timeout.as_millis())]
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
        /// With it came the protocol's own form of an error.
        in_protocol: bool,
    },
    /// The answer is larger than this agent takes.
    #[error("an answer larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// There is no room for the answer here.
    #[error("no room for its answer: {0}")]
    NoRoom(Full),
    /// The answer is no inference response.
    #[error("an answer that is no inference response: {0}")]
    Malformed(String),
    /// The answer is one, and contradicts itself.
    #[error("an inference response that contradicts itself: {0}")]
    Contradictory(String),
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
            None => Self::broken(error),
        }
    }

    /// Why an answer is not whole.
    pub fn broken(error: ConnectError) -> Self {
        match Said::of(&*error) {
            Some(said) => Self::TakenBack { said, late: None, source: error },
            None => Self::Broken(error),
        }
    }

    /// One word for `attempts` and for metrics.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Skipped(why) => why.as_str(),
            Self::LeftAlone(_) => SkipReason::BreakerOpen.as_str(),
            Self::NotExpressible => "NotExpressible",
            Self::NotAllowed(_) => "NotAllowed",
            Self::CredentialsUnavailable => "CredentialsUnavailable",
            Self::Connect(_) => "ConnectFailed",
            Self::Broken(_) | Self::CutShort(_) | Self::TakenBack { .. } => "ConnectionBroken",
            Self::TimedOut { .. } => "TimedOut",
            Self::Rejected { .. } => "Rejected",
            Self::Status { .. } => "BadStatus",
            Self::TooLarge { .. } => "AnswerTooLarge",
            Self::NoRoom(_) => "NoRoom",
            Self::Malformed(_) | Self::Contradictory(_) => "Malformed",
        }
    }

    /// How it ended, for the breakers; none where it says nothing of endpoint and model: nothing was sent, or the request
    /// itself was refused.
    pub fn unanswered(&self) -> Option<Unanswered> {
        match self {
            Self::Connect(_) | Self::TimedOut { connected: false, .. } => Some(Unanswered::Unconnected),
            Self::Broken(_) | Self::Malformed(_) | Self::TimedOut { connected: true, .. } => {
                Some(Unanswered::NoAnswer)
            }
            Self::TakenBack { said: Said::Reset(code), .. } => Some(Unanswered::Reset { code: *code }),
            Self::TakenBack { said: Said::GoAway(code), .. } => Some(Unanswered::GoneAway { code: *code }),
            Self::CutShort(_) => Some(Unanswered::CutShort),
            Self::Contradictory(_) => Some(Unanswered::Contradiction),
            Self::Status { status, in_protocol, .. } if *status != StatusCode::PAYLOAD_TOO_LARGE => {
                Some(Unanswered::Status { status: status.as_u16(), in_protocol: *in_protocol })
            }
            Self::Status { .. }
            | Self::Skipped(_)
            | Self::LeftAlone(_)
            | Self::NotExpressible
            | Self::NotAllowed(_)
            | Self::CredentialsUnavailable
            | Self::Rejected { .. }
            | Self::TooLarge { .. }
            | Self::NoRoom(_) => None,
        }
    }

    /// What it counts for, where it counts: what a deadline cut short for the part of its time that it had, of the time to
    /// connect or of its time-out.
    pub fn weight(&self) -> f64 {
        match self {
            Self::TimedOut { timeout, full, connected: true } => failure_weight(*timeout, *full),
            Self::TimedOut { timeout, full, connected: false } => {
                failure_weight(*timeout, TIER_CONNECT.min(*full))
            }
            Self::Status { late: Some((took, full)), .. }
            | Self::TakenBack { late: Some((took, full)), .. } => failure_weight(*took, *full),
            _ => 1.0,
        }
    }

    /// Whether what is there is not asked rightly: asking it again helps nobody before somebody mends that.
    pub fn is_misdirected(&self) -> bool {
        self.advice().is_some()
    }

    /// Whether that concerns the model alone.
    pub fn is_of_the_model(&self) -> bool {
        self.advice() == Some(Advice::Model)
    }

    /// What is to be mended where it says that something is not asked rightly.
    fn advice(&self) -> Option<Advice> {
        let Self::Status { status, in_protocol, .. } = self else { return None };
        match status.as_u16() {
            300..=399 => Some(Advice::Address),
            // In the protocol's words it would be about the request.
            400 | 422 if !in_protocol => Some(Advice::Server),
            401 | 403 | 407 => Some(Advice::Identity),
            404 | 405 | 410 => Some(Advice::Model),
            _ => None,
        }
    }

    /// What happened and what to do, of a model that is called `model` there.
    pub fn told(&self, model: &str) -> String {
        match self {
            Self::Status { status, .. } => match self.advice() {
                Some(Advice::Address) => format!(
                    "status {status}: redirects are not followed; the tier's url must be the address itself"
                ),
                Some(Advice::Server) => format!(
                    "status {status}, and not in the words of the Open Inference Protocol: is the tier's url, with its http:// or https:// and its port, that of a server of it?"
                ),
                Some(Advice::Identity) => format!(
                    "status {status}: auth and tls.clientCertificate of the tier say as whom it is asked, and it does not let that one in"
                ),
                Some(Advice::Model) => format!(
                    "status {status}: is the model called {model:?} there? If not, spec.upstreams of the InferenceModel must say its name"
                ),
                None => format!("status {status}"),
            },
            Self::Connect(error) => match unconnected(&**error) {
                Some(why) => format!("no connection: {why}"),
                None => "no connection".to_owned(),
            },
            other => other.to_string(),
        }
    }

    /// The same for whoever looks after the node, with causes and addresses.
    pub fn told_in_full(&self, model: &str) -> String {
        match self {
            Self::Connect(error) => format!("no connection: {}", causes(&**error)),
            Self::Broken(error) | Self::CutShort(error) => format!("{self}: {}", causes(&**error)),
            Self::TakenBack { source, .. } => format!("{self}: {}", causes(&**source)),
            Self::Status { .. } => format!("{} (asked for the model {model:?})", self.told(model)),
            other => other.to_string(),
        }
    }

    /// Whether the endpoint answered, if not as it should.
    pub const fn is_answer(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Status { .. } | Self::TooLarge { .. } | Self::NoRoom(_))
    }

    /// Whether nobody was there: nothing was sent.
    pub const fn is_unconnected(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::TimedOut { connected: false, .. })
    }
}

/// What is to be mended where a status says that something is not asked rightly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    /// Where it is: what is there sends elsewhere.
    Address,
    /// The same: what is there understands nothing.
    Server,
    /// As whom it is asked.
    Identity,
    /// What the model is called.
    Model,
}

/// Why nobody could be connected to, without names and addresses.
fn unconnected(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if error.is::<NoAddress>() {
        return Some("its name has no address");
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        let inner = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
        if inner.is_some_and(<dyn Error>::is::<rustls::Error>) {
            return Some("TLS failed: is its certificate trusted, and is it TLS at all?");
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => return Some("connection refused"),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => return Some("no route"),
            io::ErrorKind::TimedOut => return Some("nobody answered"),
            _ => {}
        }
    }
    error.source().and_then(unconnected)
}

/// That an address may not be reached, where this is what an error comes from.
fn denial<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Denied> {
    error.downcast_ref().or_else(|| error.source().and_then(denial))
}

/// The words of an OIP error, cut to a sane length; none where a body is something else.
pub fn oip_error(body: &[u8]) -> Option<String> {
    if body.len() > MAX_ERROR_BYTES {
        return None;
    }
    let body = serde_json::from_slice::<serde_json::Value>(body).ok()?;
    let words = printable(body.get("error")?.as_str()?);
    Some(if words.is_empty() { NO_WORDS.to_owned() } else { words })
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

    fn status(code: u16, in_protocol: bool) -> UpstreamError {
        UpstreamError::Status { status: StatusCode::from_u16(code).unwrap(), late: None, in_protocol }
    }

    #[test]
    fn what_was_cut_short_counts_for_the_time_that_it_had() {
        let second = Duration::from_secs(1);
        let timed_out = |ms, connected| UpstreamError::TimedOut {
            timeout: Duration::from_millis(ms),
            full: second * 5,
            connected,
        };
        let taken_back =
            |late| UpstreamError::TakenBack { said: Said::Reset(8), late, source: "reset".into() };
        let late = UpstreamError::Status {
            status: StatusCode::GATEWAY_TIMEOUT,
            late: Some((second, second * 5)),
            in_protocol: true,
        };
        for (error, weight) in [
            (UpstreamError::Connect("refused".into()), 1.0),
            (UpstreamError::Broken("reset".into()), 1.0),
            (taken_back(None), 1.0),
            (taken_back(Some((second, second * 5))), 0.2),
            (timed_out(5_000, true), 1.0),
            (timed_out(500, true), 0.1),
            (timed_out(500, false), 0.5),
            (timed_out(1_000, false), 1.0),
            (status(503, false), 1.0),
            (late, 0.2),
        ] {
            assert!((error.weight() - weight).abs() < 1e-9, "{error:?}");
        }
    }

    #[test]
    fn what_the_request_or_this_node_is_to_blame_for_says_nothing_of_endpoint_and_model() {
        for error in [
            UpstreamError::Rejected { message: String::new() },
            UpstreamError::TooLarge { limit: 1 },
            UpstreamError::NotExpressible,
            UpstreamError::CredentialsUnavailable,
            UpstreamError::Skipped(SkipReason::BreakerOpen),
            status(413, true),
        ] {
            assert_eq!(error.unanswered(), None, "{error:?}");
        }
        let ended = Unanswered::Status { status: 503, in_protocol: true };
        assert_eq!(status(503, true).unanswered(), Some(ended));
    }

    #[test]
    fn what_is_not_asked_rightly_is_told_with_what_to_do() {
        for (code, part) in [
            (307, "must be the address itself"),
            (400, "is the tier's url, with its http:// or https:// and its port, that of a server of it?"),
            (401, "as whom it is asked"),
            (403, "as whom it is asked"),
            (404, "is the model called \"digits\" there?"),
        ] {
            let error = status(code, false);
            assert!(
                error.is_misdirected() && error.told("digits").contains(part),
                "{}",
                error.told("digits")
            );
            assert_eq!(error.is_of_the_model(), code == 404);
        }
        for code in [400, 408, 429, 500, 502, 503, 504] {
            assert!(!status(code, true).is_misdirected(), "{code}");
        }
        assert_eq!(status(429, false).told("digits"), "status 429 Too Many Requests");
    }

    #[test]
    fn why_nobody_could_be_connected_to_is_found_however_deep_it_lies() {
        #[derive(Debug, thiserror::Error)]
        #[error("a layer")]
        struct Layer(#[source] ConnectError);
        let tls = io::Error::other(rustls::Error::DecryptError);
        let rows: [(ConnectError, &str); 4] = [
            (io::Error::from(io::ErrorKind::ConnectionRefused).into(), "no connection: connection refused"),
            (tls.into(), "no connection: TLS failed: is its certificate trusted, and is it TLS at all?"),
            (
                NoAddress(io::Error::other("10.0.0.1 said no")).into(),
                "no connection: its name has no address",
            ),
            ("something at 10.0.0.1".into(), "no connection"),
        ];
        for (cause, told) in rows {
            let error = UpstreamError::Connect(Layer(Layer(cause).into()).into());
            assert_eq!(error.told("digits"), told);
            assert!(error.told_in_full("digits").starts_with("no connection: a layer: a layer: "));
        }
    }

    #[test]
    fn an_error_of_the_protocol_is_told_from_others() {
        let words = "Model with name ma is not ready.";
        let body = serde_json::json!({"error": words}).to_string();
        assert_eq!(oip_error(body.as_bytes()).as_deref(), Some(words));
        assert_eq!(oip_error(br#"{"error": ""}"#).as_deref(), Some(NO_WORDS));
        let long = format!("{{\"error\": \"{}\"}}", "b".repeat(MAX_ERROR_BYTES));
        for other in ["", "upstream connect error", "{}", "{\"error\": 1}", "<html>", &long] {
            assert_eq!(oip_error(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn an_error_text_is_bounded_and_printable() {
        let long = format!("{{\"error\": \"a\\n{}\"}}", "b".repeat(2000));
        let text = oip_error(long.as_bytes()).unwrap();
        assert_eq!(text.len(), MAX_ERROR_CHARS);
        assert!(text.starts_with("ab"));
        assert_eq!((grpc_error("a\nb").as_str(), grpc_error("").as_str()), ("ab", NO_WORDS));
    }
}
