//! How crictl shows things: tables, times, sizes, and CRI's messages as JSON.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use skiff_runtime::{Container, ContainerState, Image, Sandbox, SandboxState};

/// crictl cuts ids to this.
const SHORT: usize = 13;
/// The least width of a column, and what is between two.
const COLUMN: usize = 20;
const GAP: usize = 3;

pub fn short(id: &str, whole: bool) -> String {
    let bare = id.trim_start_matches("sha256:");
    if whole { id.to_owned() } else { bare.get(..SHORT).unwrap_or(bare).to_owned() }
}

pub fn print_table(rows: &[Vec<String>]) -> Result<ExitCode> {
    let columns = rows.first().map_or(0, Vec::len);
    let longest = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| COLUMN.max(longest(at).unwrap_or(0) + GAP)).collect();
    for row in rows {
        let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", line.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

pub fn show(form: &str, value: &Value) -> Result<ExitCode> {
    match form {
        "json" => println!("{}", serde_json::to_string_pretty(value)?),
        "yaml" => print!("{}", serde_yaml::to_string(value)?),
        other => bail!("output {other:?} is not here: there are json and yaml"),
    }
    Ok(ExitCode::SUCCESS)
}

pub fn ago(then: Timestamp) -> String {
    format!("{} ago", human_time(Timestamp::now().duration_since(then)))
}

/// As Docker's tools say durations.
fn human_time(time: SignedDuration) -> String {
    let (seconds, minutes, hours) = (time.as_secs(), time.as_mins(), (time.as_secs() + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// Three digits, and steps of a thousand.
pub fn human_size(bytes: u64) -> String {
    size(bytes, 3)
}

fn size(bytes: u64, digits: usize) -> String {
    const STEPS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut step) = (bytes as f64, 0);
    while value >= 1000.0 && step < STEPS.len() - 1 {
        value /= 1000.0;
        step += 1;
    }
    let whole = if value < 10.0 { 1 } else { 2 + usize::from(value >= 100.0) };
    let digits = digits.saturating_sub(whole);
    let number = format!("{value:.digits$}");
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number}{}", STEPS[step])
}

/// A moment, or how long ago.
pub fn since(text: &str) -> Result<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let ns = skiff_api::duration::parse_ns(text).ok().with_context(|| format!("--since: {text:?} is no time"))?;
    Ok(Timestamp::now() - SignedDuration::from_nanos(ns))
}

/// CRI's `FilesystemUsage`.
pub struct FileSystem {
    at: Timestamp,
    directory: String,
    bytes: u64,
    inodes: u64,
}

impl FileSystem {
    pub fn look(directory: &Path) -> Self {
        let (bytes, inodes) = disk_use(directory);
        Self { at: Timestamp::now(), directory: directory.display().to_string(), bytes, inodes }
    }

    pub fn message(&self) -> Value {
        json!({
            "fsId": {"mountpoint": self.directory}, "timestamp": stamp(self.at),
            "inodesUsed": {"value": self.inodes.to_string()}, "usedBytes": {"value": self.bytes.to_string()},
        })
    }

    pub fn table(&self, what: &str) -> String {
        let (at, disk, inodes) = (self.at.as_nanosecond(), size(self.bytes, 4), self.inodes);
        let directory = &self.directory;
        format!(
            "{what} Filesystem \nTimeStamp[0]: {at}\nDisk[0]: {disk}\nInodes[0]: {inodes}\nMountpoint[0]: {directory}\n"
        )
    }
}

/// Bytes and inodes of a directory.
pub fn disk_use(directory: &Path) -> (u64, u64) {
    let Ok(entries) = std::fs::read_dir(directory) else { return (0, 0) };
    entries.filter_map(|entry| Some((entry.as_ref().ok()?.path(), entry.as_ref().ok()?.metadata().ok()?))).fold(
        (0, 1),
        |(bytes, inodes), (path, metadata)| {
            let (below, inside) = if metadata.is_dir() { disk_use(&path) } else { (metadata.blocks() * 512, 1) };
            (bytes + below, inodes + inside)
        },
    )
}

/// CRI's nanoseconds, which are text in JSON.
fn stamp(at: Timestamp) -> Value {
    at.as_nanosecond().to_string().into()
}

fn state(container: &Container) -> &'static str {
    match container.state {
        ContainerState::Created => "CONTAINER_CREATED",
        ContainerState::Running { .. } => "CONTAINER_RUNNING",
        ContainerState::Exited(_) => "CONTAINER_EXITED",
        ContainerState::Unknown => "CONTAINER_UNKNOWN",
    }
}

