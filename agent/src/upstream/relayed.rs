//! Another tier's answer, still as that tier encoded it.

use bytes::Bytes;
use terrace_oip::proto::ModelInferResponse;
use terrace_oip::{DecodeError, DecodedResponse, Fault, Memory, Outline, RelayedResponse, grpc};

use super::error::UpstreamError;
use super::flight::Time;
use crate::answer;
use crate::decoding::{Stopped, bounded};
use crate::heavy::heavy;
use crate::message::Message;
use crate::refusal::Refusal;
use crate::room::{Room, Taken};
use crate::serve::{Due, unwritten};

/// How much an answer may take beside its bytes where there is no room: what is small is not lost for that.
const FREE: usize = 64 << 10;

/// Another tier's answer: an inference response, still as that tier encoded it, in room of its own.
#[derive(Debug)]
pub enum Relayed {
    /// Over HTTP.
    Http(Box<HttpAnswer>),
    /// Over gRPC.
    Grpc(Box<GrpcAnswer>),
}

/// An answer over HTTP that was read once.
#[derive(Debug)]
pub struct HttpAnswer {
    /// The response, its tensors untouched.
    pub response: RelayedResponse,
    /// The room that it takes.
    pub taken: Taken,
    message: Message,
}

/// An answer over gRPC.
#[derive(Debug)]
pub struct GrpcAnswer {
    /// The message.
    pub message: ModelInferResponse,
    /// The room that it takes.
    pub taken: Taken,
    outlines: Vec<Outline>,
}

/// An answer whose tensors are read, and the room that it takes.
#[derive(Debug)]
pub struct Decoded {
    /// The response.
    pub response: DecodedResponse,
    /// Its room.
    pub taken: Taken,
}

impl Relayed {
    /// An answer over HTTP, if it is one; read while there is time.
    pub fn http(message: Message, mut taken: Taken, room: &Room, time: Time) -> Result<Self, UpstreamError> {
        let read =
            |memory: Memory<'_>| RelayedResponse::from_http(&message.bytes, message.json_length, memory);
        let response = heavy(message.toil(), || bounded(room, (&mut taken, FREE), time.due(), read));
        let response = response.map_err(|stopped| unread(stopped, time))?;
        Ok(Self::Http(Box::new(HttpAnswer { response, taken, message })))
    }

    /// An answer over gRPC, if its message is one; read while there is time and as far as there is room.
    pub fn grpc(message: Bytes, mut taken: Taken, room: &Room, time: Time) -> Result<Self, UpstreamError> {
        let toil = grpc::toil::<ModelInferResponse>(&message);
        let read = |memory: Memory<'_>| {
            let message = grpc::decode::<ModelInferResponse>(message, memory)?;
            Ok((grpc::check_response(&message)?, message))
        };
        let read = heavy(toil, || bounded(room, (&mut taken, FREE), time.due(), read));
        let (outlines, message) = read.map_err(|stopped| unread(stopped, time))?;
        Ok(Self::Grpc(Box::new(GrpcAnswer { message, taken, outlines })))
    }

    /// The response with its tensors, while there is time and as far as there is room.
    pub fn decode(self, room: &Room, due: Due) -> Result<Decoded, Stopped> {
        let size = self.text_size();
        match self {
            Self::Http(answer) => {
                let HttpAnswer { message: Message { bytes, json_length }, mut taken, .. } = *answer;
                let read =
                    |memory: Memory<'_>| DecodedResponse::from_http_within(&bytes, json_length, memory);
                let response = heavy(size, || bounded(room, (&mut taken, FREE), due, read))?;
                Ok(Decoded { response, taken })
            }
            Self::Grpc(answer) => {
                let GrpcAnswer { message, mut taken, .. } = *answer;
                let read = |memory: Memory<'_>| DecodedResponse::from_grpc_within(message, memory);
                let response = heavy(size, || bounded(room, (&mut taken, FREE), due, read))?;
                Ok(Decoded { response, taken })
            }
        }
    }

    /// The same, to be written in another form.
    pub fn rewritten(self, room: &Room, due: Due) -> Result<Decoded, Refusal> {
        self.decode(room, due).map_err(|stopped| match stopped {
            Stopped::Late => unwritten(),
            Stopped::Full(full) => answer::no_room(full),
            Stopped::Wrong(error) => Refusal::Failed(error.to_string()),
        })
    }

    /// What its outputs are.
    pub fn outlines(&self) -> &[Outline] {
        match self {
            Self::Http(answer) => &answer.response.outlines,
            Self::Grpc(answer) => &answer.outlines,
        }
    }

    /// How much there is to read or to write as text.
    pub fn text_size(&self) -> usize {
        match self {
            Self::Http(answer) => answer.message.json().len(),
            Self::Grpc(answer) => answer.message.raw_output_contents.iter().map(Bytes::len).sum(),
        }
    }
}

