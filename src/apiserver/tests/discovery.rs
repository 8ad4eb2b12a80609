//! What is served against what upstream serves: `docs/api-resources.md` is written here (`UPDATE_GOLDEN=1`), and nothing
//! of a v1 group may be missing or differ.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::Cluster;

/// See the head of the file.
const UPSTREAM: &str = include_str!("upstream/discovery.txt");
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const PLAIN: &str = "create,delete,deletecollection,get,list,patch,update,watch";
/// Stored in another version than upstream's, which keeps these readable for its release before.
const STORED_ELSEWHERE: [&str; 3] =
    ["customresourcedefinitions", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];

/// One resource or subresource, as both sides tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// With group and version where they are another's.
    kind: String,
    singular: String,
    namespaced: bool,
    short_names: String,
    categories: String,
    verbs: String,
    hash: String,
}

/// By group/version (`core/v1`), then resource.
type Lines = BTreeMap<(String, String), Line>;

/// Groups with their versions, in order.
type Groups = Vec<(String, Vec<String>)>;

fn upstream() -> (Groups, Lines) {
    let (mut groups, mut lines) = (Vec::new(), Lines::new());
    for text in UPSTREAM.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = text.split(' ').map(|word| if word == "-" { "" } else { word }).collect();
        match words.as_slice() {
            [group, versions] => {
                let group = group.trim_start_matches('.').to_owned();
                groups.push((group, versions.split(',').map(str::to_owned).collect()));
            }
            [version, resource, kind, singular, scope, short_names, categories, verbs, hash] => {
                let own = |text: &str| text.to_owned();
                let line = Line {
                    kind: own(kind),
                    singular: own(singular),
                    namespaced: *scope == "N",
                    short_names: own(short_names),
                    categories: own(categories),
                    verbs: own(if *verbs == "all" { PLAIN } else { verbs }),
                    hash: own(hash),
                };
                lines.insert((own(version), own(resource)), line);
            }
            _ => panic!("{text}"),
        }
    }
    (groups, lines)
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn joined(value: &Value, key: &str) -> String {
    let words = value[key].as_array().map(|list| list.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    words.unwrap_or_default().join(",")
}

fn kind_of(group: &str, version: &str, kind: &str) -> String {
    if version.is_empty() { kind.to_owned() } else { format!("{group}/{version}/{kind}") }
}

/// From the documents of single groups and versions.
async fn by_documents(cluster: &Cluster) -> (Groups, Lines) {
    let mut groups: Groups = vec![("core".to_owned(), vec!["v1".to_owned()])];
    for group in cluster.get("/apis").await["groups"].as_array().expect("groups") {
        let versions: Vec<String> =
            group["versions"].as_array().expect("versions").iter().map(|v| text(v, "version")).collect();
        assert_eq!(group["preferredVersion"]["version"].as_str(), Some(versions[0].as_str()), "{group}");
        groups.push((text(group, "name"), versions));
    }
    let mut lines = Lines::new();
    for (group, versions) in &groups {
        for version in versions {
            let path = if group == "core" { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
            for resource in cluster.get(&path).await["resources"].as_array().expect("resources") {
                let line = Line {
                    kind: kind_of(&text(resource, "group"), &text(resource, "version"), &text(resource, "kind")),
                    singular: text(resource, "singularName"),
                    namespaced: resource["namespaced"] == true,
                    short_names: joined(resource, "shortNames"),
                    categories: joined(resource, "categories"),
                    verbs: joined(resource, "verbs"),
                    hash: text(resource, "storageVersionHash"),
                };
                lines.insert((format!("{group}/{version}"), text(resource, "name")), line);
            }
        }
    }
    (groups, lines)
}

/// From the two aggregated documents, which tell no hash.
async fn aggregated(cluster: &Cluster) -> (Groups, Lines) {
    let (mut groups, mut lines) = (Groups::new(), Lines::new());
    let kind = |value: &Value| {
        let kind = &value["responseKind"];
        kind_of(&text(kind, "group"), &text(kind, "version"), &text(kind, "kind"))
    };
    for path in ["/api", "/apis"] {
        let answer = cluster.ask_with("GET", path, Value::Null, &[("accept", AGGREGATED)]).await.value();
        for item in answer["items"].as_array().expect("items") {
            let group = item["metadata"]["name"].as_str().unwrap_or("core").to_owned();
            let mut versions = Vec::new();
            for version in item["versions"].as_array().expect("versions") {
                assert_eq!(version["freshness"], "Current");
                let key = |name: String| (format!("{group}/{}", text(version, "version")), name);
                versions.push(text(version, "version"));
                for resource in version["resources"].as_array().expect("resources") {
                    let name = text(resource, "resource");
                    let whole = Line {
                        kind: kind(resource),
                        singular: text(resource, "singularResource"),
                        namespaced: resource["scope"] == "Namespaced",
                        short_names: joined(resource, "shortNames"),
                        categories: joined(resource, "categories"),
                        verbs: joined(resource, "verbs"),
                        hash: String::new(),
                    };
                    for sub in resource["subresources"].as_array().into_iter().flatten() {
                        let line = Line {
                            kind: kind(sub),
                            verbs: joined(sub, "verbs"),
                            singular: String::new(),
                            short_names: String::new(),
                            categories: String::new(),
                            ..whole.clone()
                        };
                        lines.insert(key(format!("{name}/{}", text(sub, "subresource"))), line);
                    }
                    lines.insert(key(name), whole);
                }
            }
            groups.push((group, versions));
        }
    }
    (groups, lines)
}

/// `v1`, `v2`: what upstream serves without being asked to.
fn is_stable(version: &str) -> bool {
    version.rsplit('/').next().is_some_and(|v| !v.contains("alpha") && !v.contains("beta"))
}

/// Without what is no API of a v1 group, and without hashes that can't agree.
fn comparable((groups, lines): &(Groups, Lines)) -> (Groups, Lines) {
    let groups = groups.iter().filter_map(|(group, versions)| {
        let versions: Vec<String> = versions.iter().filter(|v| is_stable(v)).cloned().collect();
        (!versions.is_empty()).then(|| (group.clone(), versions))
    });
    let mut lines: Lines = lines
        .iter()
        .filter(|((version, _), _)| is_stable(version))
        .map(|(k, line)| (k.clone(), line.clone()))
        .collect();
    for ((_, resource), line) in &mut lines {
        if STORED_ELSEWHERE.contains(&resource.as_str()) {
            line.hash.clear();
        }
    }
    (groups.collect(), lines)
}

fn page(upstream: &(Groups, Lines), ours: &Lines) -> String {
    let mut page = String::from(
        "# Resources and verbs\n\n\
         Everything in the discovery of Kubernetes 1.36, and what of it Skiff serves. A test writes this page from both sides\n\
         (`UPDATE_GOLDEN=1 cargo test -p skiff-apiserver discovery`) and fails when anything of a stable version is missing or\n\
         differs: names, kinds, scopes, short names, categories, verbs, preferred versions. *all* stands for the eight verbs\n\
         of a plain resource: create, delete, deletecollection, get, list, patch, update, watch.\n",
    );
    for (group, versions) in &upstream.0 {
        for version in versions {
            let name = format!("{group}/{version}");
            let title = if group == "core" { version } else { &name };
            let _ = write!(
                page,
                "\n## {title}\n\n| resource | kind | scope | short names | upstream | Skiff |\n|---|---|---|---|---|---|\n"
            );
            for ((of, resource), line) in upstream.1.iter().filter(|((of, _), _)| *of == name) {
                let scope = if line.namespaced { "namespace" } else { "cluster" };
                let shown = |verbs: &str| if verbs == PLAIN { "all".to_owned() } else { verbs.replace(',', ", ") };
                let served = ours.get(&(of.clone(), resource.clone()));
                let served = served.map_or("not served".to_owned(), |line| shown(&line.verbs));
                let verbs = shown(&line.verbs);
                let short = line.short_names.replace(',', ", ");
                let _ = writeln!(page, "| {resource} | {} | {scope} | {short} | {verbs} | {served} |", line.kind);
            }
        }
    }
    page
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_discovery_is_upstreams() {
    let upstream = upstream();
    let cluster = Cluster::start().await;
    let (ours, together) = (by_documents(&cluster).await, aggregated(&cluster).await);
    cluster.stop().await;
    let expected = comparable(&upstream);
    for (key, line) in &expected.1 {
        assert_eq!(comparable(&ours).1.get(key), Some(line), "{key:?}");
    }
    assert_eq!(comparable(&ours), expected, "resources that upstream does not have, or another order of groups");

    let without_hashes = |(groups, mut lines): (Groups, Lines)| {
        lines.values_mut().for_each(|line| line.hash.clear());
        (groups, lines)
    };
    assert_eq!(together, without_hashes(ours.clone()), "both forms of discovery tell the same");

    let page = page(&upstream, &ours.1);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api-resources.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).expect("write the page");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/api-resources.md is out of date; run the test with UPDATE_GOLDEN=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn component_statuses_are_made_for_the_request() {
    let cluster = Cluster::start().await;
    let list = cluster.ask_with("GET", "/api/v1/componentstatuses", Value::Null, &[]).await;
    assert!(list.header("warning").contains("v1 ComponentStatus is deprecated in v1.19+"), "{:?}", list.headers);
    let list = list.value();
    assert_eq!((text(&list, "kind"), list["items"].as_array().map(Vec::len)), ("ComponentStatusList".into(), Some(1)));
    assert_eq!(list["items"][0]["conditions"][0]["status"], "True");
    let name = list["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let one = cluster.get(&format!("/api/v1/componentstatuses/{name}")).await;
    assert_eq!(text(&one, "kind"), "ComponentStatus");
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = cluster.ask_with("GET", "/api/v1/componentstatuses", Value::Null, &table).await.value();
    assert_eq!(table["rows"][0]["cells"], serde_json::json!([name, "Healthy", "ok", ""]));
    let (status, answer) = cluster.ask("GET", "/api/v1/componentstatuses/nobody", Value::Null).await;
    assert_eq!((status, text(&answer, "message")), (404, "componentstatus \"nobody\" not found".into()));
    let none = cluster.get("/api/v1/componentstatuses?labelSelector=a%3Db").await;
    assert_eq!(none["items"], serde_json::json!([]));
    assert_eq!(cluster.ask("DELETE", &format!("/api/v1/componentstatuses/{name}"), Value::Null).await.0, 405);
    cluster.stop().await;
}
