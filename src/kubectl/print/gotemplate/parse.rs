//! From a template's text to its nodes.

use std::collections::HashMap;

use serde_json::Value;

use super::{Command, Node, Operand, Pipe};

type Parsed<T> = Result<T, String>;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Dot,
    Field(Vec<String>),
    /// Fields right behind a closing parenthesis.
    Chain(Vec<String>),
    Variable(String, Vec<String>),
    Word(String),
    Literal(Value),
    Open,
    Close,
    Bar,
    Comma,
    Declare,
    Assign,
}

/// Templates by name.
pub(super) type Defined = HashMap<String, Vec<Node>>;

/// A template's nodes, and those of the templates defined in it.
pub(super) fn template(text: &str) -> Parsed<(Vec<Node>, Defined)> {
    let mut parser = Parser { pieces: pieces(text)?, at: 0, defined: HashMap::new() };
    let (nodes, end) = parser.list()?;
    match end {
        End::Text => Ok((nodes, parser.defined)),
        End::Word(word, _) => Err(format!("unexpected {{{{{word}}}}}")),
    }
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// Cuts the text at its actions; `{{- ` and ` -}}` eat the blanks beside them.
fn pieces(text: &str) -> Parsed<Vec<Piece>> {
    let (mut pieces, mut rest, mut trim) = (Vec::new(), text, false);
    loop {
        let Some(open) = rest.find("{{") else {
            push_text(&mut pieces, if trim { rest.trim_start() } else { rest });
            return Ok(pieces);
        };
        let before = if trim { rest[..open].trim_start() } else { &rest[..open] };
        rest = &rest[open + 2..];
        let eats = rest.starts_with('-') && rest[1..].starts_with(char::is_whitespace);
        push_text(&mut pieces, if eats { before.trim_end() } else { before });
        rest = if eats { &rest[1..] } else { rest };
        if let Some(comment) = rest.trim_start().strip_prefix("/*") {
            let end = comment.find("*/").ok_or("unclosed comment")?;
            let after = &comment[end + 2..];
            let close = after.find("}}").ok_or("comment ends before closing delimiter")?;
            trim = after[..close].trim() == "-";
            rest = &after[close + 2..];
            continue;
        }
        let (tokens, after, eats_after) = tokens(rest)?;
        pieces.push(Piece::Action(tokens));
        (rest, trim) = (after, eats_after);
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// The tokens up to `}}`, what follows it, and whether blanks behind it are eaten.
fn tokens(text: &str) -> Parsed<(Vec<Token>, &str, bool)> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    loop {
        let spaced = rest.starts_with(char::is_whitespace);
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, after, false));
        }
        if let Some(after) = rest.strip_prefix("-}}").filter(|_| spaced) {
            return Ok((tokens, after, true));
        }
        let first = rest.chars().next().ok_or("unclosed action")?;
        let simple = [
            ("(", Token::Open),
            (")", Token::Close),
            ("|", Token::Bar),
            (",", Token::Comma),
            (":=", Token::Declare),
            ("=", Token::Assign),
        ];
        if let Some((text, token)) = simple.into_iter().find(|(text, _)| rest.starts_with(text)) {
            tokens.push(token);
            rest = &rest[text.len()..];
            continue;
        }
        match first {
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let (fields, after) = fields(rest)?;
                tokens.push(match fields.is_empty() {
                    true => Token::Dot,
                    false if !spaced && tokens.last() == Some(&Token::Close) => Token::Chain(fields),
                    false => Token::Field(fields),
                });
                rest = after;
            }
            '$' => {
                let end = word_end(&rest[1..]) + 1;
                let (fields, after) = fields(&rest[end..])?;
                tokens.push(Token::Variable(rest[..end].to_owned(), fields));
                rest = after;
            }
            '"' | '`' | '\'' => {
                let (value, after) = quoted(rest, first)?;
                tokens.push(Token::Literal(value));
                rest = after;
            }
            c if c.is_ascii_digit() || "+-.".contains(c) => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(rest.len());
                let text = rest[..end].replace('_', "");
                let number = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<f64>().map(Value::from));
                tokens.push(Token::Literal(number.map_err(|_| format!("bad number syntax: {:?}", &rest[..end]))?));
                rest = &rest[end..];
            }
            c if c.is_alphabetic() || c == '_' => {
                let end = word_end(rest);
                tokens.push(match &rest[..end] {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    word => Token::Word(word.to_owned()),
                });
                rest = &rest[end..];
            }
            c => return Err(format!("unexpected {c:?} in command")),
        }
    }
}

