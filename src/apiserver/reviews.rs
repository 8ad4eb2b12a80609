//! Questions about identities and permissions, asked as objects that are never stored.

use serde_json::{Value, json};
use skiff_api::{ApiError, Gvk, schema};

use crate::auth::{API_AUDIENCE, Attributes, User, authenticate_bearer, is_allowed};
use crate::call::{Call, Target};
use crate::error::method_not_allowed;
use crate::meta;
use crate::path::options::{FieldValidation, read_object};
use crate::reply::Reply;
use crate::server::Server;

pub(crate) struct Review {
    pub group: &'static str,
    pub resource: &'static str,
    pub kind: &'static str,
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// All at v1.
pub(crate) const ALL: [Review; 4] = [
    Review { group: AUTHENTICATION, resource: "selfsubjectreviews", kind: "SelfSubjectReview" },
    Review { group: AUTHENTICATION, resource: "tokenreviews", kind: "TokenReview" },
    Review { group: AUTHORIZATION, resource: "selfsubjectaccessreviews", kind: "SelfSubjectAccessReview" },
    Review { group: AUTHORIZATION, resource: "subjectaccessreviews", kind: "SubjectAccessReview" },
];

pub(crate) fn find(target: &Target) -> Option<&'static Review> {
    let named = |r: &&Review| r.group == target.group && r.resource == target.resource && target.version == "v1";
    ALL.iter().find(named)
}

impl Server {
    pub(crate) fn review(&self, call: &Call, review: &Review) -> Result<Reply, ApiError> {
        if call.method != http::Method::POST {
            return Err(method_not_allowed());
        }
        // No table of a review: what accepts nothing else is refused.
        crate::negotiate::negotiate(call.header(http::header::ACCEPT), false)?;
        let gvk = Gvk::new(review.group, "v1", review.kind);
        let mut object =
            read_object(call, &gvk, schema::lookup(&gvk).as_ref(), FieldValidation::Ignore, &mut Vec::new())?;
        object["status"] = match review.kind {
            "SelfSubjectReview" => json!({ "userInfo": user_info(&call.user) }),
            "TokenReview" => self.review_token(&object["spec"]),
            "SelfSubjectAccessReview" => review_access(&call.user, &object["spec"])?,
            _ => review_access(&subject(&object["spec"]), &object["spec"])?,
        };
        let created = skiff_base::time::now_rfc3339();
        meta::set(
            &mut object,
            "creationTimestamp",
            if review.kind == "SelfSubjectReview" { json!(created) } else { Value::Null },
        );
        Ok(Reply::value(201, &object))
    }

    fn review_token(&self, spec: &Value) -> Value {
        let asked = meta::texts(&spec["audiences"]);
        let audiences = if asked.is_empty() { vec![API_AUDIENCE] } else { asked };
        let token = spec["token"].as_str().unwrap_or_default();
        match authenticate_bearer(token, self.options.pki.service_account_key(), &self.cache, &audiences) {
            Some(user) => json!({"authenticated": true, "user": user_info(&user), "audiences": audiences}),
            None => json!({"authenticated": false, "error": "invalid bearer token", "user": {}}),
        }
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    for (key, values) in &user.extra {
        info["extra"][key] = json!(values);
    }
    info
}

fn subject(spec: &Value) -> User {
    let mut user = User::new(spec["user"].as_str().unwrap_or_default(), &meta::texts(&spec["groups"]));
    user.uid = spec["uid"].as_str().unwrap_or_default().to_owned();
    user
}

fn review_access(user: &User, spec: &Value) -> Result<Value, ApiError> {
    let text = |attributes: &Value, field: &str| attributes[field].as_str().unwrap_or_default().to_owned();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() == path.is_object() {
        return Err(ApiError::bad_request(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let allowed = if path.is_object() {
        let (verb, path) = (text(path, "verb"), text(path, "path"));
        is_allowed(user, &Attributes { verb: &verb, path: &path, ..Attributes::default() })
    } else {
        let field = |name| text(resource, name);
        let asked = Attributes {
            verb: &field("verb"),
            group: &field("group"),
            resource: &field("resource"),
            subresource: &field("subresource"),
            namespace: &field("namespace"),
            name: &field("name"),
            path: "",
        };
        is_allowed(user, &asked)
    };
    Ok(json!({ "allowed": allowed }))
}
