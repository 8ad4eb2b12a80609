//! The text form of a label selector.

use super::label::{Operator, Requirement, requirement};
use super::{SelectorError, fail};
use crate::field::go_quote;
use crate::names;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    End,
    Error,
    Identifier,
    Open,
    Close,
    Comma,
    Not,
    Op(Operator),
}

/// A recursive descent over the tokens of the text form.
pub(super) struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

fn symbol(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "(" => Token::Open,
        "," => Token::Comma,
        "!" => Token::Not,
        "=" => Token::Op(Operator::Equals),
        "==" => Token::Op(Operator::DoubleEquals),
        "!=" => Token::Op(Operator::NotEquals),
        ">" => Token::Op(Operator::GreaterThan),
        "<" => Token::Op(Operator::LessThan),
        _ => return None,
    })
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

impl Parser {
    pub fn new(text: &str) -> Self {
        let mut tokens = Vec::new();
        let mut rest = text.trim_start_matches(is_space);
        while let Some(first) = rest.chars().next() {
            let (token, len) = if is_special(first) {
                // The longest symbol: all have one or two characters.
                let two = rest.get(..2).and_then(symbol).map(|t| (t, 2));
                two.or_else(|| symbol(&rest[..1]).map(|t| (t, 1))).unwrap_or((Token::Error, 1))
            } else {
                let len = rest.find(|c| is_special(c) || is_space(c)).unwrap_or(rest.len());
                let token = match &rest[..len] {
                    "in" => Token::Op(Operator::In),
                    "notin" => Token::Op(Operator::NotIn),
                    _ => Token::Identifier,
                };
                (token, len)
            };
            tokens.push((token, rest[..len].to_owned()));
            rest = rest[len..].trim_start_matches(is_space);
        }
        tokens.push((Token::End, String::new()));
        Self { tokens, at: 0 }
    }

    /// The token here; where a key or value is awaited, `in` and `notin` are ordinary words.
    fn peek(&self) -> (Token, &str) {
        let (token, text) = &self.tokens[self.at.min(self.tokens.len() - 1)];
        let token = match token {
            Token::Op(Operator::In | Operator::NotIn) => Token::Identifier,
            other => *other,
        };
        (token, text)
    }

    fn next(&mut self) -> (Token, String) {
        let (token, text) = self.peek();
        let out = (token, text.to_owned());
        self.at += 1;
        out
    }

    pub fn parse(mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut out = Vec::new();
        loop {
            match self.peek() {
                (Token::Identifier | Token::Not, _) => {
                    let one = self.requirement().or_else(|e| fail(format!("unable to parse requirement: {e}")))?;
                    out.push(one);
                    match self.next() {
                        (Token::End, _) => return Ok(out),
                        (Token::Comma, _) => match self.peek() {
                            (Token::Identifier | Token::Not, _) => {}
                            (_, text) => return fail(format!("found '{text}', expected: identifier after ','")),
                        },
                        (_, text) => return fail(format!("found '{text}', expected: ',' or 'end of string'")),
                    }
                }
                (Token::End, _) => return Ok(out),
                (_, text) => return fail(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut key) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return fail(format!("found '{key}', expected: identifier"));
        }
        let errors = names::qualified_name(&key);
        if !errors.is_empty() {
            return fail(format!("<nil>: Invalid value: {}: {}", go_quote(&key), errors.join("; ")));
        }
        if negated {
            return requirement(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return requirement(&key, Operator::Exists, Vec::new());
        }
        let (token, text) = self.tokens[self.at.min(self.tokens.len() - 1)].clone();
        self.at += 1;
        let Token::Op(operator) = token else {
            return fail(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt"));
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        requirement(&key, operator, values)
    }

    fn exact_value(&mut self) -> Result<Vec<String>, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next() {
            (Token::Identifier, text) => Ok(vec![text]),
            (_, text) => fail(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (token, text) = self.next();
        if token != Token::Open {
            return fail(format!("found '{text}' expected: '('"));
        }
        let mut values = Vec::new();
        let mut awaits_value = true;
        loop {
            match self.next() {
                (Token::Identifier, text) if awaits_value => {
                    values.push(text);
                    awaits_value = false;
                }
                // An empty place counts as the empty value: `(,a)`, `(a,,b)`, `()`.
                (Token::Comma, _) => {
                    if awaits_value {
                        values.push(String::new());
                    }
                    awaits_value = true;
                }
                (Token::Close, _) => {
                    if awaits_value {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                (_, text) if awaits_value => return fail(format!("found '{text}', expected: ',', ')' or identifier")),
                (_, text) => return fail(format!("found '{text}', expected: ',' or ')'")),
            }
        }
    }
}
