//! libcontainer's errors lose their causes on the way between its processes; it logs them before. This collects what
//! it logs, from all of them, in memory that they share.

use std::fmt::Write as _;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::span;

/// What has been logged.
pub struct Captured(Option<std::fs::File>);

/// Collects from now on, in this process and those it forks.
pub fn install() -> Captured {
    let memory = nix::sys::memfd::memfd_create(c"skiff-errors", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).ok();
    let file = memory.map(std::fs::File::from);
    if let Some(sink) = file.as_ref().and_then(|file| file.try_clone().ok()) {
        // There is one already only if the supervisor had one.
        drop(tracing::subscriber::set_global_default(Collector { sink: Mutex::new(OwnedFd::from(sink).into()) }));
    }
    Captured(file)
}

impl Captured {
    /// The error with the first thing that went wrong.
    pub fn explain(mut self, error: &str) -> String {
        let mut text = String::new();
        if let Some(file) = &mut self.0 {
            // Without it the error stands alone.
            let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
        }
        match text.lines().next() {
            Some(first) if !error.contains(first) => format!("{error} ({first})"),
            _ => error.to_owned(),
        }
    }
}

struct Collector {
    sink: Mutex<std::fs::File>,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing into memory can't fail.
        let _ = match field.name() {
            "message" => {
                let rest = std::mem::take(&mut self.0);
                write!(self.0, "{value:?}{rest}")
            }
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        if let Ok(mut sink) = self.sink.lock() {
            let _ = writeln!(sink, "{}", text.0.replace('\n', " "));
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
