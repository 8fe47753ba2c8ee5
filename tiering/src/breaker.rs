//! When an endpoint that does not answer is left alone, and when it is tried again.

/// What a circuit breaker says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go through.
    #[default]
    Closed,
    /// None does.
    Open,
    /// One does, to see whether the endpoint answers again.
    HalfOpen,
}

impl BreakerState {
    /// The name in rules, responses and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}
