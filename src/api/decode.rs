//! Bytes from a client to a `Value` in canonical shape, with what was unknown or given twice.

use serde_json::Value;

mod protobuf;
mod scalar;
mod walk;

use crate::resource::Gvk;
use crate::schema::{self, ObjectType, Type};
use crate::status::ApiError;
use crate::yaml;

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
    /// Complete sentences in the order of the document: `unknown field "spec.x"`, `duplicate field "spec.y"`.
    pub strict: Vec<String>,
}

impl Decoded {
    /// What `fieldValidation=Strict` answers, `None` if there is nothing to complain about.
    pub fn strict_error(&self, expected: &Gvk) -> Option<ApiError> {
        (!self.strict.is_empty())
            .then(|| cannot_be_handled(expected, &format!("strict decoding error: {}", self.strict.join(", "))))
    }

    /// What `fieldValidation=Warn` puts into `Warning` headers.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.strict.iter().map(String::as_str)
    }
}

/// 400 with upstream's words around `why`.
pub fn cannot_be_handled(expected: &Gvk, why: &str) -> ApiError {
    handled_as(expected, expected, why)
}

/// Reads one object. `expected` is the kind of the endpoint: it stands in the error texts, must be the body's where the
/// body names one, and is written into the value where it doesn't. `schema: None` takes everything as it is.
pub fn decode(body: &[u8], media: Media, expected: &Gvk, schema: Option<&Type>) -> Result<Decoded, ApiError> {
    let (value, report) = match media {
        Media::Json => walk::text(body, schema).map_err(|e| unrecognized(expected, "json parse error", &e))?,
        Media::Yaml => {
            let text = std::str::from_utf8(body).map_err(|e| unrecognized(expected, "yaml", &e))?;
            let document = yaml::document(text).map_err(|e| unrecognized(expected, "error", &e))?;
            let (value, mut report) = walk::value(document.value, schema);
            if !document.duplicates.is_empty() {
                let lines: String = document.duplicates.iter().map(|line| format!("\n  {line}")).collect();
                report.strict.insert(0, format!("yaml: unmarshal errors:{lines}"));
            }
            (value, report)
        }
        Media::Protobuf => return decode_protobuf(body, expected, schema),
    };
    finish(value, report, expected)
}

/// The kind that a protobuf body says it is of.
pub fn protobuf_kind(body: &[u8]) -> Option<Gvk> {
    let envelope = protobuf::Envelope::read(body).ok()?;
    let (group, version) = envelope.api_version.rsplit_once('/').unwrap_or(("", &envelope.api_version));
    Some(Gvk::new(group, version, &envelope.kind))
}

/// Prunes and checks a value that is no fresh body: the result of a patch. Paths and sentences as in [`decode`].
pub fn conform(value: Value, expected: &Gvk, schema: &Type) -> Result<Decoded, ApiError> {
    let (value, report) = walk::value(value, Some(schema));
    finish(value, report, expected)
}

/// Prunes and checks a part of an object. With the names of the fields that were unknown; the error is a sentence.
pub(crate) fn part(value: Value, ty: &Type) -> Result<(Value, Vec<String>), String> {
    let (value, report) = walk::value(value, Some(ty));
    if let Some(failure) = report.failure {
        return Err(failure);
    }
    let name = |sentence: &String| sentence.strip_prefix("unknown field \"")?.strip_suffix('"').map(str::to_owned);
    Ok((value, report.strict.iter().filter_map(name).collect()))
}

/// What is wrong with an object's metadata, as Go's JSON decoder says it: it would be another object without what is wrong.
pub fn check_metadata(object: &Value) -> Result<(), String> {
    let Some(metadata) = object.get("metadata") else { return Ok(()) };
    // Any kind does: all have the same metadata.
    let Some(ty) = schema::lookup(&Gvk::new("", "v1", "ConfigMap")) else { return Ok(()) };
    let (_, report) = walk::value(serde_json::json!({"metadata": metadata}), Some(&ty));
    match report.failure {
        Some(failure) => {
            Err(failure.replacen("field ConfigMap.metadata of", "field metadataOnlyObject.metadata of", 1))
        }
        None => Ok(()),
    }
}

/// Reads a JSON text without a type: the value, and sentences about fields that came twice.
pub fn untyped(body: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    walk::text(body, None).map(|(value, report)| (value, report.strict))
}

fn decode_protobuf(body: &[u8], expected: &Gvk, schema: Option<&Type>) -> Result<Decoded, ApiError> {
    let wrong = |e: protobuf::Error| cannot_be_handled(expected, &e.to_string());
    let envelope = protobuf::Envelope::read(body).map_err(wrong)?;
    if envelope.content_type == "application/json" {
        return decode(envelope.raw, Media::Json, expected, schema);
    }
    // Of kinds that are newer than the list of numbers nothing could be read.
    let is_numbered = |object: &&ObjectType| object.fields.iter().any(|field| !field.tags.is_empty());
    let object = schema.and_then(Type::object).filter(is_numbered).ok_or_else(|| {
        cannot_be_handled(expected, "the kind has no protobuf encoding; send JSON (application/json) instead")
    })?;
    let mut values = protobuf::object(object, envelope.raw).map_err(wrong)?;
    for (field, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !text.is_empty() {
            values.insert(field.to_owned(), Value::String(text));
        }
    }
    finish(Value::Object(values), walk::Report::default(), expected)
}

fn finish(mut value: Value, report: walk::Report<'_>, expected: &Gvk) -> Result<Decoded, ApiError> {
    let (api_version, kind) = walk::kind_of(&value);
    let gvk = kind.map(|kind| match api_version {
        Some(api_version) => Gvk::from_api_version(api_version, kind),
        None => Gvk::new(&expected.group, &expected.version, kind),
    });
    let body = gvk.as_ref().unwrap_or(expected);
    if let Some(failure) = report.failure {
        return Err(handled_as(body, expected, &failure));
    }
    if body.kind != expected.kind {
        let why = format!("converting {} to {}: unknown conversion", go_name(body), go_name(expected));
        return Err(handled_as(body, expected, &why));
    }
    // Every group takes the options of deletion, whatever version they say they are.
    if let Some(found) =
        api_version.filter(|found| *found != expected.api_version() && &*expected.kind != "DeleteOptions")
    {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({found}) does not match the expected API version ({})",
            expected.api_version()
        )));
    }
    let Value::Object(entries) = &mut value else {
        return Err(cannot_be_handled(
            expected,
            "the body holds no object; send one with apiVersion, kind and metadata",
        ));
    };
    for (field, text) in [("apiVersion", expected.api_version()), ("kind", expected.kind.to_string())] {
        entries.entry(field).or_insert(Value::String(text));
    }
    Ok(Decoded { value, gvk, strict: report.strict })
}

/// `v1.Pod`, `apps.Deployment`: roughly Go's name of the kind.
fn go_name(gvk: &Gvk) -> String {
    format!("({}.{})", gvk.version, gvk.kind)
}

/// A body that is no text of its format.
fn unrecognized(expected: &Gvk, what: &str, error: &dyn std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind; {what}: {error}",
        expected.kind
    ))
}

fn handled_as(body: &Gvk, expected: &Gvk, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        body.kind, body.version, expected.kind
    ))
}

/// What is wrong with a value, of an error that tells it as one of a request's body: for who tells it in other words.
pub fn reason<'a>(error: &'a ApiError, expected: &Gvk) -> Option<&'a str> {
    let words = format!(" cannot be handled as a {}: ", expected.kind);
    error.message.split_once(&words).map(|(_, why)| why)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_encode;
#[cfg(test)]
mod tests_laws;
