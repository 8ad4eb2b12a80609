//! What operators read: one line per event on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::cli::LogFormat;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(tracing::Level);

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = ["error", "warn", "info", "debug"].contains(&text);
        text.parse().ok().filter(|_| known).map(Self).ok_or_else(|| "a level is error, warn, info or debug".to_owned())
    }
}

struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", skiff_base::time::rfc3339_micro(skiff_base::time::now()))
    }
}

/// `RUST_LOG` wins over the level, for looking into one part.
pub fn start(level: Level, format: LogFormat) {
    let own = format!("warn,skiff={0},{1}", level.0, OWN_CRATES.map(|c| format!("skiff_{c}={}", level.0)).join(","));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(own));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_timer(Clock);
    match format {
        LogFormat::Text => builder.with_ansi(ansi).init(),
        LogFormat::Json => builder.json().init(),
    }
}

const OWN_CRATES: [&str; 14] = [
    "api",
    "apiserver",
    "base",
    "client",
    "controllers",
    "dns",
    "kubelet",
    "linux",
    "network",
    "pki",
    "proxy",
    "runtime",
    "scheduler",
    "store",
];
