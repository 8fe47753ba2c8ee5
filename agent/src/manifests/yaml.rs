//! YAML that knows its lines: every document of a text as JSON, with the line of each of its fields.
//!
//! Knows nothing of Terrace's kinds: [`document`](super::document) reads those out of it.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Error, MessageFormatter as _, Options, Spanned, UserMessageFormatter};

/// A place where a text is no YAML, or YAML that is not accepted (duplicate keys, too deep, too many aliases).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct SyntaxError {
    /// The line, counted from 1 over the whole text; absent where the reader cannot tell.
    pub(super) line: Option<u64>,
    /// What is wrong.
    pub(super) message: String,
}

/// One document of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    line: u64,
    root: Node,
}

/// A value, with the line of everything in it.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Scalar(Value),
    List(Vec<Entry<()>>),
    Map(Vec<Entry<String>>),
}

/// A member of a collection: for a list its line, for a map its key and the line of that key.
#[derive(Clone, Debug, PartialEq)]
struct Entry<K> {
    key: K,
    line: u64,
    node: Node,
}

/// Reads every document of a text; empty ones are left out. A document that breaks a rule does not hide the
/// others; after a syntax error the rest of the text cannot be read.
pub(super) fn documents(text: &str) -> Vec<Result<Document, SyntaxError>> {
    let mut bytes = text.as_bytes();
    serde_saphyr::read_with_options::<_, Spanned<Node>>(&mut bytes, limits())
        .map(|document| match document {
            Ok(Spanned { value, defined, .. }) => Ok(Document { line: defined.line(), root: value }),
            Err(error) => Err(SyntaxError::new(&error)),
        })
        .collect()
}

/// What one text may cost: far more than any manifest needs, and little enough that no text can take the agent's
/// memory. The bytes behind anchors are capped because each alias copies them.
fn limits() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            max_nodes: 100_000,
            max_events: 250_000,
            max_documents: 1_024,
            max_anchors: 256,
            max_aliases: 1_000,
            max_recorded_anchor_bytes: 64 * 1024,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000 },
        with_snippet: false,
    }
}

impl SyntaxError {
    fn new(error: &Error) -> Self {
        Self { line: error.location().map(|location| location.line()), message: message(error) }
    }
}

/// What is wrong, for the author of the text.
fn message(error: &Error) -> String {
    match error {
        Error::AliasError { error, .. } => message(error),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("{key} stands here a second time"),
        Error::NonFiniteFloat { value, .. } => format!("{value} is not a finite number: put text in quotes"),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => {
            "the document is too large, too deep, or repeats too much through aliases".to_owned()
        }
        other => format!("not valid YAML: {}", UserMessageFormatter.format_message(other)),
    }
}

impl Document {
    /// The document as JSON.
    pub(super) fn value(&self) -> Value {
        self.root.value()
    }

    /// The line of a field such as `spec.fallback.order[1]`; for an absent one, that of its nearest ancestor. The
    /// document itself has the line on which it begins.
    pub(super) fn line(&self, path: &str) -> u64 {
        self.root.line(path).unwrap_or(self.line)
    }
}

