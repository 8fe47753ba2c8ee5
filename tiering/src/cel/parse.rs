//! From words to what was written: a recursive descent, whose depth and size are bounded.

use super::ast::{Binary, Expr, Kind};
use super::lex::{Token, Word, words};
use super::{MAX_DEPTH, MAX_ITEMS, MAX_NODES, Wrong};

/// Words that CEL keeps for itself.
const RESERVED: [&str; 16] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "while",
];

/// What a text says.
pub(super) fn parse(text: &str) -> Result<Expr, Wrong> {
    let mut parser = Parser { words: words(text)?, next: 0, depth: 0, nodes: 0 };
    if parser.peek() == &Token::End {
        return Err(Wrong::new(0, "is empty; write true for a rule that always matches"));
    }
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        found => {
            Err(Wrong::new(parser.at(), format!("expected an operator or the end, found {}", shown(found))))
        }
    }
}

struct Parser {
    words: Vec<Word>,
    next: usize,
    depth: usize,
    nodes: usize,
}

impl Parser {
    fn word(&self) -> &Word {
        // The last word is `End`, which is never taken.
        &self.words[self.next.min(self.words.len() - 1)]
    }

    fn peek(&self) -> &Token {
        &self.word().token
    }

    fn at(&self) -> usize {
        self.word().at
    }

    /// Takes a sign where it comes next.
    fn take(&mut self, sign: &'static str) -> bool {
        let is_next = *self.peek() == Token::Sign(sign);
        self.next += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, sign: &'static str, why: &str) -> Result<(), Wrong> {
        if self.take(sign) {
            return Ok(());
        }
        Err(Wrong::new(self.at(), format!("expected {sign} {why}, found {}", shown(self.peek()))))
    }

