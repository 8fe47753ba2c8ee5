//! A tensor's `data` straight into the vector of its type, flat or nested.

use half::{bf16, f16};

use crate::error::{DecodeError, Fault, JsonKind};
use crate::json::{Reader, rounded_to_f32};
use crate::limits::MAX_RANK;
use crate::tensor::{Datatype, TensorData, element_count};

/// Elements, and the lengths of the rows that they were nested in, outermost first.
pub(crate) struct Elements {
    pub(crate) data: TensorData,
    nesting: Vec<usize>,
}

impl Elements {
    /// Reads the array at the reader. A shape, where it is known already, only saves growing the vector.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        datatype: Datatype,
        shape: Option<&[usize]>,
    ) -> Result<Self, DecodeError> {
        let claimed = shape.and_then(element_count).unwrap_or(0);
        let (data, nesting) = match datatype {
            Datatype::Bool => rows(reader, claimed, TensorData::Bool),
            Datatype::Uint8 => rows(reader, claimed, TensorData::Uint8),
            Datatype::Uint16 => rows(reader, claimed, TensorData::Uint16),
            Datatype::Uint32 => rows(reader, claimed, TensorData::Uint32),
            Datatype::Uint64 => rows(reader, claimed, TensorData::Uint64),
            Datatype::Int8 => rows(reader, claimed, TensorData::Int8),
            Datatype::Int16 => rows(reader, claimed, TensorData::Int16),
            Datatype::Int32 => rows(reader, claimed, TensorData::Int32),
            Datatype::Int64 => rows(reader, claimed, TensorData::Int64),
            Datatype::Fp16 => rows(reader, claimed, TensorData::Fp16),
            Datatype::Bf16 => rows(reader, claimed, TensorData::Bf16),
            Datatype::Fp32 => rows(reader, claimed, TensorData::Fp32),
            Datatype::Fp64 => rows(reader, claimed, TensorData::Fp64),
            Datatype::Bytes => rows(reader, claimed, TensorData::Bytes),
        }?;
        Ok(Self { data, nesting })
    }

    /// The nesting is one that the shape allows: full nesting has the shape's own rows, flatter data only has to
    /// have the right number of elements (which [`crate::Tensor::new`] checks).
    pub(crate) fn check_nesting(&self, shape: &[usize]) -> Result<(), Fault> {
        let too_deep = self.nesting.len() > shape.len().max(1);
        let other_rows = self.nesting.len() == shape.len() && self.nesting != shape;
        if too_deep || (other_rows && element_count(shape) == Some(self.data.len())) {
            return Err(Fault::Nesting { nested: self.nesting.clone(), shape: shape.to_vec() });
        }
        Ok(())
    }
}

fn rows<T: Element, V: From<Vec<T>>>(
    reader: &mut Reader<'_>,
    claimed: usize,
    data: impl FnOnce(V) -> TensorData,
) -> Result<(TensorData, Vec<usize>), DecodeError> {
    let mut rows = Rows { elements: Vec::new(), pause: 0, lengths: Vec::new(), leaves: None };
    rows.make_room(reader, capacity::<T>(claimed, reader.remaining()))?;
    rows.read(reader, 1)?;
    Ok((data(rows.elements.into()), rows.lengths))
}

/// Room for the elements that the shape claims, but for no more than the text that is left can hold.
fn capacity<T: Element>(claimed: usize, remaining: usize) -> usize {
    claimed.min(remaining / T::MIN_TEXT)
}

/// How many elements are read between two looks at whether anybody still waits: a millisecond's worth.
const STRETCH: usize = 32 << 10;

struct Rows<T> {
    elements: Vec<T>,
    /// How many there are when reading pauses, to look and to make room; there is room for as many.
    pause: usize,
    /// The length of every row at a depth, once the first has been read.
    lengths: Vec<usize>,
    /// The depth of the rows that hold elements.
    leaves: Option<usize>,
}

