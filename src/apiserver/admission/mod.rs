//! What is changed and refused before an object is validated, whatever its kind's strategy says.
//! Under upstream's names: NamespaceLifecycle, ServiceAccount, DefaultTolerationSeconds, Priority, RuntimeClass,
//! TaintNodesByCondition.

mod certificate;
pub(crate) mod namespace;
mod node;
mod priority;
mod runtime_class;
mod service_account;
mod time_zone;
mod tolerations;
mod unavailable;

use serde_json::Value;
use skiff_api::ApiError;

use crate::auth::User;
use crate::registry::Row;
use crate::server::Server;

pub(crate) async fn create(server: &Server, user: &User, row: &Row, object: &mut Value) -> Result<(), ApiError> {
    namespace::create(server, row, object).await?;
    unavailable::create(row, object)?;
    if row.is("", "pods") {
        priority::create(server, object)?;
        runtime_class::create(object)?;
        service_account::create(server, user, object).await?;
        tolerations::fill(object);
    } else if row.is("", "nodes") {
        node::create(object);
    } else if row.is("batch", "cronjobs") {
        time_zone::check(object, None)?;
    } else if row.is("certificates.k8s.io", "certificatesigningrequests") {
        certificate::create(user, object);
    }
    Ok(())
}

pub(crate) fn update(_server: &Server, row: &Row, object: &mut Value, old: &Value) -> Result<(), ApiError> {
    if row.is("", "pods") {
        tolerations::fill(object);
    } else if row.is("batch", "cronjobs") {
        time_zone::check(object, Some(old))?;
    }
    Ok(())
}

pub(crate) fn delete(row: &Row, name: &str) -> Result<(), ApiError> {
    namespace::delete(row, name)?;
    priority::delete(row, name)
}
