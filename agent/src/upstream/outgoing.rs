//! A request as other tiers are asked: in the form that it came in, or in the other protocol's; its elements are the bytes
//! that it came with.

use bytes::{BufMut as _, Bytes, BytesMut};
use terrace_crds::policy::Protocol;
use terrace_oip::{EncodeError, InferRequest};

use crate::message::Message;
use crate::pieces::Pieces;

/// `raw_input_contents` of a `ModelInferRequest`, and its `model_name`: field numbers with the wire type of bytes.
const RAW_TAG: u8 = 7 << 3 | 2;
const MODEL_TAG: u8 = 1 << 3 | 2;

/// A request in the form that it came in.
#[derive(Clone, Debug)]
pub enum Original {
    /// Over HTTP.
    Http(Message),
    /// Over gRPC: its elements, where they came raw.
    Grpc(Vec<Bytes>),
}

impl Original {
    /// Its elements alone: what else a tier is asked, `request` says anew.
    #[must_use]
    pub fn elements(self, request: &InferRequest) -> Self {
        match self {
            Self::Http(message) => Self::Grpc(request.raw_inputs(&message.tail())),
            Self::Grpc(raw) => Self::Grpc(raw),
        }
    }
}

/// A request in the forms that tiers need of it. Clones share its bytes.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    http: Option<HttpParts>,
    grpc: Option<GrpcParts>,
}

/// For HTTP: JSON, and what follows it.
#[derive(Clone, Debug)]
struct HttpParts {
    json_length: Option<usize>,
    pieces: Vec<Bytes>,
}

/// For gRPC: the fields of a message that need no more than to be put together.
#[derive(Clone, Debug)]
struct GrpcParts {
    head: Bytes,
    raw: Vec<Bytes>,
}

impl Outgoing {
    /// Of a request whose inputs are still there, for tiers that are asked in these protocols.
    pub fn new(
        original: Original,
        request: &InferRequest,
        protocols: impl Iterator<Item = Protocol>,
    ) -> Result<Self, EncodeError> {
        let (mut http, mut grpc) = (false, false);
        for protocol in protocols {
            match protocol {
                Protocol::HTTP => http = true,
                Protocol::GRPC => grpc = true,
            }
        }
        let raw = |original: &Original| match original {
            Original::Http(message) => request.raw_inputs(&message.tail()),
            Original::Grpc(raw) if raw.is_empty() => request.raw_inputs(&Bytes::new()),
            Original::Grpc(raw) => raw.clone(),
        };
        let grpc = grpc.then(|| GrpcParts { head: request.grpc_head().into(), raw: raw(&original) });
        let http = match original {
            _ if !http => None,
            Original::Http(Message { bytes, json_length }) => {
                Some(HttpParts { json_length, pieces: vec![bytes] })
            }
            Original::Grpc(_) => {
                let head = request.http_head()?;
                let json_length = Some(head.len());
                let pieces = std::iter::once(Bytes::from(head)).chain(raw(&original)).collect();
                Some(HttpParts { json_length, pieces })
            }
        };
        Ok(Self { http, grpc })
    }

    /// The body of a request over HTTP, and the length of its JSON where something follows.
    pub fn http(&self) -> Option<(Pieces, Option<usize>)> {
        let HttpParts { json_length, pieces } = self.http.as_ref()?;
        Some((Pieces::new(pieces.iter().cloned()), *json_length))
    }

    /// The body of a call over gRPC that asks for this model: one message behind its length.
    pub fn grpc(&self, model: &str) -> Option<Pieces> {
        let GrpcParts { head, raw } = self.grpc.as_ref()?;
        let tags: Vec<Bytes> = raw.iter().map(|raw| field(RAW_TAG, raw.len())).collect();
        let name = field(MODEL_TAG, model.len());
        let length =
            name.len() + model.len() + head.len() + raw.iter().chain(&tags).map(Bytes::len).sum::<usize>();
        let mut first = BytesMut::with_capacity(5 + name.len() + model.len() + head.len());
        first.put_u8(0); // not compressed
        first.put_u32(u32::try_from(length).ok()?);
        first.extend_from_slice(&name);
        first.extend_from_slice(model.as_bytes());
        first.extend_from_slice(head);
        let elements = tags.into_iter().zip(raw.iter().cloned()).flat_map(|(tag, raw)| [tag, raw]);
        Some(Pieces::new(std::iter::once(first.freeze()).chain(elements)))
    }
}

/// What stands before a field of so many bytes.
#[allow(clippy::cast_possible_truncation)] // seven bits at a time
fn field(tag: u8, mut length: usize) -> Bytes {
    let mut field = vec![tag];
    while length >= 0x80 {
        field.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    field.push((length & 0x7f) as u8);
    field.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_a_varint() {
        assert_eq!(field(RAW_TAG, 0)[..], [0x3a, 0]);
        assert_eq!(field(RAW_TAG, 127)[..], [0x3a, 127]);
        assert_eq!(field(MODEL_TAG, 300)[..], [0x0a, 0xac, 0x02]);
    }

    fn whole(pieces: &Pieces) -> Vec<u8> {
        pieces.all().flat_map(|piece| piece.to_vec()).collect()
    }

    #[test]
    fn what_came_over_http_goes_on_as_it_came_and_over_grpc_with_the_same_bytes() {
        let json = br#"{"inputs":[{"name":"x","datatype":"UINT8","shape":[300],"parameters":{"binary_data_size":300}}]}"#;
        let bytes = Bytes::from([&json[..], &[7; 300]].concat());
        let message = Message { bytes: bytes.clone(), json_length: Some(json.len()) };
        let request = InferRequest::from_http(&bytes, Some(json.len())).unwrap();
        let both = [Protocol::HTTP, Protocol::GRPC];
        let outgoing = Outgoing::new(Original::Http(message.clone()), &request, both.into_iter()).unwrap();
        let (body, json_length) = outgoing.http().unwrap();
        assert_eq!((whole(&body), json_length), (bytes.to_vec(), message.json_length));
        let body = outgoing.grpc("digits").unwrap();
        let raw = body.all().last().unwrap();
        assert_eq!(raw.as_ptr(), message.tail().as_ptr(), "the elements were copied");

        let framed = whole(&body);
        assert_eq!(framed[..5], [&[0][..], &u32::try_from(framed.len() - 5).unwrap().to_be_bytes()].concat());
        let read: terrace_oip::proto::ModelInferRequest = prost::Message::decode(&framed[5..]).unwrap();
        assert_eq!(read.model_name, "digits");
        let back = InferRequest::from_grpc(read.clone()).unwrap();
        assert!(back.inputs == request.inputs);

        // And back again.
        let original = Original::Grpc(read.raw_input_contents);
        let outgoing = Outgoing::new(original, &back, [Protocol::HTTP].into_iter()).unwrap();
        let (body, json_length) = outgoing.http().unwrap();
        let again = InferRequest::from_http(&whole(&body), json_length).unwrap();
        assert!(again.inputs == request.inputs);
        assert!(outgoing.grpc("digits").is_none(), "nobody is asked so");
    }
}
