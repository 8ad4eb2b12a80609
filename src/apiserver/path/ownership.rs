//! Whose the fields of an object are after a write: what requests say about it, and the kinds' part in it.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::USER_AGENT;
use serde_json::Value;
use skiff_api::Gvk;
use skiff_api::managed::{self, Applying, Element, Set, Versions, Writer};
use skiff_api::schema::Type;
use skiff_api::strategy::Subresource;

use super::options::{WriteOptions, is_print};
use super::part::Part;
use crate::call::Call;
use crate::meta;
use crate::registry::{Registry, Row};

const MANAGER_MAX_B: usize = 128;

/// Who writes, by which subresource.
#[derive(Debug, Clone)]
pub(crate) struct Author {
    pub manager: String,
    pub subresource: &'static str,
}

impl Author {
    pub fn of(call: &Call, options: &WriteOptions, subresource: &'static str) -> Self {
        let manager = match options.field_manager.as_str() {
            "" => from_user_agent(call.header(USER_AGENT).unwrap_or_default()),
            named => named.to_owned(),
        };
        Self { manager, subresource }
    }
}

/// The program's name, as far as it is fit to be a manager's.
fn from_user_agent(text: &str) -> String {
    let mut name = String::new();
    for c in text.split('/').next().unwrap_or_default().chars().filter(|c| is_print(*c)) {
        if name.len() + c.len_utf8() > MANAGER_MAX_B {
            break;
        }
        name.push(c);
    }
    name
}

/// What becomes of `managedFields` in a change.
pub(crate) enum Ownership<'a> {
    /// What changed is the author's.
    Track(&'a Author),
    /// They were written by what made the new object.
    Written,
    /// They stay as they are.
    Keep,
}

/// The versions of one kind that are served.
pub(crate) struct KindVersions {
    row: Arc<Row>,
    registry: Arc<Registry>,
}

impl KindVersions {
    pub fn new(row: &Arc<Row>, registry: Arc<Registry>) -> Self {
        Self { row: row.clone(), registry }
    }

    pub fn find(&self, api_version: &str) -> Option<&Arc<Row>> {
        if self.row.descriptor.gvk.api_version() == api_version {
            return Some(&self.row);
        }
        let of_kind = |row: &&Arc<Row>| {
            row.descriptor.storage == self.row.descriptor.storage && row.descriptor.gvk.api_version() == api_version
        };
        self.registry.rows().iter().find(of_kind)
    }
}

impl Versions for KindVersions {
    fn convert<'a>(&self, object: &'a Value, api_version: &str) -> Option<Cow<'a, Value>> {
        let to = self.find(api_version)?;
        let text = |field: &str| object.get(field).and_then(Value::as_str);
        let from = text("apiVersion").and_then(|version| self.find(version)).unwrap_or(&self.row);
        if Arc::ptr_eq(from, to) {
            return Some(Cow::Borrowed(object));
        }
        let mut object = object.clone();
        from.descriptor.strategy.encode_stored(&mut object);
        to.descriptor.strategy.decode_stored(&mut object);
        object["apiVersion"] = api_version.into();
        Some(Cow::Owned(object))
    }

    fn schema(&self, api_version: &str) -> Option<Type> {
        let row = self.find(api_version)?;
        row.descriptor.strategy.merge_type().or_else(|| row.schema.clone())
    }
}

/// What an endpoint does not take from a client, and so gives nobody as an owner.
pub(crate) fn ignored(row: &Row, part: Part) -> Set {
    match part {
        Part::Status if row.is("apps", "deployments") => Set::of_fields(&[&["spec"], &["metadata", "labels"]]),
        Part::Status if row.is("", "pods") => {
            Set::of_fields(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
        }
        Part::Status if row.custom.is_some() => Set::of_fields(&[&["spec"], &["metadata"]]),
        Part::Status | Part::Approval => Set::of_fields(&[&["spec"]]),
        Part::Main | Part::Scale if row.has(Subresource::Status) => Set::of_fields(&[&["status"]]),
        Part::Fields(_) => Set::of_fields(&[&["metadata"], &["status"]]),
        Part::Main | Part::Scale | Part::Own => Set::default(),
    }
}

/// Enters into `new` what the author changed. `live: None`: the object is new.
pub(crate) fn track(versions: &KindVersions, part: Part, author: &Author, live: Option<&Value>, new: &mut Value) {
    let row = &versions.row;
    let version = row.descriptor.gvk.api_version();
    let ignored = ignored(row, part);
    let now = skiff_base::time::now_rfc3339();
    managed::track(live, new, &writer(author, &version, &now, &ignored), versions);
}

/// Applies a configuration.
pub(crate) fn apply(
    versions: &KindVersions,
    part: Part,
    author: &Author,
    force: bool,
    live: Option<&Value>,
    applied: &Value,
) -> Result<Value, skiff_api::ApiError> {
    let row = &versions.row;
    let gvk: &Gvk = &row.descriptor.gvk;
    let version = gvk.api_version();
    let ignored = ignored(row, part);
    let now = skiff_base::time::now_rfc3339();
    let request = Applying { gvk, writer: writer(author, &version, &now, &ignored), force };
    Ok(managed::apply(live, applied, &request, versions)?)
}

fn writer<'a>(author: &'a Author, api_version: &'a str, now: &'a str, ignored: &'a Set) -> Writer<'a> {
    Writer { manager: &author.manager, api_version, subresource: author.subresource, now, ignored }
}

/// Where the number of replicas is in a version of a kind that can be scaled.
pub(crate) fn replicas_path(row: &Row) -> Vec<Element> {
    let path = row.descriptor.strategy.scale().map_or(".spec.replicas", |paths| &paths.spec);
    path.trim_start_matches('.').split('.').map(Element::field).collect()
}

/// Takes the list out of an object while its kind's strategy works on it: strategies know nothing of owners.
pub(crate) fn take(object: &mut Value) -> Option<Value> {
    meta::of(object).remove("managedFields")
}

pub(crate) fn put_back(object: &mut Value, managed_fields: Option<Value>) {
    let metadata = meta::of(object);
    match managed_fields {
        Some(list) => metadata.insert("managedFields".to_owned(), list),
        None => metadata.remove("managedFields"),
    };
}

/// A change that only renews times is none: they become again what they were.
pub(crate) fn keep_times(new: &mut Value, old: &Value) -> Option<Value> {
    let (new_list, old_list) = (&new["metadata"]["managedFields"], &old["metadata"]["managedFields"]);
    if !managed::only_times_differ(new_list, old_list) {
        return None;
    }
    let old_list = old_list.clone();
    let renewed = take(new);
    put_back(new, Some(old_list));
    renewed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_come_from_the_programs_name() {
        for (agent, expect) in [
            ("kubectl/v1.32.0 (linux/amd64) kubernetes/70d3cc9", "kubectl"),
            ("curl", "curl"),
            ("", ""),
            ("/x", ""),
            ("a\u{7}b c/1", "ab c"),
        ] {
            assert_eq!(from_user_agent(agent), expect, "{agent:?}");
        }
        assert_eq!(from_user_agent(&"é".repeat(100)).len(), 128);
    }
}
