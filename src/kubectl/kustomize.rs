//! Kustomizations: objects of a directory, customized as its `kustomization.yaml` says, and `kubectl kustomize`.
//!
//! Bottom-up: `place` reads files, and only those that belong to a directory; `settings` is what a directory asks for;
//! `resource` are objects that remember how they were called; `field` finds places in them; `merge` is kustomize's own
//! strategic merge; `generate`, `transform`, `patch`, `replace` change the objects of one directory; `reference` brings
//! names in other objects up to date, once at the end. This file puts directories together.
//!
//! The words and the order of the output are those of kustomize 5.8, which the target version's kubectl carries. What needs
//! another program or another machine (remote directories, plugins, Helm) is refused.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;
use skiff_api::yaml;

use crate::{Failure, Result};

mod field;
mod generate;
mod merge;
mod patch;
mod place;
mod reference;
mod replace;
mod resource;
mod settings;
mod transform;

pub use generate::short_hash;
use place::Place;
use resource::{MALFORMED, Resource, Resources};
use settings::Settings;

/// Objects with it are there for other objects alone.
const LOCAL: &str = "config.kubernetes.io/local-config";

#[derive(Args, Debug)]
pub struct Arguments {
    /// Directory that contains the kustomization
    directory: Option<PathBuf>,
    /// If specified, write output to this path
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// LoadRestrictionsRootOnly, or LoadRestrictionsNone: files from outside of a directory, too
    #[arg(long, default_value = "LoadRestrictionsRootOnly")]
    load_restrictor: String,
    /// legacy: namespaces first, webhooks last; none: as they come
    #[arg(long)]
    reorder: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result {
    let open = match arguments.load_restrictor.as_str() {
        "LoadRestrictionsRootOnly" => false,
        "LoadRestrictionsNone" => true,
        other => {
            return Err(Failure::text(format!(
                "illegal flag value --load-restrictor {other}; legal values: [LoadRestrictionsRootOnly LoadRestrictionsNone]"
            )));
        }
    };
    if arguments.reorder.is_some() {
        eprintln!("Flag --reorder has been deprecated, use the new 'sortOptions' field in kustomization.yaml instead.");
    }
    let order = match arguments.reorder.as_deref() {
        None | Some("legacy") => Order::Legacy,
        Some("none") => Order::AsTheyCome,
        Some(other) => {
            return Err(Failure::text(format!("illegal flag value --reorder {other}; legal values: [legacy none]")));
        }
    };
    let directory = arguments.directory.as_deref().unwrap_or(Path::new("."));
    let objects = build(directory, open, order)?;
    let text = objects.iter().map(yaml::to_string).collect::<Vec<_>>().join("---\n");
    match &arguments.output {
        None => {
            print!("{text}");
            Ok(())
        }
        Some(path) if path.is_dir() => objects.iter().try_for_each(|object| {
            let file = path.join(file_name(object));
            std::fs::write(&file, yaml::to_string(object)).map_err(|e| cannot_write(&file, &e))
        }),
        Some(path) => std::fs::write(path, text).map_err(|e| cannot_write(path, &e)),
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> anyhow::Error {
    Failure::text(format!("write {}: {error}", path.display()))
}

/// `apps_v1_deployment_web.yaml`
fn file_name(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
    let name = format!(
        "{}_{}_{}.yaml",
        word(&object["apiVersion"]).replace('/', "_"),
        word(&object["kind"]),
        word(&object["metadata"]["name"]).replace(':', "_")
    );
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{namespace}_{name}"),
        None => name,
    }
}

/// What is done with the objects at the end, if the kustomization doesn't say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    AsTheyCome,
    Legacy,
}

/// The objects of a directory. `open`: its files may be anywhere.
pub fn build(directory: &Path, open: bool, order: Order) -> Result<Vec<Value>> {
    let place = Place::of_directory(directory, open)?;
    let settings = Settings::read(&place)?;
    let mut all = accumulate(&place, &settings, Resources::default())?;
    for resource in &mut all.list {
        generate::add_hash(resource);
    }
    reference::update(&mut all)?;
    all.list.retain(|resource| {
        let local = resource.object["metadata"]["annotations"][LOCAL].as_str();
        local.is_none_or(|local| local == "false")
    });
    match settings.order()? {
        Some(sorted) => sorted.sort(&mut all),
        None if order == Order::Legacy => resource::Sorting::legacy().sort(&mut all),
        None => {}
    }
    Ok(all.list.into_iter().map(Resource::finished).collect())
}

/// Adds what a directory has to what is there, and changes all of it as the directory says.
fn accumulate(place: &Place, settings: &Settings, mut all: Resources) -> Result<Resources> {
    for path in settings.texts("resources")? {
        let within = |e: anyhow::Error| Failure::text(format!("accumulating resources: {e}"));
        let Err(not_a_file) = add_file(place, &path, &mut all) else { continue };
        if not_a_file.to_string().contains(MALFORMED) {
            return Err(within(not_a_file));
        }
        let wrapped = |e: anyhow::Error| within(Failure::text(format!("accumulation err='{not_a_file}': {e}")));
        let below = place.directory(&path).map_err(wrapped)?;
        let theirs = sub_target(&below, false, Resources::default()).map_err(wrapped)?;
        theirs.list.into_iter().try_for_each(|resource| all.append(resource)).map_err(|e| {
            wrapped(Failure::text(format!("recursed merging from path '{}': {e}", below.root.display())))
        })?;
    }
    generate::run(place, settings, &mut all)?;
    for path in settings.texts("components")? {
        let below = place.directory(&path)?;
        all = sub_target(&below, true, all)
            .map_err(|e| Failure::text(format!("accumulating components: accumulateDirectory: {:?}", e.to_string())))?;
    }
    patch::strategic(place, settings, &mut all)?;
    patch::patches(place, settings, &mut all)?;
    transform::names(settings, &mut all)?;
    transform::labels(settings, &mut all)?;
    patch::json(place, settings, &mut all)?;
    transform::counts_and_images(settings, &mut all)?;
    replace::run(place, settings, &mut all)?;
    Ok(all)
}

fn add_file(place: &Place, path: &str, all: &mut Resources) -> Result {
    let read = place.read(path).and_then(|text| resource::parse(&text));
    let read = read.map_err(|e| Failure::text(format!("accumulating resources from '{path}': {e}")))?;
    let merged = read.into_iter().try_for_each(|resource| all.append(resource));
    merged.map_err(|e| Failure::text(format!("merging resources from '{path}': {e}")))
}

fn sub_target(place: &Place, component: bool, all: Resources) -> Result<Resources> {
    let shown = place.root.display();
    let settings =
        Settings::read(place).map_err(|e| Failure::text(format!("couldn't make target for path '{shown}': {e}")))?;
    match (component, settings.is_component()) {
        (true, false) => Err(Failure::text(format!(
            "expected kind 'Component' for path '{shown}' but got '{}'",
            settings.text("kind").unwrap_or("Kustomization")
        ))),
        (false, true) => Err(Failure::text(format!("expected kind != 'Component' for path '{shown}'"))),
        _ => accumulate(place, &settings, all)
            .map_err(|e| Failure::text(format!("recursed accumulation of path '{shown}': {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected files are upstream's output: `tests/clients.rs` holds them against it.
    #[test]
    fn directories_become_what_upstream_makes_of_them() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/kustomize");
        let mut seen = 0;
        for entry in std::fs::read_dir(&golden).expect("the golden directories") {
            let directory = entry.expect("an entry").path();
            if directory.is_dir() {
                let expect = std::fs::read_to_string(directory.with_extension("yaml")).expect("the golden file");
                let objects = build(&directory, false, Order::Legacy).expect("built");
                let text = objects.iter().map(yaml::to_string).collect::<Vec<_>>().join("---\n");
                assert_eq!(text, expect, "{}", directory.display());
                seen += 1;
            }
        }
        assert!(seen >= 5, "only {seen} directories");
    }

    #[test]
    fn what_cannot_be_built_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("it is there");
        std::fs::write(root.join("a.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n").expect("written");
        let check = |text: &str, expect: &str| {
            std::fs::write(root.join("kustomization.yaml"), text).expect("written");
            let said = build(&root, false, Order::Legacy).map(|_| "built").map_err(|e| e.to_string());
            let said = said.expect_err(text);
            assert!(said.contains(expect), "{text}: {said}");
        };
        check("resource: [a.yaml]", "invalid Kustomization: json: unknown field \"resource\"");
        check("{}", "kustomization.yaml is empty");
        check("kind: Other\nresources: [a.yaml]", "kind should be Kustomization or Component");
        check(
            "resources: [a.yaml, a.yaml]",
            "may not add resource with an already registered id: Pod.v1.[noGrp]/p.[noNs]",
        );
        check("resources: [none.yaml]", "accumulating resources from 'none.yaml': evalsymlink failure on");
        check("resources: [../x]", "evalsymlink failure");
        check("resources: [.]", "cycle detected: candidate root");
        check("resources: ['https://example.com/x.yaml']", "fetch them first");
        check("resources: ['github.com/a/b?ref=c']", "fetch them first");
        check("helmCharts: [{name: x}]", "run `helm template` first");
        check("transformers: [x.yaml]", "`transformers` of a kustomization is not part of this kubectl");
        check("resources: [a.yaml]\nnamePrefix: x\nsortOptions: {order: other}", "must be one of [fifo, legacy]");
        check("resources: [a.yaml]\nreplicas: [{name: p, count: 1}]", "resource with name p does not match a config");
        check("resources: [a.yaml]\npatches: [{patch: '[{\"op\": \"add\"}]'}]", "must specify a target for JSON patch");
        check(
            "resources: [a.yaml]\npatches: [{patch: '{kind: Pod, apiVersion: v1, metadata: {name: q}}'}]",
            "no resource matches strategic merge patch \"Pod.v1.[noGrp]/q.[noNs]\"",
        );
        check("configMapGenerator: [{name: c, literals: [x]}]", "invalid literal source x, expected key=value");
        let missing = build(&root.join("none"), false, Order::Legacy).expect_err("nowhere").to_string();
        assert!(
            missing.starts_with("must build at directory: not a valid directory: evalsymlink failure on"),
            "{missing}"
        );
        std::fs::remove_file(root.join("kustomization.yaml")).expect("removed");
        let missing = build(&root, false, Order::Legacy).expect_err("nothing to build").to_string();
        assert!(
            missing.starts_with("unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization'")
        );
    }
}
