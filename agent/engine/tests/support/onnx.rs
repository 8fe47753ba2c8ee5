//! Writes ONNX files: as much of `onnx.proto` as the tests need, by its field numbers.

/// A protobuf message being written.
#[derive(Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    #[allow(clippy::cast_possible_truncation)] // seven bits at a time
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    #[allow(clippy::cast_sign_loss)] // protobuf's int64 is its two's complement
    fn int(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.as_ref().len() as u64);
        self.0.extend_from_slice(value.as_ref());
        self
    }

    fn all<T: AsRef<[u8]>>(self, field: u64, values: impl IntoIterator<Item = T>) -> Self {
        values.into_iter().fold(self, |message, value| message.bytes(field, value))
    }

    /// The file's bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// `TensorProto.DataType`.
#[derive(Clone, Copy, Debug)]
pub enum Element {
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Uint16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    String = 8,
    Bool = 9,
    Float16 = 10,
    Double = 11,
    Uint32 = 12,
    Uint64 = 13,
    Complex64 = 14,
    Bfloat16 = 16,
    Float8e4m3fn = 17,
}

/// `TypeProto` of a tensor. A negative dimension is named, and so of any size.
pub fn tensor_type(element: Element, shape: &[i64]) -> Message {
    let dimensions = shape.iter().enumerate().map(|(axis, size)| match size {
        0.. => Message::default().int(1, *size),
        _ => Message::default().bytes(2, format!("axis{axis}")),
    });
    let shape = Message::default().all(1, dimensions);
    let tensor = Message::default().int(1, element as i64).bytes(2, shape);
    Message::default().bytes(1, tensor)
}

/// `TypeProto` of a tensor that does not even say how many dimensions it has.
pub fn unranked_type(element: Element) -> Message {
    Message::default().bytes(1, Message::default().int(1, element as i64))
}

/// `TypeProto` of a sequence.
pub fn sequence_type(of: &Message) -> Message {
    Message::default().bytes(4, Message::default().bytes(1, of))
}

/// `TypeProto` of a map from integers.
pub fn map_type(to: &Message) -> Message {
    Message::default().bytes(5, Message::default().int(1, Element::Int64 as i64).bytes(2, to))
}

/// `TypeProto` of what may be absent.
pub fn optional_type(of: &Message) -> Message {
    Message::default().bytes(9, Message::default().bytes(1, of))
}

/// `ValueInfoProto`: an input or output.
pub fn value(name: &str, kind: &Message) -> Message {
    Message::default().bytes(1, name).bytes(2, kind)
}

/// `NodeProto`.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Message]) -> Message {
    Message::default().all(1, inputs).all(2, outputs).bytes(4, op).all(5, attributes)
}

/// `NodeProto` of an operator outside of the standard's own domain.
pub fn node_of(domain: &str, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Message]) -> Message {
    node(op, inputs, outputs, attributes).bytes(7, domain)
}

/// `AttributeProto` that holds a tensor.
pub fn tensor_attribute(name: &str, tensor: &Message) -> Message {
    Message::default().bytes(1, name).bytes(5, tensor).int(20, 4)
}

/// `AttributeProto` that holds a graph.
pub fn graph_attribute(name: &str, graph: &Message) -> Message {
    Message::default().bytes(1, name).bytes(6, graph).int(20, 5)
}

/// `AttributeProto` that holds integers.
pub fn ints_attribute(name: &str, ints: &[i64]) -> Message {
    ints.iter().fold(Message::default().bytes(1, name), |message, int| message.int(8, *int)).int(20, 7)
}

/// `AttributeProto` that holds an integer.
pub fn int_attribute(name: &str, int: i64) -> Message {
    Message::default().bytes(1, name).int(3, int).int(20, 2)
}

/// `TensorProto` with its elements as they lie in memory.
pub fn tensor(name: &str, element: Element, shape: &[i64], raw: &[u8]) -> Message {
    shape
        .iter()
        .fold(Message::default(), |message, size| message.int(1, *size))
        .int(2, element as i64)
        .bytes(8, name)
        .bytes(9, raw)
}

/// `TensorProto` of texts, which may be no UTF-8.
pub fn string_tensor(name: &str, shape: &[i64], texts: &[&[u8]]) -> Message {
    shape
        .iter()
        .fold(Message::default(), |message, size| message.int(1, *size))
        .int(2, Element::String as i64)
        .all(6, texts)
        .bytes(8, name)
}

/// `TensorProto` whose elements lie elsewhere.
pub fn external_tensor(name: &str, element: Element, shape: &[i64], place: &[(&str, &str)]) -> Message {
    let place = place.iter().map(|(key, value)| Message::default().bytes(1, key).bytes(2, value));
    shape
        .iter()
        .fold(Message::default(), |message, size| message.int(1, *size))
        .int(2, element as i64)
        .bytes(8, name)
        .all(13, place)
        .int(14, 1)
}

/// `TensorProto` of 64-bit integers.
pub fn int64s(name: &str, shape: &[i64], elements: &[i64]) -> Message {
    let raw: Vec<u8> = elements.iter().flat_map(|element| element.to_le_bytes()).collect();
    tensor(name, Element::Int64, shape, &raw)
}

/// `SparseTensorProto` with one entry, which is 0 and lies at the beginning. Its name is that of its entry.
pub fn sparse_zeros(name: &str, shape: &[i64]) -> Message {
    let entry = tensor(name, Element::Float, &[1], &[0; 4]);
    let sparse = Message::default().bytes(1, entry).bytes(2, int64s("", &[1], &[0]));
    shape.iter().fold(sparse, |message, size| message.int(3, *size))
}

/// How much of a [`Graph::model`] follows its graph.
pub const VERSIONS_BYTES: usize = 22;

/// `GraphProto`.
#[derive(Default)]
pub struct Graph {
    pub nodes: Vec<Message>,
    pub constants: Vec<Message>,
    pub sparse_constants: Vec<Message>,
    pub inputs: Vec<Message>,
    pub outputs: Vec<Message>,
}

impl Graph {
    /// The graph alone, as an attribute holds it.
    pub fn message(self) -> Message {
        Message::default()
            .all(1, self.nodes)
            .bytes(2, "graph")
            .all(5, self.constants)
            .all(11, self.inputs)
            .all(12, self.outputs)
            .all(15, self.sparse_constants)
    }

    /// The file.
    pub fn model(self) -> Vec<u8> {
        self.model_of(17)
    }

    /// The file, with the operators of this version.
    pub fn model_of(self, opset_version: i64) -> Vec<u8> {
        let opset = |domain: &str, version| Message::default().bytes(1, domain).int(2, version);
        let opsets = [opset("", opset_version), opset("ai.onnx.ml", 3)];
        Message::default().int(1, 9).bytes(7, self.message()).all(8, opsets).into_bytes()
    }
}
