//! Go's text templates (the package text/template), over JSON.
//!
//! Everything of the language is here but methods and `call`, since JSON has no functions. Numbers of objects are
//! floating-point numbers, as in upstream's printer.

use std::collections::HashMap;

use serde_json::Value;

use crate::{Failure, Result};

mod functions;
mod parse;

use functions::{call, shown, truth};

/// Templates that invoke each other have an end.
const DEPTH_LIMIT: usize = 200;

/// A value, or none, which prints as `<no value>`.
type Val = Option<Value>;

pub struct Template {
    text: String,
    nodes: Vec<Node>,
    defined: HashMap<String, Vec<Node>>,
}

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Action(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    Range(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Template(String, Option<Pipe>),
    Break,
    Continue,
}

#[derive(Debug, Clone)]
struct Pipe {
    variables: Vec<String>,
    assigns: bool,
    commands: Vec<Command>,
}

#[derive(Debug, Clone)]
struct Command(Vec<Operand>);

#[derive(Debug, Clone)]
enum Operand {
    /// Of the dot; none is the dot itself.
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Literal(Val),
    Function(String),
    Pipe(Pipe, Vec<String>),
}

enum Flow {
    On,
    Break,
    Continue,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self> {
        let (nodes, defined) = parse::template(text)
            .map_err(|why| Failure::text(format!("error parsing template {text}, template: output:1: {why}")))?;
        Ok(Self { text: text.to_owned(), nodes, defined })
    }

    pub fn evaluate(&self, object: &Value) -> Result<String> {
        let root = with_floats(object);
        let mut run =
            Run { template: self, variables: vec![("$".to_owned(), Some(root.clone()))], out: String::new(), depth: 0 };
        run.nodes(&self.nodes, &Some(root)).map_err(|why| {
            Failure::text(format!(
                "error executing template {:?}: template: output: executing \"output\": {why}",
                self.text
            ))
        })?;
        Ok(run.out)
    }
}

fn with_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or_else(|| value.clone(), Value::from),
        Value::Array(items) => items.iter().map(with_floats).collect(),
        Value::Object(entries) => {
            Value::Object(entries.iter().map(|(key, value)| (key.clone(), with_floats(value))).collect())
        }
        other => other.clone(),
    }
}

struct Run<'a> {
    template: &'a Template,
    /// The innermost last.
    variables: Vec<(String, Val)>,
    out: String,
    depth: usize,
}