impl HttpAnswer {
    /// The binary tensors behind it.
    pub fn tail(&self) -> Bytes {
        self.message.tail()
    }

    /// Whether there are any, be they empty.
    pub const fn is_binary(&self) -> bool {
        self.message.json_length.is_some()
    }
}

/// Why an answer that came is none.
fn unread(stopped: Stopped, time: Time) -> UpstreamError {
    match stopped {
        Stopped::Late => UpstreamError::TimedOut { timeout: time.granted, full: time.full, connected: true },
        Stopped::Full(full) => UpstreamError::NoRoom(full),
        Stopped::Wrong(error) => malformed(&error),
    }
}

fn malformed(error: &DecodeError) -> UpstreamError {
    let text = error.to_string();
    if contradicts_itself(error) {
        UpstreamError::Contradictory(text)
    } else {
        UpstreamError::Malformed(text)
    }
}

/// Whether it is a response of the protocol, with outputs that are not what it says of them.
fn contradicts_itself(error: &DecodeError) -> bool {
    let of_an_element = matches!(
        error.fault(),
        Fault::OutOfRange { .. } | Fault::NotAnInteger | Fault::DuplicateName { .. } | Fault::UnknownDatatype
    );
    of_an_element || matches!(error.category(), "shape" | "binary")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;
    use terrace_oip::proto::InferTensorContents;
    use terrace_oip::proto::model_infer_response::InferOutputTensor;

    use super::*;
    use crate::room::Full;

    const MIB: usize = 1 << 20;

    fn time(granted: Duration) -> Time {
        Time::new(granted, Duration::from_secs(60))
    }

    fn of_json(body: &str, json_length: Option<usize>, room: &Room) -> Result<Relayed, UpstreamError> {
        let message = Message { bytes: Bytes::copy_from_slice(body.as_bytes()), json_length };
        Relayed::http(message, Taken::default(), room, time(Duration::from_secs(60)))
    }

    fn of_message(message: &ModelInferResponse, room: &Room) -> Result<Relayed, UpstreamError> {
        let bytes = message.encode_to_vec().into();
        Relayed::grpc(bytes, Taken::default(), room, time(Duration::from_secs(60)))
    }

    /// An answer of so many texts without a letter: two bytes each over gRPC, three in JSON, and dozens in memory.
    fn texts(count: usize) -> (ModelInferResponse, String) {
        let contents =
            InferTensorContents { bytes_contents: vec![Bytes::new(); count], ..Default::default() };
        let output = InferOutputTensor {
            name: "y".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![i64::try_from(count).unwrap()],
            contents: Some(contents),
            ..Default::default()
        };
        let message = ModelInferResponse {
            model_name: "m".to_owned(),
            outputs: vec![output],
            ..ModelInferResponse::default()
        };
        let data = vec!["\"\""; count].join(",");
        let json = format!(
            r#"{{"model_name":"m","outputs":[{{"name":"y","datatype":"BYTES","shape":[{count}],"data":[{data}]}}]}}"#
        );
        (message, json)
    }

    #[test]
    fn an_answer_is_read_as_far_as_there_is_room_for_what_it_becomes() {
        let (message, json) = texts(10_000);
        assert!(message.encoded_len() < 30_000 && json.len() < 40_000);
        let small = Room::new(MIB / 8);
        assert!(matches!(of_message(&message, &small), Err(UpstreamError::NoRoom(Full::Ever { .. }))));
        // In JSON it stays what it is until somebody needs its elements.
        let relayed = of_json(&json, None, &small).unwrap();
        let decoded = relayed.decode(&small, Due::by(None)).map(drop);
        assert_eq!(decoded, Err(Stopped::Full(Full::Ever { bytes: MIB / 8 })));

        let room = Room::new(4 * MIB);
        for relayed in [of_message(&message, &room).unwrap(), of_json(&json, None, &room).unwrap()] {
            let Decoded { response, taken } = relayed.decode(&room, Due::by(None)).unwrap();
            assert_eq!(response.outputs[0].data().len(), 10_000);
            assert!(room.cover(&mut Taken::default(), 4 * MIB - MIB / 8).is_err(), "it takes no room");
            drop(taken);
            room.cover(&mut Taken::default(), 4 * MIB - MIB / 8).unwrap();
        }
    }

    #[test]
    fn a_small_answer_is_read_where_there_is_no_room_at_all() {
        let (message, json) = texts(100);
        let full = Room::new(4 << 10);
        let mut others = Taken::default();
        full.cover(&mut others, 4 << 10).unwrap();
        for relayed in [of_message(&message, &full).unwrap(), of_json(&json, None, &full).unwrap()] {
            assert_eq!(relayed.decode(&full, Due::by(None)).unwrap().response.outputs[0].data().len(), 100);
        }
    }

    #[test]
    fn an_answer_is_read_while_there_is_time() {
        let (message, json) = texts(100_000);
        let room = Room::new(64 * MIB);
        let over = time(Duration::ZERO);
        let bytes = Message { bytes: json.clone().into(), json_length: None };
        let late = [
            Relayed::http(bytes, Taken::default(), &room, over),
            Relayed::grpc(message.encode_to_vec().into(), Taken::default(), &room, over),
        ];
        for late in late {
            assert!(matches!(late, Err(UpstreamError::TimedOut { connected: true, .. })), "{late:?}");
        }
        for relayed in [of_message(&message, &room).unwrap(), of_json(&json, None, &room).unwrap()] {
            let decoded = relayed.decode(&room, over.due()).map(drop);
            assert_eq!(decoded, Err(Stopped::Late));
        }
    }

    #[test]
    fn a_response_that_contradicts_itself_is_told_from_what_is_none() {
        let of = |body: &str, json_length| of_json(body, json_length, &Room::new(MIB));
        let output =
            r#"{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}"#;
        let twice = concat!(
            r#"{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[1]},"#,
            r#"{"name":"y","datatype":"FP32","shape":[1],"data":[1]}]}"#
        );
        let binary = concat!(
            r#"{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"#,
            r#""parameters":{"binary_data_size":8}}]}"#
        );
        for (body, json_length) in [(output, None), (twice, None), (binary, Some(binary.len()))] {
            let answer = of(body, json_length);
            assert!(matches!(answer, Err(UpstreamError::Contradictory(_))), "{body}: {answer:?}");
        }
        for body in ["<html>", "{}", r#"{"outputs":{"y":[1]}}"#, r#"{"outputs":[[1]]}"#, r#"{"outputs":[{"#] {
            let answer = of(body, None);
            assert!(matches!(answer, Err(UpstreamError::Malformed(_))), "{body}: {answer:?}");
        }
        let message = ModelInferResponse {
            outputs: vec![InferOutputTensor {
                name: "y".to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![2],
                ..Default::default()
            }],
            raw_output_contents: vec![Bytes::from_static(&[0; 4])],
            ..ModelInferResponse::default()
        };
        assert!(matches!(of_message(&message, &Room::new(MIB)), Err(UpstreamError::Contradictory(_))));
        let nothing = Bytes::from_static(&[0xff]);
        let none = Relayed::grpc(nothing, Taken::default(), &Room::new(MIB), time(Duration::from_secs(60)));
        assert!(matches!(none, Err(UpstreamError::Malformed(_))));
    }
}
