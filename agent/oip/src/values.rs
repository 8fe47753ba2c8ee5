//! Looking at a tensor's elements without knowing their type, as measures of a request's complexity do.

use crate::tensor::TensorData;

impl TensorData {
    /// How many elements are numbers: none of `BYTES`, all of every other datatype (`BOOL` counts as 0 and 1).
    pub const fn numeric_len(&self) -> usize {
        match self {
            Self::Bytes(_) => 0,
            _ => self.len(),
        }
    }

    /// Visits the first and then every `stride`th number (a stride of 0 is 1).
    pub fn visit_f64(&self, stride: usize, visit: &mut impl FnMut(f64)) {
        match self {
            Self::Bool(values) => each(values, stride, |value| visit(f64::from(u8::from(value)))),
            Self::Uint8(values) => each(values, stride, |value| visit(f64::from(value))),
            Self::Uint16(values) => each(values, stride, |value| visit(f64::from(value))),
            Self::Uint32(values) => each(values, stride, |value| visit(f64::from(value))),
            Self::Uint64(values) => each(values, stride, |value| visit(value as f64)),
            Self::Int8(values) => each(values, stride, |value| visit(f64::from(value))),
            Self::Int16(values) => each(values, stride, |value| visit(f64::from(value))),
            Self::Int32(values) => each(values, stride, |value| visit(f64::from(value))),
            Self::Int64(values) => each(values, stride, |value| visit(value as f64)),
            Self::Fp16(values) => each(values, stride, |value| visit(value.to_f64())),
            Self::Bf16(values) => each(values, stride, |value| visit(value.to_f64())),
            Self::Fp32(values) => each(values, stride, |value| visit(f64::from(value))),
            Self::Fp64(values) => each(values, stride, visit),
            Self::Bytes(_) => {}
        }
    }

    /// Visits the elements of `BYTES`; none of any other datatype.
    pub fn visit_bytes(&self, visit: &mut impl FnMut(&[u8])) {
        if let Self::Bytes(values) = self {
            for value in values {
                visit(value);
            }
        }
    }
}

fn each<T: Copy>(values: &[T], stride: usize, visit: impl FnMut(T)) {
    values.iter().copied().step_by(stride.max(1)).for_each(visit);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visited(data: &TensorData, stride: usize) -> Vec<f64> {
        let mut values = Vec::new();
        data.visit_f64(stride, &mut |value| values.push(value));
        values
    }

    #[test]
    fn numbers_are_visited_in_order_every_strideth() {
        let data = TensorData::Int16((0..10).collect());
        assert_eq!(data.numeric_len(), 10);
        assert_eq!(visited(&data, 4), [0.0, 4.0, 8.0]);
        assert_eq!(visited(&data, 0).len(), 10);
        assert_eq!(visited(&data, 100), [0.0]);
        assert_eq!(visited(&TensorData::Bool(vec![true, false]), 1), [1.0, 0.0]);
        assert!(visited(&TensorData::Fp32(vec![]), 3).is_empty());
    }

    #[test]
    fn texts_are_bytes_and_no_numbers() {
        let data = TensorData::Bytes(vec![b"ab".to_vec(), vec![0xff]]);
        assert_eq!(data.numeric_len(), 0);
        assert!(visited(&data, 1).is_empty());
        let mut seen = Vec::new();
        data.visit_bytes(&mut |value| seen.push(value.to_vec()));
        assert_eq!(seen, [b"ab".to_vec(), vec![0xff]]);
        TensorData::Bool(vec![true]).visit_bytes(&mut |_| panic!("a boolean has no bytes"));
    }
}
