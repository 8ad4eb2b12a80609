//! Kubernetes' JSONPath dialect, of printer columns and of kubectl's templates: text with expressions in braces,
//! `{range}`, filters, slices, unions, recursion.

use serde_json::Value;

/// A template that can't be read, or that asks for an index that is not there. A complete sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonPathError(String);

type Result<T = ()> = std::result::Result<T, JsonPathError>;

/// A template that was read.
#[derive(Debug, Clone)]
pub struct JsonPath {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug, Clone)]
enum Step {
    Field(String),
    /// `*`
    Each,
    /// `..`
    Deep,
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    Union(Vec<Step>),
    Filter(Box<Filter>),
}

#[derive(Debug, Clone)]
struct Filter {
    left: Operand,
    comparison: Option<(String, Operand)>,
}

#[derive(Debug, Clone)]
enum Operand {
    Literal(Value),
    Path(Vec<Step>),
}

impl JsonPath {
    /// A template; a bare expression without braces is one, too.
    pub fn parse(template: &str) -> Result<Self> {
        let trimmed = template.trim();
        let template = if trimmed.contains('{') { template.to_owned() } else { format!("{{{}}}", dotted(trimmed)) };
        let mut parser = Parser { rest: &template };
        let nodes = parser.nodes(false).map_err(|why| bad(&template, &why))?;
        Ok(Self { nodes })
    }

    /// One expression, as custom columns and `--sort-by` have it: `.metadata.name` or `{.metadata.name}`.
    pub fn parse_path(path: &str) -> Result<Self> {
        let inner = path.trim().trim_start_matches('{').trim_end_matches('}');
        Self::parse(&format!("{{{}}}", dotted(inner)))
    }

    pub fn evaluate(&self, root: &Value) -> Result<String> {
        let mut out = String::new();
        write_nodes(&self.nodes, root, root, &mut out)?;
        Ok(out)
    }

    /// The values of all expressions that stand alone.
    pub fn all<'a>(&self, root: &'a Value) -> Result<Vec<&'a Value>> {
        let mut found = Vec::new();
        for node in &self.nodes {
            if let Node::Path(steps) = node {
                found.extend(walk(steps, root, root)?);
            }
        }
        Ok(found)
    }

    /// The values of the first expression.
    pub fn values<'a>(&self, root: &'a Value) -> Result<Vec<&'a Value>> {
        match self.nodes.iter().find_map(|node| if let Node::Path(steps) = node { Some(steps) } else { None }) {
            Some(steps) => walk(steps, root, root),
            None => Ok(Vec::new()),
        }
    }
}

fn dotted(path: &str) -> String {
    if path.starts_with(['.', '[', '$', '@']) { path.to_owned() } else { format!(".{path}") }
}

fn bad(template: &str, why: &str) -> JsonPathError {
    JsonPathError(format!("error parsing jsonpath {template}, {why}"))
}

fn write_nodes(nodes: &[Node], root: &Value, here: &Value, out: &mut String) -> Result {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(steps) => {
                let found: Vec<String> = walk(steps, root, here)?.into_iter().map(show).collect();
                out.push_str(&found.join(" "));
            }
            Node::Range(steps, inner) => {
                for item in walk(steps, root, here)? {
                    write_nodes(inner, root, item, out)?;
                }
            }
        }
    }
    Ok(())
}

/// JSON in one line, as Go writes it.
pub fn compact(value: &Value) -> String {
    escaped(value.to_string())
}

/// Go's encoder keeps out of JSON what HTML and JavaScript would read; all of it can stand in strings only.
pub fn escaped(json: String) -> String {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 64);
    for char in json.chars() {
        match char {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

/// As the templates print it: texts bare, everything else as JSON.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => compact(other),
    }
}

/// Everything the steps lead to. What is missing is left out; an index that is too large is an error, as upstream.
fn walk<'a>(steps: &[Step], root: &'a Value, here: &'a Value) -> Result<Vec<&'a Value>> {
    let mut found = vec![here];
    for (nth, step) in steps.iter().enumerate() {
        let mut next = Vec::new();
        for value in found {
            if let Step::Deep = step {
                // Each value below, then the rest of the path from there.
                let mut all = Vec::new();
                everything(value, &mut all);
                for value in all {
                    next.extend(walk(&steps[nth + 1..], root, value).unwrap_or_default());
                }
            } else {
                one(step, root, value, &mut next)?;
            }
        }
        if let Step::Deep = step {
            return Ok(next);
        }
        found = next;
    }
    Ok(found)
}

fn everything<'a>(value: &'a Value, all: &mut Vec<&'a Value>) {
    all.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| everything(item, all)),
        Value::Object(entries) => entries.values().for_each(|item| everything(item, all)),
        _ => {}
    }
}

