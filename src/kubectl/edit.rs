//! `kubectl edit`: an object in an editor, and what was changed as a patch.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde_json::{Value, json};
use skiff_api::yaml;
use skiff_client::PatchKind;

use crate::apply::{last_applied, remember, remembering};
use crate::failure::api_error;
use crate::print::{indented, without_managed_fields};
use crate::server::Server;
use crate::targets::{Found, Selection};
use crate::writing::{Writing, difference};
use crate::{Failure, Result};

const HEAD: &str = "# Please edit the object below. Lines beginning with a '#' will be ignored,
# and an empty file will abort the edit. If an error occurs while saving this file will be
# reopened with the relevant failures.
#
";

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE NAME or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Edit this subresource (status, scale, resize) of the object
    #[arg(long, default_value = "")]
    subresource: String,
    /// Remember the configuration in an annotation, for a later apply
    #[arg(long)]
    save_config: bool,
    /// Print the patch where the object was changed
    #[arg(long)]
    output_patch: bool,
    #[command(flatten)]
    writing: Writing,
}

/// What of the objects is edited.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    Object,
    /// The configuration that `kubectl apply` remembers.
    LastApplied,
}

pub async fn run(server: &Server, arguments: Arguments, what: What) -> Result {
    let namespace = Some(server.namespace.as_str());
    let found =
        arguments.selection.find_subresource(server, &arguments.words, namespace, &arguments.subresource).await?;
    if found.is_empty() {
        return Err(Failure::text("no objects passed to edit"));
    }
    let format = match arguments.writing.printing.output.as_str() {
        "" | "yaml" => Format::Yaml,
        "json" => Format::Json,
        other => return Err(Failure::text(format!("The flag 'output' must be one of yaml|json, not {other:?}"))),
    };
    let shown = |found: &Found| match what {
        What::LastApplied => last_applied(&found.object).unwrap_or_else(|| {
            let what = found.label();
            Err(Failure::text(format!("no last-applied-configuration annotation found on resource: {what}")))
        }),
        What::Object if arguments.writing.printing.show_managed_fields => Ok(found.object.clone()),
        What::Object => Ok(without_managed_fields(found.object.clone())),
    };
    let objects: Vec<Value> = found.iter().map(shown).collect::<Result<_>>()?;
    let original = match objects.as_slice() {
        [one] => format.text(one),
        many => format.text(&json!({"apiVersion": "v1", "kind": "List", "items": many})),
    };
    let file = Draft::new(format.extension())?;
    let (mut problem, mut shown) = (String::new(), original.clone());
    loop {
        file.write(&format!("{HEAD}{problem}{shown}"))?;
        file.open()?;
        let edited = without_comments(&file.read()?);
        if !problem.is_empty() && edited == shown {
            return Err(file.kept(Failure::text("Edit cancelled, no valid changes were saved.")));
        }
        problem.clear();
        match parsed(&edited) {
            Err(why) => {
                let cause = format!("<nil>: Invalid value: \"The edited file failed validation\": {why}");
                problem.push_str(&invalid(&found[0], &[cause]));
            }
            Ok(_) if edited == original => {
                eprintln!("Edit cancelled, no changes made.");
                return file.remove();
            }
            Ok(document) => {
                problem = match save(server, &arguments, what, &found, &objects, document).await {
                    Ok(problem) => problem,
                    Err(Unsaved::Gone(said)) => {
                        eprintln!(
                            "{said}\nThe edits you made on deleted resources have been saved to {:?}",
                            file.shown()
                        );
                        return Err(Failure::Silent.into());
                    }
                    Err(Unsaved::Failed(said)) => {
                        let shown = file.path.display();
                        eprintln!("{said}\nYou can run `kubectl replace -f {shown}` to try this update again.");
                        return Err(Failure::Silent.into());
                    }
                    Err(Unsaved::Wrong(why)) => return Err(file.kept(why)),
                };
                if problem.is_empty() {
                    return file.remove();
                }
            }
        }
        shown = edited;
    }
}

/// Why an object was not saved, and will not be by another edit.
enum Unsaved {
    Gone(String),
    Failed(String),
    Wrong(anyhow::Error),
}

fn parsed(text: &str) -> Result<Value, String> {
    let document = yaml::document(text).map_err(|e| e.to_string())?.value;
    if document.is_object() { Ok(document) } else { Err("EOF".to_owned()) }
}

/// Tells that an object is not valid; what it is that stands in the head of the file that is opened again.
fn invalid(found: &Found, causes: &[String]) -> String {
    let what = format!("{} {:?}", found.resource.qualified(), found.name());
    eprintln!("error: {what} is invalid");
    let lines: String = causes.iter().map(|cause| format!("# * {}\n", cause.replace('\n', "\n# "))).collect();
    format!("# {what} was not valid:\n{lines}#\n")
}

#[derive(Clone, Copy)]
enum Format {
    Yaml,
    Json,
}

impl Format {
    fn text(self, object: &Value) -> String {
        match self {
            Self::Yaml => yaml::to_string(object),
            Self::Json => indented(object) + "\n",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Yaml => "yaml",
            Self::Json => "json",
        }
    }
}

