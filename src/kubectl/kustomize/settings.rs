//! What a `kustomization.yaml` says.

use serde_json::{Map, Value};
use skiff_api::yaml;

use super::place::Place;
use super::resource::Sorting;
use crate::{Failure, Result};

const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// The fields of a kustomization, and of the objects that they list. Upstream refuses all others.
const FIELDS: [(&str, &str); 10] = [
    (
        "",
        "apiVersion kind metadata openapi namePrefix nameSuffix namespace commonLabels labels commonAnnotations \
         patchesStrategicMerge patchesJson6902 patches images imageTags replacements replicas vars sortOptions resources \
         components crds bases configMapGenerator secretGenerator helmGlobals helmCharts helmChartInflationGenerator \
         generatorOptions configurations generators transformers validators buildMetadata",
    ),
    ("labels", "pairs includeSelectors includeTemplates fields"),
    ("patches", "path patch target options"),
    ("patchesJson6902", "path patch target options"),
    ("images", "name newName tagSuffix newTag digest"),
    ("replacements", "path source targets sourceValue"),
    ("replicas", "name count"),
    ("configMapGenerator", "namespace name behavior literals files envs env options"),
    ("secretGenerator", "namespace name behavior literals files envs env options type"),
    ("sortOptions", "order legacySortOptions"),
];

/// Fields that hold texts; how upstream names the objects that they are in.
const TEXTS: [(&str, &str, &str); 7] = [
    ("", "Kustomization", "apiVersion kind namePrefix nameSuffix namespace"),
    ("patches", "Patch.patches", "path patch"),
    ("patchesJson6902", "Patch.patchesJson6902", "path patch"),
    ("images", "Image.images", "name newName tagSuffix newTag digest"),
    ("replicas", "Replica.replicas", "name"),
    ("configMapGenerator", "ConfigMapArgs.configMapGenerator.GeneratorArgs", "namespace name behavior"),
    ("secretGenerator", "SecretArgs.secretGenerator.GeneratorArgs", "namespace name behavior"),
];

/// Fields that would run other programs, or change how kustomize itself works.
const REFUSED: [(&str, &str); 11] = [
    ("openapi", "name the fields in a JSON patch"),
    ("vars", "use `replacements`"),
    ("crds", "name the fields in `replacements`"),
    ("helmGlobals", "run `helm template` first"),
    ("helmCharts", "run `helm template` first"),
    ("helmChartInflationGenerator", "run `helm template` first"),
    ("configurations", "use `patches` and `replacements`"),
    ("generators", "run the generator first"),
    ("transformers", "use the fields of the kustomization"),
    ("validators", "run the validator on the output"),
    ("buildMetadata", "leave it out"),
];

/// Warnings about old fields.
const DEPRECATED: [(&str, &str); 6] = [
    ("bases", "resources"),
    ("commonLabels", "labels"),
    ("imageTags", "images"),
    ("patchesJson6902", "patches"),
    ("patchesStrategicMerge", "patches"),
    ("vars", "replacements"),
];

pub struct Settings {
    fields: Map<String, Value>,
}

impl Settings {
    pub fn read(place: &Place) -> Result<Self> {
        let mut found = NAMES.iter().filter(|name| place.root.join(name).is_file());
        let Some(name) = found.next() else {
            let names = "'kustomization.yaml', 'kustomization.yml' or 'Kustomization'";
            let directory = place.root.display();
            return Err(Failure::text(format!("unable to find one of {names} in directory '{directory}'")));
        };
        if found.next().is_some() {
            return Err(Failure::text(format!("Found multiple kustomization files under: {}\n", place.root.display())));
        }
        let document = yaml::document(&place.read(name)?)
            .map_err(|e| Failure::text(format!("invalid Kustomization: error converting YAML to JSON: {e}")))?;
        let fields = match document.value {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            _ => return Err(Failure::text("invalid Kustomization: a kustomization is an object")),
        };
        let settings = Self { fields };
        settings.check()?;
        Ok(settings.with_old_fields())
    }

