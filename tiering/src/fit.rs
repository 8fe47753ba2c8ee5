//! Whether what another tier answered can stand in the place of a node's own answer: the same outputs, of the same types, in
//! dimensions that the model may give. What does not fit is another model's answer, whoever's name it has.

use std::fmt;

/// An output that a model declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared<'a> {
    /// Its name.
    pub name: &'a str,
    /// The protocol's name of its type.
    pub datatype: &'a str,
    /// Its dimensions, negative where any length fits. None where the model does not say how many there are, or there are
    /// none.
    pub shape: &'a [i64],
}

/// An output of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given<'a> {
    /// Its name.
    pub name: &'a str,
    /// The protocol's name of its type; none where it is none of the protocol's.
    pub datatype: Option<&'a str>,
    /// Its dimensions.
    pub shape: &'a [usize],
}

/// Why an answer does not fit. Names outputs, and nothing that is in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It lacks an output.
    #[error("it lacks the output {output:?}")]
    Missing {
        /// The output.
        output: String,
    },
    /// An output has another type, or dimensions that the model does not give.
    #[error("its output {output:?} is {found}, and this node's is {expected}")]
    Differs {
        /// The output.
        output: String,
        /// What it is there.
        found: String,
        /// What it is here.
        expected: String,
    },
}