type Ran<T> = std::result::Result<T, String>;

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Val) -> Ran<Flow> {
        let scope = self.variables.len();
        for node in nodes {
            let flow = self.node(node, dot)?;
            if !matches!(flow, Flow::On) {
                self.variables.truncate(scope);
                return Ok(flow);
            }
        }
        self.variables.truncate(scope);
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Val) -> Ran<Flow> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    let text = match &value {
                        None | Some(Value::Null) => "<no value>".to_owned(),
                        value => shown(value),
                    };
                    self.out.push_str(&text);
                }
            }
            Node::If(pipe, then, otherwise) | Node::With(pipe, then, otherwise) => {
                let scope = self.variables.len();
                let value = self.pipe(pipe, dot)?;
                let inner = if matches!(node, Node::With(..)) { &value } else { dot };
                let flow = if truth(&value) { self.nodes(then, inner) } else { self.nodes(otherwise, dot) };
                self.variables.truncate(scope);
                return flow;
            }
            Node::Range(pipe, then, otherwise) => {
                let scope = self.variables.len();
                let done = self.range(pipe, then, otherwise, dot);
                self.variables.truncate(scope);
                done?;
            }
            Node::Template(name, data) => {
                let Some(nodes) = self.template.defined.get(name) else {
                    return Err(format!("template {name:?} not defined"));
                };
                let dot = data.as_ref().map_or(Ok(None), |data| self.pipe(data, dot))?;
                self.depth += 1;
                if self.depth > DEPTH_LIMIT {
                    return Err("exceeded maximum template depth".into());
                }
                let outer = std::mem::replace(&mut self.variables, vec![("$".to_owned(), dot.clone())]);
                let done = self.nodes(nodes, &dot);
                self.variables = outer;
                self.depth -= 1;
                done?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn range(&mut self, pipe: &Pipe, then: &[Node], otherwise: &[Node], dot: &Val) -> Ran<()> {
        let value = self.commands(pipe, dot)?;
        let items: Vec<(Value, Value)> = match value {
            Some(Value::Array(items)) => items.into_iter().enumerate().map(|(at, item)| (at.into(), item)).collect(),
            Some(Value::Object(entries)) => entries.into_iter().map(|(key, item)| (key.into(), item)).collect(),
            Some(Value::Number(count)) if count.is_u64() => {
                (0..count.as_u64().unwrap_or_default()).map(|at| (at.into(), at.into())).collect()
            }
            None | Some(Value::Null) => Vec::new(),
            Some(other) => return Err(format!("range can't iterate over {}", shown(&Some(other)))),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot).map(drop);
        }
        let scope = self.variables.len();
        for (key, item) in items {
            match pipe.variables.as_slice() {
                [] => {}
                [one] => self.set(one, Some(item.clone()), pipe.assigns)?,
                [index, one, ..] => {
                    self.set(index, Some(key), pipe.assigns)?;
                    self.set(one, Some(item.clone()), pipe.assigns)?;
                }
            }
            let flow = self.nodes(then, &Some(item))?;
            self.variables.truncate(scope);
            if let Flow::Break = flow {
                break;
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Val, assigns: bool) -> Ran<()> {
        if !assigns {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let known = self.variables.iter_mut().rfind(|(known, _)| known == name);
        known.ok_or_else(|| format!("undefined variable {name:?}"))?.1 = value;
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Val) -> Ran<Val> {
        let value = self.commands(pipe, dot)?;
        for name in &pipe.variables {
            self.set(name, value.clone(), pipe.assigns)?;
        }
        Ok(value)
    }

    fn commands(&mut self, pipe: &Pipe, dot: &Val) -> Ran<Val> {
        let mut last: Option<Val> = None;
        for Command(operands) in &pipe.commands {
            last = Some(self.command(operands, last, dot)?);
        }
        last.ok_or_else(|| "missing value for command".to_owned())
    }

    /// `last` is the value of the command before, which is this one's last argument.
    fn command(&mut self, operands: &[Operand], last: Option<Val>, dot: &Val) -> Ran<Val> {
        let [Operand::Function(name), arguments @ ..] = operands else {
            if operands.len() > 1 || last.is_some() {
                return Err("can't give argument to non-function".into());
            }
            return self.operand(&operands[0], dot);
        };
        if name == "and" || name == "or" {
            let mut value = None;
            for argument in arguments {
                value = self.operand(argument, dot)?;
                if truth(&value) == (name == "or") {
                    return Ok(value);
                }
            }
            return Ok(last.unwrap_or(value));
        }
        let mut values = arguments.iter().map(|argument| self.operand(argument, dot)).collect::<Ran<Vec<_>>>()?;
        values.extend(last);
        call(name, &values).unwrap_or_else(|| Err(format!("function {name:?} not defined")))
    }

    fn operand(&mut self, operand: &Operand, dot: &Val) -> Ran<Val> {
        match operand {
            Operand::Field(fields) => walk(dot.as_ref(), fields),
            Operand::Variable(name, fields) => {
                let known = self.variables.iter().rfind(|(known, _)| known == name);
                walk(known.ok_or_else(|| format!("undefined variable {name:?}"))?.1.as_ref(), fields)
            }
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Function(_) => self.command(std::slice::from_ref(operand), None, dot),
            Operand::Pipe(pipe, fields) => walk(self.pipe(pipe, dot)?.as_ref(), fields),
        }
    }
}

/// What isn't there is no value; what has no fields is an error.
fn walk(from: Option<&Value>, fields: &[String]) -> Ran<Val> {
    let mut here = from;
    for field in fields {
        here = match here {
            None => None,
            Some(Value::Object(entries)) => entries.get(field),
            Some(Value::Null) => return Err(format!("nil pointer evaluating interface {{}}.{field}")),
            Some(_) => return Err(format!("can't evaluate field {field} in type interface {{}}")),
        };
    }
    Ok(here.cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(template: &str, expect: &str) {
        let object = json!({"metadata": {"name": "p", "labels": {"a": "1", "b-c": "2"}}, "spec": {"replicas": 3,
            "containers": [{"name": "x", "image": "i:1"}, {"name": "y", "image": "i:2"}], "empty": [], "nothing": null},
            "data": {"k": "aGk="}});
        let shown = Template::parse(template).and_then(|parsed| parsed.evaluate(&object));
        assert_eq!(shown.unwrap_or_else(|e| e.to_string()), expect, "{template}");
    }

    #[test]
    fn actions_and_pipes() {
        check("{{.metadata.name}}:{{ .spec.replicas }}{{\"\\n\"}}", "p:3\n");
        check("{{.spec.none}} {{.spec.none.more}} {{.spec.nothing}}", "<no value> <no value> <no value>");
        check("{{ .metadata.labels }} {{index .metadata.labels \"b-c\"}}", "map[a:1 b-c:2] 2");
        check("{{ (index .spec.containers 1).name }}", "y");
        check("{{ .data.k | base64decode | printf \"%s-%d-%q\" }}", "hi-%!d(MISSING)-%!q(MISSING)");
        check("{{ printf \"%-4s|%4s|%v|%d\" \"a\" \"b\" .spec.replicas 7 }}", "a   |   b|3|7");
        check("a {{- /* gone */ -}} b{{- \" c \" -}} d", "ab c d");
        check("{{ len .spec.containers }}{{ not true }}{{ and 1 0 }}{{ or 0 \"x\" }}", "2false0x");
        check("{{ html \"<a>\" }} {{ urlquery \"a b\" }} {{print 1 2 \"x\"}}", "&lt;a&gt; a+b 1 2x");
        check("{{ slice \"hello\" 1 3 }}{{ index .spec.containers 0 \"name\" }}", "elx");
    }

    #[test]
    fn control() {
        check("{{range .spec.containers}}{{.name}}={{.image}} {{end}}", "x=i:1 y=i:2 ");
        check("{{range $i, $c := .spec.containers}}{{if $i}},{{end}}{{$c.name}}{{end}}", "x,y");
        check("{{range $k, $v := .metadata.labels}}{{$k}}={{$v}};{{end}}", "a=1;b-c=2;");
        check("{{range .spec.empty}}x{{else}}none{{end}}", "none");
        check("{{if eq .metadata.name \"q\"}}a{{else if gt .spec.replicas 2}}b{{else}}c{{end}}", "b");
        check("{{with .spec.nothing}}x{{else with .metadata}}{{.name}}{{end}}", "p");
        check("{{$n := 1}}{{range .spec.containers}}{{$n = .name}}{{end}}{{$n}} {{$.metadata.name}}", "y p");
        check("{{define \"t\"}}<{{.}}>{{end}}{{template \"t\" .metadata.name}}", "<p>");
        check("{{range .spec.containers}}{{if eq .name \"y\"}}{{break}}{{end}}{{.name}}{{end}}", "x");
        check("{{if exists .metadata \"labels\" \"a\"}}yes{{end}}", "yes");
    }

    #[test]
    fn what_is_wrong_is_told() {
        let error = |text: &str| Template::parse(text).err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(error("{{.a"), "error parsing template {{.a, template: output:1: unclosed action");
        assert!(error("{{if .a}}").ends_with("unexpected EOF"));
        assert!(error("{{end}}").ends_with("unexpected {{end}}"));
        check(
            "{{.metadata.name.x}}",
            "error executing template \"{{.metadata.name.x}}\": template: output: executing \"output\": can't evaluate field x in type interface {}",
        );
    }
}
