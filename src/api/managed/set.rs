//! Sets of fields: trees of [`Element`]s, in the JSON form `fieldsV1`.

use serde_json::{Map, Value};

use super::element::{BadElement, Element};

/// Fields of a value. The value itself is never a member: nobody owns the whole object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// Sorted by element; every node is a member or has members below it.
    nodes: Vec<(Element, Node)>,
}

/// One field: whether it is in the set, and which of its parts are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub member: bool,
    pub below: Set,
}

impl Node {
    pub fn leaf() -> Self {
        Self { member: true, below: Set::default() }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    fn unite(&mut self, other: Self) {
        self.member |= other.member;
        self.below = std::mem::take(&mut self.below).union(other.below);
    }
}

impl Set {
    /// Of paths of fields: `[["spec", "replicas"]]`.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let elements: Vec<Element> = path.iter().map(|name| Element::field(name)).collect();
            set.insert(&elements);
        }
        set
    }

    pub fn insert(&mut self, path: &[Element]) {
        let [first, rest @ ..] = path else { return };
        let at = match self.find(first) {
            Ok(at) => at,
            Err(at) => {
                self.nodes.insert(at, (first.clone(), Node::default()));
                at
            }
        };
        let node = &mut self.nodes[at].1;
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    fn find(&self, element: &Element) -> Result<usize, usize> {
        self.nodes.binary_search_by(|(other, _)| other.cmp(element))
    }

    pub fn get(&self, element: &Element) -> Option<&Node> {
        self.find(element).ok().map(|at| &self.nodes[at].1)
    }

    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.get(last).is_some_and(|node| node.member),
            [first, rest @ ..] => self.get(first).is_some_and(|node| node.below.has(rest)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&Element, &Node)> {
        self.nodes.iter().map(|(element, node)| (element, node))
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|(_, node)| usize::from(node.member) + node.below.len()).sum()
    }

    /// Puts nodes in order; what is empty is left out, what is there twice is united.
    pub fn collect(nodes: impl IntoIterator<Item = (Element, Node)>) -> Self {
        let mut nodes: Vec<(Element, Node)> = nodes.into_iter().filter(|(_, node)| !node.is_empty()).collect();
        if !nodes.is_sorted_by(|a, b| a.0 < b.0) {
            nodes.sort_by(|a, b| a.0.cmp(&b.0));
            nodes.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    kept.1.unite(std::mem::take(&mut later.1));
                }
                same
            });
        }
        Self { nodes }
    }

    /// Every member's path: those of one level before those below.
    pub fn each(&self, visit: &mut impl FnMut(&[Element])) {
        self.each_below(&mut Vec::new(), visit);
    }

    fn each_below(&self, path: &mut Vec<Element>, visit: &mut impl FnMut(&[Element])) {
        for (element, _) in self.nodes.iter().filter(|(_, node)| node.member) {
            path.push(element.clone());
            visit(path);
            path.pop();
        }
        for (element, node) in self.nodes.iter().filter(|(_, node)| !node.below.is_empty()) {
            path.push(element.clone());
            node.below.each_below(path, visit);
            path.pop();
        }
    }

    /// Fields that are in one of them.
    pub fn union(mut self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        let mut fresh = Vec::new();
        for (element, node) in other.nodes {
            match self.find(&element) {
                Ok(at) => self.nodes[at].1.unite(node),
                Err(_) => fresh.push((element, node)),
            }
        }
        if !fresh.is_empty() {
            self.nodes.append(&mut fresh);
            self.nodes.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self
    }

    /// Fields that are in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let shared = self.nodes.iter().filter_map(|(element, node)| {
            let found = other.get(element)?;
            let below = node.below.intersection(&found.below);
            let node = Node { member: node.member && found.member, below };
            (!node.is_empty()).then(|| (element.clone(), node))
        });
        Self { nodes: shared.collect() }
    }

    /// Fields that are not in the other; parts of a field stay where only the field itself goes.
    pub fn difference(mut self, other: &Self) -> Self {
        if other.is_empty() {
            return self;
        }
        self.nodes.retain_mut(|(element, node)| {
            if let Some(found) = other.get(element) {
                node.member &= !found.member;
                node.below = std::mem::take(&mut node.below).difference(&found.below);
            }
            !node.is_empty()
        });
        self
    }

    /// Fields that are not in the other, nor below one that is.
    pub fn without_trees(mut self, other: &Self) -> Self {
        if other.is_empty() {
            return self;
        }
        self.nodes.retain_mut(|(element, node)| {
            if let Some(found) = other.get(element) {
                if found.member {
                    return false;
                }
                node.below = std::mem::take(&mut node.below).without_trees(&found.below);
            }
            !node.is_empty()
        });
        self
    }

    /// Reads `fieldsV1`. Elements of unknown kinds are passed over.
    pub fn parse(fields: &Value) -> Result<Self, BadElement> {
        match fields {
            Value::Object(fields) => Ok(Self::parse_node(fields)?.below),
            _ => Ok(Self::default()),
        }
    }

    fn parse_node(fields: &Map<String, Value>) -> Result<Node, BadElement> {
        let mut nodes = Vec::with_capacity(fields.len());
        let mut member = false;
        for (text, below) in fields {
            if text == "." {
                member = true;
                continue;
            }
            let Some(element) = Element::parse(text)? else { continue };
            let node = match below {
                Value::Object(below) => Self::parse_node(below)?,
                _ => Node::leaf(),
            };
            nodes.push((element, node));
        }
        // Nothing below: the field itself is what it says.
        member |= nodes.is_empty();
        Ok(Node { member, below: Self::collect(nodes) })
    }

    /// The form in `fieldsV1`.
    pub fn to_value(&self) -> Value {
        Value::Object(self.to_map(false))
    }

    fn to_map(&self, member: bool) -> Map<String, Value> {
        let mut map = Map::new();
        if member && !self.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        map.extend(
            self.nodes.iter().map(|(element, node)| (element.text(), Value::Object(node.below.to_map(node.member)))),
        );
        map
    }
}

