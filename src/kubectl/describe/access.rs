//! Who may do what: service accounts, roles, bindings.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::date;
use super::page::Page;
use super::pod::items;
use crate::print::pairs;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn service_account(page: &mut Page, object: &Value) {
    super::generic::head(page, object);
    page.several("Image pull secrets", items(&object["imagePullSecrets"]).map(|secret| text(&secret["name"])));
}

pub fn role(page: &mut Page, object: &Value) {
    page.field("Name", text(&object["metadata"]["name"]));
    page.map("Labels", &object["metadata"]["labels"]);
    page.annotations("Annotations", &object["metadata"]["annotations"]);
    page.line("PolicyRule:");
    page.line("  Resources\tNon-Resource URLs\tResource Names\tVerbs");
    page.line("  ---------\t-----------------\t--------------\t-----");
    rules(&object["rules"]).iter().for_each(|row| page.line(format!("  {}", row.cells().join("\t"))));
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.join(" "))
}

/// A rule about one resource, or one path.
#[derive(Debug, Default, PartialEq)]
pub struct Row {
    /// `deployments.apps/scale`
    what: String,
    urls: Vec<String>,
    names: Vec<String>,
    verbs: Vec<String>,
}

impl Row {
    /// Resource, paths, names, verbs.
    pub fn cells(&self) -> [String; 4] {
        [self.what.clone(), list(&self.urls), list(&self.names), list(&self.verbs)]
    }
}

/// The rules taken apart, and those about the same put together, in upstream's order: by the text of the Go type.
pub fn rules(rules: &Value) -> Vec<Row> {
    let texts = |rule: &Value, field: &str| items(&rule[field]).map(text).collect::<Vec<_>>();
    let mut found: BTreeMap<(String, String, Option<String>), Row> = BTreeMap::new();
    let mut rows: Vec<(String, Row)> = Vec::new();
    for rule in items(rules) {
        let (verbs, names) = (texts(rule, "verbs"), texts(rule, "resourceNames"));
        let names: Vec<Option<String>> =
            if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                for name in &names {
                    let row = found.entry((group.clone(), resource.clone(), name.clone())).or_default();
                    row.what = qualified(&resource, &group);
                    row.names = name.iter().cloned().collect();
                    row.verbs.extend(verbs.clone());
                }
            }
        }
        for url in texts(rule, "nonResourceURLs") {
            for verb in &verbs {
                let row = Row { urls: vec![url.clone()], verbs: vec![verb.clone()], ..Row::default() };
                rows.push((format!("{} [] [] [] [{url}]", list(&row.verbs)), row));
            }
        }
    }
    rows.extend(found.into_iter().map(|((group, resource, _), row)| {
        (format!("{} [{group}] [{resource}] {} []", list(&row.verbs), list(&row.names)), row)
    }));
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows.into_iter().map(|(_, row)| row).collect()
}

fn qualified(resource: &str, group: &str) -> String {
    let (name, subresource) = resource.split_once('/').map_or((resource, None), |(name, sub)| (name, Some(sub)));
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    let subresource = subresource.map(|sub| format!("/{sub}")).unwrap_or_default();
    format!("{name}{group}{subresource}")
}

pub fn binding(page: &mut Page, object: &Value) {
    page.field("Name", text(&object["metadata"]["name"]));
    page.map("Labels", &object["metadata"]["labels"]);
    page.annotations("Annotations", &object["metadata"]["annotations"]);
    page.line("Role:");
    page.field("  Kind", text(&object["roleRef"]["kind"]));
    page.field("  Name", text(&object["roleRef"]["name"]));
    page.line("Subjects:\n  Kind\tName\tNamespace\n  ----\t----\t---------");
    for subject in items(&object["subjects"]) {
        let [kind, name, namespace] = ["kind", "name", "namespace"].map(|field| text(&subject[field]));
        page.line(format!("  {kind}\t{name}\t{namespace}"));
    }
}

pub fn signing_request(page: &mut Page, object: &Value) {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    page.field("Name", text(&metadata["name"]));
    page.field("Labels", pairs(&metadata["labels"]));
    page.field("Annotations", pairs(&metadata["annotations"]));
    page.field("CreationTimestamp", date(&metadata["creationTimestamp"]));
    page.field("Requesting User", text(&spec["username"]));
    page.field("Signer", text(&spec["signerName"]));
    if let Some(seconds) = spec["expirationSeconds"].as_i64() {
        let start = Timestamp::UNIX_EPOCH;
        let end = Timestamp::from_second(seconds).unwrap_or(start);
        page.field("Requested Duration", skiff_api::duration::human_since(start, end));
    }
    page.field("Status", state(object));
    let pem = STANDARD.decode(text(&spec["request"])).unwrap_or_default();
    let Ok(request) = skiff_pki::Request::parse(&pem) else {
        page.line("Error parsing CSR: the request is no PKCS #10 in PEM");
        return;
    };
    page.line("Subject:");
    page.line(format!("\tCommon Name:\t{}\n\tSerial Number:\t", request.common_name));
    let under = |page: &mut Page, label: &str, values: &[String]| {
        for (nth, value) in values.iter().enumerate() {
            page.line(if nth == 0 { format!("\t{label}:\t{value}") } else { format!("\t\t{value}") });
        }
    };
    under(page, "Organization", &request.organizations);
    let ips: Vec<String> = request.ips.iter().map(ToString::to_string).collect();
    if !request.dns_names.is_empty() || !ips.is_empty() {
        page.line("Subject Alternative Names:");
        under(page, "DNS Names", &request.dns_names);
        under(page, "IP Addresses", &ips);
    }
}

/// `Approved,Issued` and the like.
fn state(object: &Value) -> String {
    let has = |ty: &str| items(&object["status"]["conditions"]).any(|condition| condition["type"] == ty);
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if object["status"]["certificate"].as_str().is_some_and(|certificate| !certificate.is_empty()) {
        state.push_str(",Issued");
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_about_the_same_are_one() {
        let mut page = Page::default();
        role(
            &mut page,
            &json!({"metadata": {"name": "r"}, "rules": [
                {"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods", "deployments/scale"]},
                {"verbs": ["watch"], "apiGroups": [""], "resources": ["pods"]},
                {"verbs": ["get"], "nonResourceURLs": ["/healthz"]}]}),
        );
        let text = page.text();
        let rows: Vec<String> =
            text.lines().skip(6).map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            rows,
            [
                "pods [] [] [get list watch]",
                "deployments/scale [] [] [get list]",
                "deployments.apps/scale [] [] [get list]",
                "pods.apps [] [] [get list]",
                "[/healthz] [] [get]",
            ]
        );
    }
}