impl Node {
    fn value(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(entries) => entries.iter().map(|entry| entry.node.value()).collect(),
            Self::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.node.value())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// The line of the deepest field on `path` that is below this node.
    fn line(&self, path: &str) -> Option<u64> {
        match self {
            Self::Scalar(_) => None,
            Self::List(entries) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let entry = entries.get(index.parse::<usize>().ok()?)?;
                entry.node.line(rest).or(Some(entry.line))
            }
            Self::Map(entries) => {
                let path = path.strip_prefix('.').unwrap_or(path);
                // Keys may hold dots (`topology.kubernetes.io/zone`), so the path is matched against the keys.
                let (entry, rest) = entries
                    .iter()
                    .filter_map(|entry| Some((entry, path.strip_prefix(entry.key.as_str())?)))
                    .filter(|(_, rest)| rest.is_empty() || rest.starts_with(['.', '[']))
                    .max_by_key(|(entry, _)| entry.key.len())?;
                entry.node.line(rest).or(Some(entry.line))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Node::Scalar(Value::Number(number)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Node>>()? {
            entries.push(Entry { key: (), line: item.defined.line(), node: item.value });
        }
        Ok(Node::List(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = fields.next_key::<Spanned<String>>()? {
            entries.push(Entry { line: key.defined.line(), key: key.value, node: fields.next_value()? });
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn only(text: &str) -> Document {
        let [document] = <[_; 1]>::try_from(documents(text)).expect("one document");
        document.expect("valid YAML")
    }

    fn faults(text: &str) -> Vec<(Option<u64>, String)> {
        documents(text).into_iter().filter_map(Result::err).map(|error| (error.line, error.message)).collect()
    }

    #[test]
    fn every_field_has_the_line_of_its_key() {
        let text = "\
kind: A
spec:
  source:
    uri: >-
      https://example/a
    labels: {a.b/c: x, a: {b: 1}}

  order:
    # a comment
    - Edge
    - name: x
      value: 1
  flow: [1,
    2]
";
        let document = only(text);
        let table = [
            ("", 1),
            ("kind", 1),
            ("spec", 2),
            ("spec.source", 3),
            ("spec.source.uri", 4),
            ("spec.source.labels.a.b/c", 6),
            ("spec.order", 8),
            ("spec.order[0]", 10),
            ("spec.order[1]", 11),
            ("spec.order[1].value", 12),
            ("spec.flow[1]", 14),
            // Absent: the nearest ancestor.
            ("spec.source.sha256", 3),
            ("spec.order[7].name", 8),
            ("spec.source.uri.deeper", 4),
            ("status.phase", 1),
        ];
        for (path, line) in table {
            assert_eq!(document.line(path), line, "{path}");
        }
        assert_eq!(document.value()["spec"]["order"], json!(["Edge", {"name": "x", "value": 1}]));
    }

    #[test]
    fn lines_are_counted_over_all_documents_and_empty_ones_are_left_out() {
        let read = documents("# head\n---\na: 1\n---\n---\n# nothing\n---\nb:\n  c: 2\n");
        let read: Vec<_> = read.into_iter().map(|document| document.expect("valid")).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].line(""), read[0].line("a")), (3, 3));
        assert_eq!((read[1].line(""), read[1].line("b.c")), (8, 9));
    }

    #[test]
    fn what_is_not_yaml_names_its_line() {
        let table = [
            ("a:\n\tb: 1\n", 2, "tabs disallowed"),
            ("a: b: c\n", 1, "mapping values are not allowed"),
            ("a: 1\nb: \"x\n", 2, "unclosed quote"),
            ("a: 1\nb: 2\na: 3\n", 3, "a stands here a second time"),
            ("s:\n  x: 1\n  y: 2\n  x: 1\n", 4, "x stands here a second time"),
            ("a: 1\nb: *nope\n", 2, "unknown value"),
            ("a: 1\nb: .inf\n", 2, ".inf is not a finite number"),
            ("a: 1\n? [x]\n: 2\n", 2, "expected string"),
        ];
        for (text, line, message) in table {
            let found = faults(text);
            assert_eq!(found.len(), 1, "{text:?}: {found:?}");
            assert_eq!(found[0].0, Some(line), "{text:?}: {found:?}");
            assert!(found[0].1.contains(message), "{text:?}: {found:?}");
        }
    }

    #[test]
    fn a_duplicate_key_in_one_document_does_not_hide_the_next() {
        let read = documents("a: 1\na: 2\n---\nb: 3\n");
        assert!(read[0].is_err());
        assert_eq!(read[1].as_ref().map(Document::value), Ok(json!({"b": 3})));
    }

    #[test]
    fn aliases_and_merges_point_to_where_the_text_stands() {
        let document = only("base: &base\n  x: 1\n  y: 2\nuse:\n  <<: *base\n  y: 3\n");
        assert_eq!(document.value()["use"], json!({"x": 1, "y": 3}));
        assert_eq!((document.line("use.x"), document.line("use.y")), (2, 6));
    }

    #[test]
    fn a_text_cannot_take_much_more_memory_than_it_is_long() {
        let billion_laughs =
            (1..9).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, level| {
                let alias = format!("*a{}", level - 1);
                format!("{text}a{level}: &a{level} [{}]\n", vec![alias; 9].join(", "))
            });
        let copied = format!("a: &a {}\nb: [{}]\n", "y".repeat(500_000), "*a, ".repeat(1_000));
        let deep = format!("a: {}{}\n", "[".repeat(100), "]".repeat(100));
        for text in [billion_laughs, copied, deep] {
            let found = faults(&text);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].1.contains("too large, too deep"), "{found:?}");
        }
    }

    #[test]
    fn json_is_read_too() {
        let document = only("{\n\t\"kind\": \"A\",\n\t\"spec\": {\n\t\t\"x\": \"\\ud83d\\ude00\"\n\t}\n}\n");
        assert_eq!(document.value(), json!({"kind": "A", "spec": {"x": "😀"}}));
        assert_eq!(document.line("spec.x"), 4);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ -~\\n\\t]{0,200}") {
            for document in documents(&text).into_iter().flatten() {
                prop_assert!(document.line("a.b[0]") >= 1);
            }
        }
    }
}