    fn check(&self) -> Result {
        for (field, known) in FIELDS {
            let objects: Vec<&Value> = match (field, self.fields.get(field)) {
                ("", _) => Vec::new(),
                (_, Some(Value::Array(list))) => list.iter().collect(),
                (_, Some(one)) => vec![one],
                (_, None) => continue,
            };
            let maps =
                objects.iter().filter_map(|object| object.as_object()).chain(field.is_empty().then_some(&self.fields));
            for name in maps.flat_map(|map| map.keys()) {
                if !known.split_whitespace().any(|known| known == name) {
                    return Err(Failure::text(format!("invalid Kustomization: json: unknown field {name:?}")));
                }
            }
        }
        self.check_texts()?;
        for (old, new) in DEPRECATED {
            if self.fields.get(old).is_some_and(|value| !value.is_null()) {
                let experimental = if old == "vars" { "[EXPERIMENTAL] " } else { "" };
                eprintln!(
                    "# Warning: '{old}' is deprecated. Please use '{new}' instead. {experimental}Run 'kustomize edit fix' to update your Kustomization automatically."
                );
            }
        }
        for (field, instead) in REFUSED {
            if !matches!(self.fields.get(field), None | Some(Value::Null)) {
                return Err(Failure::text(format!(
                    "`{field}` of a kustomization is not part of this kubectl: {instead}"
                )));
            }
        }
        if self.fields.iter().all(|(name, value)| matches!(name.as_str(), "apiVersion" | "kind") || value.is_null()) {
            return Err(Failure::text("kustomization.yaml is empty"));
        }
        let kind = self.text("kind").unwrap_or("Kustomization");
        let version = match kind {
            "Kustomization" => "kustomize.config.k8s.io/v1beta1",
            "Component" => "kustomize.config.k8s.io/v1alpha1",
            _ => return Err(Failure::text("kind should be Kustomization or Component")),
        };
        if self.text("apiVersion").is_some_and(|given| given != version) {
            return Err(Failure::text(format!("apiVersion for {kind} should be {version}")));
        }
        Ok(())
    }

    fn check_texts(&self) -> Result {
        for (field, shown, texts) in TEXTS {
            let whole;
            let objects: Vec<&Map<String, Value>> = match self.fields.get(field) {
                _ if field.is_empty() => {
                    whole = &self.fields;
                    vec![whole]
                }
                Some(Value::Array(list)) => list.iter().filter_map(Value::as_object).collect(),
                _ => continue,
            };
            for object in objects {
                let wrong = texts
                    .split_whitespace()
                    .find(|name| object.get(*name).is_some_and(|v| !v.is_string() && !v.is_null()));
                if let Some(name) = wrong {
                    let found = json_name(&object[name]);
                    return Err(Failure::text(format!(
                        "invalid Kustomization: json: cannot unmarshal {found} into Go struct field {shown}.{name} of type string"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Old names of fields, as the new ones.
    fn with_old_fields(mut self) -> Self {
        for (old, new) in [("bases", "resources"), ("imageTags", "images")] {
            if let Some(Value::Array(more)) = self.fields.remove(old) {
                match self.fields.get_mut(new) {
                    Some(Value::Array(list)) => list.extend(more),
                    _ => drop(self.fields.insert(new.to_owned(), Value::Array(more))),
                }
            }
        }
        self
    }

    pub fn is_component(&self) -> bool {
        self.text("kind") == Some("Component")
    }

    pub fn get(&self, field: &str) -> &Value {
        self.fields.get(field).unwrap_or(&Value::Null)
    }

    /// A text that is not empty.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.get(field).as_str().filter(|text| !text.is_empty())
    }

    pub fn list(&self, field: &str) -> impl Iterator<Item = &Value> {
        self.get(field).as_array().into_iter().flatten()
    }

    pub fn texts(&self, field: &str) -> Result<Vec<String>> {
        texts(self.get(field), field)
    }

    /// The order that is asked for.
    pub fn order(&self) -> Result<Option<Sorting>> {
        let asked = self.get("sortOptions");
        let legacy = &asked["legacySortOptions"];
        match asked["order"].as_str().unwrap_or_default() {
            _ if asked.is_null() => Ok(None),
            "fifo" if legacy.is_null() => Ok(Some(Sorting::default())),
            "fifo" => Err(Failure::text(
                "the field 'sortOptions.legacySortOptions' is set but the selected sort order is 'fifo', not 'legacy'",
            )),
            "legacy" if legacy.is_null() => Ok(Some(Sorting::legacy())),
            "legacy" => {
                let kinds = |field: &str| texts(&legacy[field], field);
                Ok(Some(Sorting::of(&kinds("orderFirst")?, &kinds("orderLast")?)))
            }
            _ => Err(Failure::text("the field 'sortOptions.order' must be one of [fifo, legacy]")),
        }
    }
}

/// A list of texts.
pub fn texts(value: &Value, field: &str) -> Result<Vec<String>> {
    let wrong = |value: &Value| {
        Failure::text(format!(
            "invalid Kustomization: json: cannot unmarshal {} into Go struct field Kustomization.{field} of type string",
            json_name(value)
        ))
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => {
            list.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(item))).collect()
        }
        other => Err(wrong(other)),
    }
}

/// A map of texts.
pub fn pairs(value: &Value, field: &str) -> Result<Vec<(String, String)>> {
    let entries = value.as_object().into_iter().flatten();
    entries
        .map(|(key, value)| match value.as_str() {
            Some(text) => Ok((key.clone(), text.to_owned())),
            None => Err(Failure::text(format!(
                "invalid Kustomization: json: cannot unmarshal {} into Go struct field Kustomization.{field} of type string",
                json_name(value)
            ))),
        })
        .collect()
}

fn json_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
