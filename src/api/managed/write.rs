//! What a write does to the owners of fields, and what an apply does to the object.

use std::borrow::Cow;

use serde_json::Value;

use super::element::Element;
use super::fields::{Comparison, fields_of};
use super::merge::{Rest, merge, remove};
use super::owners::{Operation, Owner, Owners};
use super::set::{Node, Set, path_text};
use super::shape::{Shape, Typed};
use crate::schema::Type;

/// The versions of a kind.
pub trait Versions {
    /// The object in another version. `None`: the version is not served any more, and owners of its fields are
    /// forgotten.
    fn convert<'a>(&self, object: &'a Value, api_version: &str) -> Option<Cow<'a, Value>>;
    /// The type of objects of that version; `None` deduces it.
    fn schema(&self, api_version: &str) -> Option<Type>;
}

/// Who writes, and what of it is not theirs to say.
#[derive(Debug, Clone)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// Of the endpoint.
    pub api_version: &'a str,
    pub subresource: &'a str,
    /// RFC 3339.
    pub now: &'a str,
    /// What the endpoint does not take (the status, or all but that): owned by nobody through it, in any version.
    pub ignored: &'a Set,
}

impl Writer<'_> {
    pub fn owner(&self, operation: Operation) -> Owner {
        Owner {
            manager: if self.manager.is_empty() { "unknown".to_owned() } else { self.manager.to_owned() },
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: None,
            fields: Set::default(),
        }
    }
}

/// A field that the configuration sets and somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub owner: Owner,
    pub path: Vec<Element>,
}

impl Conflict {
    pub fn path_text(&self) -> String {
        path_text(&self.path)
    }
}

/// Fields that no entry holds: the object's identity, and what the server decides.
pub(super) fn unowned() -> &'static Set {
    static UNOWNED: std::sync::LazyLock<Set> = std::sync::LazyLock::new(|| {
        let of_metadata = [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        ];
        let mut set = Set::of_fields(&[&["apiVersion"], &["kind"], &["metadata"]]);
        for field in of_metadata {
            set = set.union(Set::of_fields(&[&["metadata", field]]));
        }
        set
    });
    &UNOWNED
}

/// Takes from all others what changed. The comparison is that of the writer's version.
fn settle(
    old: &Value,
    new: &Value,
    writer: &Writer<'_>,
    owners: &mut Owners,
    this: Option<&Owner>,
    versions: &dyn Versions,
) -> (Comparison, Vec<Conflict>) {
    let compare = |version: &str| -> Option<Comparison> {
        let ty = versions.schema(version);
        let (old, new) = (versions.convert(old, version)?, versions.convert(new, version)?);
        Some(Comparison::of(&old, &new, Typed::root(ty.as_ref())).without_trees(writer.ignored))
    };
    let ty = versions.schema(writer.api_version);
    let ours = Comparison::of(old, new, Typed::root(ty.as_ref())).without_trees(writer.ignored);
    let mut others: Vec<(String, Option<Comparison>)> = Vec::new();
    let mut conflicts = Vec::new();
    owners.0.retain_mut(|owner| {
        if this.is_some_and(|this| this.is(owner)) {
            return true;
        }
        if let Some(schema) = versions.schema(&owner.api_version).filter(|ty| !matches!(ty, Type::Builtin(_))) {
            owner.fields = with_atomic(&owner.fields, Typed::root(Some(&schema)));
        }
        let comparison = if owner.api_version == writer.api_version {
            Some(&ours)
        } else {
            let at = others.iter().position(|(version, _)| *version == owner.api_version).unwrap_or_else(|| {
                others.push((owner.api_version.clone(), compare(&owner.api_version)));
                others.len() - 1
            });
            others[at].1.as_ref()
        };
        let Some(comparison) = comparison else { return false };
        if comparison.is_same() {
            return true;
        }
        let taken = owner.fields.intersection(&comparison.modified);
        let lost = taken.union(owner.fields.intersection(&comparison.added));
        lost.each(&mut |path| {
            let owner = Owner { fields: Set::default(), ..owner.clone() };
            conflicts.push(Conflict { owner, path: path.to_vec() });
        });
        owner.fields = std::mem::take(&mut owner.fields).difference(&lost).difference(&comparison.removed);
        !owner.fields.is_empty()
    });
    (ours, conflicts)
}

/// The owners after a write that was no apply: what the writer changed is the writer's.
pub fn update(old: &Value, new: &Value, writer: &Writer<'_>, mut owners: Owners, versions: &dyn Versions) -> Owners {
    let (ours, _) = settle(old, new, writer, &mut owners, None, versions);
    let fields = ours.written().difference(unowned());
    if !fields.is_empty() {
        let mut owner = writer.owner(Operation::Update);
        let before = owners.take(&owner);
        owner.fields = before.map(|before| before.fields).unwrap_or_default().union(fields);
        owner.time = Some(writer.now.to_owned());
        owners.put(owner);
    }
    owners.cap();
    owners
}

