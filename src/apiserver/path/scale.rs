//! The `scale` subresource: `autoscaling/v1` Scale over whatever has replicas.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::duration::human_since;
use skiff_api::managed::{self, Applying, Owners, Versions, Writer};
use skiff_api::schema::Type;
use skiff_api::selector::LabelSelector;
use skiff_api::strategy::ScalePaths;
use skiff_api::{ApiError, Gvk, schema};

use super::apply::Configuration;
use super::create::key_of;
use super::options::{Write, WriteOptions, read_object};
use super::ownership::{self, Author, Ownership};
use super::patch::{Kind, Made, Patch};
use super::update::{Change, MODIFIED, Part, check_name};
use super::warn_all;
use crate::admission::{self, Request};
use crate::call::{Call, Target};
use crate::encode::{self, IncludeObject};
use crate::meta;
use crate::negotiate::{Form, Wanted, negotiate};
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

fn gvk() -> Gvk {
    Gvk::new("autoscaling", "v1", "Scale")
}

/// By a simple path: `.spec.replicas`.
fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.trim_start_matches('.').split('.').fold(object, |value, key| &value[key])
}

fn set_at(object: &mut Value, path: &str, new: Value) {
    let place = path.trim_start_matches('.').split('.').fold(object, |value, key| {
        if !value.is_object() {
            *value = json!({});
        }
        &mut value[key]
    });
    *place = new;
}

