//! From text to words, each with its place.

use super::Wrong;

/// A word, and the byte where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Word {
    pub(super) at: usize,
    pub(super) token: Token,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name, or one of `true`, `false`, `in`, `null`.
    Name(String),
    /// A whole number, without its sign: one more than the greatest `int` only behind a minus.
    Int(u64),
    Double(f64),
    Text(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// Signs, the longer before those that they begin with.
const SIGNS: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}", ".", ",", "?", ":", "!", "-", "+", "*",
    "/", "%", "<", ">",
];

/// Every word of a text; the last is `End`.
pub(super) fn words(text: &str) -> Result<Vec<Word>, Wrong> {
    let mut lexer = Lexer { text, at: 0 };
    let mut words = Vec::new();
    loop {
        let word = lexer.next()?;
        let is_end = word.token == Token::End;
        words.push(word);
        if is_end {
            return Ok(words);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn next(&mut self) -> Result<Word, Wrong> {
        loop {
            self.skip_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c'));
            if !self.rest().starts_with("//") {
                break;
            }
            self.skip_while(|c| c != '\n');
        }
        let at = self.at;
        let token = match self.peek() {
            None => Token::End,
            Some(c) if c.is_ascii_digit() => self.number()?,
            Some('.') if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number()?,
            Some('"' | '\'') => self.quoted(false)?,
            Some(c) if c.is_ascii_alphabetic() || c == '_' => self.name()?,
            Some(c) => {
                let rest = self.rest();
                let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) else {
                    return Err(Wrong::new(at, unknown_sign(c)));
                };
                self.at += sign.len();
                Token::Sign(sign)
            }
        };
        Ok(Word { at, token })
    }

    /// A name, or a text with a letter before its quote.
    fn name(&mut self) -> Result<Token, Wrong> {
        let at = self.at;
        let name = self.skip_while(|c| c.is_ascii_alphanumeric() || c == '_');
        if matches!(self.peek(), Some('"' | '\'')) {
            return match name {
                "r" | "R" => self.quoted(true),
                "b" | "B" | "br" | "rb" | "bR" | "Br" | "BR" | "Rb" | "rB" | "RB" => {
                    Err(Wrong::new(at, "there are no bytes literals here; write a text: '…'"))
                }
                _ => Ok(Token::Name(name.to_owned())),
            };
        }
        Ok(Token::Name(name.to_owned()))
    }

    fn number(&mut self) -> Result<Token, Wrong> {
        let at = self.at;
        let rest = self.rest();
        let token = if rest.starts_with("0x") || rest.starts_with("0X") {
            self.at += 2;
            let digits = self.skip_while(|c| c.is_ascii_hexdigit());
            let number = u64::from_str_radix(digits, 16).ok().filter(|number| *number <= MAX_INT);
            Token::Int(number.ok_or_else(|| Wrong::new(at, NOT_AN_INT))?)
        } else {
            self.skip_while(|c| c.is_ascii_digit());
            let mut is_double = false;
            if self.rest().starts_with('.') && self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) {
                is_double = true;
                self.at += 1;
                self.skip_while(|c| c.is_ascii_digit());
            }
            if matches!(self.peek(), Some('e' | 'E')) {
                is_double = true;
                self.at += 1;
                if matches!(self.peek(), Some('+' | '-')) {
                    self.at += 1;
                }
                if self.skip_while(|c| c.is_ascii_digit()).is_empty() {
                    return Err(Wrong::new(at, "an exponent needs digits: 1e3"));
                }
            }
            let text = &self.text[at..self.at];
            if is_double {
                let number = text.parse().ok().filter(|number: &f64| number.is_finite());
                Token::Double(number.ok_or_else(|| Wrong::new(at, "is no finite number"))?)
            } else {
                let number = text.parse().ok().filter(|number| *number <= MAX_INT);
                Token::Int(number.ok_or_else(|| Wrong::new(at, NOT_AN_INT))?)
            }
        };
        match self.peek() {
            Some('u' | 'U') => Err(Wrong::new(at, "there are no unsigned numbers here; leave the u away")),
            Some(c) if c.is_ascii_alphanumeric() || c == '_' => {
                Err(Wrong::new(self.at, "a number and a name need something between them"))
            }
            _ => Ok(token),
        }
    }

    fn quoted(&mut self, raw: bool) -> Result<Token, Wrong> {
        let at = self.at;
        let quote = self.peek().unwrap_or('"');
        if self.rest().starts_with(&quote.to_string().repeat(3)) {
            return Err(Wrong::new(at, "triple quotes are not known here; write \\n for a line break"));
        }
        self.at += 1;
        let mut text = String::new();
        loop {
            let here = self.at;
            let Some(c) = self.peek() else { return Err(Wrong::new(at, "this text has no closing quote")) };
            self.at += c.len_utf8();
            match c {
                c if c == quote => return Ok(Token::Text(text)),
                '\n' | '\r' => return Err(Wrong::new(at, "this text has no closing quote on its line")),
                '\\' if !raw => text.push(self.escape(here)?),
                c => text.push(c),
            }
        }
    }

    /// What stands behind a backslash.
    fn escape(&mut self, at: usize) -> Result<char, Wrong> {
        const KNOWN: &str =
            r#"this escape is not known: \\ \' \" \` \? \a \b \f \n \r \t \v \xHH \uHHHH are"#;
        let c = self.peek().ok_or_else(|| Wrong::new(at, KNOWN))?;
        self.at += c.len_utf8();
        let digits = match c {
            '\\' | '\'' | '"' | '`' | '?' => return Ok(c),
            'a' => return Ok('\x07'),
            'b' => return Ok('\x08'),
            'f' => return Ok('\x0c'),
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'v' => return Ok('\x0b'),
            'x' | 'X' => 2,
            'u' => 4,
            _ => return Err(Wrong::new(at, KNOWN)),
        };
        let code = self.rest().get(..digits).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let c = code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
        self.at += digits;
        c.ok_or_else(|| Wrong::new(at, KNOWN))
    }
}

/// The greatest `int`, and one: what may stand behind a minus.
const MAX_INT: u64 = i64::MAX as u64 + 1;
const NOT_AN_INT: &str = "is no int of 64 bits";

fn unknown_sign(c: char) -> String {
    match c {
        '&' => "write && for and".to_owned(),
        '|' => "write || for or".to_owned(),
        '=' => "write == to compare".to_owned(),
        c => format!("{c:?} means nothing here"),
    }
}
