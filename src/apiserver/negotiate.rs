//! What the client wants to read: the media type, and the form of the objects.

use crate::error::not_acceptable;
use skiff_api::ApiError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

impl Encoding {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// The form that objects are sent in; the version is that of `meta.k8s.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Table(&'static str),
    Metadata(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub encoding: Encoding,
    pub form: Form,
}

impl Wanted {
    pub const JSON: Self = Self { encoding: Encoding::Json, form: Form::Object };
}

/// The entries of `Accept`: those that are wanted more first, and else as they stand (RFC 9110, 12.4.2).
fn entries(accept: &str) -> Vec<&str> {
    let weight = |entry: &&str| {
        let given = entry.split(';').skip(1).find_map(|part| part.trim().strip_prefix("q="));
        let weight: f32 = given.and_then(|text| text.trim().parse().ok()).unwrap_or(1.0);
        std::cmp::Reverse((weight * 1000.0) as i32)
    };
    let mut entries: Vec<&str> = accept.split(',').collect();
    entries.sort_by_key(weight);
    entries
}

/// The first entry of `Accept` that can be served. `tables`: whether the endpoint has other forms.
pub(crate) fn negotiate(accept: Option<&str>, tables: bool) -> Result<Wanted, ApiError> {
    let accept = accept.map(str::trim).unwrap_or_default();
    if accept.is_empty() {
        return Ok(Wanted::JSON);
    }
    entries(accept).into_iter().find_map(|entry| one(entry, tables)).ok_or_else(not_acceptable)
}

/// The same for a watch, which is told in JSON alone.
pub(crate) fn negotiate_watch(accept: Option<&str>) -> Result<Wanted, ApiError> {
    let accept = accept.map(str::trim).unwrap_or_default();
    if accept.is_empty() {
        return Ok(Wanted::JSON);
    }
    let json = |wanted: &Wanted| wanted.encoding == Encoding::Json;
    entries(accept).into_iter().filter_map(|entry| one(entry, true)).find(json).ok_or_else(|| {
        ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json;stream=watch",
        )
    })
}

fn one(entry: &str, tables: bool) -> Option<Wanted> {
    let mut parts = entry.split(';').map(str::trim);
    let encoding = match parts.next()?.to_ascii_lowercase().as_str() {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let (mut form, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => form = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            _ => {}
        }
    }
    let version = match version {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        _ => "",
    };
    let form = match form {
        "" => Form::Object,
        _ if !tables || group != "meta.k8s.io" || version.is_empty() => return None,
        "Table" => Form::Table(version),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Form::Metadata(version),
        _ => return None,
    };
    Some(Wanted { encoding, form })
}

/// `Accept` of a discovery client that reads the aggregated document, in the version that it prefers.
pub(crate) fn aggregated_discovery(accept: Option<&str>) -> Option<&'static str> {
    accept?.split(',').find_map(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        if parts.next() != Some("application/json") {
            // A plain type that comes first wins: the client did not ask for the aggregate.
            return None;
        }
        let parts: Vec<&str> = parts.collect();
        let asks = parts.contains(&"as=APIGroupDiscoveryList") && parts.contains(&"g=apidiscovery.k8s.io");
        match (asks, parts.contains(&"v=v2"), parts.contains(&"v=v2beta1")) {
            (true, true, _) => Some("v2"),
            (true, _, true) => Some("v2beta1"),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_be_served() {
        let check = |accept: &str, tables: bool, expect: Option<Form>| {
            assert_eq!(negotiate(Some(accept), tables).ok().map(|w| w.form), expect, "{accept}");
        };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, true, Some(Form::Table("v1")));
        check(kubectl, false, Some(Form::Object));
        check("application/json;as=Table;v=v1;g=meta.k8s.io", false, None);
        check("application/vnd.kubernetes.protobuf,application/json", true, Some(Form::Object));
        check("application/vnd.kubernetes.protobuf", true, None);
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", true, Some(Form::Metadata("v1")));
        check("*/*", true, Some(Form::Object));
        check("", true, Some(Form::Object));
        check("text/html", true, None);
        let encoding = |accept: &str| negotiate(Some(accept), true).ok().map(|wanted| wanted.encoding);
        assert_eq!(encoding("application/json;q=0.1,application/yaml;q=0.9"), Some(Encoding::Yaml));
        assert_eq!(encoding("application/yaml;q=0.5, application/json"), Some(Encoding::Json));
        assert_eq!(encoding("text/html,*/*;q=0.8"), Some(Encoding::Json));
        let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_discovery(Some(both)), Some("v2"));
        assert_eq!(aggregated_discovery(Some("application/json")), None);
    }
}
