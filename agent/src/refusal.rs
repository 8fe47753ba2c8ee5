//! Why a request has no answer, and what its client is told: an OIP error with a status that says what to do.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use terrace_oip::metadata::ErrorBody;

use crate::callers::Denied;
use crate::room::Full;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request is wrong; the message names the field, never its value.
    #[error("{0}")]
    Invalid(String),
    /// The agent does not know who calls.
    #[error("{0}")]
    Denied(Denied),
    /// The caller may not use that, whether it exists or not.
    #[error(
        "this caller may use the models of its own namespace, named NAMESPACE.MODEL, and those whose allowedNamespaces \
         name it; that is none of them"
    )]
    Forbidden,
    /// Nothing here has that name.
    #[error("{0}")]
    NotFound(String),
    /// The body is larger than this agent takes.
    #[error(
        "the body is larger than {limit} bytes; how large one of an inference may be, --max-body-bytes says"
    )]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body becomes larger than one of its size may, or than there is memory for.
    #[error("{0}")]
    TooDense(String),
    /// The body is larger than the only tier that may answer takes.
    #[error("{tier}: the body is larger than that tier takes")]
    TooLargeThere {
        /// Which tier.
        tier: &'static str,
    },
    /// The body is in an encoding that this agent does not read.
    #[error("{0}")]
    Unsupported(String),
    /// The client did not send its body in time.
    #[error("the body did not arrive within {seconds} s")]
    SlowBody {
        /// The limit.
        seconds: u64,
    },
    /// Too much is waiting for the model already.
    #[error("{0}")]
    Busy(String),
    /// The model failed on the request.
    #[error("{0}")]
    Failed(String),
    /// Several tiers answered, and their answers do not fit together.
    #[error("{0}")]
    Incompatible(String),
    /// No tier may answer, or none that may did.
    #[error("{0}")]
    NoTier(String),
    /// No tier answered within the deadline.
    #[error("{0}")]
    Deadline(String),
}

/// There is no room for a request's bytes.
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn busy(full: Full) -> Refusal {
    match full {
        Full::Now { .. } => Refusal::Busy(full.to_string()),
        Full::Ever { .. } => Refusal::TooDense(full.to_string()),
    }
}

impl Refusal {
    /// The status that tells the client what to do.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Denied(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::TooLarge { .. } | Self::TooDense(_) | Self::TooLargeThere { .. } => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::SlowBody { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Incompatible(_) => StatusCode::BAD_GATEWAY,
            Self::NoTier(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What is told in its place once the deadline is over (`is_late`): that it is, before whatever else went wrong here. A
    /// client whose request is wrong hears of that all the same.
    #[must_use]
    pub fn once_late(self, is_late: bool) -> Self {
        match self {
            Self::Failed(_) | Self::Incompatible(_) | Self::NoTier(_) | Self::Busy(_) if is_late => {
                Self::Deadline(format!("the deadline is over; before that: {self}"))
            }
            told => told,
        }
    }

    /// Whether asking again in a moment may help.
    const fn is_passing(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::NoTier(_))
    }
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Invalid(_) => tonic::Code::InvalidArgument,
            Refusal::Denied(_) => tonic::Code::Unauthenticated,
            Refusal::Forbidden => tonic::Code::PermissionDenied,
            Refusal::NotFound(_) => tonic::Code::NotFound,
            Refusal::TooLarge { .. }
            | Refusal::TooDense(_)
            | Refusal::TooLargeThere { .. }
            | Refusal::Busy(_) => tonic::Code::ResourceExhausted,
            Refusal::Unsupported(_) => tonic::Code::Unimplemented,
            Refusal::Failed(_) | Refusal::Incompatible(_) => tonic::Code::Internal,
            Refusal::NoTier(_) => tonic::Code::Unavailable,
            Refusal::SlowBody { .. } | Refusal::Deadline(_) => tonic::Code::DeadlineExceeded,
        };
        Self::new(code, refusal.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let (passing, unread) = (self.is_passing(), matches!(self, Self::Unsupported(_)));
        let challenge = if let Self::Denied(denied) = &self { Some(denied.challenge()) } else { None };
        let mut response = (status, Json(ErrorBody { error: self.to_string() })).into_response();
        if passing {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(challenge) = challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if unread {
            let codings = HeaderValue::from_static(terrace_coding::Coding::NAMES);
            response.headers_mut().insert(header::ACCEPT_ENCODING, codings);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_here_is_no_news_once_the_deadline_is_over() {
        let text = || "why".to_owned();
        for (refusal, late) in [
            (Refusal::Incompatible(text()), 504),
            (Refusal::Failed(text()), 504),
            (Refusal::NoTier(text()), 504),
            (Refusal::Busy(text()), 504),
            (Refusal::Deadline(text()), 504),
            (Refusal::Invalid(text()), 400),
            (Refusal::NotFound(text()), 404),
            (Refusal::TooLarge { limit: 1 }, 413),
            (Refusal::TooLargeThere { tier: "cloud" }, 413),
        ] {
            assert_eq!(refusal.clone().once_late(false), refusal);
            let told = refusal.clone().once_late(true);
            assert_eq!(told.status().as_u16(), late, "{refusal:?}");
            assert!(told.to_string().ends_with(&refusal.to_string()), "{told}: it says what happened, too");
        }
    }
}