/// The Scale of an object, as clients see it; `paths` where the kind says where its numbers are.
fn scale_of(object: &Value, paths: Option<&ScalePaths>) -> Value {
    let selector = match paths {
        Some(paths) => paths.selector.as_ref().map_or(&Value::Null, |path| at(object, path)),
        None => &object["spec"]["selector"],
    };
    let selector = match selector.as_object() {
        // A ReplicationController's selector is a plain map.
        Some(map) if !map.contains_key("matchLabels") && !map.contains_key("matchExpressions") => {
            let pairs: Vec<String> =
                map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
            pairs.join(",")
        }
        Some(_) => LabelSelector::from_value(selector).map(|s| s.to_string()).unwrap_or_default(),
        None => selector.as_str().unwrap_or_default().to_owned(),
    };
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut spec = serde_json::Map::new();
    let (wanted, there) = paths.map_or((".spec.replicas", ".status.replicas"), |p| (&p.spec, &p.status));
    let replicas = at(object, wanted).as_i64().unwrap_or(0);
    if replicas != 0 {
        spec.insert("replicas".to_owned(), replicas.into());
    }
    let mut status = json!({"replicas": at(object, there).as_i64().unwrap_or(0)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// A Scale in the form that the client wants.
fn reply(scale: Value, paths: Option<&ScalePaths>, wanted: Wanted, include: IncludeObject) -> Reply {
    let value = match wanted.form {
        Form::Object => scale,
        Form::Metadata(version) => encode::partial(scale, version),
        Form::Table(version) => table(scale, paths.is_some(), include, version),
    };
    encode::value(200, &value, wanted.encoding)
}

/// What upstream shows of a Scale. Of a custom resource's, which is printed from its fields, a zero that is left out is
/// nothing.
fn table(scale: Value, custom: bool, include: IncludeObject, version: &str) -> Value {
    let number = |part: &str| match &scale[part]["replicas"] {
        Value::Null if !custom => 0.into(),
        number => number.clone(),
    };
    let created = scale["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse().ok());
    let age = created.map_or_else(|| "<unknown>".to_owned(), |at| human_since(at, skiff_base::time::now()));
    let cells = vec![scale["metadata"]["name"].clone(), number("spec"), number("status"), age.into()];
    let column = |name: &str, kind: &str, format: &str, description: &str| json!({"name": name, "type": kind, "format": format, "description": description, "priority": 0});
    let columns = [
        column("Name", "string", if custom { "name" } else { "" }, "The name of the object that is scaled."),
        column("Desired", "integer", "", "How many replicas are wanted."),
        column("Available", "integer", "", "How many replicas there are."),
        column("Age", if custom { "date" } else { "string" }, "", "How long ago the object was created."),
    ];
    let metadata = json!({"resourceVersion": scale["metadata"]["resourceVersion"]});
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
        "columnDefinitions": columns, "rows": [encode::table_row(cells, scale, include, version)],
    })
}

impl Server {
    pub(crate) async fn get_scale(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let include = IncludeObject::parse(call.query.get("includeObject"))?;
        let object = self.current(row, &key_of(target)).await?;
        let object = self.to_row(&object, row).await?;
        let paths = row.descriptor.strategy.scale();
        if let Some(paths) = paths.filter(|paths| at(&object, &paths.spec).is_null()) {
            return Err(ApiError::internal(format!("the spec replicas field {:?} does not exist", paths.spec)));
        }
        Ok(reply(scale_of(&object, paths), paths, wanted, include))
    }

    pub(crate) async fn update_scale(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let options = WriteOptions::of(&call.query, Write::Update)?;
        let author = Author::of(call, &options, "scale");
        let mut warnings = Vec::new();
        let schema = schema::lookup(&gvk());
        let scale = read_object(call, &gvk(), schema.as_ref(), options.validation, &mut warnings)?;
        check_name(&scale, &target.name)?;
        let writing = Writing { call, row, target, options: &options, ownership: Ownership::Track(&author) };
        self.write_scale(writing, warnings, |old| scaled(old, &scale, row)).await
    }

    pub(crate) async fn patch_scale(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let schema = schema::lookup(&gvk());
        let kind = Kind::of(call, false)?;
        let options = WriteOptions::of(&call.query, kind.write())?;
        let author = Author::of(call, &options, "scale");
        if kind == Kind::Apply {
            return self.apply_scale(call, row, target, &options, &author).await;
        }
        let patch = Patch::read(call, kind)?;
        let writing = Writing { call, row, target, options: &options, ownership: Ownership::Track(&author) };
        // A patch may bring anything; what is no number of replicas must not be taken for none.
        let make = |old: &Value| {
            let of = Made { gvk: &gvk(), schema: schema.as_ref(), custom: None };
            let live = scale_of(old, row.descriptor.strategy.scale());
            let scale = patch.make(&live, of, options.validation, &mut Vec::new())?;
            scaled(old, &scale, row)
        };
        self.write_scale(writing, Vec::new(), make).await
    }

    /// A configuration of the scale: its one field is owned in the object.
    async fn apply_scale(
        &self,
        call: &Call,
        row: &Arc<Row>,
        target: &Target,
        options: &WriteOptions,
        author: &Author,
    ) -> Result<Reply, ApiError> {
        let configuration = Configuration::read(&call.body)?;
        check_name(&configuration.value, &target.name)?;
        let mut warnings = Vec::new();
        configuration.judge(options.validation, &mut warnings)?;
        let version = row.descriptor.gvk.api_version();
        let (now, ignored) = (skiff_base::time::now_rfc3339(), managed::Set::of_fields(&[&["status"]]));
        let (gvk, schema) = (gvk(), schema::lookup(&gvk()));
        let scale_version = gvk.api_version();
        let Author { manager, subresource } = author;
        let writer = Writer { manager, api_version: &scale_version, subresource, now: &now, ignored: &ignored };
        let request = Applying { gvk: &gvk, writer, force: options.force };
        let versions = self.versions(row);
        let replicas = |version: &str| versions.find(version).map(|row| ownership::replicas_path(row));
        let make = |old: &Value| {
            let owners = Owners::of(old);
            let mut live = scale_of(old, row.descriptor.strategy.scale());
            managed::to_scale(&owners, &replicas).write(&mut live);
            let scale = managed::apply(Some(&live), &configuration.value, &request, &OneVersion(schema.clone()))?;
            let mut new = scaled(old, &scale, row)?;
            managed::to_parent(owners, Owners::of(&scale), &version, &replicas).write(&mut new);
            Ok(new)
        };
        let writing = Writing { call, row, target, options, ownership: Ownership::Written };
        self.write_scale(writing, warnings, make).await
    }

    async fn write_scale(
        &self,
        writing: Writing<'_>,
        mut warnings: Vec<String>,
        make: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Reply, ApiError> {
        let Writing { call, row, target, options, ownership } = writing;
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let include = IncludeObject::parse(call.query.get("includeObject"))?;
        let key = key_of(target);
        let change = Change { row, key: &key, part: Part::Scale, user: &call.user, ownership, options };
        let object = self.change(&change, &mut warnings, make).await?;
        let object = self.to_row(&object, row).await?;
        let paths = row.descriptor.strategy.scale();
        let mut reply = reply(scale_of(&object, paths), paths, wanted, include);
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }
}

/// Has webhooks look at the Scale that a change comes down to. What else looks at changes has no say in replicas.
pub(super) async fn admit(request: &Request<'_>, new: &mut Value, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    let paths = request.row.descriptor.strategy.scale();
    let before = request.old.map(|old| scale_of(old, paths));
    let asked = Request {
        of: Some(gvk()),
        key: request.key.clone(),
        old: before.as_ref(),
        server: request.server,
        user: request.user,
        row: request.row,
        operation: request.operation,
        subresource: request.subresource,
        dry_run: request.dry_run,
        options: request.options,
    };
    let brought = scale_of(new, paths);
    let left = admission::ask(&asked, brought.clone(), warnings).await?;
    if left != brought {
        *new = scaled(new, &left, request.row)?;
    }
    Ok(())
}

/// One write to a scale.
struct Writing<'a> {
    call: &'a Call,
    row: &'a Arc<Row>,
    target: &'a Target,
    options: &'a WriteOptions,
    ownership: Ownership<'a>,
}

/// Scale has one version.
struct OneVersion(Option<Type>);

impl Versions for OneVersion {
    fn convert<'a>(&self, object: &'a Value, _api_version: &str) -> Option<Cow<'a, Value>> {
        Some(Cow::Borrowed(object))
    }

    fn schema(&self, _api_version: &str) -> Option<Type> {
        self.0.clone()
    }
}