fn word_end(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len())
}

/// `.a.b` at the begin of the text; none where it begins otherwise, or with a lone dot.
fn fields(text: &str) -> Parsed<(Vec<String>, &str)> {
    let (mut fields, mut rest) = (Vec::new(), text);
    while let Some(after) = rest.strip_prefix('.') {
        let end = word_end(after);
        if end == 0 {
            if !fields.is_empty() {
                return Err("unexpected <.> in operand".into());
            }
            return Ok((fields, after));
        }
        fields.push(after[..end].to_owned());
        rest = &after[end..];
    }
    Ok((fields, rest))
}

fn quoted(text: &str, quote: char) -> Parsed<(Value, &str)> {
    let body = &text[1..];
    if quote == '`' {
        let end = body.find('`').ok_or("unterminated raw quoted string")?;
        return Ok((body[..end].into(), &body[end + 1..]));
    }
    let mut out = String::new();
    let mut chars = body.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            c if c == quote => {
                let after = &body[at + 1..];
                let value = if quote == '"' {
                    Value::from(out)
                } else {
                    out.chars().next().map(|c| Value::from(u32::from(c))).ok_or("malformed character constant: ''")?
                };
                return Ok((value, after));
            }
            '\n' => break,
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some('x' | 'u') => {
                    let (at, _) = chars.clone().next().ok_or("unterminated quoted string")?;
                    let digits = if body[..at].ends_with('x') { 2 } else { 4 };
                    let code = body.get(at..at + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                    out.push(code.and_then(char::from_u32).ok_or("invalid syntax in a quoted string")?);
                    chars.nth(digits - 1);
                }
                Some(other) => out.push(other),
                None => break,
            },
            other => out.push(other),
        }
    }
    Err("unterminated quoted string".into())
}

struct Parser {
    pieces: Vec<Piece>,
    at: usize,
    defined: Defined,
}

/// What ended a list of nodes: the text's end, or `end` and `else` with the tokens behind.
enum End {
    Text,
    Word(String, Vec<Token>),
}

impl Parser {
    fn list(&mut self) -> Parsed<(Vec<Node>, End)> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.get(self.at).cloned() {
            self.at += 1;
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let keyword = match tokens.first() {
                Some(Token::Word(word)) => word.clone(),
                None => return Err("missing value for command".into()),
                _ => String::new(),
            };
            match keyword.as_str() {
                "end" | "else" => return Ok((nodes, End::Word(keyword, tokens[1..].to_vec()))),
                "if" | "range" | "with" => nodes.push(self.control(&keyword, &tokens[1..])?),
                "define" | "block" => {
                    let Some(Token::Literal(Value::String(name))) = tokens.get(1) else {
                        return Err(format!("missing name in {keyword} clause"));
                    };
                    let body = self.body(&keyword)?;
                    self.defined.insert(name.clone(), body);
                    if keyword == "block" {
                        nodes.push(Node::Template(name.clone(), Some(pipe(&tokens[2..])?)));
                    }
                }
                "template" => {
                    let Some(Token::Literal(Value::String(name))) = tokens.get(1) else {
                        return Err("missing name in template clause".into());
                    };
                    let data = if tokens.len() > 2 { Some(pipe(&tokens[2..])?) } else { None };
                    nodes.push(Node::Template(name.clone(), data));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                _ => nodes.push(Node::Action(pipe(&tokens)?)),
            }
        }
        Ok((nodes, End::Text))
    }

