//! Questions about identities and permissions, asked as objects that are never stored.

mod access;

use serde_json::{Value, json};
use skiff_api::{ApiError, Gvk, schema};

use crate::auth::{API_AUDIENCE, User};
use crate::call::{Call, Target};
use crate::error::{method_not_allowed, path_not_found};
use crate::meta;
use crate::path::options::{Write, WriteOptions, read_object};
use crate::reply::Reply;
use crate::server::Server;

pub(crate) struct Review {
    pub group: &'static str,
    pub resource: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

const fn review(group: &'static str, resource: &'static str, kind: &'static str) -> Review {
    Review { group, resource, kind, namespaced: false }
}

/// All at v1.
pub(crate) const ALL: [Review; 6] = [
    review(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview"),
    review(AUTHENTICATION, "tokenreviews", "TokenReview"),
    Review { namespaced: true, ..review(AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview") },
    review(AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    review(AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    review(AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview"),
];

pub(crate) fn find(target: &Target) -> Option<&'static Review> {
    let named = |r: &&Review| r.group == target.group && r.resource == target.resource && target.version == "v1";
    ALL.iter().find(named)
}

impl Server {
    pub(crate) async fn review(&self, call: &Call, target: &Target, review: &Review) -> Result<Reply, ApiError> {
        if review.namespaced == target.namespace.is_empty() || !target.name.is_empty() {
            return Err(path_not_found());
        }
        if call.method != http::Method::POST {
            return Err(method_not_allowed());
        }
        // No table of a review: what accepts nothing else is refused.
        crate::negotiate::negotiate(call.header(http::header::ACCEPT), false)?;
        let options = WriteOptions::of(&call.query, Write::Create)?;
        let mut warnings = Vec::new();
        let gvk = Gvk::new(review.group, "v1", review.kind);
        let mut object = read_object(call, &gvk, schema::lookup(&gvk).as_ref(), options.validation, &mut warnings)?;
        if review.namespaced {
            place(&mut object, &target.namespace)?;
        }
        // A role that was granted a moment ago counts.
        self.cache.fresh().await?;
        object["status"] = match review.kind {
            "SelfSubjectReview" => json!({ "userInfo": user_info(&call.user) }),
            "TokenReview" => self.review_token(&object["spec"])?,
            "SelfSubjectRulesReview" => access::rules(&self.authorizer, &call.user, &object["spec"])?,
            _ => access::access(&self.authorizer, &call.user, review.kind, &object)?,
        };
        let created = skiff_base::time::now_rfc3339();
        meta::set(
            &mut object,
            "creationTimestamp",
            if review.kind == "SelfSubjectReview" { json!(created) } else { Value::Null },
        );
        let mut reply = Reply::value(201, &object);
        crate::path::warn_all(&mut reply, &warnings);
        Ok(reply)
    }

    fn review_token(&self, spec: &Value) -> Result<Value, ApiError> {
        let asked = meta::texts(&spec["audiences"]);
        let audiences = if asked.is_empty() { vec![API_AUDIENCE] } else { asked };
        let token = spec["token"].as_str().unwrap_or_default();
        if token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        Ok(match self.authenticate(token, &audiences) {
            Ok(known) => json!({"authenticated": true, "user": user_info(&known.user), "audiences": known.audiences}),
            Err(why) => json!({"authenticated": false, "error": why.to_string(), "user": {}}),
        })
    }
}

fn place(object: &mut Value, namespace: &str) -> Result<(), ApiError> {
    let given = meta::text(object, "namespace");
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta::set(object, "namespace", namespace);
    Ok(())
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
