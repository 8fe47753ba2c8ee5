//! The parser's position in the text, and the values that can be read from there.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::Number;
use super::number::short_decimal;
use crate::error::{DecodeError, Fault, JsonKind};
use crate::limits::{MAX_DEPTH, MAX_FIELDS};
use crate::memory::{Memory, of_text};

/// What Python writes for them by default.
pub(super) const NOT_FINITE: &str = "NaN and Infinity are no JSON numbers";

/// Reads a whole body.
pub(crate) fn decode<'a, T>(
    body: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    decode_within(body, Memory::UNBOUNDED, read)
}

/// The same, with a bound on what is made of it.
pub(crate) fn decode_within<'a, T>(
    body: &'a [u8],
    memory: Memory<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    match std::str::from_utf8(body) {
        Ok(text) => {
            let mut reader = Reader { text, at: 0, memory, meant: NO_NAMES };
            let value = read(&mut reader)?;
            reader.end()?;
            Ok(value)
        }
        Err(error) => {
            let byte = error.valid_up_to();
            // In the binary tensor extension raw bytes follow the JSON: say so rather than that they are no text.
            let text = std::str::from_utf8(&body[..byte]).unwrap_or_default();
            match read(&mut Reader { text, at: 0, memory, meant: NO_NAMES }) {
                Err(error) if *error.fault() == Fault::NoBinary => Err(error),
                _ => Err(Fault::NotUtf8 { byte }.into()),
            }
        }
    }
}

/// A position in a JSON text.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    memory: Memory<'a>,
    meant: Meant,
}

/// Of a name: the parameter of a request that can only be meant by it, if there is one.
pub type Meant = fn(&str) -> Option<&'static str>;

/// None is.
pub(crate) const NO_NAMES: Meant = |_| None;

/// Whether a field that the protocol does not have can be meant for `parameters`: `Parameters`, `params`, `parameter`.
fn means_parameters(field: &str) -> bool {
    field.as_bytes().windows(b"param".len()).any(|part| part.eq_ignore_ascii_case(b"param"))
}