fn without_comments(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect()
}

/// Saves what was changed; says what was not valid.
async fn save(
    server: &Server,
    arguments: &Arguments,
    what: What,
    found: &[Found],
    objects: &[Value],
    document: Value,
) -> Result<String, Unsaved> {
    let items = match document.get("items").and_then(Value::as_array).filter(|_| objects.len() > 1) {
        Some(items) => items.clone(),
        None => vec![document],
    };
    let identity = |object: &Value| {
        let metadata = &object["metadata"];
        [&object["apiVersion"], &object["kind"], &metadata["namespace"], &metadata["name"]].map(Clone::clone)
    };
    let mut problem = String::new();
    for after in items {
        let Some(nth) = objects.iter().position(|object| identity(object) == identity(&after)) else {
            return Err(Unsaved::Wrong(Failure::text("At least one of apiVersion, kind and name was changed")));
        };
        let target = &found[nth];
        if after == objects[nth] {
            println!("{} skipped", target.label());
            continue;
        }
        let body = match what {
            What::LastApplied => Ok((PatchKind::Merge, remember(&after))),
            What::Object if arguments.save_config => changes(target, &objects[nth], &remembering(&after)),
            What::Object => changes(target, &objects[nth], &after),
        };
        let (kind, body) = body.map_err(Unsaved::Wrong)?;
        match patch(server, arguments, target, kind, &body).await {
            Ok(label) => println!("{label} edited"),
            Err(e) => match api_error(&e) {
                Some(refused) if refused.reason == "Invalid" => {
                    let causes =
                        refused.details.as_deref().map(|details| details.causes.as_slice()).unwrap_or_default();
                    let causes: Vec<String> =
                        causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
                    problem.push_str(&invalid(target, &causes));
                }
                refused => {
                    let what = format!("error: {} {:?}", target.resource.qualified(), target.name());
                    return Err(match refused {
                        Some(refused) if refused.is_not_found() => {
                            Unsaved::Gone(format!("{what} could not be found on the server"))
                        }
                        _ => Unsaved::Failed(format!("{what} could not be patched: {e}")),
                    });
                }
            },
        }
    }
    Ok(problem)
}

fn changes(target: &Found, before: &Value, after: &Value) -> Result<(PatchKind, Value)> {
    difference(&Found { resource: target.resource.clone(), object: before.clone() }, after)
}

/// The name of the object that was made.
async fn patch(
    server: &Server,
    arguments: &Arguments,
    target: &Found,
    kind: PatchKind,
    body: &Value,
) -> Result<String> {
    if arguments.output_patch {
        println!("Patch: {}", crate::print::compact(body));
    }
    let path = arguments.writing.query(&target.path(&arguments.subresource), "kubectl-edit")?;
    let made = server.patch(&path, kind, body).await?;
    Ok(target.resource.in_answer(&made).label(made["metadata"]["name"].as_str().unwrap_or_default()))
}

/// The file that is edited, readable by its owner alone: it may hold a secret.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn new(extension: &str) -> Result<Self> {
        let name =
            format!("kubectl-edit-{}-{}.{extension}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
        Ok(Self { path: std::env::temp_dir().join(name) })
    }

    fn write(&self, text: &str) -> Result {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let open = || std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path);
        open().and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| self.failed("write", &e))
    }

    fn read(&self) -> Result<String> {
        std::fs::read_to_string(&self.path).map_err(|e| self.failed("read", &e))
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// Tells where the changes are that were not saved.
    fn kept(&self, why: anyhow::Error) -> anyhow::Error {
        eprintln!("A copy of your changes has been stored to {:?}", self.shown());
        why
    }

    fn remove(&self) -> Result {
        std::fs::remove_file(&self.path).map_err(|e| self.failed("remove", &e))
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> anyhow::Error {
        Failure::text(format!("{what} {}: {error}", self.path.display()))
    }

    /// Waits until the editor ends. A shell runs it: editors are set with arguments.
    fn open(&self) -> Result {
        let set = ["KUBE_EDITOR", "EDITOR"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
        let editor = set.unwrap_or_else(|| "vi".to_owned());
        let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$0\"")).arg(Path::new(&self.path)).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(Failure::text(format!("there was a problem with the editor {editor:?}"))),
            Err(e) => Err(Failure::text(format!("unable to launch the editor {editor:?}: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_stand_in_comments_and_comments_are_left_out() {
        let resource = crate::discovery::tests::sample().find("deploy").expect("known").clone();
        let found = Found { resource, object: json!({"metadata": {"name": "d"}}) };
        let text = invalid(&found, &["spec.x: Required value".to_owned(), "two\nlines".to_owned()]);
        let expect = "# deployments.apps \"d\" was not valid:\n# * spec.x: Required value\n# * two\n# lines\n#\n";
        assert_eq!(text, expect);
        assert_eq!(without_comments(&format!("{HEAD}{text}a: 1\n  # kept\n")), "a: 1\n  # kept\n");
        assert!(parsed("").is_err() && parsed("x: [").is_err() && parsed("a: 1").is_ok());
    }
}
