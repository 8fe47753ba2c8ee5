//! How much of anything one message may hold. The size of a body is bounded by whoever reads it off the wire.

/// Inputs, requested outputs, or outputs of one message.
pub const MAX_TENSORS: usize = 256;

/// Parameters of one request, response, input or output.
pub const MAX_PARAMETERS: usize = 64;

/// Dimensions of a tensor, and so the depth to which its data may be nested.
pub const MAX_RANK: usize = 32;

/// Fields of one object, unknown ones included.
pub const MAX_FIELDS: usize = 64;

/// Fields of one message of gRPC, each time that one is there and unknown ones included: all that is permitted otherwise,
/// and some.
pub const MAX_MESSAGE_FIELDS: usize = 1024;

/// Depth of anything that is skipped or passed on unread.
pub const MAX_DEPTH: usize = 64;

/// Characters of a name that an error shows.
pub const MAX_NAME_SHOWN: usize = 64;