    fn node(&mut self, at: usize, kind: Kind) -> Result<Expr, Wrong> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Wrong::new(
                at,
                format!("has more than {MAX_NODES} parts: split it into several rules"),
            ));
        }
        Ok(Expr { at, kind })
    }

    /// One level deeper.
    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Wrong>) -> Result<T, Wrong> {
        if self.depth == MAX_DEPTH {
            return Err(Wrong::new(self.at(), format!("nests deeper than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn expr(&mut self) -> Result<Expr, Wrong> {
        self.deeper(|parser| {
            let condition = parser.binary(0)?;
            let at = parser.at();
            if !parser.take("?") {
                return Ok(condition);
            }
            let then = parser.binary(0)?;
            parser.expect(":", "of a condition ? value : other value")?;
            let otherwise = parser.expr()?;
            parser.node(at, Kind::If(Box::new(condition), Box::new(then), Box::new(otherwise)))
        })
    }

    /// A chain of operators that bind at least as tightly as `least`, from left to right.
    fn binary(&mut self, least: u8) -> Result<Expr, Wrong> {
        let mut left = self.unary()?;
        while let Some(operator) = self.operator().filter(|operator| operator.precedence() >= least) {
            let at = self.at();
            self.next += 1;
            // As deep as there are precedences, at most.
            let right = self.binary(operator.precedence() + 1)?;
            left = self.node(at, Kind::Binary(operator, Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn operator(&self) -> Option<Binary> {
        const ALL: [Binary; 13] = [
            Binary::Or,
            Binary::And,
            Binary::Equal,
            Binary::NotEqual,
            Binary::LessOrEqual,
            Binary::Less,
            Binary::GreaterOrEqual,
            Binary::Greater,
            Binary::Add,
            Binary::Subtract,
            Binary::Multiply,
            Binary::Divide,
            Binary::Remainder,
        ];
        match self.peek() {
            Token::Sign(sign) => ALL.into_iter().find(|operator| operator.sign() == *sign),
            Token::Name(name) if name == "in" => Some(Binary::In),
            _ => None,
        }
    }

    fn unary(&mut self) -> Result<Expr, Wrong> {
        let at = self.at();
        if self.take("!") {
            let of = self.deeper(Self::unary)?;
            return self.node(at, Kind::Not(Box::new(of)));
        }
        if self.take("-") {
            if let Token::Int(number) = *self.peek() {
                // Together: the least `int` has no positive counterpart.
                self.next += 1;
                let number = self.node(at, Kind::Int(0_i64.wrapping_sub_unsigned(number)))?;
                return self.member(number);
            }
            let of = self.deeper(Self::unary)?;
            return self.node(at, Kind::Negate(Box::new(of)));
        }
        let first = self.primary()?;
        self.member(first)
    }

    /// What hangs on an expression: fields, keys, calls.
    fn member(&mut self, mut of: Expr) -> Result<Expr, Wrong> {
        loop {
            if self.take(".") {
                let at = self.at();
                let Token::Name(name) = self.peek().clone() else {
                    return Err(Wrong::new(
                        at,
                        format!("expected a field's name, found {}", shown(self.peek())),
                    ));
                };
                self.next += 1;
                of = if self.take("(") {
                    let arguments = self.items(")")?;
                    self.node(at, Kind::Call(Some(Box::new(of)), name, arguments))?
                } else {
                    self.node(at, Kind::Select(Box::new(of), name))?
                };
            } else if *self.peek() == Token::Sign("[") {
                let at = self.at();
                self.next += 1;
                let key = self.expr()?;
                self.expect("]", "behind a key")?;
                of = self.node(at, Kind::Index(Box::new(of), Box::new(key)))?;
            } else {
                return Ok(of);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Wrong> {
        let Word { at, token } = self.word().clone();
        self.next += usize::from(token != Token::End);
        match token {
            Token::Int(number) => match i64::try_from(number) {
                Ok(number) => self.node(at, Kind::Int(number)),
                Err(_) => Err(Wrong::new(at, "is no int of 64 bits")),
            },
            Token::Double(number) => self.node(at, Kind::Double(number)),
            Token::Text(text) => self.node(at, Kind::Text(text)),
            Token::Name(name) => match name.as_str() {
                "true" => self.node(at, Kind::Bool(true)),
                "false" => self.node(at, Kind::Bool(false)),
                "null" => Err(Wrong::new(at, "there is no null here; has(…) tells whether a value is known")),
                "in" => Err(Wrong::new(at, "expected a value, found in")),
                reserved if RESERVED.contains(&reserved) => {
                    Err(Wrong::new(at, format!("{reserved} is a word that CEL keeps for itself")))
                }
                _ if self.take("(") => {
                    let arguments = self.items(")")?;
                    self.node(at, Kind::Call(None, name, arguments))
                }
                _ => self.node(at, Kind::Name(name)),
            },
            Token::Sign("(") => {
                let inner = self.expr()?;
                self.expect(")", "to close a parenthesis")?;
                Ok(inner)
            }
            Token::Sign("[") => {
                let items = self.items("]")?;
                self.node(at, Kind::List(items))
            }
            Token::Sign("{") => Err(Wrong::new(at, "there are no map literals here")),
            found => Err(Wrong::new(at, format!("expected a value, found {}", shown(&found)))),
        }
    }

    /// Expressions between commas, up to `close`. A comma may stand behind the last of a list.
    fn items(&mut self, close: &'static str) -> Result<Vec<Expr>, Wrong> {
        let mut items = Vec::new();
        loop {
            if self.take(close) {
                return Ok(items);
            }
            if items.len() == MAX_ITEMS {
                return Err(Wrong::new(self.at(), format!("has more than {MAX_ITEMS} items")));
            }
            items.push(self.expr()?);
            if !self.take(",") {
                self.expect(close, "or a comma")?;
                return Ok(items);
            }
            if close == ")" && *self.peek() == Token::Sign(close) {
                return Err(Wrong::new(self.at(), "expected one more argument behind the comma"));
            }
        }
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => name.clone(),
        Token::Int(number) => number.to_string(),
        Token::Double(number) => format!("{number:?}"),
        Token::Text(_) => "a text".to_owned(),
        Token::Sign(sign) => (*sign).to_owned(),
        Token::End => "the end".to_owned(),
    }
}
