//! The table of built-in types that build.rs made: read at the first use, about half a megabyte from then on.
//! The descriptions, which are ten times that, are unpacked only while somebody writes a document.
//!
//! Lines of tab-separated columns. `T` definition, flags (a: atomic). `F` field, type, flags, protobuf tags, merge key,
//! list keys, default. `K` group, version, kind, type. Flags of fields: r required, z zero means absent, m merge,
//! k retainKeys, R replace, s set, M map, A atomic list, a atomic object or map. Types: s string, b bool, i int32, l int64,
//! d double, y bytes, t time, u micro time, q quantity, x int or string, * anything, `[` list of, `{` map of, `#n` the
//! n-th type, `|#n` the n-th type or anything else.

use std::borrow::Cow;
use std::io::Read;
use std::sync::{Arc, LazyLock};

use super::{Field, ListKind, ListType, ObjectType, PatchStrategy, Scalar, Type};

static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/facts.bin"));
static FACTS: LazyLock<Facts> = LazyLock::new(Facts::read);

pub(crate) struct Facts {
    pub types: Vec<ObjectType>,
    /// Group, version, kind, type; sorted.
    pub kinds: Vec<(&'static str, &'static str, &'static str, u16)>,
}

pub(crate) fn facts() -> &'static Facts {
    &FACTS
}

/// What identifies the facts: their packed bytes.
pub(crate) fn fingerprint() -> &'static [u8] {
    BLOB
}

fn halves() -> (&'static [u8], &'static [u8]) {
    let (length, rest) = BLOB.split_at(4);
    let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
    rest.split_at(length as usize)
}

fn inflate(packed: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::DeflateDecoder::new(packed).read_to_string(&mut text).expect("build.rs packed a text");
    text
}

impl Facts {
    fn read() -> Self {
        let text: &'static str = String::leak(inflate(halves().0));
        let mut facts = Self { types: Vec::new(), kinds: Vec::new() };
        for line in text.lines() {
            let mut columns = line.split('\t');
            let mut next = || columns.next().unwrap_or("");
            match next() {
                "T" => {
                    let name = Cow::Borrowed(next());
                    facts.types.push(ObjectType { name, atomic: next() == "a", ..ObjectType::default() });
                }
                "F" => {
                    let columns = [next(), next(), next(), next(), next(), next(), next()];
                    facts.types.last_mut().expect("types stand before their fields").fields.push(field(columns));
                }
                _ => facts.kinds.push((next(), next(), next(), next().parse().expect("build.rs wrote a number"))),
            }
        }
        facts.types.iter_mut().for_each(|ty| ty.fields.shrink_to_fit());
        facts.kinds.sort_unstable();
        facts
    }

    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<u16> {
        let at = self.kinds.binary_search_by(|k| (k.0, k.1, k.2).cmp(&(group, version, kind))).ok()?;
        Some(self.kinds[at].3)
    }

    pub fn definition(&self, name: &str) -> Option<u16> {
        // Sorted by build.rs.
        self.types.binary_search_by(|ty| (*ty.name).cmp(name)).ok().and_then(|at| u16::try_from(at).ok())
    }
}

fn field([name, code, flags, tags, merge_key, keys, default]: [&'static str; 7]) -> Field {
    let has = |flag: char| flags.contains(flag);
    let list = match (has('s'), has('M')) {
        (true, _) => ListKind::Set,
        (_, true) => ListKind::Map,
        _ => ListKind::Atomic,
    };
    let some = |text: &'static str| (!text.is_empty()).then_some(Cow::Borrowed(text));
    Field {
        name: Cow::Borrowed(name),
        ty: ty(code, list, keys),
        required: has('r'),
        // An empty list of owners is a request to forget them.
        drop_zero: has('z') && name != "managedFields",
        atomic: has('a'),
        declared_atomic_list: has('A'),
        patch: PatchStrategy { merge: has('m'), retain_keys: has('k'), replace: has('R') },
        patch_merge_key: some(merge_key),
        tags: tags.split('.').filter_map(|tag| tag.parse().ok()).collect(),
        default: some(default),
    }
}

fn ty(code: &'static str, list: ListKind, keys: &'static str) -> Type {
    let number = |text: &str| Type::Builtin(text.parse().expect("build.rs wrote a number"));
    let inner = |code| ty(code, ListKind::Atomic, "");
    match code.split_at(1) {
        ("[", item) => Type::List(Arc::new(ListType {
            item: inner(item),
            kind: list,
            keys: keys.split(',').filter(|key| !key.is_empty()).map(Cow::Borrowed).collect(),
        })),
        ("{", values) => Type::Map(Arc::new(inner(values))),
        ("#", index) => number(index),
        ("|", or) => Type::OrAny(Arc::new(inner(or))),
        ("s", _) => Type::Scalar(Scalar::String),
        ("b", _) => Type::Scalar(Scalar::Bool),
        ("i", _) => Type::Scalar(Scalar::Int32),
        ("l", _) => Type::Scalar(Scalar::Int64),
        ("d", _) => Type::Scalar(Scalar::Double),
        ("y", _) => Type::Scalar(Scalar::Bytes),
        ("t", _) => Type::Scalar(Scalar::Time),
        ("u", _) => Type::Scalar(Scalar::MicroTime),
        ("q", _) => Type::Scalar(Scalar::Quantity),
        ("x", _) => Type::Scalar(Scalar::IntOrString),
        _ => Type::Any,
    }
}

/// The descriptions of all types and fields. Half a megabyte: drop it soon.
pub struct Descriptions {
    text: String,
    /// Of each type: where its own description begins; those of its fields follow.
    starts: Vec<u32>,
}

impl Descriptions {
    pub fn unpack() -> Self {
        let text = inflate(halves().1);
        let mut ends = text.bytes().enumerate().filter(|(_, byte)| *byte == 0).map(|(at, _)| at + 1);
        let mut start = 0;
        let mut starts = Vec::with_capacity(facts().types.len());
        for ty in &facts().types {
            starts.push(u32::try_from(start).expect("less than a megabyte"));
            start = ends.nth(ty.fields.len()).expect("build.rs wrote one for the type and each field");
        }
        Self { text, starts }
    }

    /// Of a type, and of its fields in their order.
    pub fn of(&self, ty: u16) -> impl Iterator<Item = &str> {
        let start = self.starts[usize::from(ty)] as usize;
        self.text[start..].split('\0').take(1 + facts().types[usize::from(ty)].fields.len())
    }
}
