//! Whether a request's tensors fit a model. Pure; every error names the field and never a value.

use terrace_oip::{Datatype, Tensor, TensorData};

use crate::{Signature, TensorSpec};

/// Why a request does not fit a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInput {
    /// An input that the model needs is not there.
    #[error("input {name:?} is missing; the model takes {known}")]
    Missing {
        /// The input.
        name: String,
        /// What the model takes.
        known: String,
    },
    /// The model has no such input.
    #[error("there is no input {name:?}; the model takes {known}")]
    Unknown {
        /// The name, cut to a sane length.
        name: String,
        /// What the model takes.
        known: String,
    },
    /// An input is there twice.
    #[error("input {name:?} is there more than once")]
    Duplicate {
        /// The input.
        name: String,
    },
    /// An input has another datatype.
    #[error("input {name:?}: datatype {actual} does not fit {expected}")]
    Datatype {
        /// The input.
        name: String,
        /// What came.
        actual: Datatype,
        /// What the model takes.
        expected: Datatype,
    },
    /// An input has another shape.
    #[error("input {name:?}: shape {actual:?} does not fit {expected:?} (-1 is any size)")]
    Shape {
        /// The input.
        name: String,
        /// What came.
        actual: Vec<usize>,
        /// What the model takes.
        expected: Vec<i64>,
    },
    /// An input has no element, and claims very many all the same.
    #[error(
        "input {name:?}: shape {actual:?} has no element, so its other free dimensions may be {MOST_CLAIMED} in all at most"
    )]
    Claimed {
        /// The input.
        name: String,
        /// What came.
        actual: Vec<usize>,
    },
    /// A text is not what the runtime can take.
    #[error(
        "input {name:?}: element {index} is not UTF-8 text without NUL, which is all that ONNX strings hold"
    )]
    Text {
        /// The input.
        name: String,
        /// The element.
        index: usize,
    },
    /// The model has no such output.
    #[error("there is no output {name:?}; the model gives {known}")]
    Output {
        /// The name, cut to a sane length.
        name: String,
        /// What the model gives.
        known: String,
    },
}

/// The longest name that an error repeats.
const MAX_NAME_CHARS: usize = 64;
/// The most names that an error tells.
const MAX_NAMES: usize = 16;
/// What the dimensions that the model leaves free may come to where one of them is 0. No byte has to be sent for them,
/// and a model may make something of them all the same: rows of zeros, say.
const MOST_CLAIMED: usize = 1 << 20;

/// Checks that `inputs` are what the model takes.
pub fn check_inputs(signature: &Signature, inputs: &[Tensor]) -> Result<(), InvalidInput> {
    for (position, tensor) in inputs.iter().enumerate() {
        let mut specs = signature.inputs.iter().chain(&signature.optional);
        let Some(spec) = specs.find(|spec| spec.name == tensor.name()) else {
            return Err(InvalidInput::Unknown { name: shown(tensor.name()), known: known_inputs(signature) });
        };
        if inputs[..position].iter().any(|other| other.name() == tensor.name()) {
            return Err(InvalidInput::Duplicate { name: spec.name.clone() });
        }
        check_input(spec, tensor)?;
    }
    let missing = signature.inputs.iter().find(|spec| inputs.iter().all(|tensor| tensor.name() != spec.name));
    match missing {
        Some(spec) => Err(InvalidInput::Missing { name: spec.name.clone(), known: known_inputs(signature) }),
        None => Ok(()),
    }
}

/// Checks that the outputs asked for are given.
pub fn check_outputs(signature: &Signature, outputs: Option<&[String]>) -> Result<(), InvalidInput> {
    let unknown =
        outputs.into_iter().flatten().find(|name| signature.outputs.iter().all(|spec| spec.name != **name));
    match unknown {
        Some(name) => Err(InvalidInput::Output { name: shown(name), known: names(&signature.outputs) }),
        None => Ok(()),
    }
}

