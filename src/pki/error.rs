use std::path::PathBuf;

/// Why keys or certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: std::io::Error },
    /// The file does not hold what its name says.
    #[error("{path} holds no usable {what}; restore it, or remove it and its pair to have new ones made")]
    Damaged { path: PathBuf, what: &'static str },
    #[error("sign a certificate for {subject:?}")]
    Sign { subject: String, source: rcgen::Error },
    #[error("make a key")]
    Key(#[source] rcgen::Error),
    #[error("{0:?} is no DNS name that a certificate can hold")]
    Name(String),
    #[error("a certificate holds at most two groups, more were asked for {0:?}")]
    Groups(String),
    /// What is wrong with a certificate signing request.
    #[error("{0}")]
    Request(String),
    #[error("sign what is asked for {subject:?}: {why}")]
    Refused { subject: String, why: String },
    #[error("make a service-account key")]
    ServiceAccountKey,
}
