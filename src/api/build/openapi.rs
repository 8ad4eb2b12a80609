//! Reads the schemas that stand in `k8s-openapi`'s sources: `json_schema!({ … })`, which is JSON but for trailing
//! commas and for references, which are calls in parentheses.

use std::collections::BTreeMap;

#[derive(Debug)]
pub enum Node {
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
    /// The definition it names, and the description of this use of it.
    Reference(String, String),
    /// `true`, `false`, a number: none is of interest.
    Word,
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Self::Object(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    pub fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Self::Text(text)) => text,
            _ => "",
        }
    }

    pub fn description(&self) -> &str {
        match self {
            Self::Reference(_, description) => description,
            _ => self.text("description"),
        }
    }
}

pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub definition: String,
}

/// Adds the definitions of one source file by name, and its kind if it has one.
pub fn read(source: &str, definitions: &mut BTreeMap<String, Node>, kinds: &mut Vec<Kind>) {
    let Some(name) = between(source, "// Generated from definition ", "\n") else { return };
    let Some((_, schema)) = source.split_once("json_schema!(") else { return };
    definitions.insert(name.to_owned(), Parser { rest: schema }.node());
    let constant = |constant: &str| between(source, &format!("const {constant}: &'static str = \""), "\"");
    if let (Some(group), Some(version), Some(kind)) = (constant("GROUP"), constant("VERSION"), constant("KIND")) {
        let [group, version, kind] = [group, version, kind].map(str::to_owned);
        kinds.push(Kind { group, version, kind, definition: name.to_owned() });
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    text.split_once(from)?.1.split_once(to).map(|(inner, _)| inner)
}

/// `crate::api::core::v1::Pod` to `io.k8s.api.core.v1.Pod`.
fn definition_of(path: &str) -> String {
    let dotted = path.trim_start_matches("crate::").replace("::", ".");
    let dotted = dotted.replace("apiextensions_apiserver", "apiextensions-apiserver");
    format!("io.k8s.{}", dotted.replace("kube_aggregator", "kube-aggregator"))
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn node(&mut self) -> Node {
        self.blanks();
        match self.next() {
            '{' => {
                let mut entries = Vec::new();
                while !self.closes('}') {
                    self.next();
                    let key = self.string();
                    self.blanks();
                    assert_eq!(self.next(), ':');
                    entries.push((key, self.node()));
                }
                Node::Object(entries)
            }
            '[' => {
                let mut items = Vec::new();
                while !self.closes(']') {
                    items.push(self.node());
                }
                Node::List(items)
            }
            '"' => Node::Text(self.string()),
            '(' => self.reference(),
            // A reference without a description of its own: `__gen.subschema_for::<...>()`.
            '_' => self.bare_reference(),
            _ => {
                let end = self.rest.find([',', '\n']).expect("a word ends");
                self.rest = &self.rest[end..];
                Node::Word
            }
        }
    }

    fn definition(&mut self) -> String {
        let (_, rest) = self.rest.split_once("subschema_for::<").expect("references are the only calls");
        let (path, rest) = rest.split_once('>').expect("a type's path ends");
        self.rest = rest;
        definition_of(path)
    }

    fn bare_reference(&mut self) -> Node {
        let definition = self.definition();
        self.rest = self.rest.strip_prefix("()").expect("a call without arguments");
        Node::Reference(definition, String::new())
    }

    /// Behind the parenthesis, which may hold a block that sets a description.
    fn reference(&mut self) -> Node {
        let definition = self.definition();
        if let Some(rest) = self.rest.strip_prefix("())") {
            self.rest = rest;
            return Node::Reference(definition, String::new());
        }
        let (_, rest) = self.rest.split_once(".into(), \"").expect("a description is set");
        self.rest = rest;
        let description = self.string();
        let (_, rest) = self.rest.split_once("})").expect("the block ends");
        self.rest = rest;
        Node::Reference(definition, description)
    }

    fn next(&mut self) -> char {
        let next = self.rest.chars().next().expect("the schema ends with its parenthesis");
        self.rest = &self.rest[next.len_utf8()..];
        next
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }

    fn closes(&mut self, bracket: char) -> bool {
        self.blanks();
        let closes = self.rest.starts_with(bracket);
        if closes {
            self.next();
        }
        closes
    }

    /// Behind the opening quote.
    fn string(&mut self) -> String {
        let mut text = String::new();
        loop {
            match self.next() {
                '"' => return text,
                '\\' => text.push(match self.next() {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'u' => {
                        self.next();
                        let (code, rest) = self.rest.split_once('}').expect("an escape ends");
                        self.rest = rest;
                        u32::from_str_radix(code, 16).ok().and_then(char::from_u32).expect("an escaped character")
                    }
                    other => other,
                }),
                other => text.push(other),
            }
        }
    }
}
