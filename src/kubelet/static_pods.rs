//! Pods whose manifests lie in a directory of the node: they run with no API server, which gets a mirror of each, so that
//! it can be seen. The mirror has the pod's status; who deletes it gets another one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use skiff_api::resource::Gvk;
use skiff_api::{decode, kinds, schema, yaml};
use skiff_base::{chain, time};
use skiff_client::DeleteOptions;
use skiff_linux::inotify::Inotify;
use tokio::io::unix::AsyncFd;

use crate::context::Context;
use crate::pod::{self, CONFIG_HASH, CONFIG_MIRROR, CONFIG_SEEN, CONFIG_SOURCE};
use crate::pods::Pods;

/// Upstream's, for what could not be told.
const AGAIN: Duration = Duration::from_secs(20);
/// An editor writes a file in several steps.
const SETTLE: Duration = Duration::from_millis(100);

/// Namespace and name.
type Name = (String, String);

fn name_of(pod: &Pod) -> Name {
    (pod::namespace(pod).to_owned(), pod::name(pod).to_owned())
}

/// The pods of the directory, and what is wrong with files. Of two pods of one name the first file's counts. An error
/// says nothing of the pods: they stay as they are.
pub(crate) fn read(directory: &Path, node_name: &str) -> io::Result<(Vec<Arc<Pod>>, Vec<String>)> {
    let (mut pods, mut wrong): (BTreeMap<Name, Arc<Pod>>, Vec<String>) = Default::default();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    for file in files {
        let hidden = file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden || !file.is_file() {
            continue;
        }
        let text = match std::fs::read(&file) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|e| e.to_string()),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match text.and_then(|text| parse(&text, &file, node_name)) {
            Ok(pod) => match pods.entry(name_of(&pod)) {
                std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(Arc::new(pod))),
                std::collections::btree_map::Entry::Occupied(_) => {
                    wrong.push(format!("{}: another file has a pod of that name", file.display()));
                }
            },
            Err(why) => wrong.push(format!("{}: {why}", file.display())),
        }
    }
    Ok((pods.into_values().collect(), wrong))
}

fn parse(text: &str, file: &Path, node_name: &str) -> Result<Pod, String> {
    let mut documents = yaml::documents(text).map_err(|e| e.to_string())?.into_iter();
    let (Some(document), None) = (documents.next(), documents.next()) else {
        return Err("a file holds one pod".to_owned());
    };
    let mut value = document.value;
    if value["apiVersion"] != "v1" || value["kind"] != "Pod" {
        return Err(format!("{}/{} is no v1/Pod", value["apiVersion"], value["kind"]));
    }
    let gvk = Gvk::new("", "v1", "Pod");
    let ty = schema::lookup(&gvk).ok_or("pods are not known")?;
    decode::conform(value.clone(), &gvk, &ty)
        .map_err(|e| format!("couldn't parse as pod({}), please check config file", e.message))?;
    let Value::Object(metadata) = &mut value["metadata"] else { return Err("it has no metadata".to_owned()) };
    let name = metadata.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).ok_or("it has no name")?;
    metadata.insert("name".to_owned(), format!("{name}-{}", node_name.to_lowercase()).into());
    if metadata.get("namespace").and_then(Value::as_str).is_none_or(str::is_empty) {
        metadata.insert("namespace".to_owned(), "default".into());
    }
    metadata.remove("resourceVersion");
    let row = kinds::builtin().into_iter().find(|row| &*row.gvr.resource == "pods" && row.gvr.group.is_empty());
    let row = row.ok_or("pods are not known")?;
    row.strategy.default(&mut value);
    if let Some(cause) = row.strategy.validate(&value).first() {
        return Err(format!("{}: {}", cause.field, cause.message));
    }
    value["status"] = serde_json::json!({"phase": "Pending"});
    let seed = format!("{node_name}\n{}\n{value}", file.display());
    let hash: String = Sha256::digest(seed).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let mut pod = Pod::deserialize(&value).map_err(|e| e.to_string())?;
    let spec = pod.spec.as_mut().ok_or("it has no spec")?;
    spec.node_name = Some(node_name.to_owned());
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    pod.metadata.uid = Some(hash.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    for (key, text) in
        [(CONFIG_HASH, hash), (CONFIG_SEEN, time::rfc3339(time::now())), (CONFIG_SOURCE, "file".to_owned())]
    {
        annotations.insert(key.to_owned(), text);
    }
    Ok(pod)
}