pub fn container(container: &Container) -> Value {
    json!({
        "id": container.id.0, "podSandboxId": container.sandbox.0,
        "metadata": {"name": container.name, "attempt": container.attempt},
        "image": {"image": container.image.0, "userSpecifiedImage": container.image_ref},
        "imageRef": container.image.0, "imageId": container.image.0,
        "state": state(container), "createdAt": stamp(container.created),
        "labels": container.labels, "annotations": container.annotations,
    })
}

pub fn container_status(found: &Container) -> Value {
    let never = || "0001-01-01T00:00:00Z".to_owned();
    let (started, finished, code, reason, message) = match &found.state {
        ContainerState::Running { started } => (started.to_string(), never(), 0, "", ""),
        ContainerState::Exited(exit) => (
            exit.started.map_or_else(never, |at| at.to_string()),
            exit.finished.to_string(),
            exit.code,
            exit.reason.as_str(),
            exit.message.as_str(),
        ),
        ContainerState::Created | ContainerState::Unknown => (never(), never(), 0, "", ""),
    };
    let mut status = container(found);
    for (name, value) in [
        ("createdAt", json!(found.created.to_string())),
        ("startedAt", json!(started)),
        ("finishedAt", json!(finished)),
        ("exitCode", json!(code)),
        ("reason", json!(reason)),
        ("message", json!(message)),
        ("logPath", json!(found.log_path)),
    ] {
        status[name] = value;
    }
    status["image"] = json!({"image": found.image_ref});
    status
}

pub fn pod(pod: &Sandbox) -> Value {
    json!({
        "id": pod.id.0,
        "metadata": {"name": pod.pod_name, "namespace": pod.pod_namespace, "uid": pod.pod_uid, "attempt": pod.attempt},
        "state": if pod.state == SandboxState::Ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" },
        "createdAt": stamp(pod.created), "labels": pod.labels, "annotations": pod.annotations, "runtimeHandler": "",
    })
}

pub fn image(image: &Image) -> Value {
    let number = image.user.split(':').next().and_then(|user| user.parse::<i64>().ok());
    json!({
        "id": image.id.0, "repoTags": image.tags, "repoDigests": image.digests, "size": image.size_bytes.to_string(),
        "uid": number.map(|uid| json!({"value": uid.to_string()})),
        "username": if number.is_none() { image.user.as_str() } else { "" }, "pinned": image.pinned,
    })
}

/// As `images -v` tells of one.
pub fn image_lines(image: &Image) -> String {
    let mut lines = format!("ID: {}\n", image.id.0);
    for (what, all) in [("RepoTags", &image.tags), ("RepoDigests", &image.digests)] {
        lines.extend(all.iter().map(|one| format!("{what}: {one}\n")));
    }
    lines + &format!("Size: {}\n", human_size(image.size_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        for (seconds, expect) in [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (90, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (47 * 3600, "47 hours"),
            (3 * 86_400, "3 days"),
            (20 * 86_400, "2 weeks"),
            (100 * 86_400, "3 months"),
            (900 * 86_400, "2 years"),
        ] {
            assert_eq!(human_time(SignedDuration::from_secs(seconds)), expect);
        }
        for (bytes, expect) in
            [(0, "0B"), (999, "999B"), (1_460_000, "1.46MB"), (27_000_000, "27MB"), (744_123, "744kB")]
        {
            assert_eq!(human_size(bytes), expect);
        }
        assert_eq!([size(27_450_000, 4), size(999, 4)], ["27.45MB", "999B"]);
        let images = FileSystem { at: Timestamp::UNIX_EPOCH, directory: "/d".to_owned(), bytes: 12_345, inodes: 7 };
        assert_eq!(
            images.table("Image"),
            "Image Filesystem \nTimeStamp[0]: 0\nDisk[0]: 12.35kB\nInodes[0]: 7\nMountpoint[0]: /d\n"
        );
        let message = json!({"fsId": {"mountpoint": "/d"}, "timestamp": "0", "inodesUsed": {"value": "7"}, "usedBytes": {"value": "12345"}});
        assert_eq!(images.message(), message);
        assert!(since("1h").expect("a time") < Timestamp::now());
        assert!(since("soon").is_err());
    }
}
