//! The parameters that writes share.

use serde_json::{Value, json};
use skiff_api::decode::{Decoded, Media, decode};
use skiff_api::field::{Errors, Path};
use skiff_api::schema::{self, Type};
use skiff_api::{ApiError, Gvk};

use crate::call::{Call, Query};
use crate::convert::conform_custom;
use crate::error::unsupported_media_type;
use crate::meta;
use crate::registry::Row;

pub(crate) const BODY_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// What becomes of unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Which write the parameters are of: they differ a little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Create,
    Update,
    Patch,
    Apply,
}

impl Write {
    fn options(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch | Self::Apply => "PatchOptions",
        }
    }
}

/// `metav1.CreateOptions`, `UpdateOptions`, `PatchOptions`. Parameters that a verb does not know are passed over.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
    /// Empty: the client's program.
    pub field_manager: String,
    pub force: bool,
    /// As the client gave it.
    pub field_validation: String,
}

impl Default for WriteOptions {
    /// Of the server's own writes.
    fn default() -> Self {
        Self {
            dry_run: false,
            validation: FieldValidation::Ignore,
            field_manager: String::new(),
            force: false,
            field_validation: String::new(),
        }
    }
}

const MANAGER_MAX_B: usize = 128;

impl WriteOptions {
    pub fn of(query: &Query, write: Write) -> Result<Self, ApiError> {
        let mut errors = Errors::new();
        let field_manager = query.get("fieldManager").unwrap_or_default();
        let path = Path::new("fieldManager");
        if write == Write::Apply && field_manager.is_empty() {
            errors.required(&path, "is required for apply patch");
        }
        if write == Write::Patch && query.has("force") {
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
        if field_manager.len() > MANAGER_MAX_B {
            errors.too_long(&path, MANAGER_MAX_B);
        }
        for (at, c) in field_manager.char_indices().filter(|(_, c)| !is_print(*c)) {
            errors.invalid(
                &path,
                field_manager,
                &format!("invalid character U+{:04X} (at position {at})", u32::from(c)),
            );
        }
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                errors.not_supported(&Path::new("fieldValidation"), other, &["", "Ignore", "Strict", "Warn"]);
                FieldValidation::Strict
            }
        };
        let force = write == Write::Apply && query.flag("force");
        refuse(errors, write.options())?;
        let field_validation = query.get("fieldValidation").unwrap_or_default().to_owned();
        Ok(Self { dry_run, validation, field_manager: field_manager.to_owned(), force, field_validation })
    }

    /// As webhooks are shown them, as `CreateOptions` or `UpdateOptions`: to them a patch is an update.
    pub fn shown(&self, kind: &str) -> Value {
        let mut shown = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            shown["dryRun"] = json!(["All"]);
        }
        for (field, text) in [("fieldManager", &self.field_manager), ("fieldValidation", &self.field_validation)] {
            if !text.is_empty() {
                shown[field] = text.as_str().into();
            }
        }
        shown
    }
}

/// What is wrong with a request's options, if anything is.
pub(super) fn refuse(errors: Errors, options: &str) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("meta.k8s.io", options, "", errors.into_causes()))
}

/// Go's `unicode.IsPrint`, but for unassigned characters.
pub(crate) fn is_print(c: char) -> bool {
    let is_format = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c == ' ' || !(c.is_control() || c.is_whitespace() || is_format)
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Errors) -> bool {
    let values: Vec<&str> = values.filter(|value| !value.is_empty()).collect();
    if values.iter().any(|value| *value != "All") {
        errors.not_supported(&Path::new("dryRun"), &values, &["All"]);
    }
    !values.is_empty()
}

/// Reads the object in a request's body, and adds what it has to say as warnings.
pub(crate) fn read_object(
    call: &Call,
    expected: &Gvk,
    schema: Option<&Type>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let decoded = read(call, expected, schema)?;
    checked(decoded, expected, validation, warnings)
}

