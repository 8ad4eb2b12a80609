//! `kubectl cp`: files to and from a container, by the `tar` that is in it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc as blocking;

use bytes::Bytes;
use clap::Args;
use serde_json::Value;
use tokio::sync::mpsc;

use super::exec::{choose, find_pod, pod_path};
use super::{Ends, exchange};
use crate::server::{Server, with_query};
use crate::{Failure, Result};

/// Pieces of an archive on their way.
const PIECES: usize = 8;

#[derive(Args, Debug)]
pub struct Cp {
    /// [[NAMESPACE/]POD:]PATH
    from: String,
    /// [[NAMESPACE/]POD:]PATH
    to: String,
    /// Container name
    #[arg(short, long)]
    container: Option<String>,
    /// The copied file's owner and mode are not preserved in the container
    #[arg(long)]
    no_preserve: bool,
}

/// A place: here, or in a pod.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    namespace: Option<&'a str>,
    pod: Option<&'a str>,
    path: &'a str,
}

fn place(text: &str) -> Result<Place<'_>> {
    // A colon behind a slash at the beginning, or behind a dot, is part of a file's name.
    let Some((pod, path)) = text.split_once(':').filter(|_| !text.starts_with(['/', '.'])) else {
        return Ok(Place { namespace: None, pod: None, path: text });
    };
    let (namespace, pod) = match pod.split_once('/') {
        Some((namespace, pod)) => (Some(namespace), pod),
        None => (None, pod),
    };
    if pod.is_empty() || pod.contains('/') {
        return Err(Failure::text("filespec must match the canonical format: [[namespace/]pod:]file/path"));
    }
    Ok(Place { namespace, pod: Some(pod), path })
}

pub async fn cp(server: &mut Server, arguments: Cp) -> Result {
    let (from, to) = (place(&arguments.from)?, place(&arguments.to)?);
    let remote = match (from.pod, to.pod) {
        (Some(_), Some(_)) => return Err(Failure::text("one of src or dest must be a local file specification")),
        (None, None) => return Err(Failure::text("one of src or dest must be a remote file specification")),
        (Some(_), None) => &from,
        (None, Some(_)) => &to,
    };
    if from.path.is_empty() || to.path.is_empty() {
        return Err(Failure::text("filepath can not be empty"));
    }
    if let Some(namespace) = remote.namespace {
        server.namespace = namespace.to_owned();
    }
    let pod = find_pod(server, remote.pod.unwrap_or_default()).await?;
    let container = choose(&pod, arguments.container.as_deref(), false)?;
    let there = There { server, pod: &pod, container: &container };
    match to.pod {
        Some(_) => there.upload(Path::new(from.path), to.path, arguments.no_preserve).await,
        None => there.download(from.path, Path::new(to.path)).await,
    }
}

/// A container that has `tar`.
struct There<'a> {
    server: &'a Server,
    pod: &'a Value,
    container: &'a str,
}

impl There<'_> {
    async fn run(
        &self,
        command: &[&str],
        input: Option<mpsc::Receiver<Bytes>>,
        output: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result {
        let mut pairs: Vec<(&str, &str)> = command.iter().map(|word| ("command", *word)).collect();
        let stdin = if input.is_some() { "true" } else { "" };
        pairs.extend([("container", self.container), ("stdin", stdin), ("stdout", "true"), ("stderr", "true")]);
        let ends = Ends { input, output, errors: |bytes: &[u8]| io::stderr().write_all(bytes), tty: false };
        exchange(self.server, &with_query(&pod_path(self.pod, "exec"), &pairs), ends).await
    }

    async fn upload(&self, from: &Path, to: &str, no_preserve: bool) -> Result {
        let shown = from.display();
        fs::symlink_metadata(from).map_err(|_| Failure::text(format!("{shown} doesn't exist in local filesystem")))?;
        let base = from.file_name().map(|name| name.to_string_lossy().into_owned());
        let is_directory = to.ends_with('/') || self.run(&["test", "-d", to], None, |_| Ok(())).await.is_ok();
        let mut to = to.trim_end_matches('/').to_owned();
        if is_directory && let Some(base) = base {
            to = format!("{to}/{base}");
        }
        let (directory, name) = to.rsplit_once('/').unwrap_or(("", &to));
        let mut command = vec!["tar"];
        if no_preserve {
            command.extend(["--no-same-permissions", "--no-same-owner"]);
        }
        command.extend(["-xmf", "-"]);
        if !directory.is_empty() {
            command.extend(["-C", directory]);
        } else if to.starts_with('/') {
            command.extend(["-C", "/"]);
        }
        let (sender, receiver) = mpsc::channel(PIECES);
        let (from, name) = (from.to_owned(), name.to_owned());
        let packer = std::thread::spawn(move || pack(&from, &name, Pieces(sender)));
        let unpacked = self.run(&command, Some(receiver), |_| Ok(())).await;
        let packed = packer.join().map_err(|_| Failure::text("the archive could not be made"))?;
        // A tar that ends early is the cause of a pipe that breaks.
        unpacked?;
        packed.map_err(|error| Failure::text(error.to_string()))
    }

    async fn download(&self, from: &str, to: &Path) -> Result {
        let from = from.trim_end_matches('/');
        let base = Path::new(from).file_name().map(PathBuf::from);
        let to = match base {
            Some(base) if to.is_dir() => to.join(base),
            _ => to.to_owned(),
        };
        let prefix = PathBuf::from(from.trim_start_matches('/'));
        let (sender, receiver) = blocking::sync_channel::<Bytes>(PIECES);
        let unpacker =
            std::thread::spawn(move || unpack(Arrived { pieces: receiver, rest: Bytes::new() }, &prefix, &to));
        let output = move |bytes: &[u8]| {
            sender.send(Bytes::copy_from_slice(bytes)).map_err(|_| io::Error::other("the files can't be written"))
        };
        let packed = self.run(&["tar", "cf", "-", from], None, output).await;
        let unpacked = unpacker.join().map_err(|_| Failure::text("the archive could not be read"))?;
        unpacked.map_err(|error| Failure::text(error.to_string()))?;
        packed
    }
}