/// Whether an answer has what the node's model declares; of that, what the request names (`wanted`), if it does. More outputs
/// are no harm.
///
/// What a model declares is not always so. What the node itself answered, if it has (`own`), fits in any case.
pub fn fits(
    declared: &[Declared<'_>],
    wanted: Option<&[String]>,
    own: &[Given<'_>],
    answer: &[Given<'_>],
) -> Result<(), Misfit> {
    let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted.iter().any(|wanted| wanted == name));
    for expected in declared.iter().filter(|output| is_wanted(output.name)) {
        let own = own.iter().find(|own| own.name == expected.name).map(|own| own.shape);
        let Some(found) = answer.iter().find(|given| given.name == expected.name) else {
            return Err(Misfit::Missing { output: expected.name.to_owned() });
        };
        if found.datatype != Some(expected.datatype) || !may_be(expected.shape, own, found.shape) {
            return Err(Misfit::Differs {
                output: expected.name.to_owned(),
                found: format!("{} {:?}", found.datatype.unwrap_or("of an unknown type"), found.shape),
                expected: format!("{} {}", expected.datatype, Shape { declared: expected.shape, own }),
            });
        }
    }
    Ok(())
}

/// Whether an output may have these dimensions, by what is declared and what the node's own answer has.
fn may_be(declared: &[i64], own: Option<&[usize]>, found: &[usize]) -> bool {
    let fits = |place: usize, found: usize| {
        let declared = declared.get(place).and_then(|length| usize::try_from(*length).ok());
        declared.is_none_or(|length| length == found) || own.is_some_and(|own| own.get(place) == Some(&found))
    };
    let rank = own.map_or(declared.len(), <[usize]>::len);
    // Without an answer of the node's, no declared dimensions are no dimensions, or any number of them.
    let is_known = own.is_some() || !declared.is_empty();
    (!is_known || found.len() == rank) && found.iter().enumerate().all(|(place, found)| fits(place, *found))
}

/// Dimensions as they are told: `[?, 10]`.
struct Shape<'a> {
    declared: &'a [i64],
    own: Option<&'a [usize]>,
}

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let declared: Vec<String> = self
            .declared
            .iter()
            .map(|length| if *length < 0 { "?".to_owned() } else { length.to_string() })
            .collect();
        match self.own {
            Some(own) if declared.len() != own.len() => write!(f, "{own:?}"),
            _ => write!(f, "[{}]", declared.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: [Declared<'_>; 2] = [
        Declared { name: "probabilities", datatype: "FP32", shape: &[-1, 10] },
        Declared { name: "label", datatype: "INT64", shape: &[-1] },
    ];

    fn given<'a>(name: &'a str, datatype: &'a str, shape: &'a [usize]) -> Given<'a> {
        Given { name, datatype: Some(datatype), shape }
    }

    #[test]
    fn an_answer_has_the_nodes_outputs_types_and_dimensions() {
        let label = given("label", "INT64", &[1]);
        let good = given("probabilities", "FP32", &[1, 10]);
        for (answer, expected) in [
            (vec![good, label], None),
            (vec![label, good], None),
            (vec![good, label, given("embedding", "FP16", &[1, 512])], None),
            // As many rows as it likes: what a detector found.
            (vec![given("probabilities", "FP32", &[7, 10]), label], None),
            (vec![good], Some("it lacks the output \"label\"")),
            (vec![given("probs", "FP32", &[1, 10]), label], Some("it lacks the output \"probabilities\"")),
            (
                vec![given("probabilities", "FP64", &[1, 10]), label],
                Some("its output \"probabilities\" is FP64 [1, 10], and this node's is FP32 [?, 10]"),
            ),
            (
                vec![Given { datatype: None, ..good }, label],
                Some(
                    "its output \"probabilities\" is of an unknown type [1, 10], and this node's is FP32 [?, 10]",
                ),
            ),
            (
                vec![given("probabilities", "FP32", &[1, 11]), label],
                Some("its output \"probabilities\" is FP32 [1, 11], and this node's is FP32 [?, 10]"),
            ),
            (
                vec![given("probabilities", "FP32", &[10]), label],
                Some("its output \"probabilities\" is FP32 [10], and this node's is FP32 [?, 10]"),
            ),
            (
                vec![good, given("label", "INT64", &[])],
                Some("its output \"label\" is INT64 [], and this node's is INT64 [?]"),
            ),
            (Vec::new(), Some("it lacks the output \"probabilities\"")),
        ] {
            let found = fits(&DIGITS, None, &[], &answer).err().map(|misfit| misfit.to_string());
            assert_eq!(found.as_deref(), expected, "{answer:?}");
        }
    }

    #[test]
    fn only_what_the_request_names_is_compared() {
        let answer = [given("label", "INT64", &[1])];
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(fits(&DIGITS, Some(&names(&["label"])), &[], &answer), Ok(()));
        assert!(fits(&DIGITS, Some(&names(&["label", "probabilities"])), &[], &answer).is_err());
        assert_eq!(fits(&DIGITS, Some(&names(&["other"])), &[], &answer), Ok(()));
    }

    #[test]
    fn what_the_node_answered_itself_fits_whatever_its_model_declares() {
        let loose = [Declared { name: "y", datatype: "FP32", shape: &[] }];
        let fixed = [Declared { name: "y", datatype: "FP32", shape: &[1, 10] }];
        for (declared, own, found, fit) in [
            (&loose, None, &[3, 4, 5][..], true),
            (&loose, None, &[], true),
            (&loose, Some(&[3, 4][..]), &[9, 4], true),
            (&loose, Some(&[3, 4]), &[3, 4, 5], false),
            (&loose, Some(&[]), &[1], false),
            (&fixed, None, &[5, 10], false),
            (&fixed, Some(&[5, 10]), &[5, 10], true),
            (&fixed, Some(&[5, 10]), &[1, 10], true),
            (&fixed, Some(&[5, 10]), &[4, 10], false),
            (&fixed, Some(&[10]), &[1, 10], false),
        ] {
            let own: Vec<Given<'_>> = own.into_iter().map(|shape| given("y", "FP32", shape)).collect();
            let answer = [given("y", "FP32", found)];
            let fitting = fits(declared, None, &own, &answer);
            assert_eq!(fitting.is_ok(), fit, "{declared:?} {own:?} {found:?}: {fitting:?}");
        }
        let own = [given("y", "FP32", &[3, 4])];
        let misfit = fits(&loose, None, &own, &[given("y", "FP32", &[3])]).unwrap_err().to_string();
        assert_eq!(misfit, "its output \"y\" is FP32 [3], and this node's is FP32 [3, 4]");
    }
}
