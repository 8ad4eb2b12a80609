//! Which requests a webhook is asked about.

use k8s_openapi::api::admissionregistration::v1::RuleWithOperations;

/// A request as rules see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub operation: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespaced: bool,
}

impl Asked<'_> {
    pub fn matches_any(&self, rules: &[RuleWithOperations]) -> bool {
        rules.iter().any(|rule| self.matches(rule))
    }

    fn matches(&self, rule: &RuleWithOperations) -> bool {
        let among =
            |list: &Option<Vec<String>>, wanted: &str| list.iter().flatten().any(|one| one == "*" || one == wanted);
        let scope = match rule.scope.as_deref() {
            Some("Namespaced") => self.namespaced,
            Some("Cluster") => !self.namespaced,
            _ => true,
        };
        let resource = |one: &String| {
            let (resource, subresource) = one.split_once('/').unwrap_or((one, ""));
            (resource == "*" || resource == self.resource) && (subresource == "*" || subresource == self.subresource)
        };
        scope
            && among(&rule.operations, self.operation)
            && among(&rule.api_groups, self.group)
            && among(&rule.api_versions, self.version)
            && rule.resources.iter().flatten().any(resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn rules_match_requests() {
        let pod = Asked {
            operation: "CREATE",
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            namespaced: true,
        };
        let status = Asked { operation: "UPDATE", subresource: "status", ..pod };
        let node = Asked { resource: "nodes", namespaced: false, ..pod };
        let check = |rule: Value, expect: [bool; 3]| {
            let mut full =
                json!({"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
            full.as_object_mut().expect("an object").extend(rule.as_object().expect("an object").clone());
            let typed: RuleWithOperations = serde_json::from_value(full).expect("a rule");
            let rules = [typed];
            assert_eq!([pod, status, node].map(|asked| asked.matches_any(&rules)), expect, "{rule}");
        };
        check(json!({}), [true, false, false]);
        check(json!({"operations": ["UPDATE"]}), [false, false, false]);
        check(json!({"resources": ["pods/status"]}), [false, true, false]);
        check(json!({"resources": ["pods/*"]}), [true, true, false]);
        check(json!({"resources": ["*"]}), [true, false, true]);
        check(json!({"resources": ["*/*"]}), [true, true, true]);
        check(json!({"resources": ["*/status"]}), [false, true, false]);
        check(json!({"apiGroups": ["apps"]}), [false, false, false]);
        check(json!({"apiVersions": ["v2"]}), [false, false, false]);
        check(
            json!({"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "scope": "Cluster"}),
            [false, false, true],
        );
        check(json!({"resources": ["*"], "scope": "Namespaced"}), [true, false, false]);
    }
}
