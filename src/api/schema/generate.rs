//! Objects of any type, made from a seed: what tests of laws feed on.

use serde_json::{Map, Value, json};

use super::{Field, ListKind, ListType, Scalar, Type};

/// xorshift64*: the same seed gives the same objects everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or(0) % limit.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A value with parts, and no null. Few different scalars, so that two values often agree.
pub(crate) fn value(ty: &Type, random: &mut Random) -> Value {
    make(ty, None, 0, random)
}

fn make(ty: &Type, field: Option<&Field>, depth: usize, random: &mut Random) -> Value {
    match ty {
        Type::Scalar(kind) => scalar(*kind, random),
        Type::Any | Type::OrAny(_) => match random.below(4) {
            0 => json!({"a": random.below(3), "b": {"c": "x"}}),
            1 => json!([random.below(3), "y"]),
            2 => json!(random.below(3)),
            _ => json!("z"),
        },
        Type::Map(values) => {
            let entries = (0..=random.below(3)).map(|_| (format!("k{}", random.below(5)), ()));
            let names: Vec<String> = entries.map(|(name, ())| name).collect();
            Value::Object(names.into_iter().map(|name| (name, make(values, None, depth + 1, random))).collect())
        }
        Type::List(list) => Value::Array(items(list, field, depth, random)),
        Type::Object(_) | Type::Builtin(_) => object(ty, depth, random),
    }
}

fn object(ty: &Type, depth: usize, random: &mut Random) -> Value {
    let mut entries = Map::new();
    let Some(object) = ty.object() else { return Value::Object(entries) };
    // Deep objects get thin, and recursive types end.
    let rarity = 2 + depth * 2;
    for field in &object.fields {
        let is_meta = depth == 0 && matches!(&*field.name, "metadata" | "spec");
        if depth < 8 && (is_meta || random.one_in(rarity)) && field.name != "managedFields" {
            entries.insert(field.name.to_string(), make(&field.ty, Some(field), depth + 1, random));
        }
    }
    if entries.is_empty()
        && let Some(field) = object.fields.iter().find(|field| matches!(field.ty, Type::Scalar(_)))
    {
        entries.insert(field.name.to_string(), make(&field.ty, Some(field), depth + 1, random));
    }
    Value::Object(entries)
}

/// Items that differ in what identifies them.
fn items(list: &ListType, field: Option<&Field>, depth: usize, random: &mut Random) -> Vec<Value> {
    let merge_key = field.and_then(|field| field.patch_merge_key.as_deref());
    let merges = field.is_some_and(|field| field.patch.merge);
    let mut items: Vec<Value> = Vec::new();
    for _ in 0..=random.below(3) {
        let mut item = make(&list.item, None, depth + 1, random);
        let keys = list.keys.iter().map(AsRef::as_ref).filter(|_| list.kind == ListKind::Map).chain(merge_key);
        for key in keys {
            let ty = list.item.field(key).unwrap_or(Type::Scalar(Scalar::String));
            item[key] = make(&ty, None, depth + 1, random);
        }
        let same = |other: &Value| match merge_key {
            Some(key) => other.get(key) == item.get(key),
            None if list.kind == ListKind::Map => list.keys.iter().all(|key| other.get(&**key) == item.get(&**key)),
            None => (list.kind == ListKind::Set || merges) && *other == item,
        };
        if !items.iter().any(same) {
            items.push(item);
        }
    }
    items
}

fn scalar(kind: Scalar, random: &mut Random) -> Value {
    let n = random.below(4) + 1;
    match kind {
        Scalar::String => format!("s{n}").into(),
        Scalar::Bool => true.into(),
        Scalar::Int32 | Scalar::Int64 => n.into(),
        Scalar::Double => json!(n as f64 + 0.5),
        Scalar::Bytes => ["YQ==", "Yg==", "Yw==", "ZA=="][n - 1].into(),
        Scalar::Time => format!("2024-01-0{n}T00:00:00Z").into(),
        Scalar::MicroTime => format!("2024-01-0{n}T00:00:00.000000Z").into(),
        Scalar::Quantity => format!("{n}Mi").into(),
        Scalar::IntOrString if n.is_multiple_of(2) => n.into(),
        Scalar::IntOrString => format!("{n}0%").into(),
    }
}