impl<T: Element> Rows<T> {
    /// Reads the row at the reader, at a depth from 1.
    fn read(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<(), DecodeError> {
        if depth > MAX_RANK {
            return Err(Fault::TooMany { what: "levels of nesting", limit: MAX_RANK }.into());
        }
        if self.lengths.len() < depth {
            self.lengths.push(UNKNOWN);
        }
        let mut length = 0;
        if reader.open_array()? {
            let first = reader.kind().map_err(|error| error.in_element(self.elements.len()))?;
            if first == JsonKind::Array {
                length = self.read_rows(reader, depth)?;
            } else {
                length = self.read_elements(reader)?;
                if *self.leaves.get_or_insert(depth) != depth {
                    return Err(Fault::Ragged { depth }.into());
                }
            }
        }
        let known = &mut self.lengths[depth - 1];
        if *known == UNKNOWN {
            *known = length;
        }
        if *known == length { Ok(()) } else { Err(Fault::Ragged { depth }.into()) }
    }

    /// Makes room for so many elements more.
    fn make_room(&mut self, reader: &Reader<'_>, more: usize) -> Result<(), Fault> {
        reader.memory().take(more.saturating_mul(size_of::<T>()))?;
        self.elements.reserve_exact(more);
        Ok(())
    }

    /// Looks whether to go on. Where it is full, makes room for as many elements again, as far as the text that is left can
    /// hold them.
    #[cold]
    fn pause(&mut self, reader: &Reader<'_>) -> Result<(), Fault> {
        let length = self.elements.len();
        if length == self.elements.capacity() {
            let more = length.max(8);
            self.make_room(reader, more.min(capacity::<T>(more, reader.remaining()) + 1))?;
        }
        if length > 0 {
            reader.memory().look()?;
        }
        self.pause = self.elements.capacity().min(length.saturating_add(STRETCH));
        Ok(())
    }

    fn read_rows(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<usize, DecodeError> {
        let mut length = 0;
        loop {
            // Rows may hold nothing.
            reader.pace()?;
            self.read(reader, depth + 1)?;
            length += 1;
            if !reader.more_items()? {
                return Ok(length);
            }
        }
    }

    fn read_elements(&mut self, reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
        let before = self.elements.len();
        loop {
            T::read_short(reader, &mut self.elements, self.pause);
            if self.elements.len() >= self.pause {
                self.pause(reader)?;
            }
            match T::read(reader) {
                Ok(element) => self.elements.push(element),
                Err(error) => return Err(error.in_element(self.elements.len())),
            }
            if !reader.more_items()? {
                return Ok(self.elements.len() - before);
            }
        }
    }
}

/// The length of rows at a depth where none has ended yet.
const UNKNOWN: usize = usize::MAX;

/// An element that JSON can carry.
trait Element: Sized {
    /// The least number of bytes that an element and its comma take.
    const MIN_TEXT: usize = 2;

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Reads items that there is a shorter way for, if any are next, until there are so many, for which there is room; an
    /// item is left in any case.
    #[inline]
    fn read_short(_: &mut Reader<'_>, _: &mut Vec<Self>, _: usize) {}
}

macro_rules! numbers {
    ($($type:ty, $datatype:ident, $expected:literal, $convert:ident $(, $short:expr)?;)*) => {$(
        impl Element for $type {
            #[inline]
            fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(reader.number($expected)?.$convert(Datatype::$datatype.as_str())?)
            }

            $(
                #[inline]
                fn read_short(reader: &mut Reader<'_>, elements: &mut Vec<Self>, until: usize) {
                    reader.short_decimals(|value| {
                        let short: Option<Self> = $short(value);
                        match short {
                            Some(element) if elements.len() < until => elements.push(element),
                            _ => return false,
                        }
                        true
                    });
                }
            )?
        }
    )*};
}

numbers! {
    u8, Uint8, "an integer", to_integer;
    u16, Uint16, "an integer", to_integer;
    u32, Uint32, "an integer", to_integer;
    u64, Uint64, "an integer", to_integer;
    i8, Int8, "an integer", to_integer;
    i16, Int16, "an integer", to_integer;
    i32, Int32, "an integer", to_integer;
    i64, Int64, "an integer", to_integer;
    f16, Fp16, "a number", to_f16;
    bf16, Bf16, "a number", to_bf16;
    f32, Fp32, "a number", to_f32, rounded_to_f32;
    f64, Fp64, "a number", to_f64, Some;
}

impl Element for bool {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.boolean()
    }
}

impl Element for Vec<u8> {
    const MIN_TEXT: usize = 3;

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.owned_string().map(String::into_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn elements_are_the_numbers_that_the_standard_library_reads(
            texts in proptest::collection::vec("-?(0|[1-9][0-9]{0,8})(\\.[0-9]{1,20})?(e-?[0-9])?", 1..20),
            comma in "[ \n]{0,2},[ \n]{0,2}",
        ) {
            let array = format!("[{}]", texts.join(&comma));
            let TensorData::Fp32(read_short) = read(&array, Datatype::Fp32).unwrap().data else { panic!() };
            let expected: Vec<u32> = texts.iter().map(|text| text.parse::<f32>().unwrap().to_bits()).collect();
            prop_assert_eq!(read_short.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), expected);
            let TensorData::Fp64(read_long) = read(&array, Datatype::Fp64).unwrap().data else { panic!() };
            let expected: Vec<u64> = texts.iter().map(|text| text.parse::<f64>().unwrap().to_bits()).collect();
            prop_assert_eq!(read_long.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), expected);
        }
    }

    fn read(text: &str, datatype: Datatype) -> Result<Elements, DecodeError> {
        Elements::read(&mut Reader::new(text), datatype, None)
    }

    #[test]
    fn room_is_made_for_what_the_text_can_hold_and_not_for_what_the_shape_claims() {
        assert_eq!(capacity::<f64>(3, 1_000), 3);
        assert_eq!(capacity::<f64>(1_000_000_000_000, 1_000), 500);
        assert_eq!(capacity::<Vec<u8>>(usize::MAX, 1_000), 333);
    }

    #[test]
    fn rows_must_have_equal_lengths_and_elements_equal_depths() {
        for (text, fault) in [
            ("[[1,2],[3]]", Fault::Ragged { depth: 2 }),
            ("[[],[1]]", Fault::Ragged { depth: 2 }),
            ("[[1],[[2]]]", Fault::Ragged { depth: 3 }),
            ("[[[1]],[2]]", Fault::Ragged { depth: 2 }),
            ("[[[1],[2]],[[3,4]]]", Fault::Ragged { depth: 3 }),
            ("[[1],2]", Fault::Kind { expected: "an array", found: JsonKind::Number }),
            ("[1,[2]]", Fault::Kind { expected: "an integer", found: JsonKind::Array }),
        ] {
            assert_eq!(
                read(text, Datatype::Int32).err().map(|error| error.fault().clone()),
                Some(fault),
                "{text}"
            );
        }
    }

    #[test]
    fn nesting_is_full_and_equals_the_shape_or_is_flatter() {
        for (text, shape, fits) in [
            ("[[1,2,3],[4,5,6]]", &[2, 3][..], true),
            ("[[1,2,3],[4,5,6]]", &[3, 2], false),
            ("[[1,2,3],[4,5,6]]", &[1, 2, 3], true),
            ("[[1,2,3],[4,5,6]]", &[6], false),
            ("[1,2,3,4,5,6]", &[1, 2, 3], true),
            ("[1]", &[], true),
            ("[[1]]", &[], false),
            ("[]", &[0, 3], true),
            ("[[],[]]", &[2, 0], true),
            ("[[]]", &[2, 0], false),
            ("[[],[]]", &[0], false),
        ] {
            assert_eq!(
                read(text, Datatype::Int32).unwrap().check_nesting(shape).is_ok(),
                fits,
                "{text} {shape:?}"
            );
        }
    }

    #[test]
    fn data_nested_without_end_is_refused_before_the_stack_is() {
        let error = read(&"[".repeat(1_000_000), Datatype::Fp32).err().unwrap();
        assert_eq!(error.to_string(), "more than 32 levels of nesting");
    }
}
