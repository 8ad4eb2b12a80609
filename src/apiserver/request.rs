//! What a request asks for, in the words that permissions and audit policies use.

use http::Method;
use skiff_api::names::path_segment;
use skiff_api::selector::FieldSelector;

use crate::auth::Attributes;
use crate::call::{Call, Target};

/// Upstream's `RequestInfo`.
pub(crate) struct RequestInfo {
    /// Empty for a method that no resource answers.
    pub verb: &'static str,
    /// `None`: the request names no resource.
    pub target: Option<Target>,
    path: String,
    namespace: String,
    name: String,
    fields: Option<FieldSelector>,
}

impl RequestInfo {
    pub fn of(call: &Call) -> Self {
        let Some(target) = Target::of(&call.segments) else {
            return Self {
                verb: verb_of_method(&call.method),
                target: None,
                path: call.path.clone(),
                namespace: String::new(),
                name: String::new(),
                fields: None,
            };
        };
        let verb = verb(call, &target);
        let fields = match verb {
            "list" | "watch" | "deletecollection" => call.query.get("fieldSelector"),
            _ => None,
        };
        // What can't be read is refused by the list itself.
        let fields = fields.and_then(|text| FieldSelector::parse(text).ok());
        // What many objects are named by, is no name.
        let one = fields.as_ref().filter(|_| verb != "deletecollection");
        let selected = one.and_then(|fields| fields.requires_exact("metadata.name"));
        let selected = selected.filter(|name| path_segment(name).is_empty()).unwrap_or_default().to_owned();
        // A namespace is in itself, as far as permissions go.
        let namespace = match target.resource.as_str() {
            "namespaces" if target.group.is_empty() => target.name.clone(),
            _ => target.namespace.clone(),
        };
        let name = if target.name.is_empty() { selected } else { target.name.clone() };
        Self { verb, path: String::new(), namespace, name, fields, target: Some(target) }
    }

    pub fn attributes(&self) -> Attributes<'_> {
        let Some(target) = &self.target else {
            return Attributes { verb: self.verb, path: &self.path, ..Attributes::default() };
        };
        Attributes {
            verb: self.verb,
            group: &target.group,
            resource: &target.resource,
            subresource: &target.subresource,
            namespace: &self.namespace,
            name: &self.name,
            fields: self.fields.as_ref(),
            path: "",
        }
    }
}

fn verb(call: &Call, target: &Target) -> &'static str {
    match (&call.method, target.name.is_empty()) {
        (&Method::GET, true) if call.query.flag("watch") => "watch",
        (&Method::GET | &Method::HEAD, true) => "list",
        (&Method::GET | &Method::HEAD, false) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "deletecollection",
        (&Method::DELETE, false) => "delete",
        _ => "",
    }
}

fn verb_of_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::HEAD => "head",
        _ => "options",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use crate::auth::User;

    #[test]
    fn names_and_verbs_are_upstreams() {
        let check = |method: &str, uri: &str, expect: (&str, &str)| {
            let method = method.parse().expect("a method");
            let uri = uri.parse().expect("a path");
            let call = Call::new(method, &uri, HeaderMap::new(), Bytes::new(), Arc::new(User::anonymous()));
            let info = RequestInfo::of(&call);
            assert_eq!((info.attributes().verb, info.attributes().name), expect, "{uri}");
        };
        let pods = "/api/v1/namespaces/a/pods";
        check("GET", &format!("{pods}?fieldSelector=metadata.name%3Dp"), ("list", "p"));
        check("GET", &format!("{pods}?watch&fieldSelector=metadata.name%3Dp"), ("watch", "p"));
        check("GET", &format!("{pods}?fieldSelector=&fieldSelector=metadata.name%3Dp"), ("list", ""));
        check("DELETE", &format!("{pods}?fieldSelector=metadata.name%3Dp"), ("deletecollection", ""));
        check("GET", &format!("{pods}/p?watch=true"), ("get", "p"));
        check("HEAD", &format!("{pods}/p"), ("get", "p"));
    }
}