/// The same for a kind of the registry: custom resources lose what their schema does not know.
pub(crate) fn read_row_object(
    call: &Call,
    row: &Row,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let gvk = &row.descriptor.gvk;
    let mut decoded = read(call, gvk, row.schema.as_ref())?;
    if row.custom.is_some() && decoded.gvk.is_none() {
        let body = String::from_utf8_lossy(&call.body);
        return Err(ApiError::bad_request(format!("Object 'Kind' is missing in '{body}'")));
    }
    conform_custom(&mut decoded, row)?;
    checked(decoded, gvk, validation, warnings)
}

fn read(call: &Call, expected: &Gvk, schema: Option<&Type>) -> Result<Decoded, ApiError> {
    let content_type = call.header(http::header::CONTENT_TYPE);
    let media = Media::of(content_type).ok_or_else(|| unsupported_media_type(BODY_TYPES))?;
    let decoded = decode(&call.body, media, expected, schema)?;
    check_kind(&decoded, expected)?;
    Ok(decoded)
}

fn checked(
    decoded: Decoded,
    expected: &Gvk,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    judge(&decoded, expected, validation, warnings)?;
    let mut value = decoded.value;
    if !value.is_object() {
        return Err(skiff_api::decode::cannot_be_handled(expected, "the body is not an object"));
    }
    value["apiVersion"] = expected.api_version().into();
    value["kind"] = (&*expected.kind).into();
    Ok(value)
}

pub(crate) fn judge(
    decoded: &Decoded,
    expected: &Gvk,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => warnings.extend(decoded.warnings().map(str::to_owned)),
        FieldValidation::Strict => {
            if let Some(error) = decoded.strict_error(expected) {
                return Err(error);
            }
        }
    }
    Ok(())
}

fn check_kind(decoded: &Decoded, expected: &Gvk) -> Result<(), ApiError> {
    let Some(given) = &decoded.gvk else { return Ok(()) };
    if !given.kind.is_empty() && given.kind != expected.kind {
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: no kind {:?} is registered for version {:?} at this endpoint",
            given.kind,
            given.version,
            expected.kind,
            given.kind,
            given.api_version(),
        )));
    }
    if !given.version.is_empty() && (given.group != expected.group || given.version != expected.version) {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            given.api_version(),
            expected.api_version()
        )));
    }
    Ok(())
}