fn one<'a>(step: &Step, root: &'a Value, value: &'a Value, next: &mut Vec<&'a Value>) -> Result {
    match (step, value) {
        (Step::Field(name), Value::Object(entries)) => next.extend(entries.get(name)),
        (Step::Each, Value::Array(items)) => next.extend(items),
        (Step::Each, Value::Object(entries)) => next.extend(entries.values()),
        (Step::Index(index), Value::Array(items)) => {
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let at = if *index < 0 { length + index } else { *index };
            match usize::try_from(at).ok().and_then(|at| items.get(at)) {
                Some(item) => next.push(item),
                None => {
                    return Err(JsonPathError(format!("array index out of bounds: index {index}, length {length}")));
                }
            }
        }
        (Step::Slice(from, to, by), Value::Array(items)) => {
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let clip = |at: i64| (if at < 0 { length + at } else { at }).clamp(0, length);
            let (from, to) = (clip(from.unwrap_or(0)), clip(to.unwrap_or(length)));
            let by = usize::try_from(*by).unwrap_or(1).max(1);
            let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to.max(from)).unwrap_or(0);
            next.extend(items[range].iter().step_by(by));
        }
        (Step::Union(steps), value) => {
            for step in steps {
                one(step, root, value, next)?;
            }
        }
        (Step::Filter(filter), Value::Array(items)) => {
            for item in items {
                if holds(filter, root, item)? {
                    next.push(item);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn holds(filter: &Filter, root: &Value, here: &Value) -> Result<bool> {
    let value = |operand: &Operand| -> Result<Option<Value>> {
        Ok(match operand {
            Operand::Literal(value) => Some(value.clone()),
            Operand::Path(steps) => walk(steps, root, here)?.first().map(|value| (*value).clone()),
        })
    };
    let left = value(&filter.left)?;
    let Some((operator, right)) = &filter.comparison else { return Ok(left.is_some()) };
    let (Some(left), Some(right)) = (left, value(right)?) else { return Ok(false) };
    let order = match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.partial_cmp(&right),
        _ => Some(show(&left).cmp(&show(&right))),
    };
    Ok(order.is_some_and(|order| match operator.as_str() {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    }))
}

struct Parser<'a> {
    rest: &'a str,
}

type Parsed<T> = std::result::Result<T, String>;

impl<'a> Parser<'a> {
    /// Up to the end, or to `{end}` within a range.
    fn nodes(&mut self, in_range: bool) -> Parsed<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            let Some(open) = self.rest.find('{') else {
                if in_range {
                    return Err("unexpected end of the template: {range} without {end}".into());
                }
                push_text(&mut nodes, self.rest);
                self.rest = "";
                return Ok(nodes);
            };
            push_text(&mut nodes, &self.rest[..open]);
            self.rest = self.rest[open + 1..].trim_start();
            if let Some(rest) = self.rest.strip_prefix("end") {
                self.rest = rest;
                self.close()?;
                return if in_range { Ok(nodes) } else { Err("not in range, nothing to end".into()) };
            }
            let range = self.rest.strip_prefix("range").filter(|rest| rest.starts_with([' ', '.', '[', '$', '@']));
            if let Some(rest) = range {
                self.rest = rest.trim_start();
                let steps = self.steps()?;
                self.close()?;
                let inner = self.nodes(true)?;
                nodes.push(Node::Range(steps, inner));
            } else if self.rest.starts_with(['"', '\'']) {
                let text = self.quoted()?;
                self.close()?;
                nodes.push(Node::Text(text));
            } else {
                let steps = self.steps()?;
                self.close()?;
                nodes.push(Node::Path(steps));
            }
        }
    }

    fn close(&mut self) -> Parsed<()> {
        self.rest = self.rest.trim_start();
        self.rest = self.rest.strip_prefix('}').ok_or_else(|| format!("unclosed action at {:?}", self.rest))?;
        Ok(())
    }

    fn quoted(&mut self) -> Parsed<String> {
        let mut chars = self.rest.char_indices();
        let quote = chars.next().map(|(_, quote)| quote).ok_or("a quote is missing")?;
        let mut text = String::new();
        while let Some((at, char)) = chars.next() {
            if char == quote {
                self.rest = &self.rest[at + 1..];
                return Ok(text);
            }
            match char {
                '\\' => match chars.next().map(|(_, char)| char) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(other) => text.push(other),
                    None => break,
                },
                char => text.push(char),
            }
        }
        Err("unterminated quoted string".into())
    }

    fn steps(&mut self) -> Parsed<Vec<Step>> {
        self.rest = self.rest.trim_start_matches(['$', '@']);
        let mut steps = Vec::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix("..") {
                self.rest = rest;
                steps.push(Step::Deep);
                if !self.rest.starts_with('[') {
                    steps.push(self.name());
                }
            } else if let Some(rest) = self.rest.strip_prefix('.') {
                self.rest = rest;
                if self.rest.starts_with('[') || self.ends() {
                    continue;
                }
                steps.push(self.name());
            } else if let Some(rest) = self.rest.strip_prefix('[') {
                self.rest = rest.trim_start();
                steps.push(self.bracket()?);
            } else if self.ends() {
                return Ok(steps);
            } else if steps.is_empty() {
                steps.push(self.name());
            } else {
                return Err(format!("unrecognized character in action: {:?}", self.rest));
            }
        }
    }

    fn ends(&self) -> bool {
        self.rest.is_empty() || self.rest.starts_with(|c: char| c.is_whitespace() || "})]=!<>,".contains(c))
    }

    fn name(&mut self) -> Step {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, char)) = chars.next() {
            match char {
                '\\' => name.extend(chars.next().map(|(_, char)| char)),
                '.' | '[' | ']' | '}' | ')' | '=' | '!' | '<' | '>' | ',' => {
                    end = at;
                    break;
                }
                char if char.is_whitespace() => {
                    end = at;
                    break;
                }
                char => name.push(char),
            }
        }
        self.rest = &self.rest[end..];
        if name == "*" { Step::Each } else { Step::Field(name) }
    }

    /// Behind `[`.
    fn bracket(&mut self) -> Parsed<Step> {
        if let Some(rest) = self.rest.strip_prefix("?(") {
            self.rest = rest.trim_start();
            let filter = self.filter()?;
            self.expect(")")?;
            self.expect("]")?;
            return Ok(Step::Filter(Box::new(filter)));
        }
        let mut steps = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.starts_with(['"', '\'']) {
                steps.push(Step::Field(self.quoted()?));
            } else {
                let end = self.rest.find([',', ']']).ok_or("unterminated array")?;
                let text = self.rest[..end].trim();
                self.rest = &self.rest[end..];
                steps.push(index_or_slice(text)?);
            }
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix(',') {
                self.rest = rest;
                continue;
            }
            self.expect("]")?;
            return Ok(if steps.len() == 1 { steps.remove(0) } else { Step::Union(steps) });
        }
    }

    fn filter(&mut self) -> Parsed<Filter> {
        let left = self.operand()?;
        self.rest = self.rest.trim_start();
        let operator = ["==", "!=", "<=", ">=", "<", ">"].into_iter().find(|operator| self.rest.starts_with(operator));
        let Some(operator) = operator else { return Ok(Filter { left, comparison: None }) };
        self.rest = self.rest[operator.len()..].trim_start();
        let right = self.operand()?;
        Ok(Filter { left, comparison: Some((operator.to_owned(), right)) })
    }

    fn operand(&mut self) -> Parsed<Operand> {
        if self.rest.starts_with(['"', '\'']) {
            return Ok(Operand::Literal(Value::String(self.quoted()?)));
        }
        if self.rest.starts_with(['@', '$', '.']) {
            return Ok(Operand::Path(self.steps()?));
        }
        let end = self.rest.find(|c: char| c.is_whitespace() || ")=!<>".contains(c)).unwrap_or(self.rest.len());
        let text = &self.rest[..end];
        self.rest = &self.rest[end..];
        Ok(Operand::Literal(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))))
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        self.rest = self.rest.trim_start();
        self.rest = self.rest.strip_prefix(token).ok_or_else(|| format!("{token:?} is missing at {:?}", self.rest))?;
        Ok(())
    }
}

fn push_text(nodes: &mut Vec<Node>, text: &str) {
    if !text.is_empty() {
        nodes.push(Node::Text(text.to_owned()));
    }
}

fn index_or_slice(text: &str) -> Parsed<Step> {
    if text == "*" {
        return Ok(Step::Each);
    }
    let number = |text: &str| -> Parsed<Option<i64>> {
        let text = text.trim();
        if text.is_empty() {
            Ok(None)
        } else {
            text.parse().map(Some).map_err(|_| format!("invalid array index {text}"))
        }
    };
    if !text.contains(':') {
        return Ok(Step::Index(number(text)?.ok_or("an index is missing")?));
    }
    let mut parts = text.split(':');
    let mut next = || number(parts.next().unwrap_or(""));
    Ok(Step::Slice(next()?, next()?, next()?.unwrap_or(1)))
}

#[cfg(test)]
mod tests;