/// The live object with the configuration in it, and without what the applier said before and says no more.
pub struct Applied {
    pub object: Value,
    pub owners: Owners,
}

/// Merges a configuration. Conflicts are an error unless `force` takes the fields away.
pub fn apply(
    live: &Value,
    applied: &Value,
    writer: &Writer<'_>,
    mut owners: Owners,
    force: bool,
    versions: &dyn Versions,
) -> Result<Applied, Vec<Conflict>> {
    let schema = versions.schema(writer.api_version);
    let ty = Typed::root(schema.as_ref());
    let merged = merge(live, applied, ty);
    let mut this = writer.owner(Operation::Apply);
    let last = owners.take(&this);
    this.fields = fields_of(applied, ty).without_trees(writer.ignored);
    this.time = last.as_ref().and_then(|last| last.time.clone());
    owners.put(this.clone());
    let object = match &last {
        Some(last) => prune(&merged, applied, &owners, last, writer.api_version, versions),
        None => merged,
    };
    let (_, conflicts) = settle(live, &object, writer, &mut owners, Some(&this), versions);
    if !conflicts.is_empty() && !force {
        return Err(conflicts);
    }
    // Saying again what is so is no news.
    if last.is_none() || object != *live {
        this.time = Some(writer.now.to_owned());
    }
    this.fields = std::mem::take(&mut this.fields).difference(unowned());
    owners.put(this);
    Ok(Applied { object, owners })
}

/// Removes what the applier owned alone, and does not set any more.
fn prune(
    merged: &Value,
    applied: &Value,
    owners: &Owners,
    last: &Owner,
    version: &str,
    versions: &dyn Versions,
) -> Value {
    if last.fields.is_empty() {
        return merged.clone();
    }
    let (Some(object), Some(applied)) =
        (versions.convert(merged, &last.api_version), versions.convert(applied, &last.api_version))
    else {
        return merged.clone();
    };
    let schema = versions.schema(&last.api_version);
    let ty = Typed::root(schema.as_ref());
    let mut pruned = without(&object, &with_named(&last.fields, ty), ty);
    // First those of the version at hand: a conversion may need what they hold.
    let mut held: Vec<&str> = owners.0.iter().map(|owner| owner.api_version.as_str()).collect();
    held.sort_by_key(|held| (*held != last.api_version, *held));
    held.dedup();
    for held_version in held {
        let schema = versions.schema(held_version);
        let ty = Typed::root(schema.as_ref());
        let of_version = owners.0.iter().filter(|owner| owner.api_version == held_version);
        let owned = of_version.fold(Set::default(), |all, owner| all.union(owner.fields.clone()));
        let (Some(all), Some(rest)) =
            (versions.convert(&object, held_version), versions.convert(&pruned, held_version))
        else {
            continue;
        };
        let keep = named_fields(&rest, ty).union(with_named(&owned, ty));
        let back = without(&all, &named_fields(&all, ty).difference(&keep), ty);
        let Some(back) = versions.convert(&back, &last.api_version) else { continue };
        pruned = back.into_owned();
    }
    // What the applier never owned stays, though nobody owns it.
    let kept = named_fields(&pruned, ty);
    let gone = named_fields(&object, ty).difference(&kept).intersection(&with_named(&last.fields, ty));
    let pruned = remove(&object, &gone, ty, Rest::Applied(Some(&applied))).unwrap_or_else(|| serde_json::json!({}));
    match versions.convert(&pruned, version) {
        Some(pruned) => pruned.into_owned(),
        None => merged.clone(),
    }
}

fn without(value: &Value, fields: &Set, ty: Typed<'_>) -> Value {
    remove(value, fields, ty, Rest::Null).unwrap_or_default()
}

/// After a change of the schema: what was owned by its parts and is atomic now is owned as a whole.
fn with_atomic(set: &Set, ty: Typed<'_>) -> Set {
    let nodes = set.nodes().map(|(element, node)| {
        let below = match element {
            Element::Field(name) => ty.entry(name),
            _ => ty.item(),
        };
        let is_typed = !matches!(below.ty(), None | Some(Type::Any | Type::OrAny(_) | Type::Scalar(_)));
        let atomic = is_typed && !node.below.is_empty() && matches!(below.shape(&Value::Null), Shape::Leaf);
        let node =
            if atomic { Node::leaf() } else { Node { member: node.member, below: with_atomic(&node.below, below) } };
        (element.clone(), node)
    });
    Set::collect(nodes)
}

fn named_fields(value: &Value, ty: Typed<'_>) -> Set {
    with_named(&fields_of(value, ty), ty)
}

/// With the declared fields that have members below them.
fn with_named(set: &Set, ty: Typed<'_>) -> Set {
    let nodes = set.nodes().map(|(element, node)| {
        let (below, declared) = match element {
            Element::Field(name) => (ty.entry(name), ty.declares(name)),
            _ => (ty.item(), false),
        };
        let mut node = Node { member: node.member, below: with_named(&node.below, below) };
        node.member |= declared && !node.below.is_empty();
        (element.clone(), node)
    });
    Set::collect(nodes)
}
