//! One request to a tier over the Open Inference Protocol's HTTP binding.

use http::{HeaderValue, Request, Uri};
use terrace_tiering::rejects;
use url::Url;

use super::body::{Whole, whole, words};
use super::error::{UpstreamError, oip_error};
use super::flight::Time;
use super::relayed::Relayed;
use super::{Ask, Sender, post};
use crate::message::{JSON_LENGTH, Message, content_type};
use crate::pieces::Pieces;
use crate::rest::body::Limits;

/// `<base>/v2/models/<model>/infer`
pub fn infer_uri(base: &Url, model: &str) -> Option<Uri> {
    let mut url = base.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(["v2", "models", model, "infer"]);
    url.as_str().parse().ok()
}

/// The request, as it is sent.
pub fn request(ask: &Ask<'_>, base: &Url) -> Option<Request<Pieces>> {
    let (body, json_length) = ask.outgoing.http()?;
    let mut request = post(infer_uri(base, ask.model)?, ask, content_type(json_length), body);
    if let Some(length) = json_length {
        request.headers_mut().insert(JSON_LENGTH, HeaderValue::from(length));
    }
    Some(request)
}

/// Sends it, and reads the answer.
pub async fn exchange(
    sender: &Sender,
    request: Request<Pieces>,
    limits: &Limits,
    time: Time,
) -> Result<Relayed, UpstreamError> {
    let (head, body) = sender.send(request).await?.into_parts();
    if head.status.is_success() {
        let json_length = Message::json_length(&head.headers)
            .map_err(|error| UpstreamError::Malformed(error.to_string()))?;
        let Whole { bytes, taken, .. } = whole(body, limits).await?;
        return Relayed::http(Message { bytes, json_length }, taken, &limits.room, time);
    }
    let words = oip_error(&words(body, limits).await);
    let in_protocol = words.is_some();
    match words {
        Some(message) if rejects(head.status.as_u16(), in_protocol) => {
            Err(UpstreamError::Rejected { message })
        }
        _ => Err(UpstreamError::Status { status: head.status, late: None, in_protocol }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_one_segment_below_the_base() {
        let uri = |base: &str, model: &str| infer_uri(&Url::parse(base).unwrap(), model).unwrap().to_string();
        assert_eq!(uri("http://edge:8000", "digits"), "http://edge:8000/v2/models/digits/infer");
        assert_eq!(uri("http://edge:8000/", "a.b"), "http://edge:8000/v2/models/a.b/infer");
        assert_eq!(uri("http://edge/gateway/", "m"), "http://edge/gateway/v2/models/m/infer");
        assert_eq!(uri("http://edge", "../admin"), "http://edge/v2/models/..%2Fadmin/infer");
    }
}
