//! What the author of an unknown field may have meant, found in the kind's own schema.

use kube::CustomResourceExt;
use serde_json::Value;

use super::path::{FieldPath, Step};

/// Fields of metadata that mean something in a manifest; the schema of a kind does not list them.
const METADATA: [&str; 4] = ["name", "namespace", "labels", "annotations"];
/// Fields of every kind.
const ROOT: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];

/// What to say of a field that the kind does not have.
pub(super) fn unknown_field<K: CustomResourceExt>(path: &FieldPath) -> String {
    let Some((Step::Key(field), parents)) = path.steps().split_last() else {
        return "is not known".to_owned();
    };
    let known = known_fields::<K>(parents);
    match known.iter().min_by_key(|known| distance(field, known)) {
        Some(known) if distance(field, known) <= field.len().div_ceil(3).min(3) => {
            format!("is not known: did you mean {known}?")
        }
        Some(_) => format!("is not known: expected {}", known.join(", ")),
        None => "is not known".to_owned(),
    }
}

/// The fields that a kind has at a place.
fn known_fields<K: CustomResourceExt>(parents: &[Step]) -> Vec<String> {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    match parents {
        [] => return owned(&ROOT),
        [Step::Key(key)] if key == "metadata" => return owned(&METADATA),
        _ => {}
    }
    let definition = serde_json::to_value(K::crd()).unwrap_or_default();
    let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema");
    let place = parents.iter().try_fold(schema, |schema, step| {
        Some(match step {
            Step::Key(key) => schema?.get("properties")?.get(key),
            Step::Index(_) => schema?.get("items"),
        })
    });
    let properties = place.flatten().and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    properties.map(|properties| properties.keys().cloned().collect()).unwrap_or_default()
}

/// How many letters differ (Levenshtein), upper and lower case alike.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_letters_that_differ() {
        let table = [
            ("", "", 0),
            ("sha256", "SHA256", 0),
            ("sha265", "sha256", 2),
            ("urii", "uri", 1),
            ("", "abc", 3),
        ];
        for (a, b, expected) in table {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
