//! Tensors of several answers become those of one, as `tiering::combine` says.

use half::{bf16, f16};
use terrace_oip::{Tensor, TensorData};
use terrace_tiering::{
    self as tiering, Combine, CombinedOutput, Impossible, Measure, MemberAnswer, MemberOutput,
};

use super::ensemble::Answered;
use super::scores::elements;
use crate::refusal::Refusal;

/// The outputs of all, and how sure they are.
pub fn combined(
    how: Combine,
    measure: &Measure,
    answered: Vec<Answered>,
) -> Result<(Vec<Tensor>, f64), Refusal> {
    let answers: Vec<MemberAnswer<'_>> = answered.iter().map(read).collect();
    let combined = tiering::combine(how, measure, &answers).map_err(|error| {
        Refusal::Incompatible(format!("the members' answers cannot be combined: {error}"))
    })?;
    let mut members: Vec<Vec<Tensor>> = answered.into_iter().map(|answer| answer.tensors).collect();
    let names: Vec<String> = members[0].iter().map(|tensor| tensor.name().to_owned()).collect();
    let tensors: Option<Vec<Tensor>> = names
        .iter()
        .zip(combined.outputs)
        .map(|(name, output)| match output {
            CombinedOutput::Whole(member) => take(&mut members[member], name),
            CombinedOutput::Mean(values) => mean(named(&members[0], name)?, &values),
            CombinedOutput::Rows(rows) => gathered(&members, name, &rows),
        })
        .collect();
    let tensors = tensors.ok_or_else(|| Refusal::Failed("an output of a member is not there".to_owned()))?;
    Ok((tensors, combined.confidence))
}

/// Whether what a member answered can be combined with what others do.
pub fn are_scores(how: Combine, measure: &Measure, answered: &Answered) -> Result<(), Impossible> {
    tiering::are_scores(how, measure, &read(answered))
}

fn read(answered: &Answered) -> MemberAnswer<'_> {
    MemberAnswer {
        tier: answered.member.tier,
        weight: answered.member.weight,
        outputs: answered.tensors.iter().map(output).collect(),
    }
}

fn output(tensor: &Tensor) -> MemberOutput<'_> {
    MemberOutput { name: tensor.name(), shape: tensor.shape(), elements: elements(tensor.data()) }
}

fn named<'a>(tensors: &'a [Tensor], name: &str) -> Option<&'a Tensor> {
    tensors.iter().find(|tensor| tensor.name() == name)
}

/// Takes a tensor away, without a copy: no other output is made of it.
fn take(tensors: &mut Vec<Tensor>, name: &str) -> Option<Tensor> {
    let position = tensors.iter().position(|tensor| tensor.name() == name)?;
    Some(tensors.swap_remove(position))
}

/// Averages in the shape and the type of a member's tensor.
fn mean(like: &Tensor, values: &[f64]) -> Option<Tensor> {
    #[allow(clippy::cast_possible_truncation)] // to the precision that the members answered in
    let data = match like.data() {
        TensorData::Fp16(_) => TensorData::Fp16(values.iter().map(|value| f16::from_f64(*value)).collect()),
        TensorData::Bf16(_) => TensorData::Bf16(values.iter().map(|value| bf16::from_f64(*value)).collect()),
        TensorData::Fp32(_) => TensorData::Fp32(values.iter().map(|value| *value as f32).collect()),
        TensorData::Fp64(_) => TensorData::Fp64(values.to_vec().into()),
        _ => return None,
    };
    Tensor::new(like.name(), like.shape().to_vec(), data).ok()
}

/// Each row from another member. All have the same shape and type.
fn gathered(members: &[Vec<Tensor>], name: &str, rows: &[usize]) -> Option<Tensor> {
    let of: Vec<&Tensor> = members.iter().map(|member| named(member, name)).collect::<Option<_>>()?;
    let like = *of.first()?;
    let width = like.data().len() / rows.len().max(1);
    macro_rules! gather {
        ($($variant:ident),*) => {
            match like.data() {
                $(TensorData::$variant(_) => TensorData::$variant(pick(rows, width, |member| {
                    match of.get(member)?.data() {
                        TensorData::$variant(values) => Some(&values[..]),
                        _ => None,
                    }
                })?.into()),)*
            }
        };
    }
    let data = gather!(
        Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64, Bytes
    );
    Tensor::new(name, like.shape().to_vec(), data).ok()
}

fn pick<'a, T: Clone + 'a>(
    rows: &[usize],
    width: usize,
    of: impl Fn(usize) -> Option<&'a [T]>,
) -> Option<Vec<T>> {
    let mut all = Vec::with_capacity(rows.len() * width);
    for (row, member) in rows.iter().enumerate() {
        all.extend_from_slice(of(*member)?.get(row * width..(row + 1) * width)?);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[usize], data: TensorData) -> Tensor {
        Tensor::new(name, shape.to_vec(), data).unwrap()
    }

    #[test]
    fn rows_are_picked_whatever_their_type_and_width() {
        let text =
            |words: &[&str]| TensorData::Bytes(words.iter().map(|word| word.as_bytes().to_vec()).collect());
        let members = [
            vec![
                tensor("label", &[3], TensorData::Int64(vec![1, 2, 3].into())),
                tensor("scores", &[3, 2], TensorData::Fp32(vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6].into())),
                tensor("name", &[3], text(&["a", "b", "c"])),
            ],
            vec![
                tensor("name", &[3], text(&["x", "y", "z"])),
                tensor("scores", &[3, 2], TensorData::Fp32(vec![1.1, 1.2, 1.3, 1.4, 1.5, 1.6].into())),
                tensor("label", &[3], TensorData::Int64(vec![11, 12, 13].into())),
            ],
        ];
        let rows = [1, 0, 1];
        let label = gathered(&members, "label", &rows).unwrap();
        assert_eq!(label.data(), &TensorData::Int64(vec![11, 2, 13].into()));
        let scores = gathered(&members, "scores", &rows).unwrap();
        assert_eq!(scores.data(), &TensorData::Fp32(vec![1.1, 1.2, 0.3, 0.4, 1.5, 1.6].into()));
        assert_eq!(scores.shape(), [3, 2]);
        assert_eq!(gathered(&members, "name", &rows).unwrap().data(), &text(&["x", "b", "z"]));
        assert_eq!(gathered(&members, "other", &rows), None);
    }

    #[test]
    fn a_mean_keeps_the_type_of_the_members() {
        for like in [
            TensorData::Fp16(vec![f16::ONE].into()),
            TensorData::Bf16(vec![bf16::ONE].into()),
            TensorData::Fp32(vec![1.0].into()),
            TensorData::Fp64(vec![1.0].into()),
        ] {
            let mean = mean(&tensor("a", &[1, 1], like.clone()), &[1.0]).unwrap();
            assert_eq!((mean.data(), mean.shape(), mean.name()), (&like, &[1, 1][..], "a"));
        }
        assert_eq!(mean(&tensor("a", &[1], TensorData::Int8(vec![1].into())), &[1.0]), None);
    }
}