/// What the API gets to see of a static pod.
fn mirror(pod: &Pod, node_name: &str, node_uid: &str) -> Pod {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.status = None;
    mirror.metadata.annotations.get_or_insert_default().insert(CONFIG_MIRROR.to_owned(), pod::uid(pod).0);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node_name.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    mirror
}

#[derive(Debug, PartialEq)]
enum Action {
    /// Ends a pod whose file is gone or another one now.
    End(Arc<Pod>),
    Begin(Arc<Pod>),
    Mirror(Arc<Pod>),
    Unmirror(Arc<Pod>),
}

/// `wanted` is what the files say, `live` what still runs or ends, `mirrors` what the API has.
fn plan(wanted: &[Arc<Pod>], live: &[Arc<Pod>], mirrors: &[Arc<Pod>]) -> Vec<Action> {
    let mut actions = Vec::new();
    let of = |all: &[Arc<Pod>], name: &Name| all.iter().find(|pod| name_of(pod) == *name).cloned();
    for pod in live {
        if !wanted.iter().any(|w| pod::uid(w) == pod::uid(pod)) {
            actions.push(Action::End(pod.clone()));
        }
    }
    for pod in wanted {
        let name = name_of(pod);
        if of(live, &name).is_none() {
            actions.push(Action::Begin(pod.clone()));
        }
        match of(mirrors, &name) {
            None => actions.push(Action::Mirror(pod.clone())),
            Some(mirror) if pod::is_deleted(&mirror) || pod::mirror_of(&mirror) != Some(&pod::uid(pod).0) => {
                actions.push(Action::Unmirror(mirror));
            }
            Some(_) => {}
        }
    }
    for mirror in mirrors {
        let name = name_of(mirror);
        // The mirror of a pod that ends shows how it does.
        if of(wanted, &name).is_none() && of(live, &name).is_none() {
            actions.push(Action::Unmirror(mirror.clone()));
        }
    }
    actions
}

/// Follows the directory until the agent stops.
pub(crate) async fn keep(ctx: Arc<Context>, pods: Arc<Pods>, directory: PathBuf, node_uid: String) {
    let stop = ctx.scope.token().clone();
    let watch = match Inotify::follow(&directory) {
        Ok(watch) => watch,
        Err(error) => {
            return tracing::error!(directory = %directory.display(), %error, "static pods can't be followed");
        }
    };
    let mut told = Vec::new();
    loop {
        let (at, node_name) = (directory.clone(), ctx.options.node_name.clone());
        let found = tokio::task::spawn_blocking(move || read(&at, &node_name)).await;
        let (wanted, wrong, mut again) = match found.map_err(io::Error::other).and_then(|read| read) {
            Ok((wanted, wrong)) => (wanted, wrong, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), vec![error.to_string()], false),
            Err(error) => (pods.statics(), vec![error.to_string()], true),
        };
        for why in wrong.iter().filter(|why| !told.contains(*why)) {
            tracing::error!(error = why, "a manifest of a static pod is no use");
        }
        told = wrong;
        for action in plan(&wanted, &pods.statics(), &pods.mirrors()) {
            again |= !apply(&ctx, &pods, &node_uid, action).await;
        }
        let retry = async {
            if !again {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(AGAIN).await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed(&watch) => {}
            () = pods.statics_changed() => {}
            () = retry => {}
        }
    }
}

async fn changed(watch: &AsyncFd<Inotify>) {
    if let Err(error) = Inotify::changed(watch).await {
        tracing::error!(%error, "static pods can't be followed any more");
        return std::future::pending().await;
    }
    tokio::time::sleep(SETTLE).await;
}

