//! Parts of an object, each with rules and owners of its own.

/// Which part of an object a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    /// Whether a certificate may be signed: the conditions of a CertificateSigningRequest.
    Approval,
    /// How many replicas, by way of a Scale.
    Scale,
    /// Some fields of the object, by the name of the subresource that they are.
    Fields(&'static str),
    /// A change by the API server's own code (binding, finalize, delete): no strategy looks at it.
    Own,
}

impl Part {
    /// Under which name changes of this part are owned.
    pub fn subresource(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Approval => "approval",
            Self::Scale => "scale",
            Self::Fields(name) => name,
            Self::Main | Self::Own => "",
        }
    }
}