/// Sends what is written.
struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pack(from: &Path, name: &str, to: Pieces) -> io::Result<()> {
    let mut builder = tar::Builder::new(io::BufWriter::with_capacity(32 * 1024, to));
    builder.follow_symlinks(false);
    match from.is_dir() {
        true => builder.append_dir_all(name, from)?,
        false => builder.append_path_with_name(from, name)?,
    }
    builder.into_inner()?.flush()
}

/// Reads what has come.
struct Arrived {
    pieces: blocking::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Arrived {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.recv() {
                Ok(piece) => self.rest = piece,
                Err(_) => return Ok(0),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

/// Where an entry goes; nowhere if it is not below what was asked for.
fn target(entry: &Path, prefix: &Path, to: &Path) -> Option<PathBuf> {
    let clean = |path: &Path| path.components().filter(|c| *c != Component::CurDir).collect::<PathBuf>();
    let rest = clean(entry).strip_prefix(clean(prefix)).ok()?.to_owned();
    rest.components().all(|c| matches!(c, Component::Normal(_))).then(|| match rest.as_os_str().is_empty() {
        true => to.to_owned(),
        false => to.join(rest),
    })
}

/// Unpacks directories and files. Links are not followed, and none is made: the container is not to be trusted.
fn unpack(from: Arrived, prefix: &Path, to: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(target) = target(&path, prefix, to) else {
            eprintln!("warning: {} is not below {}, skipping", path.display(), prefix.display());
            continue;
        };
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            fs::create_dir_all(&target)?;
        } else if kind.is_file() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
            // One that is there may be a link to somewhere else.
            match fs::remove_file(&target) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file: File = File::options().write(true).create_new(true).mode(0o600).open(&target)?;
            io::copy(&mut entry, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        } else {
            eprintln!("warning: skipping {}: it is no file and no directory", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let check = |text: &str, expect: Option<(Option<&str>, Option<&str>, &str)>| {
            let got = place(text).ok().map(|p| (p.namespace, p.pod, p.path));
            assert_eq!(got, expect, "{text}");
        };
        check("/a:b", Some((None, None, "/a:b")));
        check("./a:b", Some((None, None, "./a:b")));
        check("p:/a", Some((None, Some("p"), "/a")));
        check("n/p:a/b", Some((Some("n"), Some("p"), "a/b")));
        check("n/x/p:a", None);
        check(":a", None);
    }

    #[test]
    fn archives_stay_where_they_belong() {
        let check = |entry: &str, prefix: &str, expect: Option<&str>| {
            let got = target(Path::new(entry), Path::new(prefix), Path::new("/to"));
            assert_eq!(got.as_deref(), expect.map(Path::new), "{entry} below {prefix}");
        };
        check("tmp/x", "tmp/x", Some("/to"));
        check("tmp/x/a/b", "tmp/x", Some("/to/a/b"));
        check("./x/a", "x", Some("/to/a"));
        check("tmp/x/../../etc", "tmp/x", None);
        check("etc/passwd", "tmp/x", None);
        check("/etc/passwd", "tmp/x", None);
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let directory = tempfile::tempdir().expect("a directory");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("sub/empty")).expect("made");
        fs::write(from.join("sub/a"), "a").expect("written");
        fs::set_permissions(from.join("sub/a"), fs::Permissions::from_mode(0o750)).expect("set");
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).expect("linked");
        let (sender, mut receiver) = mpsc::channel(PIECES);
        let (pieces, arrived) = blocking::sync_channel(PIECES);
        let packer = std::thread::spawn(move || pack(&from, "name", Pieces(sender)));
        let carrier = std::thread::spawn(move || {
            while let Some(piece) = receiver.blocking_recv() {
                pieces.send(piece).expect("taken");
            }
        });
        unpack(Arrived { pieces: arrived, rest: Bytes::new() }, Path::new("name"), &to).expect("unpacked");
        packer.join().expect("no panic").expect("packed");
        carrier.join().expect("no panic");
        assert_eq!(fs::read_to_string(to.join("sub/a")).expect("there"), "a");
        assert_eq!(fs::metadata(to.join("sub/a")).expect("there").permissions().mode() & 0o777, 0o750);
        assert!(to.join("sub/empty").is_dir() && !to.join("link").exists());
    }
}
