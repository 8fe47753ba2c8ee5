//! Just enough of protobuf's wire format to take a message apart and put it together again, byte for byte.

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number.
    pub number: u64,
    /// What it holds.
    pub value: Value<'a>,
    /// All of it, tag included.
    pub whole: &'a [u8],
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number of variable length.
    Varint(u64),
    /// Bytes, a text or a message.
    Bytes(&'a [u8]),
    /// Something of four or eight bytes.
    Fixed,
}

impl<'a> Field<'a> {
    /// Its bytes, where it has any.
    pub const fn bytes(&self) -> Option<&'a [u8]> {
        match self.value {
            Value::Bytes(bytes) => Some(bytes),
            Value::Varint(_) | Value::Fixed => None,
        }
    }
}

/// The fields of a message in their order; none where it is no message.
pub fn fields(message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut rest = message;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let start = rest;
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut rest)?),
            1 => take(&mut rest, 8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => take(&mut rest, 4).map(|_| Value::Fixed)?,
            // Groups, which nobody writes any more, and what is no type.
            _ => return None,
        };
        let whole = &start[..start.len() - rest.len()];
        fields.push(Field { number: tag >> 3, value, whole });
    }
    Some(fields)
}

/// Appends a field that holds bytes.
pub fn put_bytes(message: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(message, number << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// Appends a field that holds a number.
pub fn put_number(message: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(message, number << 3);
    put_varint(message, value);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push((value & 0x7f) as u8);
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_put_is_found(parts in prop::collection::vec((1_u64..1 << 20, prop::option::of(any::<u64>()), prop::collection::vec(any::<u8>(), 0..300)), 0..20)) {
            let mut message = Vec::new();
            for (number, value, bytes) in &parts {
                match value {
                    Some(value) => put_number(&mut message, *number, *value),
                    None => put_bytes(&mut message, *number, bytes),
                }
            }
            let found = fields(&message).unwrap();
            prop_assert_eq!(found.len(), parts.len());
            for (field, (number, value, bytes)) in found.iter().zip(&parts) {
                prop_assert_eq!(field.number, *number);
                prop_assert_eq!(field.value, value.map_or(Value::Bytes(bytes), Value::Varint));
            }
            let whole: Vec<u8> = found.iter().flat_map(|field| field.whole).copied().collect();
            prop_assert_eq!(whole, message);
        }

        #[test]
        fn anything_is_a_message_or_none(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Some(found) = fields(&bytes) {
                prop_assert_eq!(found.iter().map(|field| field.whole.len()).sum::<usize>(), bytes.len());
            }
        }
    }
}
