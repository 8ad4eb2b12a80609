//! `replacements`: a value of one object, written into others.

use serde_json::Value;
use skiff_api::yaml;

use super::field::{Making, each, lookup, split_dotted, text};
use super::place::Place;
use super::resource::{Id, Resources, Target};
use super::settings::{Settings, texts};
use crate::{Failure, Result};

const NAME: &str = "metadata.name";

pub fn run(place: &Place, settings: &Settings, all: &mut Resources) -> Result {
    for entry in settings.list("replacements") {
        let Some(path) = entry["path"].as_str().filter(|path| !path.is_empty()) else {
            replace(entry, all)?;
            continue;
        };
        if !entry["source"].is_null() || !entry["targets"].is_null() {
            return Err(Failure::text("cannot specify both path and inline replacement"));
        }
        let found = yaml::document(&place.read(path)?).map_err(|e| Failure::text(e.to_string()))?.value;
        match &found {
            Value::Array(list) => list.iter().try_for_each(|one| replace(one, all))?,
            one => replace(one, all)?,
        }
    }
    Ok(())
}

fn replace(entry: &Value, all: &mut Resources) -> Result {
    let (source, given) = (&entry["source"], &entry["sourceValue"]);
    let targets = entry["targets"].as_array();
    let Some(targets) = targets.filter(|_| !source.is_null() || !given.is_null()) else {
        return Err(Failure::text("replacements must specify a source and at least one target"));
    };
    let value = match given.as_str() {
        Some(_) if !source.is_null() => {
            return Err(Failure::text("value and resource selectors are mutually exclusive"));
        }
        Some(text) => text.into(),
        None => source_value(source, all)?,
    };
    for target in targets {
        if target["select"].is_null() {
            return Err(Failure::text("target must specify resources to select"));
        }
        let select = Target::parse(&target["select"])?;
        let reject: Vec<Target> =
            target["reject"].as_array().into_iter().flatten().map(Target::parse).collect::<Result<_>>()?;
        let mut paths = texts(&target["fieldPaths"], "replacements.targets.fieldPaths")?;
        if paths.is_empty() {
            paths.push(NAME.to_owned());
        }
        for resource in &mut all.list {
            let ids: Vec<Id> = resource.ids();
            let rejected_by_labels =
                |one: &Target| -> Result<bool> { Ok(one.is_selective() && one.selects(&resource.object)?) };
            let mut rejected = false;
            for one in &reject {
                rejected |= rejected_by_labels(one)? || !one.is_wordless() && ids.iter().any(|id| one.fits_id(id));
            }
            if !rejected && select.selects(&resource.object)? && ids.iter().any(|id| select.fits_id(id)) {
                for path in &paths {
                    write(&mut resource.object, path, &value, &target["options"])?;
                }
            }
        }
    }
    Ok(())
}

fn source_value(source: &Value, all: &Resources) -> Result<Value> {
    let word = |field: &str| source[field].as_str().unwrap_or_default();
    let wanted = Id {
        group: word("group").to_owned(),
        version: word("version").to_owned(),
        kind: word("kind").to_owned(),
        name: word("name").to_owned(),
        namespace: word("namespace").to_owned(),
    };
    let path = source["fieldPath"].as_str().filter(|path| !path.is_empty());
    let fits = |id: &Id| {
        (wanted.name.is_empty() || wanted.name == id.name)
            && (wanted.namespace.is_empty() || wanted.effective_namespace() == id.effective_namespace())
            && id.has_type(&wanted.group, &wanted.version, &wanted.kind)
    };
    let shown = || path.map_or_else(|| wanted.to_string(), |path| format!("{wanted}:{path}"));
    let nth = match all.with_any_id(fits).as_slice() {
        [one] => *one,
        [] => return Err(Failure::text(format!("nothing selected by {}", shown()))),
        _ => return Err(Failure::text(format!("multiple matches for selector {}", shown()))),
    };
    let path = path.unwrap_or(NAME);
    let found = lookup(&all.list[nth].object, &split_dotted(path))
        .map_err(|e| Failure::text(format!("error looking up replacement source: {e}")))?;
    let Some(found) = found.filter(|found| !is_empty(found)) else {
        return Err(Failure::text(format!("fieldPath `{path}` is missing for replacement source {wanted}")));
    };
    let Some(delimiter) = delimiter(&source["options"]) else { return Ok(found.clone()) };
    if found.is_object() || found.is_array() {
        return Err(Failure::text("delimiter option can only be used with scalar nodes"));
    }
    let (whole, index) = (text(found), source["options"]["index"].as_i64().unwrap_or_default());
    let part = usize::try_from(index).ok().and_then(|index| whole.split(delimiter).nth(index));
    part.map(Value::from)
        .ok_or_else(|| Failure::text(format!("options.index {index} is out of bounds for value {whole}")))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(entries) => entries.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn delimiter(options: &Value) -> Option<&str> {
    options["delimiter"].as_str().filter(|delimiter| !delimiter.is_empty())
}

fn write(object: &mut Value, path: &str, value: &Value, options: &Value) -> Result {
    let create = options["create"] == true;
    let missing = || {
        let verb = if create { "find or create" } else { "find" };
        format!("unable to {verb} field {path:?} in replacement target")
    };
    let making = Making { empty: create.then_some(value) };
    let count = each(object, &split_dotted(path), &making, false, &mut |place, made| set(place, made, value, options))
        .map_err(|e| Failure::text(format!("{}: {e}", missing())))?;
    if count == 0 { Err(Failure::text(missing())) } else { Ok(()) }
}

fn set(place: &mut Value, made: bool, value: &Value, options: &Value) -> Result {
    let mut value = value.clone();
    let is_scalar = !place.is_object() && !place.is_array();
    if let Some(delimiter) = delimiter(options) {
        if !is_scalar {
            return Err(Failure::text("delimiter option can only be used with scalar nodes"));
        }
        let (whole, new) = (text(place), text(&value));
        let mut parts: Vec<&str> = whole.split(delimiter).collect();
        match usize::try_from(options["index"].as_i64().unwrap_or_default()) {
            Err(_) => parts.insert(0, &new),
            Ok(nth) if nth >= parts.len() => parts.push(&new),
            Ok(nth) => parts[nth] = &new,
        }
        value = parts.join(delimiter).into();
    }
    if !is_scalar || value.is_object() || value.is_array() {
        *place = value;
        return Ok(());
    }
    // A scalar keeps its type; one that was made has the type that its text has in YAML.
    let plain = || yaml::document(&text(&value)).map(|document| document.value).unwrap_or_default();
    let written = match &*place {
        Value::String(_) => text(&value).into(),
        Value::Null if !made => value,
        Value::Null => plain(),
        old => match (plain(), old) {
            (new @ Value::Number(_), Value::Number(_)) | (new @ Value::Bool(_), Value::Bool(_)) => new,
            (new, old) => return Err(Failure::text(format!("cannot write {new} in the place of {old}"))),
        },
    };
    *place = written;
    Ok(())
}
