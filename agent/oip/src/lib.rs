//! to be written
pub mod tensor;
