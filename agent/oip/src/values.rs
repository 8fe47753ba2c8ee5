//! A tensor's numbers: in memory of their own, or where they lie in the message that brought them.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use bytes::Bytes;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A number that lies in memory as it is sent.
pub trait Number: FromBytes + Immutable + KnownLayout + Copy {}

impl<T: FromBytes + Immutable + KnownLayout + Copy> Number for T {}

/// Numbers, to be read. A clone of those in a message shares its bytes. Its `Debug` tells how many there are, and none of
/// them: they may be private.
#[derive(Clone)]
pub struct Values<T>(Place<T>);

#[derive(Clone)]
enum Place<T> {
    Apart(Vec<T>),
    /// As many whole numbers, each where the machine can read it.
    Within(Bytes, PhantomData<T>),
}

impl<T: Number> Values<T> {
    /// Those that these bytes are, if the machine can read them where they lie.
    pub(crate) fn within(message: Bytes) -> Option<Self> {
        let is_readable = <[T]>::ref_from_bytes(&message).is_ok();
        is_readable.then_some(Self(Place::Within(message, PhantomData)))
    }
}

impl<T> Values<T> {
    /// For how many there is memory beside that of a message.
    pub fn capacity(&self) -> usize {
        match &self.0 {
            Place::Apart(values) => values.capacity(),
            Place::Within(..) => 0,
        }
    }
}

impl<T: Number> Deref for Values<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Place::Apart(values) => values,
            // They could be read when they were made, and have not moved.
            Place::Within(message, _) => <[T]>::ref_from_bytes(message).unwrap_or_default(),
        }
    }
}

impl<T> From<Vec<T>> for Values<T> {
    fn from(values: Vec<T>) -> Self {
        Self(Place::Apart(values))
    }
}

impl<T> FromIterator<T> for Values<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(Place::Apart(values.into_iter().collect()))
    }
}

impl<'a, T: Number> IntoIterator for &'a Values<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Number + PartialEq> PartialEq for Values<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Number> fmt::Debug for Values<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_where_they_lie_if_the_machine_can() {
        let message = Bytes::from(vec![1_u8; 64]);
        let start = message.as_ptr().align_offset(align_of::<u32>());
        for (from, to, expected) in [
            (start, start + 8, Some(&[0x0101_0101_u32; 2][..])),
            (start, start, Some(&[])),
            (start + 4, start + 8, Some(&[0x0101_0101])),
            (start + 1, start + 9, None),
            (start + 2, start + 6, None),
            (start, start + 7, None),
        ] {
            let part = message.slice(from..to);
            let values = Values::<u32>::within(part.clone());
            assert_eq!(values.as_deref(), expected, "{from}..{to}");
            assert!(values.is_none_or(|values| values.is_empty() || values.as_ptr().cast() == part.as_ptr()));
        }
    }

    #[test]
    fn they_are_equal_wherever_they_lie_and_none_is_shown() {
        let apart = Values::from(vec![7_u8, 8, 9]);
        let within = Values::within(Bytes::from_static(&[7, 8, 9])).unwrap();
        assert_eq!(apart, within);
        assert_eq!(format!("{apart:?} {within:?}"), "[3] [3]");
        assert!(apart != Values::from(vec![7, 8]));
    }
}
