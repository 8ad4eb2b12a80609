//! The Swagger documents of other servers, fetched when somebody asks for the whole, and forgotten after a while.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::Value;
use sha2::{Digest, Sha256};
use skiff_api::openapi::Others;

use super::Remote;

use crate::discovery::hex;
use crate::documents::Swagger;
use crate::server::Server;

impl Server {
    /// The documents of all that can be asked, in the order of their APIServices.
    pub(crate) async fn swaggers(&self) -> Vec<Swagger> {
        let remotes: Vec<Arc<Remote>> =
            self.aggregation.table().remotes.iter().filter(|remote| remote.available).cloned().collect();
        let all = join_all(remotes.iter().map(|remote| self.swagger(remote))).await;
        all.into_iter().flatten().collect()
    }

    async fn swagger(&self, remote: &Remote) -> Option<Swagger> {
        let kept = &self.aggregation.swaggers;
        if let Some(swagger) = kept.get(&remote.name) {
            return Some(swagger);
        }
        let answer = self.ask_remote(remote, "/openapi/v2", "application/json", "").await;
        let document = answer.ok().filter(|answer| answer.status.is_success())?;
        let others = Arc::new(read(serde_json::from_slice(&document.body).ok()?, &format!("{}/", remote.path())));
        let hash = match document.etag() {
            none if none.is_empty() => hex(&Sha256::digest(&document.body)),
            etag => etag,
        };
        let swagger = Swagger { hash, others };
        kept.put(&remote.name, swagger.clone());
        Some(swagger)
    }
}

/// Its own paths, and all its definitions.
fn read(mut document: Value, prefix: &str) -> Others {
    let mut members = |field: &str| match document.get_mut(field).map(Value::take) {
        Some(Value::Object(members)) => members.into_iter().collect(),
        _ => Vec::new(),
    };
    let mut paths: Vec<(String, Value)> = members("paths");
    paths.retain(|(path, _)| path.starts_with(prefix));
    Others { paths, definitions: members("definitions") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_its_own_paths_are_taken() {
        let document = json!({"paths": {"/apis/a.org/v1/": {}, "/apis/a.org/v1/boats": {}, "/apis/a.org/v1beta1/": {}, "/version/": {}},
            "definitions": {"org.a.Boat": {}}});
        let read = read(document, "/apis/a.org/v1/");
        let paths: Vec<&str> = read.paths.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["/apis/a.org/v1/", "/apis/a.org/v1/boats"]);
        assert_eq!(read.definitions.len(), 1);
    }
}
