//! What a request and its surroundings are, for those who ask: read only where a rule reads it.

/// What rules may ask beyond a request's requirements and the node's snapshot.
///
/// A closure that estimates a complexity is enough where no rule asks for more.
pub trait Facts {
    /// The entropy of the inputs, from 0 to 1: a pass over them.
    fn entropy(&self) -> f64;
    /// The bytes of the inputs' elements, as they are in memory.
    fn bytes(&self) -> u64 {
        0
    }
    /// The first dimension of the first input; 1 where it has none.
    fn batch(&self) -> usize {
        1
    }
    /// How many inputs there are.
    fn input_count(&self) -> usize {
        0
    }
    /// An input by its name.
    fn input(&self, _name: &str) -> Option<Input<'_>> {
        None
    }
    /// The first value of a header, by its name in lower case, where it is text.
    fn header(&self, _name: &str) -> Option<&str> {
        None
    }
    /// The model's namespace.
    #[allow(clippy::unnecessary_literal_bound)] // others have names of their own
    fn model_namespace(&self) -> &str {
        ""
    }
    /// The model's name.
    #[allow(clippy::unnecessary_literal_bound)] // others have names of their own
    fn model_name(&self) -> &str {
        ""
    }
    /// A label of the node.
    fn label(&self, _key: &str) -> Option<&str> {
        None
    }
}

/// An input, without its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input<'a> {
    /// Its dimensions.
    pub shape: &'a [usize],
    /// Its element type, as the protocol names it: `FP32`.
    pub datatype: &'a str,
}

impl<F: Fn() -> f64> Facts for F {
    fn entropy(&self) -> f64 {
        self()
    }
}