/// The object with the replicas of a scale.
fn scaled(old: &Value, scale: &Value, row: &Row) -> Result<Value, ApiError> {
    let name = meta::text(old, "name");
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    check_replicas(replicas, name)?;
    let version = meta::text(scale, "resourceVersion");
    if !version.is_empty() && version != meta::text(old, "resourceVersion") {
        return Err(ApiError::conflict(row.group(), row.resource(), name, MODIFIED));
    }
    let mut new = old.clone();
    let paths = row.descriptor.strategy.scale();
    set_at(&mut new, paths.map_or(".spec.replicas", |paths| &paths.spec), replicas.into());
    Ok(new)
}

fn check_replicas(replicas: i64, name: &str) -> Result<(), ApiError> {
    if replicas >= 0 {
        return Ok(());
    }
    let cause = skiff_api::status::Cause {
        reason: "FieldValueInvalid".into(),
        message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
        field: "spec.replicas".into(),
    };
    Err(ApiError::invalid("autoscaling", "Scale", name, vec![cause]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_both_selector_forms() {
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}},
            "status": {"replicas": 1}});
        let scale = scale_of(&deployment, None);
        assert_eq!(
            (&scale["spec"]["replicas"], &scale["status"]),
            (&json!(2), &json!({"replicas": 1, "selector": "a=b"}))
        );
        let controller = json!({"metadata": {"name": "r"}, "spec": {"selector": {"a": "b", "c": "d"}}});
        assert_eq!(scale_of(&controller, None)["status"]["selector"], "a=b,c=d");
        let paths = ScalePaths {
            spec: ".spec.size.wanted".into(),
            status: ".status.size".into(),
            selector: Some(".status.selector".into()),
        };
        let custom = json!({"metadata": {"name": "c"}, "spec": {"size": {"wanted": 3}}, "status": {"size": 2, "selector": "a=b"}});
        let scale = scale_of(&custom, Some(&paths));
        assert_eq!(
            (&scale["spec"], &scale["status"]),
            (&json!({"replicas": 3}), &json!({"replicas": 2, "selector": "a=b"}))
        );
        let cells = |object: &Value, paths: Option<&ScalePaths>| {
            let shown = table(scale_of(object, paths), paths.is_some(), IncludeObject::Metadata, "v1");
            assert_eq!(shown["rows"][0]["object"]["kind"], "PartialObjectMetadata");
            shown["rows"][0]["cells"].clone()
        };
        assert_eq!(cells(&deployment, None), json!(["d", 2, 1, "<unknown>"]));
        assert_eq!(cells(&controller, None), json!(["r", 0, 0, "<unknown>"]));
        assert_eq!(cells(&json!({"metadata": {"name": "c"}}), Some(&paths)), json!(["c", null, 0, "<unknown>"]));
        let mut bare = json!({});
        set_at(&mut bare, &paths.spec, json!(4));
        assert_eq!(bare, json!({"spec": {"size": {"wanted": 4}}}));
    }
}