fn check_input(spec: &TensorSpec, tensor: &Tensor) -> Result<(), InvalidInput> {
    let name = || spec.name.clone();
    if spec.datatype != tensor.datatype() {
        let (actual, expected) = (tensor.datatype(), spec.datatype);
        return Err(InvalidInput::Datatype { name: name(), actual, expected });
    }
    let fits = spec.shape.len() == tensor.shape().len()
        && spec.shape.iter().zip(tensor.shape()).all(|(wanted, actual)| {
            *wanted < 0 || usize::try_from(*wanted).is_ok_and(|wanted| wanted == *actual)
        });
    if !fits {
        let (actual, expected) = (tensor.shape().to_vec(), spec.shape.clone());
        return Err(InvalidInput::Shape { name: name(), actual, expected });
    }
    if tensor.data().is_empty() {
        let free =
            spec.shape.iter().zip(tensor.shape()).filter(|(wanted, actual)| **wanted < 0 && **actual > 0);
        let claimed = free.map(|(_, actual)| *actual).fold(1, usize::saturating_mul);
        if claimed > MOST_CLAIMED {
            return Err(InvalidInput::Claimed { name: name(), actual: tensor.shape().to_vec() });
        }
    }
    if let TensorData::Bytes(texts) = tensor.data() {
        let bad = texts.iter().position(|text| text.contains(&0) || std::str::from_utf8(text).is_err());
        if let Some(index) = bad {
            return Err(InvalidInput::Text { name: name(), index });
        }
    }
    Ok(())
}

/// What a model takes, for an error: as many names as help to find a mistake.
fn known_inputs(signature: &Signature) -> String {
    let required = names(&signature.inputs);
    match (&*required, &*signature.optional) {
        (_, []) => required,
        ("", optional) => format!("none that is needed, and may be given {}", names(optional)),
        (_, optional) => format!("{required}, and may be given {}", names(optional)),
    }
}

fn names(specs: &[TensorSpec]) -> String {
    let names: Vec<String> =
        specs.iter().take(MAX_NAMES).map(|spec| format!("{:?}", shown(&spec.name))).collect();
    let more = if specs.len() > MAX_NAMES {
        format!(" and {} more", specs.len() - MAX_NAMES)
    } else {
        String::new()
    };
    names.join(", ") + &more
}

