//! Who may do what, until RBAC is here: a table of the identities that this project itself uses.
//! See `docs/decisions/0006-authorization-until-rbac.md`.

use skiff_api::ApiError;

use super::User;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// For requests that name no resource; then the fields above but `verb` are empty.
    pub path: &'a str,
}

/// Answers without asking who: health and version.
const PUBLIC: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];
/// What every authenticated user reads to find its way.
const DISCOVERY: [&str; 5] = ["/api", "/apis", "/openapi", "/.well-known", "/openid"];

/// Users that are parts of the control plane; they may do everything.
const COMPONENTS: [&str; 3] = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"];

const READ: &[&str] = &["get", "list", "watch"];
const CHANGE: &[&str] = &["create", "update", "patch"];

struct Rule {
    verbs: &'static [&'static str],
    group: &'static str,
    /// With the subresource behind a slash.
    resources: &'static [&'static str],
}

/// What a node's parts (kubelet, proxy, dns) do. Which node's objects they are is the node
/// authorizer's question, which comes with RBAC.
const NODE: &[Rule] = &[
    Rule {
        verbs: READ,
        group: "",
        resources: &[
            "nodes",
            "pods",
            "services",
            "endpoints",
            "configmaps",
            "secrets",
            "serviceaccounts",
            "namespaces",
            "persistentvolumes",
            "persistentvolumeclaims",
        ],
    },
    Rule { verbs: CHANGE, group: "", resources: &["nodes", "nodes/status", "events"] },
    Rule { verbs: &["create", "delete"], group: "", resources: &["pods"] },
    Rule { verbs: &["update", "patch"], group: "", resources: &["pods/status"] },
    Rule { verbs: &["create"], group: "", resources: &["serviceaccounts/token", "pods/eviction"] },
    Rule { verbs: CHANGE, group: "events.k8s.io", resources: &["events"] },
    Rule { verbs: READ, group: "discovery.k8s.io", resources: &["endpointslices"] },
    Rule { verbs: READ, group: "node.k8s.io", resources: &["runtimeclasses"] },
    Rule {
        verbs: &["get", "list", "watch", "create", "update", "patch", "delete"],
        group: "coordination.k8s.io",
        resources: &["leases"],
    },
    Rule { verbs: &["create"], group: "authentication.k8s.io", resources: &["tokenreviews"] },
    Rule { verbs: &["create"], group: "authorization.k8s.io", resources: &["subjectaccessreviews"] },
];

/// Names of the node's parts that have identities of their own.
const NODE_PARTS: [&str; 2] = ["system:kube-proxy", "system:kube-dns"];

/// What everyone who is authenticated may do.
const EVERYONE: &[Rule] = &[
    Rule {
        verbs: &["create"],
        group: "authorization.k8s.io",
        resources: &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    },
    Rule { verbs: &["create"], group: "authentication.k8s.io", resources: &["selfsubjectreviews"] },
];

fn below(path: &str, roots: &[&str]) -> bool {
    roots.iter().any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn allowed_by(rules: &[Rule], asked: &Attributes<'_>) -> bool {
    let matches = |resource: &&str| match resource.split_once('/') {
        Some((resource, sub)) => resource == asked.resource && sub == asked.subresource,
        None => *resource == asked.resource && asked.subresource.is_empty(),
    };
    rules.iter().any(|r| r.group == asked.group && r.verbs.contains(&asked.verb) && r.resources.iter().any(matches))
}

fn allowed(user: &User, asked: &Attributes<'_>) -> bool {
    if user.is_in("system:masters") || COMPONENTS.contains(&user.name.as_str()) {
        return true;
    }
    let authenticated = !user.is_anonymous();
    if !asked.path.is_empty() {
        return below(asked.path, &PUBLIC) || (authenticated && (asked.path == "/" || below(asked.path, &DISCOVERY)));
    }
    let is_node = user.is_in("system:nodes") || NODE_PARTS.contains(&user.name.as_str());
    (authenticated && allowed_by(EVERYONE, asked)) || (is_node && allowed_by(NODE, asked))
}

pub(crate) fn authorize(user: &User, asked: &Attributes<'_>) -> Result<(), ApiError> {
    if allowed(user, asked) { Ok(()) } else { Err(forbidden(user, asked)) }
}

pub(crate) fn is_allowed(user: &User, asked: &Attributes<'_>) -> bool {
    allowed(user, asked)
}

/// Upstream's refusal.
fn forbidden(user: &User, asked: &Attributes<'_>) -> ApiError {
    if !asked.path.is_empty() {
        return ApiError::new(
            403,
            "Forbidden",
            format!("forbidden: User {:?} cannot {} path {:?}", user.name, asked.verb, asked.path),
        );
    }
    let resource = match asked.subresource {
        "" => asked.resource.to_owned(),
        sub => format!("{}/{sub}", asked.resource),
    };
    let place = match asked.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
        user.name, asked.verb, asked.group
    );
    ApiError::forbidden(asked.group, asked.resource, asked.name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_what() {
        let admin = User::new("system:admin", &["system:masters"]);
        let namesake = User::new("system:admin", &["system:authenticated"]);
        let node = User::new("system:node:a", &["system:nodes", "system:authenticated"]);
        let account = User::new("system:serviceaccount:a:b", &["system:serviceaccounts", "system:authenticated"]);
        let nobody = User::anonymous();
        let resource = |verb, group, resource, subresource| Attributes {
            verb,
            group,
            resource,
            subresource,
            namespace: "a",
            ..Attributes::default()
        };
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        for (user, asked, expect) in [
            (&admin, resource("delete", "", "secrets", ""), true),
            (&admin, path("/metrics"), true),
            (&namesake, resource("get", "", "secrets", ""), false),
            (&node, resource("list", "", "pods", ""), true),
            (&node, resource("patch", "", "pods/status", ""), false),
            (&node, resource("patch", "", "pods", "status"), true),
            (&node, resource("delete", "", "secrets", ""), false),
            (&node, resource("update", "coordination.k8s.io", "leases", ""), true),
            (&account, resource("get", "", "secrets", ""), false),
            (&account, resource("create", "authorization.k8s.io", "selfsubjectaccessreviews", ""), true),
            (&account, path("/apis/apps/v1"), true),
            (&account, path("/apisx"), false),
            (&nobody, path("/readyz"), true),
            (&nobody, path("/version"), true),
            (&nobody, path("/api"), false),
            (&nobody, resource("list", "", "pods", ""), false),
        ] {
            assert_eq!(is_allowed(user, &asked), expect, "{} {asked:?}", user.name);
        }
        assert_eq!(
            forbidden(&nobody, &resource("list", "", "pods", "")).message,
            r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "a""#
        );
    }
}
