//! Against whom it counts that a request to an endpoint brought no outputs: the endpoint, which other models go on without
//! while it is left alone, or one model there, which is left alone by itself.
//!
//! Pure. What is certain counts against the one that it is certain of. What may be either's counts against both, until the
//! model is known to fail there: from then on its failures say nothing new of the endpoint, so a model that always fails
//! takes the endpoint away from nobody else for longer than it takes to find that out.

use crate::breaker::BreakerState;

/// How a request ended that an endpoint had, and that brought no outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Nobody could be connected to.
    Unconnected,
    /// The connection broke, no answer came in time, or what came was none.
    NoAnswer,
    /// The stream of the request alone was reset over HTTP/2, with this code of RFC 9113: its connection lives.
    Reset {
        /// Which.
        code: u32,
    },
    /// The connection was taken back over HTTP/2 (`GOAWAY`), with this code, before there was an answer.
    GoneAway {
        /// Which.
        code: u32,
    },
    /// The connection was closed while the request was still being sent.
    CutShort,
    /// An answer of the protocol came that contradicts itself: a shape without its elements, say.
    Contradiction,
    /// A status, in the words of HTTP.
    Status {
        /// Which.
        status: u16,
        /// With it came the protocol's own form of an error: a server of the protocol speaks, of the model that it was
        /// asked for, and no proxy before it.
        in_protocol: bool,
    },
}

/// What a failure counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nothing: it is an answer, if not with outputs.
    Nobody,
    /// The model at that endpoint. The endpoint answered.
    Model,
    /// The endpoint.
    Endpoint,
    /// One of them; which one, it does not tell.
    Either,
}

/// Whom a failure counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The breaker of the model there.
    pub model: bool,
    /// The breaker of the endpoint.
    pub endpoint: bool,
}

/// Codes of HTTP/2.
mod code {
    /// Nothing is wrong.
    pub const NO_ERROR: u32 = 0x0;
    /// Something is wrong in there.
    pub const INTERNAL_ERROR: u32 = 0x2;
    /// Nothing was done for the request.
    pub const REFUSED_STREAM: u32 = 0x7;
    /// It is not wanted any more: its deadline has passed there, say.
    pub const CANCEL: u32 = 0x8;
    /// There is too much of it.
    pub const ENHANCE_YOUR_CALM: u32 = 0xb;
    /// Whoever is there wants to be spoken to otherwise.
    pub const INADEQUATE_SECURITY: u32 = 0xc;
    /// The same.
    pub const HTTP_1_1_REQUIRED: u32 = 0xd;
}

/// What a failure counts against. 4xx and redirects count against nobody: who says so is there, and asking again later is no
/// remedy.
pub const fn blame(ended: Unanswered) -> Blame {
    match ended {
        Unanswered::Unconnected => Blame::Endpoint,
        Unanswered::NoAnswer => Blame::Either,
        Unanswered::Reset { code } => match code {
            // Like 429: an overload opens nothing, and the request goes elsewhere at once.
            code::REFUSED_STREAM | code::ENHANCE_YOUR_CALM => Blame::Nobody,
            // Like 500: whoever says so is there, and the others of the connection go on.
            code::INTERNAL_ERROR | code::CANCEL => Blame::Model,
            code::INADEQUATE_SECURITY | code::HTTP_1_1_REQUIRED => Blame::Endpoint,
            _ => Blame::Either,
        },
        Unanswered::GoneAway { code } => match code {
            // A server that is restarted says goodbye. If nobody is there then, connecting tells.
            code::NO_ERROR => Blame::Nobody,
            // All that this node sends is too much, or of the wrong kind.
            code::ENHANCE_YOUR_CALM | code::INADEQUATE_SECURITY | code::HTTP_1_1_REQUIRED => Blame::Endpoint,
            _ => Blame::Either,
        },
        // Who writes such an answer speaks the protocol, and ran the model. Who closes in the middle of a body was there, and
        // has enough of it: one that is too large, say.
        Unanswered::Contradiction | Unanswered::CutShort => Blame::Model,
        Unanswered::Status { status, in_protocol } => match status {
            // The model failed, by the word of what runs it.
            500 | 501 => Blame::Model,
            // Not loaded, not ready, busy, or not done in time: a server of the protocol says that of the model that it was
            // asked for. What is not in its words may be a proxy's, before a server that is gone.
            502.. if in_protocol => Blame::Model,
            502.. => Blame::Either,
            _ => Blame::Nobody,
        },
    }
}

