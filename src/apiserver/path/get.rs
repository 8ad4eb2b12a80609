use std::sync::Arc;

use skiff_api::{ApiError, Object, ObjectKey};

use crate::call::Call;
use crate::encode::{self, Encoder, IncludeObject};
use crate::negotiate::negotiate;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

impl Server {
    /// The newest state of an object, or 404.
    pub(crate) async fn current(&self, row: &Row, key: &ObjectKey) -> Result<Arc<Object>, ApiError> {
        self.cache.fresh().await?;
        row.cache.get(key).ok_or_else(|| ApiError::not_found(row.group(), row.resource(), &key.name))
    }

    pub(crate) async fn get(&self, call: &Call, row: &Arc<Row>, key: &ObjectKey) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        match call.query.get("resourceVersion") {
            Some("0") => {}
            Some(text) => self.cache.reach(super::list_options::revision(text)?).await?,
            None => self.cache.fresh().await?,
        }
        let found = row.cache.get(key);
        let object = found.ok_or_else(|| ApiError::not_found(row.group(), row.resource(), &key.name))?;
        let object = self.served(row, object).await?;
        let include = IncludeObject::parse(call.query.get("includeObject"))?;
        Ok(encode::object(200, &object, &Encoder::new(row, wanted.form, include), wanted.encoding))
    }
}
