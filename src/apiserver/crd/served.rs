//! Between stored objects and what a row shows: the version, and the shape that the definition has now.
//!
//! An object that was written since the definition last changed, in the row's own version, goes out as it is stored.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use serde_json::Value;
use skiff_api::custom::definition::Conversion;
use skiff_api::{ApiError, Object};

use crate::convert;
use crate::registry::{Custom, Row};
use crate::server::Server;

impl Row {
    /// Whether the object's bytes are what this row shows.
    pub fn shows_as_stored(&self, object: &Object) -> bool {
        match &self.custom {
            None => true,
            // A dry run's object was never stored; it was made just now.
            Some(custom) => {
                self.home.is_none()
                    && (object.revision > custom.since || object.revision == 0)
                    && self.is_in_version(object.raw())
            }
        }
    }

    /// Whether the bytes at rest, whose first field is `apiVersion`, are of this row's version.
    fn is_in_version(&self, raw: &[u8]) -> bool {
        let gvk = &self.descriptor.gvk;
        let parts = [br#"{"apiVersion":""#, gvk.group.as_bytes(), b"/", gvk.version.as_bytes(), b"\""];
        parts.into_iter().try_fold(raw, |rest, part: &[u8]| rest.strip_prefix(part)).is_some()
    }
}

impl Server {
    /// The object as the row shows it.
    pub(crate) async fn served(&self, row: &Row, object: Arc<Object>) -> Result<Arc<Object>, ApiError> {
        if row.shows_as_stored(&object) {
            return Ok(object);
        }
        Ok(self.served_all(row, vec![object]).await?.remove(0))
    }

    /// The same for many, with one call of a webhook for all of them.
    pub(crate) async fn served_all(&self, row: &Row, objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, ApiError> {
        let Some(custom) = &row.custom else { return Ok(objects) };
        if objects.iter().all(|object| row.shows_as_stored(object)) {
            return Ok(objects);
        }
        let api_version = row.descriptor.gvk.api_version();
        let mut shown: Vec<Option<Arc<Object>>> = Vec::with_capacity(objects.len());
        let mut values = Vec::new();
        for object in objects {
            if row.shows_as_stored(&object) {
                shown.push(Some(object));
                continue;
            }
            let mut value = object.value();
            conform(custom, &mut value)?;
            values.push(value);
            shown.push(None);
        }
        let converted = self.converted(custom, values, &api_version).await?;
        let mut converted = converted.into_iter();
        let fill = |place: Option<Arc<Object>>| match place {
            Some(object) => Ok(object),
            None => {
                let value = converted.next().unwrap_or_default();
                Object::from_wire(value).map(Arc::new).map_err(|e| ApiError::internal(skiff_base::chain(&e)))
            }
        };
        shown.into_iter().map(fill).collect()
    }

    /// A stored object as a value in the row's version.
    pub(crate) async fn to_row(&self, object: &Arc<Object>, row: &Row) -> Result<Value, ApiError> {
        match &row.custom {
            None => Ok(convert::to_row(object.value(), row)),
            Some(_) => Ok(self.served(row, object.clone()).await?.value()),
        }
    }

    /// The bytes at rest of an object in the row's version.
    pub(crate) async fn to_home(&self, value: &Value, row: &Row) -> Result<Bytes, ApiError> {
        let (Some(custom), Some(home)) = (&row.custom, &row.home) else { return Ok(convert::to_home(value, row)) };
        let stored = self.converted(custom, vec![value.clone()], &home.descriptor.gvk.api_version()).await?;
        Ok(Object::canonical(&stored.into_iter().next().unwrap_or_default()))
    }

    /// Values of any version in another one, without what that one's schema does not know.
    async fn converted(&self, custom: &Custom, values: Vec<Value>, to: &str) -> Result<Vec<Value>, ApiError> {
        if values.iter().all(|value| value["apiVersion"] == to) {
            return Ok(values);
        }
        let mut converted = match &custom.definition.conversion {
            Conversion::Webhook(webhook) => self.call_conversion_webhook(webhook, values, to).boxed().await?,
            Conversion::None => values
                .into_iter()
                .map(|mut value| {
                    value["apiVersion"] = to.into();
                    value
                })
                .collect(),
        };
        if let Some(target) = custom.definition.version(to) {
            for value in &mut converted {
                target.strategy.conform(value).map_err(|why| ApiError::internal(&why))?;
            }
        }
        Ok(converted)
    }
}

/// An object that was stored under an older schema, in the shape of today's: unknown fields go, defaults come.
fn conform(custom: &Custom, value: &mut Value) -> Result<(), ApiError> {
    let version = value["apiVersion"].as_str().unwrap_or_default();
    if let Some(descriptor) = custom.definition.version(version) {
        descriptor.strategy.conform(value).map_err(|why| ApiError::internal(&why))?;
        descriptor.strategy.default(value);
    }
    Ok(())
}
