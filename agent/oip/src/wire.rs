//! A gRPC request's bytes, looked over before anything is made of them. Each input of a message may be two bytes there
//! and hundreds in memory; so what there may be only so many of is counted first.

use crate::error::{DecodeError, Fault};
use crate::limits::{MAX_PARAMETERS, MAX_RANK, MAX_TENSORS};

/// Checks the bytes of a `ModelInferRequest`: they hold no more of anything than a request may have.
pub fn check(message: &[u8]) -> Result<(), DecodeError> {
    let (mut parameters, mut inputs, mut outputs, mut raw) = (0, 0, 0, 0);
    for field in Fields(message) {
        match field? {
            (4, _) => count(&mut parameters, MAX_PARAMETERS, "parameters")
                .map_err(|fault| DecodeError::new(fault).in_field("parameters"))?,
            (5, Value::Bytes(input)) => {
                let index = inputs;
                let checked = count(&mut inputs, MAX_TENSORS, "tensors").map_err(DecodeError::new);
                checked
                    .and_then(|()| check_input(input).map_err(|error| error.in_item(index)))
                    .map_err(|error| error.in_field("inputs"))?;
            }
            (6, Value::Bytes(output)) => {
                let index = outputs;
                let checked = count(&mut outputs, MAX_TENSORS, "outputs").map_err(DecodeError::new);
                checked
                    .and_then(|()| check_output(output).map_err(|error| error.in_item(index)))
                    .map_err(|error| error.in_field("outputs"))?;
            }
            (7, _) => count(&mut raw, MAX_TENSORS, "raw contents")
                .map_err(|fault| DecodeError::new(fault).in_field("raw_input_contents"))?,
            _ => {}
        }
    }
    Ok(())
}

fn check_input(input: &[u8]) -> Result<(), DecodeError> {
    let (mut dimensions, mut parameters) = (0, 0);
    for field in Fields(input) {
        match field? {
            (3, value) => {
                let more = match value {
                    Value::Number => 1,
                    // Packed: each ends with the byte whose highest bit is not set.
                    Value::Bytes(packed) => packed.iter().filter(|byte| **byte < 0x80).count(),
                };
                dimensions += more;
                if dimensions > MAX_RANK {
                    let fault = Fault::TooMany { what: "dimensions", limit: MAX_RANK };
                    return Err(DecodeError::new(fault).in_field("shape"));
                }
            }
            (4, _) => count(&mut parameters, MAX_PARAMETERS, "parameters")
                .map_err(|fault| DecodeError::new(fault).in_field("parameters"))?,
            _ => {}
        }
    }
    Ok(())
}

fn check_output(output: &[u8]) -> Result<(), DecodeError> {
    let mut parameters = 0;
    for field in Fields(output) {
        if field?.0 == 2 {
            count(&mut parameters, MAX_PARAMETERS, "parameters")
                .map_err(|fault| DecodeError::new(fault).in_field("parameters"))?;
        }
    }
    Ok(())
}

fn count(so_far: &mut usize, limit: usize, what: &'static str) -> Result<(), Fault> {
    *so_far += 1;
    if *so_far > limit { Err(Fault::TooMany { what, limit }) } else { Ok(()) }
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

#[derive(Clone, Copy)]
enum Value<'a> {
    Number,
    Bytes(&'a [u8]),
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| Fault::NotProtobuf.into()))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => self.varint().map(|_| Value::Number)?,
            1 => self.take(8).map(|_| Value::Number)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Number)?,
            // Groups are older than the protocol.
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (place, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                self.0 = self.0.get(place + 1..)?;
                return Some(value);
            }
        }
        None
    }
}
