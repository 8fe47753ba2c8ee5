//! An inference request or response as it travels over HTTP: JSON, and perhaps binary tensors behind it.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::heavy::LIGHT;

/// Says how many bytes of a body are JSON, where binary tensors follow it.
pub const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// The type of a body that is JSON as a whole.
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The type of one that is not.
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A body, and how much of it is JSON. Its `Debug` shows how much, and nothing of it: it may be private.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The body.
    pub bytes: Bytes,
    /// The length of its JSON, where something follows.
    pub json_length: Option<usize>,
}

/// A header that gives no length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header Inference-Header-Content-Length is not a number of bytes")]
pub struct BadLength;

impl Message {
    /// The length of the JSON that headers state, if they do.
    pub fn json_length(headers: &HeaderMap) -> Result<Option<usize>, BadLength> {
        let mut stated = headers.get_all(JSON_LENGTH).iter();
        let Some(length) = stated.next() else { return Ok(None) };
        let length = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        match (length.and_then(|length| length.parse().ok()), stated.next()) {
            (Some(length), None) => Ok(Some(length)),
            _ => Err(BadLength),
        }
    }

    /// What follows the JSON.
    pub fn tail(&self) -> Bytes {
        self.json_length.map_or_else(Bytes::new, |length| self.bytes.slice(length.min(self.bytes.len())..))
    }

    /// About how many bytes have to be looked at one by one until it is a request: numbers in binary are only copied.
    pub fn toil(&self) -> usize {
        /// What a copy takes of that time.
        const COPIED: usize = 16;
        let (json, all) = (self.json(), self.bytes.len());
        let tail = all - json.len();
        // Texts in binary, or a datatype that is written in a way of its own.
        let holds_texts = || json.contains(&b'\\') || json.windows(7).any(|word| word == b"\"BYTES\"");
        let is_toil = json.len() > LIGHT || (tail > LIGHT && holds_texts());
        if is_toil { all } else { json.len() + tail / COPIED }
    }

    /// The JSON.
    pub fn json(&self) -> &[u8] {
        let length = self.json_length.unwrap_or(self.bytes.len());
        self.bytes.get(..length).unwrap_or(&self.bytes)
    }
}

/// What a body is of which so much is JSON.
pub const fn content_type(json_length: Option<usize>) -> HeaderValue {
    if json_length.is_some() { BINARY } else { JSON }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, JSON {:?}", self.bytes.len(), self.json_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_one_number() {
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&["0"], Ok(Some(0))),
            (&["17"], Ok(Some(17))),
            (&["+17"], Err(BadLength)),
            (&["-1"], Err(BadLength)),
            (&["1.0"], Err(BadLength)),
            (&[""], Err(BadLength)),
            (&["99999999999999999999"], Err(BadLength)),
            (&["17", "17"], Err(BadLength)),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(JSON_LENGTH, HeaderValue::from_static(value));
            }
            assert_eq!(Message::json_length(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn texts_in_binary_are_toil_and_numbers_are_copied() {
        let toil = |json: &str, tail: usize, is_told: bool| {
            let bytes = [json.as_bytes(), &vec![0; tail]].concat();
            Message { json_length: is_told.then_some(json.len()), bytes: bytes.into() }.toil()
        };
        assert_eq!(toil("{\"FP32\"}", 640_000, true), 8 + 40_000);
        assert_eq!(toil("{\"BYTES\"}", 640_000, true), 9 + 640_000);
        assert_eq!(toil("{\"\\u0042YTES\"}", 640_000, true), 14 + 640_000);
        assert_eq!(toil("{}", 640_000, false), 640_002);
        assert_eq!(toil("{\"BYTES\"}", 1600, true), 9 + 100);
    }

    #[test]
    fn nothing_of_a_message_is_shown() {
        let message = Message { bytes: Bytes::from_static(b"{}canary"), json_length: Some(2) };
        assert_eq!(format!("{message:?}"), "8 bytes, JSON Some(2)");
        assert_eq!((message.json(), &*message.tail()), (&b"{}"[..], &b"canary"[..]));
    }
}
