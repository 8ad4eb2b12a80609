use skiff_api::ApiError;

/// Why a call to the API server gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with a failure.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The server could not be asked, or its answer did not arrive.
    #[error("reach the API server")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what was asked for.
    #[error("decode the API server's answer")]
    Decode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A kubeconfig or a certificate that can't be used.
    #[error("{0}")]
    Config(String),
}

impl Error {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(e) if e.is_not_found())
    }

    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(e) if e.is_conflict())
    }

    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Api(e) if e.is_already_exists())
    }
}
