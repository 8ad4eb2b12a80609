//! Where failures of the store and of the start become answers.

use std::net::SocketAddr;

use skiff_api::ApiError;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "another program listens on {address}: stop it (`ss -tlnp` names it), or choose another port with --https-listen-port"
    )]
    Taken { address: SocketAddr },
    #[error("listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("{0}")]
    Certificate(&'static str),
    #[error("make a certificate")]
    Pki(#[from] skiff_pki::Error),
    #[error("set up the audit log")]
    Audit(#[from] crate::audit::AuditError),
    #[error("read the store")]
    Store(#[from] skiff_store::Error),
    #[error("create {what}: {error}")]
    Bootstrap { what: String, error: ApiError },
}

/// The one place where the store's errors meet HTTP.
pub(crate) fn from_store(error: &skiff_store::Error) -> ApiError {
    use skiff_store::Error as E;
    match error {
        E::Compacted { .. } => ApiError::expired("The resourceVersion for the provided list is too old."),
        E::TooLarge { limit, .. } => {
            ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
        }
        E::NotLeader | E::Stopped => retry_after(ApiError::new(503, "ServiceUnavailable", error.to_string()), 1),
        E::Unknown => retry_after(
            ApiError::new(504, "Timeout", "Timeout: request did not complete within the allotted timeout"),
            1,
        ),
        E::Full => ApiError::new(
            507,
            "InsufficientStorage",
            "the disk of the cluster's store is full: free space in the server's data directory",
        ),
        other => ApiError::internal(skiff_base::chain(other)),
    }
}

pub(crate) fn retry_after(mut error: ApiError, seconds: u32) -> ApiError {
    error.details.get_or_insert_default().retry_after_seconds = Some(seconds);
    error
}

/// Nothing is served at this path. Upstream says `404 page not found` as text here, of which client-go makes this
/// sentence; other clients (kube-rs, for one) fail to read it.
pub(crate) fn path_not_found() -> ApiError {
    let mut error = ApiError::new(404, "NotFound", "the server could not find the requested resource");
    // Clients look into them without asking whether they are there (`kubectl debug` of 1.32 panics).
    error.details.get_or_insert_default();
    error
}

pub(crate) fn method_not_allowed() -> ApiError {
    ApiError::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
}

pub(crate) fn not_acceptable() -> ApiError {
    ApiError::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml",
    )
}

pub(crate) fn unsupported_media_type(accepted: &str) -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        format!("the body of the request was in an unknown format - accepted media types include: {accepted}"),
    )
}
