//! Bytes from a client to a `Value` in canonical shape, with what was unknown or given twice.

use serde_json::Value;

use crate::resource::Gvk;
use crate::schema::Type;
use crate::status::ApiError;

/// The encoding of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Media {
    /// From a `Content-Type`; absent or empty means JSON. `None`: 415.
    pub fn of(content_type: Option<&str>) -> Option<Self> {
        let essence =
            content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "" | "application/json" | "text/json" | "*/*" => Some(Self::Json),
            "application/yaml" | "application/x-yaml" | "text/yaml" => Some(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Unknown fields are pruned, zero values that mean absence dropped.
    pub value: Value,
    /// From the body (the envelope, in protobuf), where it says so.
    pub gvk: Option<Gvk>,
    /// Complete sentences: `unknown field "spec.x"`.
    pub unknown: Vec<String>,
    /// Complete sentences: `duplicate field "spec.y"`.
    pub duplicates: Vec<String>,
}

impl Decoded {
    /// What `fieldValidation=Strict` answers, `None` if there is nothing to complain about.
    pub fn strict_error(&self, expected: &Gvk) -> Option<ApiError> {
        let complaints: Vec<&str> = self.unknown.iter().chain(&self.duplicates).map(String::as_str).collect();
        (!complaints.is_empty())
            .then(|| cannot_be_handled(expected, &format!("strict decoding error: {}", complaints.join(", "))))
    }

    /// What `fieldValidation=Warn` puts into `Warning` headers.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.unknown.iter().chain(&self.duplicates).map(String::as_str)
    }
}

/// 400 with upstream's words around `why`.
pub fn cannot_be_handled(expected: &Gvk, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {why}",
        kind = expected.kind,
        version = expected.version
    ))
}

/// Reads one object. `expected` is the kind of the endpoint: it stands in the error texts, and for an absent
/// `apiVersion`/`kind` (which the value then gets). `schema: None` takes everything as it is.
pub fn decode(body: &[u8], media: Media, expected: &Gvk, schema: Option<&Type>) -> Result<Decoded, ApiError> {
    let _ = (media, schema);
    let value = serde_json::from_slice(body).map_err(|e| cannot_be_handled(expected, &e.to_string()))?;
    Ok(Decoded { value, gvk: None, unknown: Vec::new(), duplicates: Vec::new() })
}

/// Prunes and checks a value that is no fresh body: the result of a patch. Paths and sentences as in [`decode`].
pub fn conform(value: Value, expected: &Gvk, schema: &Type) -> Result<Decoded, ApiError> {
    let _ = (expected, schema);
    Ok(Decoded { value, gvk: None, unknown: Vec::new(), duplicates: Vec::new() })
}
