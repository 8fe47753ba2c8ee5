//! The two messages of gRPC's ModelInfer, written and read by hand: a bench knows an agent only from outside.

use anyhow::{Context as _, Result, bail};

/// Field numbers of `ModelInferRequest` and `ModelInferResponse`.
const MODEL_NAME: u64 = 1;
const INPUTS: u64 = 5;
const RAW_INPUTS: u64 = 7;
const RAW_OUTPUTS: u64 = 6;
/// Of a tensor in it.
const NAME: u64 = 1;
const DATATYPE: u64 = 2;
const SHAPE: u64 = 3;

/// A request with one input of FP32.
pub fn request(model: &str, shape: impl Iterator<Item = usize>, data: &[u8]) -> Vec<u8> {
    let shape: Vec<u8> = shape.flat_map(|axis| number(axis as u64)).collect();
    let input = [field(NAME, b"input"), field(DATATYPE, b"FP32"), field(SHAPE, &shape)].concat();
    [field(MODEL_NAME, model.as_bytes()), field(INPUTS, &input), field(RAW_INPUTS, data)].concat()
}

/// The bytes of an answer's only output.
pub fn output(mut message: &[u8]) -> Result<&[u8]> {
    while !message.is_empty() {
        let tag = take_number(&mut message)?;
        if tag & 7 != 2 {
            bail!("a field that has no length");
        }
        let length = usize::try_from(take_number(&mut message)?)?;
        let (value, rest) = message.split_at_checked(length).context("the message ends early")?;
        if tag >> 3 == RAW_OUTPUTS {
            return Ok(value);
        }
        message = rest;
    }
    bail!("no output")
}

fn field(field: u64, value: &[u8]) -> Vec<u8> {
    [&number(field << 3 | 2), &number(value.len() as u64), value].concat()
}

/// Seven bits a byte, the lowest first.
fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn take_number(bytes: &mut &[u8]) -> Result<u64> {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).context("the message ends early")?;
    let (number, rest) = bytes.split_at(end + 1);
    *bytes = rest;
    Ok(number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_behind_others() {
        let message = [field(1, b"name"), field(RAW_OUTPUTS, &[7; 300]), field(9, b"")].concat();
        assert_eq!(output(&message).unwrap(), [7; 300]);
        assert!(output(&message[..20]).is_err());
        assert!(output(&field(1, b"name")).is_err());
    }
}
