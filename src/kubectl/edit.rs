//! `kubectl edit`: an object in an editor, and what was changed as a patch.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde_json::{Value, json};
use skiff_api::yaml;

use crate::apply::remembering;
use crate::failure::{api_error, sentence};
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
    /// status, scale
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

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let found = arguments.selection.find(server, &arguments.words, Some(&server.namespace)).await?;
    if found.is_empty() {
        return Err(Failure::text("no objects passed to edit"));
    }
    let format = match arguments.writing.printing.output.as_str() {
        "" | "yaml" => Format::Yaml,
        "json" => Format::Json,
        other => return Err(Failure::text(format!("The flag 'output' must be one of yaml|json, not {other:?}"))),
    };
    let shown = |object: &Value| {
        if arguments.writing.printing.show_managed_fields {
            object.clone()
        } else {
            without_managed_fields(object.clone())
        }
    };
    let objects: Vec<Value> = found.iter().map(|found| shown(&found.object)).collect();
    let original = match objects.as_slice() {
        [one] => format.text(one),
        many => format.text(&json!({"apiVersion": "v1", "kind": "List", "items": many})),
    };
    let file = Draft::new(format.extension())?;
    let mut problem = String::new();
    let mut last = original.clone();
    loop {
        file.write(&format!("{HEAD}{problem}{last}"))?;
        file.open()?;
        let edited = without_comments(&file.read()?);
        if edited.trim().is_empty() {
            return Err(Failure::text("Edit cancelled, saved file was empty."));
        }
        if edited == last {
            if problem.is_empty() {
                println!("Edit cancelled, no changes made.");
                return file.remove();
            }
            return Err(Failure::text(format!(
                "Edit cancelled, no valid changes were saved.\nA copy of your changes has been stored to {:?}",
                file.path.display()
            )));
        }
        match save(server, &arguments, &found, &objects, &edited).await {
            Ok(()) => return file.remove(),
            Err(e) => problem = comment(&e),
        }
        last = edited;
    }
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

/// What went wrong, for the head of the file that is opened again.
fn comment(error: &anyhow::Error) -> String {
    let mut text = String::new();
    match api_error(error).and_then(|error| error.details.as_deref()) {
        Some(details) if !details.causes.is_empty() => {
            text.push_str(&format!("# {} {:?} was not valid:\n", details.kind, details.name));
            details.causes.iter().for_each(|cause| text.push_str(&format!("# * {}: {}\n", cause.field, cause.message)));
        }
        _ => sentence(error).lines().for_each(|line| text.push_str(&format!("# {line}\n"))),
    }
    text + "#\n"
}

fn without_comments(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect()
}

async fn save(server: &Server, arguments: &Arguments, found: &[Found], objects: &[Value], edited: &str) -> Result {
    let document =
        yaml::document(edited).map_err(|e| Failure::text(format!("The edited file had a syntax error: {e}")))?.value;
    let items = match document.get("items").and_then(Value::as_array).filter(|_| objects.len() > 1) {
        Some(items) => items.clone(),
        None => vec![document],
    };
    let identity = |object: &Value| {
        let metadata = &object["metadata"];
        [&object["apiVersion"], &object["kind"], &metadata["namespace"], &metadata["name"]].map(Clone::clone)
    };
    for after in items {
        let Some(nth) = objects.iter().position(|object| identity(object) == identity(&after)) else {
            return Err(Failure::text("At least one of apiVersion, kind and name was changed"));
        };
        let target = &found[nth];
        if after == objects[nth] {
            println!("{} skipped", target.label());
            continue;
        }
        let after = if arguments.save_config { remembering(&after) } else { after };
        let before = Found { resource: target.resource.clone(), object: objects[nth].clone() };
        let (kind, body) = difference(&before, &after)?;
        if arguments.output_patch {
            println!("Patch: {}", crate::print::compact(&body));
        }
        let writing = &arguments.writing;
        let made =
            writing.patch_subresource(server, target, &arguments.subresource, kind, &body, "kubectl-edit").await?;
        println!("{} edited", target.resource.label(made["metadata"]["name"].as_str().unwrap_or_default()));
    }
    Ok(())
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
    use skiff_api::ApiError;
    use skiff_api::status::Cause;

    #[test]
    fn problems_stand_in_comments_and_comments_are_left_out() {
        let cause = Cause { reason: String::new(), message: "Required value".into(), field: "spec.x".into() };
        let error = Failure::Server { context: None, error: ApiError::invalid("apps", "Deployment", "d", vec![cause]) };
        let text = comment(&error.into());
        assert_eq!(text, "# Deployment \"d\" was not valid:\n# * spec.x: Required value\n#\n");
        assert_eq!(without_comments(&format!("{HEAD}{text}a: 1\n  # kept\n")), "a: 1\n  # kept\n");
    }
}