/// False where it is to be tried again.
async fn apply(ctx: &Arc<Context>, pods: &Arc<Pods>, node_uid: &str, action: Action) -> bool {
    let (what, pod, done) = match action {
        Action::End(pod) => {
            pods.end_static(&pod);
            return true;
        }
        Action::Begin(pod) => {
            pods.begin_static(&pod);
            return true;
        }
        Action::Mirror(pod) => {
            let mirror = mirror(&pod, &ctx.options.node_name, node_uid);
            let made = ctx.client.namespaced::<Pod>(pod::namespace(&pod)).create(&mirror).await.map(drop);
            ("made", pod, made)
        }
        Action::Unmirror(mirror) => {
            let options =
                DeleteOptions { grace_period_s: Some(0), uid: mirror.metadata.uid.clone(), ..DeleteOptions::default() };
            let api = ctx.client.namespaced::<Pod>(pod::namespace(&mirror));
            ("removed", mirror.clone(), api.delete(pod::name(&mirror), &options).await)
        }
    };
    match done {
        Ok(()) => true,
        // The cache is about to tell.
        Err(e) if e.is_not_found() || e.is_conflict() || e.is_already_exists() => true,
        Err(e) => {
            tracing::warn!(pod = %pod::format(&pod), error = %chain(&e), "a mirror can't be {what}, trying again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {a: b}}\nspec: {containers: [{name: c, image: i}]}\n";

    #[test]
    fn manifests() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("written");
        write("web.yaml", MANIFEST);
        write("web.yml", MANIFEST);
        write(".hidden", "nonsense");
        write("none.yaml", "a: [");
        write("two.yaml", &format!("{MANIFEST}---\n{MANIFEST}"));
        write("kind.yaml", "apiVersion: v1\nkind: Service\n");
        write("bad.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: []}");
        write("name.yaml", &MANIFEST.replace("name: web", "name: y"));
        write("namespace.yaml", &MANIFEST.replace("name: web", "name: other, namespace: on"));
        std::fs::create_dir(directory.path().join("sub")).expect("made");
        let (pods, wrong) = read(directory.path(), "node-1").expect("read");
        let [pod] = pods.as_slice() else { panic!("{pods:?}") };
        assert_eq!((pod::name(pod), pod::namespace(pod)), ("web-node-1", "default"));
        assert!(pod::is_static(pod) && pod::is_critical(pod));
        assert_eq!(pod::restart_policy(pod), pod::RestartPolicy::Always, "defaults are filled in");
        for (file, expect) in [
            ("bad.yaml", "spec.containers: Required value"),
            ("kind.yaml", "is no v1/Pod"),
            ("name.yaml", "cannot unmarshal bool into Go struct field ObjectMeta.metadata.name of type string"),
            (
                "namespace.yaml",
                "cannot unmarshal bool into Go struct field ObjectMeta.metadata.namespace of type string",
            ),
            ("none.yaml", "yaml"),
            ("two.yaml", "one pod"),
            ("web.yml", "of that name"),
        ] {
            assert!(wrong.iter().any(|w| w.contains(file) && w.contains(expect)), "{file}: {wrong:?}");
        }
        assert_eq!(wrong.len(), 7, "{wrong:?}");
        let (again, _) = read(directory.path(), "node-1").expect("read");
        assert_eq!(pod::uid(&again[0]), pod::uid(pod), "the same file is the same pod");
        write("web.yaml", &MANIFEST.replace("image: i", "image: j"));
        let (other, _) = read(directory.path(), "node-1").expect("read");
        assert_ne!(pod::uid(&other[0]), pod::uid(pod), "another content is another pod");
        let mirror = mirror(pod, "node-1", "n");
        assert_eq!(pod::mirror_of(&mirror), Some(pod::uid(pod).0.as_str()));
        assert_eq!((mirror.metadata.uid, mirror.status), (None, None));
    }

    #[test]
    fn what_is_to_be_done() {
        let pod = |text: &str| Arc::new(parse(text, Path::new("/f"), "n").expect("a pod"));
        let (one, changed) = (pod(MANIFEST), pod(&MANIFEST.replace("image: i", "image: j")));
        let own = |pod: &Arc<Pod>| Arc::new(mirror(pod, "n", "uid"));
        let mut going = mirror(&one, "n", "uid");
        going.metadata.deletion_timestamp = Some(pod::time(time::now()));
        let going = Arc::new(going);
        let (wanted, none) = (vec![one.clone()], Vec::new());
        for (what, wanted, live, mirrors, expected) in [
            ("a new file", &wanted, vec![], vec![], vec![Action::Begin(one.clone()), Action::Mirror(one.clone())]),
            ("all is well", &wanted, vec![one.clone()], vec![own(&one)], vec![]),
            ("its mirror is deleted", &wanted, vec![one.clone()], vec![going.clone()], vec![Action::Unmirror(going)]),
            (
                "the file changed",
                &vec![changed.clone()],
                vec![one.clone()],
                vec![own(&one)],
                vec![Action::End(one.clone()), Action::Unmirror(own(&one))],
            ),
            (
                "the old one is gone",
                &vec![changed.clone()],
                vec![],
                vec![],
                vec![Action::Begin(changed.clone()), Action::Mirror(changed.clone())],
            ),
            ("the file is gone", &none, vec![one.clone()], vec![own(&one)], vec![Action::End(one.clone())]),
            ("and the pod too", &none, vec![], vec![own(&one)], vec![Action::Unmirror(own(&one))]),
        ] {
            assert_eq!(plan(wanted, &live, &mirrors), expected, "{what}");
        }
    }
}