/// A path in messages: `.spec.containers[name="a"].image`.
pub fn path_text(path: &[Element]) -> String {
    path.iter().map(Element::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> Set {
        Set::parse(&value).expect("a set")
    }

    #[test]
    fn the_json_form_returns() {
        for value in [
            json!({}),
            json!({"f:a": {}}),
            json!({"f:a": {"f:b": {}, "f:c": {".": {}, "k:{\"name\":\"x\"}": {".": {}, "f:d": {}}}}}),
            json!({"f:finalizers": {".": {}, "v:\"a/b\"": {}, "i:1": {}}}),
        ] {
            assert_eq!(set(value.clone()).to_value(), value);
        }
        assert_eq!(
            set(json!({"f:a": {"x:later": {}}, ".": {}})),
            set(json!({"f:a": {}})),
            "what is unknown is no part"
        );
        assert_eq!(
            set(json!({"f:a": {"k:{\"b\":1,\"a\":2}": {}}})).to_value(),
            json!({"f:a": {"k:{\"a\":2,\"b\":1}": {}}})
        );
        assert!(Set::parse(&json!({"f:a": {"nonsense": {}}})).is_err());
        assert!(set(json!("x")).is_empty() && set(json!(null)).is_empty());
    }

    #[test]
    fn algebra() {
        let a = set(json!({"f:x": {".": {}, "f:y": {}, "f:z": {}}, "f:w": {}}));
        let b = set(json!({"f:x": {"f:y": {}}, "f:w": {"f:v": {}}}));
        assert_eq!(
            a.clone().union(b.clone()),
            set(json!({"f:x": {".": {}, "f:y": {}, "f:z": {}}, "f:w": {".": {}, "f:v": {}}}))
        );
        assert_eq!(a.intersection(&b), set(json!({"f:x": {"f:y": {}}})));
        assert_eq!(
            a.clone().difference(&b),
            set(json!({"f:x": {".": {}, "f:z": {}}, "f:w": {}})),
            "a field without its parts"
        );
        assert_eq!(b.clone().difference(&a), set(json!({"f:w": {"f:v": {}}})));
        assert_eq!(b.clone().without_trees(&a), set(json!({})), "a field with its parts");
        assert_eq!(a.clone().difference(&a), Set::default());
        assert_eq!((a.len(), b.len()), (4, 2));
        let mut paths = Vec::new();
        a.each(&mut |path| paths.push(path_text(path)));
        assert_eq!(paths, [".w", ".x", ".x.y", ".x.z"]);
        let has = |path: &[&str]| a.has(&path.iter().map(|name| Element::field(name)).collect::<Vec<_>>());
        assert!(has(&["x", "y"]) && has(&["x"]) && !has(&["x", "q"]) && !has(&[]));
        assert_eq!(Set::of_fields(&[&["x", "y"], &["x"], &["x", "z"], &["w"]]), a);
    }
}
