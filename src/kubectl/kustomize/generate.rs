//! ConfigMaps and Secrets out of files and words, and the hash behind their names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::place::Place;
use super::resource::{Behavior, Resource, Resources};
use super::settings::{Settings, pairs, texts};
use crate::print::compact;
use crate::{Failure, Result};

/// base64 is broken into lines of this length.
const LINE: usize = 70;
/// How much of a hash stands behind a name.
const HASH: usize = 10;

pub fn run(place: &Place, settings: &Settings, all: &mut Resources) -> Result {
    let global = settings.get("generatorOptions");
    for (field, kind) in [("configMapGenerator", "ConfigMap"), ("secretGenerator", "Secret")] {
        for wanted in settings.list(field) {
            let made = generated(place, wanted, global, kind)?;
            absorb(all, made).map_err(|e| Failure::text(format!("merging from generator: {e}")))?;
        }
    }
    Ok(())
}

fn generated(place: &Place, wanted: &Value, global: &Value, kind: &str) -> Result<Resource> {
    let name = wanted["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(Failure::text("a configmap must have a name"));
    }
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    if let Some(namespace) = wanted["namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
        object["metadata"]["namespace"] = namespace.into();
    }
    if kind == "Secret" {
        object["type"] = wanted["type"].as_str().filter(|ty| !ty.is_empty()).unwrap_or("Opaque").into();
        object["data"] = Map::new().into();
    }
    for (key, value) in sources(place, wanted)? {
        check_key(&key)?;
        let (field, value) = match String::from_utf8(value) {
            Ok(text) if kind == "ConfigMap" => ("data", text),
            Ok(text) => ("data", broken_base64(text.as_bytes())),
            Err(binary) => (if kind == "ConfigMap" { "binaryData" } else { "data" }, broken_base64(binary.as_bytes())),
        };
        if ["data", "binaryData"].iter().any(|field| object[*field].get(&key).is_some()) {
            return Err(Failure::text(format!("configmap {name} illegally repeats the key `{key}`")));
        }
        object[field][&key] = value.into();
    }
    let local = &wanted["options"];
    for field in ["labels", "annotations"] {
        // What the generator says itself wins.
        for (key, value) in pairs(&global[field], field)?.into_iter().chain(pairs(&local[field], field)?) {
            object["metadata"][field][&key] = value.into();
        }
    }
    let asks = |field: &str| local[field] == true || global[field] == true;
    if asks("immutable") {
        object["immutable"] = true.into();
    }
    let behavior = match wanted["behavior"].as_str().unwrap_or_default() {
        "merge" => Behavior::Merge,
        "replace" => Behavior::Replace,
        _ => Behavior::Create,
    };
    Ok(Resource { wants_hash: !asks("disableNameSuffixHash"), behavior, ..Resource::of(object) })
}

/// Keys and values: of files of variables, of words, of whole files.
fn sources(place: &Place, wanted: &Value) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut variables = texts(&wanted["envs"], "envs")?;
    variables.extend(wanted["env"].as_str().filter(|path| !path.is_empty()).map(str::to_owned));
    for path in &variables {
        let text = place
            .read(path)
            .map_err(|e| Failure::text(format!("loading KV pairs: env source files: {variables:?}: {e}")))?;
        for line in text.strip_prefix('\u{feff}').unwrap_or(&text).lines() {
            let line = line.trim_start();
            if !line.is_empty() && !line.starts_with('#') {
                let (key, value) = line.split_once('=').unwrap_or((line, ""));
                found.push((key.to_owned(), value.as_bytes().to_vec()));
            }
        }
    }
    for literal in texts(&wanted["literals"], "literals")? {
        let Some((key, value)) = literal.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Failure::text(format!(
                "loading KV pairs: literal sources [{literal}]: invalid literal source {literal}, expected key=value"
            )));
        };
        let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        found.push((key.to_owned(), quoted.unwrap_or(value).as_bytes().to_vec()));
    }
    for source in texts(&wanted["files"], "files")? {
        let (key, path) = match source.split('=').collect::<Vec<_>>().as_slice() {
            [path] => (path.rsplit('/').next().unwrap_or(path).to_owned(), (*path).to_owned()),
            ["", path] => {
                return Err(Failure::text(format!("missing key name for file path {path:?} in source {source:?}")));
            }
            [key, ""] => {
                return Err(Failure::text(format!("missing file path for key name {key:?} in source {source:?}")));
            }
            [key, path] => ((*key).to_owned(), (*path).to_owned()),
            _ => return Err(Failure::text(format!("source {source:?} key name or file path contains '='"))),
        };
        let bytes = place
            .bytes(&path)
            .map_err(|e| Failure::text(format!("loading KV pairs: file sources: [{source}]: {e}")))?;
        found.push((key, bytes));
    }
    Ok(found)
}

