//! The `scale` subresource: `autoscaling/v1` Scale over whatever has replicas.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::duration::human_since;
use skiff_api::managed::{self, Applying, Owners, Versions, Writer};
use skiff_api::schema::Type;
use skiff_api::strategy::ScalePaths;
use skiff_api::{ApiError, schema};

use super::apply::Configuration;
use super::change::Change;
use super::options::{Write, WriteOptions, read_object};
use super::ownership::{self, Author, Ownership};
use super::part::Part;
use super::patch::{Kind, Made, Patch};
use super::scaled::{at, gvk, scale_of, scaled};
use super::warn_all;
use super::writes::check_name;
use crate::call::{Call, Target};
use crate::encode::{self, IncludeObject};
use crate::negotiate::{Form, Wanted, negotiate};
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

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
        let object = self.current(row, &target.key()).await?;
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
        let key = target.key();
        let change = Change { row, key: &key, part: Part::Scale, user: &call.user, ownership, options };
        let object = self.change(&change, &mut warnings, make).await?;
        let object = self.to_row(&object, row).await?;
        let paths = row.descriptor.strategy.scale();
        let mut reply = reply(scale_of(&object, paths), paths, wanted, include);
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_scales() {
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2}, "status": {"replicas": 1}});
        let controller = json!({"metadata": {"name": "r"}, "spec": {"selector": {"a": "b"}}});
        let paths = ScalePaths { spec: ".spec.size".into(), status: ".status.size".into(), selector: None };
        let cells = |object: &Value, paths: Option<&ScalePaths>| {
            let shown = table(scale_of(object, paths), paths.is_some(), IncludeObject::Metadata, "v1");
            assert_eq!(shown["rows"][0]["object"]["kind"], "PartialObjectMetadata");
            shown["rows"][0]["cells"].clone()
        };
        assert_eq!(cells(&deployment, None), json!(["d", 2, 1, "<unknown>"]));
        assert_eq!(cells(&controller, None), json!(["r", 0, 0, "<unknown>"]));
        assert_eq!(cells(&json!({"metadata": {"name": "c"}}), Some(&paths)), json!(["c", null, 0, "<unknown>"]));
    }
}
