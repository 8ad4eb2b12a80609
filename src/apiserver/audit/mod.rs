//! The audit log: who asked for what, when, and what came of it.
//!
//! ```text
//! call -> policy: level -> RequestReceived -> (the request) -> ResponseStarted (watches, logs) -> ResponseComplete
//!                                    '-- lines, by a bounded queue --> one thread -> file, rotated
//! ```
//!
//! What happens on the way is noted by [`note`], wherever that is: `event` has it as annotations.
//!
//! Bodies are in it only where the policy asks for them (`Request`, `RequestResponse`), whatever they hold.

mod event;
mod log;
mod notes;
mod policy;

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

pub(crate) use self::event::Recorder;
pub use self::log::Rotation;
pub(crate) use self::notes::{note, noting};
pub(crate) use self::policy::Level;
use self::policy::Policy;
use crate::call::Call;
use crate::request::RequestInfo;

/// What is recorded, and where.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    pub policy_file: PathBuf,
    /// `-` is standard output.
    pub log_path: PathBuf,
    pub rotation: Rotation,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("read the audit policy {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the audit policy {path} is not valid: {why}")]
    Policy { path: PathBuf, why: String },
    #[error("open the audit log {path}")]
    Log { path: PathBuf, source: io::Error },
}

pub(crate) struct Audit {
    policy: Policy,
    lines: mpsc::Sender<Vec<u8>>,
}

impl Audit {
    pub fn open(options: &AuditOptions) -> Result<Self, AuditError> {
        let own = |path: &Path| path.to_owned();
        let text = std::fs::read_to_string(&options.policy_file)
            .map_err(|source| AuditError::Read { path: own(&options.policy_file), source })?;
        let policy = Policy::parse(&text).map_err(|why| AuditError::Policy { path: own(&options.policy_file), why })?;
        let failed = |source| AuditError::Log { path: own(&options.log_path), source };
        let log = log::Log::open(&options.log_path, options.rotation).map_err(failed)?;
        let (lines, waiting) = mpsc::channel(log::WAITING);
        let writer = std::thread::Builder::new().name("audit-log".to_owned());
        writer.spawn(move || log::write_all(log, waiting)).map_err(failed)?;
        Ok(Self { policy, lines })
    }

    /// `None`: nothing of this request is recorded.
    pub fn begin(&self, call: &Call, info: &RequestInfo) -> Option<Recorder> {
        let user = call.impersonator.as_ref().unwrap_or(&call.user);
        let config = self.policy.evaluate(user, &info.attributes());
        (config.level != Level::None).then(|| Recorder::new(config, call, info, self.lines.clone()))
    }
}
