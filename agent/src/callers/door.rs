//! The way in of one data port: what stands before its router.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{Extensions, Request};
use hyper::body::Incoming;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tracing::debug;

use super::tls::Peer;
use super::{Caller, Callers, Denied};
use crate::grpc;
use crate::node::Node;
use crate::refusal::Refusal;
use crate::rest::Passing;

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// REST.
    Http,
    /// gRPC.
    Grpc,
}

impl Port {
    /// What anyone may ask: probes have no token.
    fn is_for_anyone(self, path: &str) -> bool {
        match self {
            Self::Http => ["/v2/health/live", "/v2/health/ready"].contains(&path),
            Self::Grpc => grpc::OPEN.contains(&path),
        }
    }
}

/// The way in of one data port.
#[derive(Debug)]
pub struct Door {
    callers: Arc<Callers>,
    node: Arc<Node>,
    port: Port,
}

impl Door {
    /// Of a port.
    pub const fn new(port: Port, callers: Arc<Callers>, node: Arc<Node>) -> Self {
        Self { callers, node, port }
    }

    /// What a handshake is made with now; none where the port is not encrypted.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.callers.tls.as_ref().map(|tls| Arc::clone(&tls.now().config))
    }

    /// The client of a connection, by the certificates that it showed.
    pub fn peer(chain: Option<&[CertificateDer<'_>]>) -> Option<Peer> {
        chain.map(Peer::new)
    }

    /// Counts a connection that did not come about.
    pub fn no_connection(&self, reason: &'static str) {
        self.node.metrics.refused(reason);
        debug!(reason, "a TLS handshake failed");
    }

    /// Tells the router who calls, or says why nobody is let in.
    pub async fn admit<B>(&self, request: &mut Request<B>, peer: Option<&Peer>) -> Result<(), Denied> {
        if self.port.is_for_anyone(request.uri().path()) {
            return Ok(());
        }
        let caller = self.callers.identify(request.headers(), peer).await?;
        request.extensions_mut().insert(caller);
        Ok(())
    }

    /// What a client is told who is not let in. Its request is not answered, and read only as far as that keeps the
    /// connection in order.
    pub fn turn_away(&self, denied: Denied, request: Request<Incoming>) -> Response {
        let reason = denied.as_str();
        self.node.metrics.refused(reason);
        debug!(reason, "a call was not let in");
        let refusal = Refusal::Denied(denied);
        match self.port {
            Port::Http => {
                let (parts, body) = request.into_parts();
                drop(Passing::new(body, &parts.headers).of_a_stranger());
                refusal.into_response()
            }
            Port::Grpc => tonic::Status::from(refusal).into_http(),
        }
    }
}

/// Whoever the door let in. One that it never saw is nobody.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Self::among(&parts.extensions)
    }
}

impl Caller {
    /// The one that a request is stamped with.
    pub fn among(stamps: &Extensions) -> Result<Self, Refusal> {
        stamps.get().cloned().ok_or(Refusal::Denied(Denied::NoCredentials))
    }

    /// The same over gRPC.
    pub fn of_call<T>(request: &tonic::Request<T>) -> Result<Self, tonic::Status> {
        request.extensions().get().cloned().ok_or_else(|| Refusal::Denied(Denied::NoCredentials).into())
    }
}