fn shown(name: &str) -> String {
    name.chars().take(MAX_NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.to_owned(),
            datatype,
            shape: shape.to_vec(),
        };
        Signature {
            inputs: vec![spec("image", Datatype::Fp32, &[-1, 2]), spec("text", Datatype::Bytes, &[1])],
            optional: vec![spec("scale", Datatype::Fp32, &[])],
            outputs: vec![spec("label", Datatype::Int64, &[-1])],
            provider: "none".to_owned(),
        }
    }

    fn image(shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        Tensor::new("image", shape.to_vec(), TensorData::Fp32(vec![7.25; count].into())).unwrap()
    }

    fn scale(shape: &[usize]) -> Tensor {
        Tensor::new("scale", shape.to_vec(), TensorData::Fp32(vec![7.25].into())).unwrap()
    }

    #[test]
    fn a_model_with_very_many_inputs_is_told_by_some_of_them() {
        let mut signature = signature();
        let spec = |number| TensorSpec { name: format!("w{number}"), ..signature.inputs[0].clone() };
        signature.optional = (0..100).map(spec).collect();
        let said = check_inputs(&signature, &[]).unwrap_err().to_string();
        assert!(said.ends_with("may be given \"w0\", \"w1\", \"w2\", \"w3\", \"w4\", \"w5\", \"w6\", \"w7\", \"w8\", \"w9\", \"w10\", \"w11\", \"w12\", \"w13\", \"w14\", \"w15\" and 84 more"), "{said}");
    }

    fn text(bytes: &[u8]) -> Tensor {
        Tensor::new("text", vec![1], TensorData::Bytes(vec![bytes.to_vec()])).unwrap()
    }

    #[test]
    fn what_fits_passes_and_every_fault_names_its_field() {
        let other = Tensor::new("imag", vec![0], TensorData::Fp32(Vec::new().into())).unwrap();
        let double = Tensor::new("image", vec![1, 2], TensorData::Fp64(vec![0.0; 2].into())).unwrap();
        for (inputs, expected) in [
            (vec![image(&[3, 2]), text(b"a")], None),
            (vec![text(b"a"), image(&[0, 2])], None),
            (vec![image(&[1, 2])], Some("input \"text\" is missing")),
            (
                vec![other, text(b"a")],
                Some(
                    "there is no input \"imag\"; the model takes \"image\", \"text\", and may be given \"scale\"",
                ),
            ),
            (vec![image(&[1, 2]), image(&[1, 2])], Some("input \"image\" is there more than once")),
            (vec![double, text(b"a")], Some("input \"image\": datatype FP64 does not fit FP32")),
            (vec![image(&[1, 3]), text(b"a")], Some("shape [1, 3] does not fit [-1, 2]")),
            (vec![image(&[2]), text(b"a")], Some("shape [2] does not fit [-1, 2]")),
            (vec![image(&[1, 2]), scale(&[]), text(b"a")], None),
            (
                vec![image(&[1, 2]), scale(&[1]), text(b"a")],
                Some("input \"scale\": shape [1] does not fit []"),
            ),
            (vec![scale(&[]), text(b"a")], Some("input \"image\" is missing")),
            (vec![image(&[1, 2]), scale(&[]), scale(&[])], Some("input \"scale\" is there more than once")),
            (vec![image(&[1, 2]), text(&[0xff])], Some("input \"text\": element 0 is not UTF-8")),
            (vec![image(&[1, 2]), text(b"a\0b")], Some("input \"text\": element 0 is not UTF-8")),
        ] {
            let said = check_inputs(&signature(), &inputs).err().map(|error| error.to_string());
            match (said, expected) {
                (None, None) => {}
                (Some(said), Some(expected)) => {
                    assert!(said.contains(expected), "{said}");
                    assert!(!said.contains("7.25"), "{said}");
                }
                (said, expected) => panic!("{said:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_shape_without_elements_may_not_claim_very_many() {
        let spec = |name: &str, shape: &[i64]| TensorSpec {
            name: name.to_owned(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
        };
        for (declared, shape, fits) in [
            (&[-1, -1][..], &[0, 1 << 20][..], true),
            (&[-1, -1], &[1 << 20, 0], true),
            (&[-1, -1], &[(1 << 20) + 1, 0], false),
            (&[-1, -1], &[3_000_000_000, 0], false),
            (&[-1, -1, -1], &[1 << 40, 1 << 40, 0], false),
            (&[-1, -1, -1], &[0, 1 << 10, 1 << 11], false),
            (&[-1, 1 << 10, 1 << 11], &[0, 1 << 10, 1 << 11], true),
            (&[-1, 0], &[1 << 40, 0], false),
            (&[-1, -1], &[0, 0], true),
        ] {
            let signature = Signature { inputs: vec![spec("x", declared)], optional: vec![], ..signature() };
            let empty = Tensor::new("x", shape.to_vec(), TensorData::Fp32(Vec::new().into())).unwrap();
            let checked = check_inputs(&signature, &[empty]);
            assert_eq!(checked.is_ok(), fits, "{declared:?} {shape:?}");
            if let Err(error) = checked {
                let said = error.to_string();
                assert!(said.contains("1048576 in all at most"), "{said}");
            }
        }
    }

    #[test]
    fn an_unknown_output_is_told_what_there_is() {
        assert_eq!(check_outputs(&signature(), Some(&["label".to_owned()])), Ok(()));
        let said = check_outputs(&signature(), Some(&["lable".to_owned()])).unwrap_err().to_string();
        assert_eq!(said, "there is no output \"lable\"; the model gives \"label\"");
    }
}