impl<'a> Reader<'a> {
    #[cfg(test)]
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, memory: Memory::UNBOUNDED, meant: NO_NAMES }
    }

    /// What there is for what is made of the text.
    pub(crate) fn memory(&self) -> Memory<'a> {
        self.memory
    }

    /// The number of bytes not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.text.len() - self.at
    }

    /// Only white space is left.
    pub(crate) fn end(&mut self) -> Result<(), DecodeError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.syntax("something follows the value")),
        }
    }

    /// The kind of the next value, judged by its first character.
    #[inline]
    pub(crate) fn kind(&mut self) -> Result<JsonKind, DecodeError> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => Ok(JsonKind::Number),
            Some(b'"') => Ok(JsonKind::String),
            Some(b'[') => Ok(JsonKind::Array),
            Some(b'{') => Ok(JsonKind::Object),
            Some(b't' | b'f') => Ok(JsonKind::Boolean),
            Some(b'n') => Ok(JsonKind::Null),
            Some(b'N' | b'I') => Err(self.syntax(NOT_FINITE)),
            Some(_) => Err(self.syntax("expected a value")),
            None => Err(self.syntax("the text ends where a value is expected")),
        }
    }

    /// The next value is of this kind.
    #[inline]
    pub(crate) fn expect(&mut self, kind: JsonKind, expected: &'static str) -> Result<(), DecodeError> {
        let found = self.kind()?;
        if found == kind { Ok(()) } else { Err(Fault::Kind { expected, found }.into()) }
    }

    /// The next value, if there is one, is of another kind than expected.
    #[cold]
    fn not(&mut self, expected: &'static str) -> DecodeError {
        match self.kind() {
            Ok(found) => Fault::Kind { expected, found }.into(),
            Err(error) => error,
        }
    }

    /// The value read by `read`, or `None` for null.
    pub(crate) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.kind()? == JsonKind::Null {
            self.literal("null").map(|()| None)
        } else {
            read(self).map(Some)
        }
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, DecodeError> {
        self.expect(JsonKind::Boolean, "a boolean")?;
        let value = self.text.as_bytes().get(self.at) == Some(&b't');
        self.literal(if value { "true" } else { "false" })?;
        Ok(value)
    }

    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        self.expect(JsonKind::String, "a string")?;
        let start = self.at;
        let escaped = self.skip_string()?;
        let quoted = &self.text[start..self.at];
        if escaped {
            let unescaped = serde_json::from_str(quoted)
                .map_err(|_| self.syntax("a bad escape in the string that ends"))?;
            Ok(Cow::Owned(unescaped))
        } else {
            Ok(Cow::Borrowed(&quoted[1..quoted.len() - 1]))
        }
    }

    /// A string to be kept.
    pub(crate) fn owned_string(&mut self) -> Result<String, DecodeError> {
        let text = self.string()?;
        self.memory.take(of_text(text.len()))?;
        Ok(text.into_owned())
    }

    /// A string, or `None` for null.
    pub(crate) fn optional_string(&mut self) -> Result<Option<String>, DecodeError> {
        self.optional(Self::owned_string)
    }

    #[inline]
    pub(crate) fn number(&mut self, expected: &'static str) -> Result<Number<'a>, DecodeError> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return Err(self.not(expected));
        }
        let (number, end) = Number::scan(self.text, self.at);
        self.at = end;
        number.map_err(|problem| self.syntax(problem))
    }

    /// Passes over items that are short decimals, each with the comma behind it, as long as they come and are taken. It
    /// ends before any item, the last one at the latest: that is to be read as items are.
    #[inline]
    pub(crate) fn short_decimals(&mut self, mut take: impl FnMut(f64) -> bool) {
        while let Some((value, next)) = short_decimal(self.text.as_bytes(), self.at)
            && take(value)
        {
            self.at = next;
        }
    }

    /// Passes over the next value, checking its syntax, and returns its text.
    pub(crate) fn skip(&mut self) -> Result<&'a str, DecodeError> {
        self.kind()?;
        let start = self.at;
        self.skip_at(MAX_DEPTH)?;
        Ok(&self.text[start..self.at])
    }

    /// From here on a field that the protocol does not have is refused where it can only be meant for a parameter.
    pub(crate) fn refuse(&mut self, meant: Meant) {
        self.meant = meant;
    }

    /// Passes over the value of a field that the protocol does not have.
    pub(crate) fn pass_over(&mut self, field: &str) -> Result<(), DecodeError> {
        self.refuse_meant(field)?;
        if means_parameters(field) && self.kind()? == JsonKind::Object {
            return self.pass_over_members();
        }
        self.skip().map(drop)
    }

    /// The same of an object that can only be meant for the request's parameters: nothing reads what it says.
    fn pass_over_members(&mut self) -> Result<(), DecodeError> {
        let mut more = self.open_object()?;
        while more {
            let key = self.key()?;
            self.refuse_meant(&key).map_err(|error| error.in_field(&key))?;
            self.skip()?;
            more = self.more_members()?;
        }
        Ok(())
    }

    fn refuse_meant(&self, field: &str) -> Result<(), DecodeError> {
        (self.meant)(field).map_or(Ok(()), |parameter| Err(Fault::Misplaced { parameter }.into()))
    }

    /// Passes over an array in the same way, and counts what its rows and their rows hold.
    pub(crate) fn count(&mut self) -> Result<usize, DecodeError> {
        self.expect(JsonKind::Array, "an array")?;
        self.skip_at(MAX_DEPTH)
    }

    /// The same for what must be an array.
    pub(crate) fn skip_array(&mut self) -> Result<&'a str, DecodeError> {
        self.expect(JsonKind::Array, "an array")?;
        self.skip()
    }

    /// Calls `member` for each member of an object, which must read its value.
    pub(crate) fn object(
        &mut self,
        member: impl FnMut(&mut Self, &str) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.members(MAX_FIELDS, "fields", member)
    }

    /// The same, with a limit on the number of `what`.
    pub(crate) fn members(
        &mut self,
        limit: usize,
        what: &'static str,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let mut seen: SmallVec<[Cow<'a, str>; 8]> = SmallVec::new();
        let mut more = self.open_object()?;
        while more {
            let key = self.key()?;
            if seen.contains(&key) {
                return Err(DecodeError::new(Fault::DuplicateField).in_field(&key));
            }
            if seen.len() == limit {
                return Err(Fault::TooMany { what, limit }.into());
            }
            member(self, &key).map_err(|error| error.in_field(&key))?;
            seen.push(key);
            more = self.more_members()?;
        }
        Ok(())
    }

    /// Calls `item` for each item of an array, which must read it.
    pub(crate) fn array(
        &mut self,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let mut more = self.open_array()?;
        let mut index = 0;
        while more {
            item(self, index).map_err(|error| error.in_item(index))?;
            index += 1;
            more = self.more_items()?;
        }
        Ok(())
    }

    /// Enters an array; whether it has an item.
    #[inline]
    pub(crate) fn open_array(&mut self) -> Result<bool, DecodeError> {
        self.expect(JsonKind::Array, "an array")?;
        self.at += 1;
        Ok(!self.closes(b']'))
    }

    /// After an item: whether another follows. Leaves the array otherwise.
    #[inline]
    pub(crate) fn more_items(&mut self) -> Result<bool, DecodeError> {
        self.more(b']', "expected ',' or ']'")
    }

    fn open_object(&mut self) -> Result<bool, DecodeError> {
        self.expect(JsonKind::Object, "an object")?;
        self.at += 1;
        Ok(!self.closes(b'}'))
    }

    fn more_members(&mut self) -> Result<bool, DecodeError> {
        self.more(b'}', "expected ',' or '}'")
    }

    fn key(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax("expected a key in quotes"));
        }
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return Err(self.syntax("expected ':'"));
        }
        self.at += 1;
        Ok(key)
    }

    #[inline]
    fn more(&mut self, close: u8, problem: &'static str) -> Result<bool, DecodeError> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.syntax(problem)),
        }
    }

    fn closes(&mut self, close: u8) -> bool {
        self.peek();
        self.next_is(close)
    }

    /// How many values there are that are no arrays; those within an object do not count.
    fn skip_at(&mut self, depth: usize) -> Result<usize, DecodeError> {
        let kind = self.kind()?;
        let inner = match (kind, depth.checked_sub(1)) {
            (JsonKind::Array | JsonKind::Object, None) => {
                return Err(Fault::TooMany { what: "levels of nesting", limit: MAX_DEPTH }.into());
            }
            (_, inner) => inner.unwrap_or_default(),
        };
        match kind {
            JsonKind::Null => self.literal("null").map(|()| 1),
            JsonKind::Boolean => self.boolean().map(|_| 1),
            JsonKind::Number => self.number("a number").map(|_| 1),
            JsonKind::String => self.string().map(|_| 1),
            JsonKind::Array => {
                let (mut count, mut more) = (0, self.open_array()?);
                while more {
                    count += self.skip_at(inner)?;
                    more = self.more_items()?;
                }
                Ok(count)
            }
            JsonKind::Object => {
                let mut more = self.open_object()?;
                while more {
                    self.key()?;
                    self.skip_at(inner)?;
                    more = self.more_members()?;
                }
                Ok(1)
            }
        }
    }

    /// Passes over a string with its quotes; whether it has escapes.
    fn skip_string(&mut self) -> Result<bool, DecodeError> {
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        self.at += 1;
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(0..=0x1f) => return Err(self.syntax("a control character in a string")),
                Some(_) => self.at += 1,
                None => {
                    self.at = bytes.len();
                    return Err(self.syntax("the text ends in a string"));
                }
            }
        }
    }

    fn literal(&mut self, literal: &'static str) -> Result<(), DecodeError> {
        if self.text.as_bytes()[self.at..].starts_with(literal.as_bytes()) {
            self.at += literal.len();
            Ok(())
        } else {
            Err(self.syntax("expected a value"))
        }
    }

    #[inline]
    fn next_is(&mut self, byte: u8) -> bool {
        let is = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(is);
        is
    }

    /// The next byte that is no white space.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    #[cold]
    fn syntax(&self, problem: &'static str) -> DecodeError {
        let read = &self.text.as_bytes()[..self.at.min(self.text.len())];
        let line_start = read.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = read.split(|byte| *byte == b'\n').count();
        Fault::Syntax { problem, line, column: read.len() - line_start + 1 }.into()
    }
}
