//! `spec.conversion`: where a conversion webhook is, and by which authority it is known.

use base64::Engine as _;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::peek::Peek;
use crate::names;

const SPEC: Path<'static> = Path::new("spec");
const FORM: &str = "; desired format: https://host[/path]";

/// `bad_authority`: one that can't be read is borne. `recognized_review_versions`: one that this server speaks must be there.
pub fn conversion(
    spec: &Value,
    preserve: bool,
    bad_authority: bool,
    recognized_review_versions: bool,
    errors: &mut Errors,
) {
    let conversion = spec.at("conversion");
    if !conversion.is_object() {
        return;
    }
    let path = SPEC.child("conversion");
    let strategy = conversion.text("strategy");
    if preserve && strategy != "None" {
        errors.invalid(&path.child("strategy"), strategy, "must be None if spec.preserveUnknownFields is true");
    }
    match strategy {
        "None" | "Webhook" => {}
        "" => errors.required(&path.child("strategy"), ""),
        other => errors.not_supported(&path.child("strategy"), other, &["None", "Webhook"]),
    }
    let config = conversion.at("webhook.clientConfig");
    let config_at = path.child("webhookClientConfig");
    let reviews = conversion.list("webhook.conversionReviewVersions");
    let reviews_at = path.child("conversionReviewVersions");
    if strategy != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if config.is_object() {
            errors.forbidden(&config_at, why);
        }
        if !reviews.is_empty() {
            errors.forbidden(&reviews_at, why);
        }
        return;
    }
    let (url, service) = (config.get("url").and_then(Value::as_str), config.get("service").filter(|s| s.is_object()));
    match (url, service) {
        _ if !config.is_object() => errors.required(&config_at, "required when strategy is set to Webhook"),
        (Some(url), None) => url_form(url, &config_at.child("url"), errors),
        (None, Some(service)) => service_form(service, &config_at.child("service"), errors),
        _ => errors.required(&config_at, "exactly one of url or service is required"),
    }
    let bundle = config.text("caBundle");
    if !bad_authority && !bundle.is_empty() && !ca_bundle_is_valid(bundle) {
        let why = "unable to load root certificates: unable to parse bytes as PEM block";
        errors.invalid(&config_at.child("caBundle"), bundle, why);
    }
    review_versions(reviews, recognized_review_versions, &reviews_at, errors);
}

fn review_versions(versions: &[Value], recognized: bool, path: &Path<'_>, errors: &mut Errors) {
    if versions.is_empty() {
        return errors.required(path, "");
    }
    for (index, version) in versions.iter().enumerate() {
        let at = path.index(index);
        let name = version.as_str().unwrap_or_default();
        if versions[..index].contains(version) {
            errors.invalid(&at, name, "duplicate version");
            continue;
        }
        errors.invalid_each(&at, name, names::dns_label_1035(name));
    }
    if recognized && !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        errors.invalid(path, versions, "must include at least one of v1, v1beta1");
    }
}

fn url_form(url: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some((scheme, rest)) = url.split_once("://") else {
        errors.invalid(path, "", &format!("'https' is the only allowed URL scheme{FORM}"));
        return errors.invalid(path, "", &format!("host must be provided{FORM}"));
    };
    if scheme != "https" {
        errors.invalid(path, scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() {
        errors.invalid(path, "", &format!("host must be provided{FORM}"));
    }
    if let Some(user) = user {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn service_form(service: &Value, path: &Path<'_>, errors: &mut Errors) {
    if service.text("name").is_empty() {
        errors.required(&path.child("name"), "service name is required");
    }
    if service.text("namespace").is_empty() {
        errors.required(&path.child("namespace"), "service namespace is required");
    }
    let port = service.int("port");
    if !(1..=65535).contains(&port) {
        errors.invalid(&path.child("port"), port, "port is not valid: must be between 1 and 65535, inclusive");
    }
    let place = path.child("path");
    let whole = service.text("path");
    if matches!(whole, "" | "/") {
        return;
    }
    if whole == "//" {
        return errors.invalid(&place, whole, "segment[0] may not be empty");
    }
    if !whole.starts_with('/') {
        errors.invalid(&place, whole, "must start with a '/'");
    }
    let mut letters = whole.chars();
    letters.next();
    let rest = letters.as_str();
    for (index, segment) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(&place, whole, &format!("segment[{index}] may not be empty"));
            continue;
        }
        for failure in names::dns_subdomain(segment) {
            errors.invalid(&place, whole, &format!("segment[{index}]: {failure}"));
        }
    }
}

/// Whether the base64 of a PEM bundle holds certificates; an empty one is fine.
pub(crate) fn ca_bundle_is_valid(bundle: &str) -> bool {
    let Ok(pem) = base64::engine::general_purpose::STANDARD.decode(bundle) else { return false };
    if pem.trim_ascii().is_empty() {
        return true;
    }
    let Ok(text) = String::from_utf8(pem) else { return false };
    let blocks: Vec<&str> = text.split("-----BEGIN CERTIFICATE-----").skip(1).collect();
    !blocks.is_empty()
        && blocks.iter().all(|block| {
            let Some((body, _)) = block.split_once("-----END CERTIFICATE-----") else { return false };
            let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
            // A certificate is one sequence of the length that it says.
            base64::engine::general_purpose::STANDARD.decode(body).is_ok_and(|der| is_sequence(&der))
        })
}

fn is_sequence(der: &[u8]) -> bool {
    let [0x30, first, rest @ ..] = der else { return false };
    if *first < 0x80 {
        return rest.len() == usize::from(*first);
    }
    let count = usize::from(first & 0x7f);
    let Some((length, body)) = rest.split_at_checked(count).filter(|_| (1..=4).contains(&count)) else { return false };
    body.len() == length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}
