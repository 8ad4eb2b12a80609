//! What `kubectl debug` is asked for.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;
use skiff_api::yaml;

use crate::manifest::Files;
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Arguments {
    /// POD or TYPE/NAME
    pub words: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    /// If specified, everything after -- will be passed to the new container as Args instead of Command
    #[arg(long)]
    pub arguments_only: bool,
    /// Wait for the container to start running, and then attach to it; the default with -i
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub attach: Option<bool>,
    /// Container name to use for debug container
    #[arg(short, long, default_value = "")]
    pub container: String,
    /// Create a copy of the target Pod with this name
    #[arg(long, default_value = "")]
    pub copy_to: String,
    /// When used with '--copy-to', delete the original Pod
    #[arg(long)]
    pub replace: bool,
    /// Environment variables to set in the container: NAME=VALUE
    #[arg(long, value_delimiter = ',')]
    pub env: Vec<String>,
    /// Container image to use for debug container
    #[arg(long, default_value = "")]
    pub image: String,
    /// The image pull policy for the container
    #[arg(long, default_value = "")]
    pub image_pull_policy: String,
    /// With '--copy-to': keep the original pod labels
    #[arg(long)]
    pub keep_labels: bool,
    /// With '--copy-to': keep the original pod annotations
    #[arg(long)]
    pub keep_annotations: bool,
    /// With '--copy-to': keep the original pod liveness probes
    #[arg(long)]
    pub keep_liveness: bool,
    /// With '--copy-to': keep the original pod readiness probes
    #[arg(long)]
    pub keep_readiness: bool,
    /// With '--copy-to': keep the original startup probes
    #[arg(long)]
    pub keep_startup: bool,
    /// With '--copy-to': run the init containers of the pod
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    pub keep_init_containers: bool,
    /// With '--copy-to': new images of containers, NAME=IMAGE; '*' names all
    #[arg(long, value_delimiter = ',')]
    pub set_image: Vec<String>,
    /// Keep stdin open on the container(s) in the pod, even if nothing is attached
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Allocate a TTY for the debugging container
    #[arg(short, long)]
    pub tty: bool,
    /// Suppress informational messages
    #[arg(short, long)]
    pub quiet: bool,
    /// With '--copy-to': schedule the copy of target Pod on the same node
    #[arg(long)]
    pub same_node: bool,
    /// With '--copy-to': enable process namespace sharing in the copy
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub share_processes: Option<bool>,
    /// When using an ephemeral container, target processes in this container name
    #[arg(long, default_value = "")]
    pub target: String,
    /// Options are "general", "baseline", "restricted", "netadmin" or "sysadmin"
    #[arg(long, default_value = "general")]
    pub profile: String,
    /// Path to a JSON or YAML file containing a partial container spec to customize built-in debug profiles
    #[arg(long)]
    pub custom: Option<PathBuf>,
    /// The command, behind `--`
    #[arg(last = true)]
    pub command: Vec<String>,
}

pub fn custom_profile(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        let why = crate::print::os_error(&e);
        Failure::text(format!(
            "must pass a container spec json file for custom profile: open {}: {why}",
            file.display()
        ))
    })?;
    let invalid =
        |why: String| Failure::text(format!("{} does not contain a valid container spec: {why}", file.display()));
    let value = yaml::document(&text).map_err(|e| invalid(e.to_string()))?.value;
    let Some(fields) = value.as_object() else { return Err(invalid("a container is an object".into())) };
    if ["name", "command", "image", "lifecycle", "volumeDevices"].iter().any(|field| fields.contains_key(*field)) {
        return Err(Failure::text(
            "name, command, image, lifecycle and volume devices are not modifiable via custom profile",
        ));
    }
    Ok(value)
}

/// Whether a text can name an image.
pub fn is_reference(image: &str) -> bool {
    let word = |text: &str, more: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        ends(text.chars().next())
            && ends(text.chars().last())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let (rest, digest) = image.split_once('@').map_or((image, None), |(rest, digest)| (rest, Some(digest)));
    let from = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[from..].split_once(':') {
        Some((last, tag)) => (&rest[..from + last.len()], Some(tag)),
        None => (rest, None),
    };
    let parts: Vec<&str> = name.split('/').collect();
    let is_host = |part: &str| parts.len() > 1 && word(part, ".-:[]");
    parts
        .iter()
        .enumerate()
        .all(|(nth, part)| (word(part, "._-") && part.to_lowercase() == **part) || (nth == 0 && is_host(part)))
        && tag.is_none_or(|tag| !tag.is_empty() && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)))
        && digest.is_none_or(|digest| digest.split_once(':').is_some_and(|(_, hex)| hex.len() >= 32))
}

impl Arguments {
    pub fn check(&self) -> Result {
        let refuse = |why: &str| Err(Failure::text(why));
        if self.attach == Some(true) && self.image.is_empty() && self.container.is_empty() {
            return refuse("you must specify --container or create a new container using --image in order to attach.");
        }
        if !self.copy_to.is_empty() {
            if self.image.is_empty() && self.set_image.is_empty() && self.command.is_empty() {
                return refuse("you must specify --image, --set-image or command arguments.");
            }
            if !self.command.is_empty() && self.container.is_empty() && self.image.is_empty() {
                return refuse("you must specify an existing container or a new image when specifying args.");
            }
        } else if self.replace {
            return refuse("--replace may only be used with --copy-to.");
        } else if self.same_node {
            return refuse("--same-node may only be used with --copy-to.");
        } else if !self.set_image.is_empty() {
            return refuse("--set-image may only be used with --copy-to.");
        } else if self.image.is_empty() {
            return refuse("you must specify --image when not using --copy-to.");
        }
        if !self.image.is_empty() && !is_reference(&self.image) {
            return Err(Failure::text(format!("invalid image name {:?}: invalid reference format", self.image)));
        }
        if self.words.is_empty() && self.files.is_empty() {
            return refuse("NAME or filename is required for debug");
        }
        if !matches!(self.image_pull_policy.as_str(), "" | "Always" | "IfNotPresent" | "Never") {
            return Err(Failure::text(format!("invalid image pull policy: {}", self.image_pull_policy)));
        }
        if !self.target.is_empty() {
            if !self.copy_to.is_empty() {
                return refuse("--target is incompatible with --copy-to. Use --share-processes instead.");
            }
            if !self.quiet {
                println!(
                    "Targeting container {:?}. If you don't see processes from this container it may be because the container runtime doesn't support this feature.",
                    self.target
                );
            }
        }
        if self.tty && !self.stdin {
            return refuse("-i/--stdin is required for containers with -t/--tty=true");
        }
        if self.profile == "legacy" {
            eprintln!(
                "--profile=legacy is deprecated and will be removed in the future. It is recommended to specify other profile, for example \"--profile=general\"."
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_names() {
        for (image, expect) in [
            ("busybox", true),
            ("busybox:1.36", true),
            ("registry:5000/a/b:c", true),
            ("Registry.Example.com/a/b", true),
            ("a//b", false),
            ("Busybox", false),
            ("a:", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(is_reference(image), expect, "{image}");
        }
    }
}