/// `metav1.DeleteOptions`, from the body or the query.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    /// Not negative.
    pub grace_period_s: Option<i64>,
    pub propagation: Option<Propagation>,
    /// The old way to say it.
    orphan: Option<bool>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
    /// Admission had its say, about an eviction.
    pub admitted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl DeleteOptions {
    /// From the body; from the query where there is none.
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        if !call.body.is_empty() {
            return Self::from_body(call);
        }
        let query = &call.query;
        let orphan = query.get("orphanDependents").map(|_| query.flag("orphanDependents"));
        let mut errors = Errors::new();
        let mut options = Self { dry_run: dry_run(query.all("dryRun"), &mut errors), ..Self::default() };
        options.decide(query.integer("gracePeriodSeconds")?, query.get("propagationPolicy"), orphan, &mut errors);
        refuse(errors, "DeleteOptions")?;
        Ok(options)
    }

    fn decide(&mut self, grace_period_s: Option<i64>, policy: Option<&str>, orphan: Option<bool>, errors: &mut Errors) {
        // An old way to say "at once, but still gracefully".
        self.grace_period_s = grace_period_s.map(|seconds| if seconds < 0 { 1 } else { seconds });
        let path = Path::new("propagationPolicy");
        if let (Some(policy), Some(_)) = (policy, orphan) {
            errors.invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set");
        }
        self.propagation = policy.and_then(|policy| Propagation::parse(policy, &path, errors));
        self.orphan = orphan;
    }

    /// What is to become of what the object owns.
    pub fn propagation(&self) -> Option<Propagation> {
        let orphan = self.orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background });
        self.propagation.or(orphan)
    }

    /// As webhooks are shown them; `grace_period_s` is what the object's kind makes of it.
    pub fn shown(&self, grace_period_s: Option<i64>) -> Value {
        let mut shown = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = grace_period_s {
            shown["gracePeriodSeconds"] = seconds.into();
        }
        for (field, text) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(text) = text {
                shown["preconditions"][field] = text.as_str().into();
            }
        }
        if let Some(orphan) = self.orphan {
            shown["orphanDependents"] = orphan.into();
        }
        if let Some(policy) = self.propagation {
            shown["propagationPolicy"] = policy.name().into();
        }
        if self.dry_run {
            shown["dryRun"] = json!(["All"]);
        }
        shown
    }

    fn from_body(call: &Call) -> Result<Self, ApiError> {
        let content_type = call.header(http::header::CONTENT_TYPE);
        let media = Media::of(content_type).ok_or_else(|| unsupported_media_type(BODY_TYPES))?;
        let expected = Gvk::new("", "v1", "DeleteOptions");
        let schema =
            schema::lookup(&expected).or_else(|| schema::lookup(&Gvk::new("meta.k8s.io", "v1", "DeleteOptions")));
        let value = decode(&call.body, media, &expected, schema.as_ref())?.value;
        Self::from_value(&value)
    }

    pub fn from_value(value: &Value) -> Result<Self, ApiError> {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let mut errors = Errors::new();
        let mut options = Self {
            uid: text(&value["preconditions"]["uid"]),
            resource_version: text(&value["preconditions"]["resourceVersion"]),
            dry_run: dry_run(meta::texts(&value["dryRun"]).into_iter(), &mut errors),
            ..Self::default()
        };
        let policy = value["propagationPolicy"].as_str().filter(|policy| !policy.is_empty());
        let orphan = value["orphanDependents"].as_bool();
        options.decide(value["gracePeriodSeconds"].as_i64(), policy, orphan, &mut errors);
        refuse(errors, "DeleteOptions")?;
        Ok(options)
    }
}

impl Propagation {
    fn parse(text: &str, path: &Path<'_>, errors: &mut Errors) -> Option<Self> {
        match text {
            "Background" => Some(Self::Background),
            "Foreground" => Some(Self::Foreground),
            "Orphan" => Some(Self::Orphan),
            other => {
                errors.not_supported(path, other, &["Foreground", "Background", "Orphan", "nil"]);
                None
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Background => "Background",
            Self::Foreground => "Foreground",
            Self::Orphan => "Orphan",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_options_of_a_delete_say() {
        let check = |value: Value, expect: Result<(Option<i64>, Option<Propagation>), &str>| {
            let read = DeleteOptions::from_value(&value).map(|o| (o.grace_period_s, o.propagation()));
            assert_eq!(read.map_err(|e| e.message), expect.map_err(str::to_owned), "{value}");
        };
        check(json!({}), Ok((None, None)));
        check(json!({"gracePeriodSeconds": 0}), Ok((Some(0), None)));
        check(json!({"gracePeriodSeconds": -1}), Ok((Some(1), None)));
        check(json!({"orphanDependents": true}), Ok((None, Some(Propagation::Orphan))));
        check(json!({"orphanDependents": false}), Ok((None, Some(Propagation::Background))));
        check(json!({"propagationPolicy": "Foreground"}), Ok((None, Some(Propagation::Foreground))));
        let prefix = "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: ";
        let both =
            format!("{prefix}Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set");
        check(json!({"propagationPolicy": "Orphan", "orphanDependents": true}), Err(&both));
        let unknown = format!(
            "{prefix}Unsupported value: \"Later\": supported values: \"Background\", \"Foreground\", \"Orphan\", \"nil\""
        );
        check(json!({"propagationPolicy": "Later"}), Err(&unknown));
    }
}