    fn body(&mut self, what: &str) -> Parsed<Vec<Node>> {
        match self.list()? {
            (nodes, End::Word(word, _)) if word == "end" => Ok(nodes),
            (_, End::Word(word, _)) => Err(format!("unexpected {{{{{word}}}}} in {what}")),
            (_, End::Text) => Err("unexpected EOF".into()),
        }
    }

    fn control(&mut self, keyword: &str, tokens: &[Token]) -> Parsed<Node> {
        let pipe = pipe(tokens)?;
        let (then, end) = self.list()?;
        let otherwise = match end {
            End::Text => return Err("unexpected EOF".into()),
            End::Word(word, _) if word == "end" => Vec::new(),
            End::Word(_, more) => match more.first() {
                None => self.body(keyword)?,
                // `{{else if}}` shares the `{{end}}` of what it belongs to.
                Some(Token::Word(word)) if word == keyword && keyword != "range" => {
                    vec![self.control(keyword, &more[1..])?]
                }
                Some(_) => return Err("unexpected token in {{else}}".into()),
            },
        };
        Ok(match keyword {
            "if" => Node::If(pipe, then, otherwise),
            "range" => Node::Range(pipe, then, otherwise),
            _ => Node::With(pipe, then, otherwise),
        })
    }
}

fn pipe(tokens: &[Token]) -> Parsed<Pipe> {
    let mut rest = tokens;
    let (mut variables, mut assigns) = (Vec::new(), false);
    let sets = tokens.iter().position(|token| matches!(token, Token::Declare | Token::Assign));
    if let Some(at) = sets {
        assigns = tokens[at] == Token::Assign;
        for part in tokens[..at].split(|token| *token == Token::Comma) {
            let [Token::Variable(name, fields)] = part else { return Err("a variable is expected before :=".into()) };
            if !fields.is_empty() {
                return Err(format!("unexpected field of {name} before :="));
            }
            variables.push(name.clone());
        }
        rest = &tokens[at + 1..];
    }
    let mut commands = vec![Vec::new()];
    while !rest.is_empty() {
        if rest[0] == Token::Bar {
            commands.push(Vec::new());
            rest = &rest[1..];
            continue;
        }
        let (operand, after) = operand(rest)?;
        commands.last_mut().expect("it begins with one").push(operand);
        rest = after;
    }
    if commands.iter().any(Vec::is_empty) {
        return Err("missing value for command".into());
    }
    Ok(Pipe { variables, assigns, commands: commands.into_iter().map(Command).collect() })
}

fn operand(tokens: &[Token]) -> Parsed<(Operand, &[Token])> {
    let rest = &tokens[1..];
    Ok(match &tokens[0] {
        Token::Dot => (Operand::Field(Vec::new()), rest),
        Token::Field(fields) => (Operand::Field(fields.clone()), rest),
        Token::Variable(name, fields) => (Operand::Variable(name.clone(), fields.clone()), rest),
        Token::Literal(value) => (Operand::Literal(Some(value.clone())), rest),
        Token::Word(word) if word == "nil" => (Operand::Literal(None), rest),
        Token::Word(word) => (Operand::Function(word.clone()), rest),
        Token::Open => {
            let mut depth = 1;
            let close = rest.iter().position(|token| {
                depth += i32::from(*token == Token::Open) - i32::from(*token == Token::Close);
                depth == 0
            });
            let close = close.ok_or("unclosed left paren")?;
            let inner = pipe(&rest[..close])?;
            let (fields, rest) = match rest.get(close + 1) {
                Some(Token::Chain(fields)) => (fields.clone(), &rest[close + 2..]),
                _ => (Vec::new(), &rest[close + 1..]),
            };
            (Operand::Pipe(inner, fields), rest)
        }
        Token::Close => return Err("unexpected right paren".into()),
        other => return Err(format!("unexpected {other:?} in operand")),
    })
}