fn check_key(key: &str) -> Result {
    let fits = key.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if fits && !key.is_empty() && !key.starts_with("..") && key != "." {
        return Ok(());
    }
    Err(Failure::text(format!(
        "{key:?} is not a valid key name: a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
    )))
}

fn broken_base64(bytes: &[u8]) -> String {
    let whole = STANDARD.encode(bytes);
    if whole.len() < LINE {
        return whole;
    }
    whole.as_bytes().chunks(LINE).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect()
}

/// Adds what was generated, or puts it in the place of what it names.
fn absorb(all: &mut Resources, mut made: Resource) -> Result {
    let id = made.id();
    let found = all.with_any_id(|known| known.is(&id));
    let nth = match (found.as_slice(), made.behavior) {
        ([], Behavior::Create) => return all.append(made),
        ([], _) => return Err(Failure::text(format!("id {id} does not exist; cannot merge or replace"))),
        (_, Behavior::Create) => {
            return Err(Failure::text(format!(
                "id {id} exists; can not use behavior: 'create', behavior must be merge or replace"
            )));
        }
        ([one], _) => *one,
        _ => return Err(Failure::text(format!("found multiple objects that could accept merge of {id}"))),
    };
    let old = &mut all.list[nth];
    let mut fields = vec![("metadata", "labels"), ("metadata", "annotations")];
    if made.behavior == Behavior::Merge {
        fields.extend([("", "data"), ("", "binaryData")]);
    }
    for (parent, field) in fields {
        let within =
            |object: &Value| if parent.is_empty() { object[field].clone() } else { object[parent][field].clone() };
        let (Value::Object(mut merged), new) = (within(&old.object), within(&made.object)) else { continue };
        merged.extend(new.as_object().cloned().unwrap_or_default());
        let place = if parent.is_empty() { &mut made.object } else { &mut made.object[parent] };
        place[field] = merged.into();
    }
    for field in ["name", "namespace"] {
        if let Some(value) = old.object["metadata"].get(field) {
            made.object["metadata"][field] = value.clone();
        }
    }
    made.wants_hash &= old.wants_hash;
    made.behavior = old.behavior;
    for (own, theirs) in [(&mut made.prefixes, &mut old.prefixes), (&mut made.suffixes, &mut old.suffixes)] {
        *own = std::mem::take(theirs);
    }
    made.previous = std::mem::take(&mut old.previous);
    *old = made;
    Ok(())
}

/// The name then tells what is in the object.
pub fn add_hash(resource: &mut Resource) {
    if resource.wants_hash {
        let name = format!("{}-{}", resource.id().name, hash(&resource.object));
        resource.remember();
        resource.set_name(&name);
    }
}

fn hash(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default();
    // What is missing counts as an empty text; the name always does.
    let or_empty = |field: &str| object.get(field).cloned().unwrap_or_else(|| "".into());
    let mut counted = json!({"kind": kind, "name": "", "data": or_empty("data")});
    let (plain, more) = if kind == "Secret" { (Some("type"), "stringData") } else { (None, "binaryData") };
    if let Some(field) = plain {
        counted[field] = or_empty(field);
    }
    if object[more].is_object() {
        counted[more] = object[more].clone();
    }
    short_hash(&counted)
}

/// What stands behind the names of configurations: of a digest the first digits, none of which makes words.
pub fn short_hash(counted: &Value) -> String {
    let digest = Sha256::digest(compact(counted).as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let safe = |digit| match digit {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        other => other,
    };
    hex.chars().take(HASH).map(safe).collect()
}