/// Whether a status says that the request is wrong, wherever it is sent: in the words of the protocol alone. A proxy, or a
/// server of something else, says 400 to what it does not understand, and knows nothing of the request.
pub const fn rejects(status: u16, in_protocol: bool) -> bool {
    in_protocol && matches!(status, 400 | 422)
}

impl Blame {
    /// What it counts against, of a model whose breaker there was like this when it was asked.
    pub const fn counts(self, model: BreakerState) -> Counts {
        match self {
            Self::Nobody => Counts { model: false, endpoint: false },
            Self::Model => Counts { model: true, endpoint: false },
            Self::Endpoint => Counts { model: false, endpoint: true },
            Self::Either => Counts { model: true, endpoint: matches!(model, BreakerState::Closed) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_counts_against_whom_it_says_it_of() {
        let status = |status, in_protocol| Unanswered::Status { status, in_protocol };
        for (ended, expected) in [
            (Unanswered::Unconnected, Blame::Endpoint),
            (Unanswered::NoAnswer, Blame::Either),
            (Unanswered::CutShort, Blame::Model),
            (Unanswered::Contradiction, Blame::Model),
            (status(301, false), Blame::Nobody),
            (status(307, false), Blame::Nobody),
            (status(400, true), Blame::Nobody),
            (status(401, false), Blame::Nobody),
            (status(404, true), Blame::Nobody),
            (status(429, true), Blame::Nobody),
            (status(499, false), Blame::Nobody),
            (status(500, true), Blame::Model),
            (status(500, false), Blame::Model),
            (status(501, true), Blame::Model),
            (status(502, false), Blame::Either),
            (status(502, true), Blame::Model),
            (status(503, true), Blame::Model),
            (status(503, false), Blame::Either),
            (status(504, true), Blame::Model),
            (status(504, false), Blame::Either),
            (status(520, false), Blame::Either),
            (status(599, false), Blame::Either),
        ] {
            assert_eq!(blame(ended), expected, "{ended:?}");
        }
    }

    #[test]
    fn what_is_taken_back_over_http_2_counts_by_its_code() {
        // Codes of RFC 9113, and one that is none.
        for (code, of_a_stream, of_a_connection) in [
            (0x0, Blame::Either, Blame::Nobody),
            (0x1, Blame::Either, Blame::Either),
            (0x2, Blame::Model, Blame::Either),
            (0x3, Blame::Either, Blame::Either),
            (0x4, Blame::Either, Blame::Either),
            (0x5, Blame::Either, Blame::Either),
            (0x6, Blame::Either, Blame::Either),
            (0x7, Blame::Nobody, Blame::Either),
            (0x8, Blame::Model, Blame::Either),
            (0x9, Blame::Either, Blame::Either),
            (0xa, Blame::Either, Blame::Either),
            (0xb, Blame::Nobody, Blame::Endpoint),
            (0xc, Blame::Endpoint, Blame::Endpoint),
            (0xd, Blame::Endpoint, Blame::Endpoint),
            (0xe, Blame::Either, Blame::Either),
        ] {
            assert_eq!(blame(Unanswered::Reset { code }), of_a_stream, "{code:#x}");
            assert_eq!(blame(Unanswered::GoneAway { code }), of_a_connection, "{code:#x}");
        }
    }

    #[test]
    fn only_statuses_about_the_request_itself_reject_it_and_only_in_the_words_of_the_protocol() {
        for status in [400, 422] {
            assert!(rejects(status, true) && !rejects(status, false), "{status}");
            assert_eq!(blame(Unanswered::Status { status, in_protocol: false }), Blame::Nobody);
        }
        // How large a request may be, each server says for itself.
        for status in [401, 403, 404, 408, 413, 429, 500, 502, 503, 504] {
            assert!(!rejects(status, true), "{status}");
        }
    }

    #[test]
    fn what_may_be_eithers_says_nothing_of_an_endpoint_where_the_model_is_known_to_fail() {
        use BreakerState::{Closed, HalfOpen, Open};
        let counts = |model, endpoint| Counts { model, endpoint };
        for state in [Closed, Open, HalfOpen] {
            assert_eq!(Blame::Nobody.counts(state), counts(false, false));
            assert_eq!(Blame::Model.counts(state), counts(true, false));
            assert_eq!(Blame::Endpoint.counts(state), counts(false, true));
        }
        assert_eq!(Blame::Either.counts(Closed), counts(true, true));
        assert_eq!(Blame::Either.counts(HalfOpen), counts(true, false));
        assert_eq!(Blame::Either.counts(Open), counts(true, false));
    }
}
