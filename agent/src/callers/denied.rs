//! Why a call is not let in, and what its client is told: what to do, and nothing of what it sent.

/// Why a call is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Neither token nor certificate.
    #[error("this agent asks who calls: send a token as `Authorization: Bearer …`, or a client certificate")]
    NoCredentials,
    /// Another scheme, or several tokens.
    #[error("the authorization header must be `Bearer` and one token")]
    NotBearer,
    /// It is none of the tokens that are taken.
    #[error("this token is not known here")]
    UnknownToken,
    /// A JWT that cannot be read.
    #[error("the token is no JWT that this agent reads, signed with RS256, RS384, RS512, ES256 or ES384")]
    Malformed,
    /// Signed in a way that is not taken, or that its key is not for.
    #[error("the token is not signed with the algorithm of its key")]
    WrongAlgorithm,
    /// No key of that name.
    #[error("the key that signed the token is not known here; the agent's file of keys may be older than it")]
    UnknownKey,
    /// The key did not sign it.
    #[error("the token's signature does not hold")]
    BadSignature,
    /// Another issuer.
    #[error("the token is of an issuer that is not taken here")]
    WrongIssuer,
    /// Made for somebody else.
    #[error("the token is for another audience; ask for one with this agent's")]
    WrongAudience,
    /// Too old.
    #[error("the token has expired; read it anew")]
    TokenExpired,
    /// Too young.
    #[error("the token does not hold yet; are the clocks right?")]
    NotYetValid,
    /// Of no ServiceAccount.
    #[error("the token is of no ServiceAccount")]
    NoServiceAccount,
    /// A certificate that does not hold any more.
    #[error("the client certificate does not hold any more; connect with a new one")]
    CertificateRefused,
    /// A certificate that says nothing of a namespace.
    #[error("the client certificate names no namespace: it needs one URI spiffe://…/ns/NAMESPACE/sa/NAME")]
    NoNamespace,
}

impl Denied {
    /// In one word, for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCredentials => "NoCredentials",
            Self::NotBearer => "NotBearer",
            Self::UnknownToken => "UnknownToken",
            Self::Malformed => "MalformedToken",
            Self::WrongAlgorithm => "WrongAlgorithm",
            Self::UnknownKey => "UnknownKey",
            Self::BadSignature => "BadSignature",
            Self::WrongIssuer => "WrongIssuer",
            Self::WrongAudience => "WrongAudience",
            Self::TokenExpired => "TokenExpired",
            Self::NotYetValid => "NotYetValid",
            Self::NoServiceAccount => "NoServiceAccount",
            Self::CertificateRefused => "CertificateRefused",
            Self::NoNamespace => "NoNamespace",
        }
    }

    /// How the client is asked for a token, as RFC 6750 words it.
    pub const fn challenge(self) -> &'static str {
        match self {
            Self::NoCredentials => r#"Bearer realm="terrace""#,
            Self::NotBearer => r#"Bearer realm="terrace", error="invalid_request""#,
            _ => r#"Bearer realm="terrace", error="invalid_token""#,
        }
    }
}
