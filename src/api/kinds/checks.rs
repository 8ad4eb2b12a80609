//! Checks of single values that several kinds need, with upstream's sentences.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Component, Path as FilePath};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use crate::field::{Errors, Path};
use crate::metadata;
use crate::names;
use crate::quantity::Quantity;

pub(crate) const IMMUTABLE: &str = "field is immutable";
pub(crate) const NEGATIVE: &str = "must be greater than or equal to 0";
pub(crate) const NOT_POSITIVE: &str = "must be greater than zero";
pub(crate) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const CONDITION_REASON_MAX_B: usize = 1024;
const CONDITION_MESSAGE_MAX_B: usize = 32 * 1024;
const CONDITION_REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string \
     of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or \
     'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
     '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
const RANGE_ID: &str = "must be between 0 and 4294967295, inclusive";

pub(crate) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("")
}

pub(crate) fn nonnegative(value: impl Into<i64>, path: &Path<'_>, errors: &mut Errors) {
    let value = value.into();
    if value < 0 {
        errors.invalid(path, value, NEGATIVE);
    }
}

pub(crate) fn immutable<T: PartialEq + Serialize>(new: &T, old: &T, path: &Path<'_>, errors: &mut Errors) {
    if new != old {
        errors.invalid(path, new, IMMUTABLE);
    }
}

pub(crate) fn required(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
    }
}

pub(crate) fn dns_label(value: &str, path: &Path<'_>, errors: &mut Errors) {
    errors.invalid_each(path, value, names::dns_label(value));
}

pub(crate) fn dns_subdomain(value: &str, path: &Path<'_>, errors: &mut Errors) {
    errors.invalid_each(path, value, names::dns_subdomain(value));
}

pub(crate) fn qualified_name(value: &str, path: &Path<'_>, errors: &mut Errors) {
    errors.invalid_each(path, value, names::qualified_name(value));
}

/// One of a few words; empty is `Required value`.
pub(crate) fn one_of(value: &str, supported: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
    } else if !supported.contains(&value) {
        errors.not_supported(path, value, supported);
    }
}

pub(crate) fn one_of_if_set(value: &Option<String>, supported: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value
        && !supported.contains(&value.as_str())
    {
        errors.not_supported(path, value, supported);
    }
}

pub(crate) fn port_number(value: impl Into<i64>, path: &Path<'_>, errors: &mut Errors) {
    let value = value.into();
    errors.invalid_each(path, value, names::port_number(value));
}

pub(crate) fn port_number_or_name(value: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    match value {
        IntOrString::Int(number) => port_number(*number, path, errors),
        IntOrString::String(name) => errors.invalid_each(path, name, names::port_name(name)),
    }
}

/// A user or group id.
pub(crate) fn id(value: i64, path: &Path<'_>, errors: &mut Errors) {
    if !(0..=0xffff_ffff).contains(&value) {
        errors.invalid(path, value, RANGE_ID);
    }
}

pub(crate) fn file_mode(mode: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
        errors.invalid(path, mode, FILE_MODE);
    }
}

/// An address as old readers take it: with leading zeros, which mean nothing to them and eights to others.
pub fn sloppy_ip(value: &str) -> Option<IpAddr> {
    value.parse().ok().or_else(|| without_zeros(value).parse::<Ipv4Addr>().ok().map(IpAddr::V4))
}

fn without_zeros(value: &str) -> String {
    let part = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    value.split('.').map(part).collect::<Vec<_>>().join(".")
}

pub(crate) fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

/// Whether it is an address that all read alike.
pub(crate) fn ip(value: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let before = errors.len();
    match (value.parse::<IpAddr>(), sloppy_ip(value)) {
        (_, None) => errors.invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        (Err(_), Some(_)) => errors.invalid(path, value, "must not have leading 0s"),
        (Ok(ip), _) if is_mapped(ip) => errors.invalid(path, value, "must not be an IPv4-mapped IPv6 address"),
        _ => {}
    }
    errors.len() == before
}

/// The same in the one form that there is for each.
pub(crate) fn canonical_ip(value: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    if !ip(value, path, errors) {
        return false;
    }
    let canonical = value.parse::<IpAddr>().map(|ip| ip.to_string()).unwrap_or_default();
    if value != canonical {
        errors.invalid(path, value, &format!("must be in canonical form ({canonical:?})"));
    }
    value == canonical
}

/// An address of something that can be reached: not unspecified, loopback or link-local.
pub(crate) fn non_special_ip(value: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some(ip) = sloppy_ip(value) else {
        return errors.invalid(path, value, "must be a valid IP address");
    };
    // An IPv4 address in IPv6's clothes goes where the IPv4 one goes.
    let ip = ip.to_canonical();
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        errors.invalid(path, value, &format!("may not be unspecified ({value})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errors.invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        errors.invalid(path, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

pub(crate) fn is_ipv6(value: &str) -> bool {
    matches!(value.parse(), Ok(IpAddr::V6(_)))
}

pub(crate) fn is_ipv4(value: &str) -> bool {
    value.parse::<Ipv4Addr>().is_ok()
}

/// An address and the length of its prefix, read like [`sloppy_ip`].
pub(crate) fn sloppy_cidr(value: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = value.split_once('/')?;
    let ip = sloppy_ip(ip)?;
    let bits = bits.parse().ok().filter(|_| bits.bytes().all(|b| b.is_ascii_digit()))?;
    (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, bits))
}

/// The network without the bits behind its prefix.
pub(crate) fn masked((ip, bits): (IpAddr, u8)) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            Ipv4Addr::from(u32::from(ip) & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into()
        }
        IpAddr::V6(ip) => {
            Ipv6Addr::from(u128::from(ip) & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).into()
        }
    }
}

/// Whether it is a network that all read alike.
pub(crate) fn cidr(value: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let before = errors.len();
    let Some(network) = sloppy_cidr(value) else {
        errors.invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        return false;
    };
    let zeros = |bits: &str| bits.len() > 1 && bits.starts_with('0');
    let (ip, bits) = value.split_once('/').unwrap_or((value, ""));
    if ip.parse::<IpAddr>().is_err() || zeros(bits) {
        errors.invalid(path, value, "must not have leading 0s in IP or prefix length");
    } else if is_mapped(network.0) {
        errors.invalid(path, value, "must not have an IPv4-mapped IPv6 address");
    } else if masked(network) != network.0 {
        errors.invalid(path, value, "must not have bits set beyond the prefix length");
    }
    errors.len() == before
}

/// The same in the one form that there is for each.
pub(crate) fn canonical_cidr(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if !cidr(value, path, errors) {
        return;
    }
    let Some((ip, bits)) = sloppy_cidr(value) else { return };
    let canonical = format!("{ip}/{bits}");
    if value != canonical {
        errors.invalid(path, value, &format!("must be in canonical form ({canonical:?})"));
    }
}

/// An address with the length of its network, in its one form.
pub(crate) fn interface_address(value: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some((ip, mut bits)) = sloppy_cidr(value) else {
        let message = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        return errors.invalid(path, value, message);
    };
    let canonical = ip.to_canonical();
    if canonical.is_ipv4() && bits > 32 {
        bits -= 96;
    }
    let canonical = format!("{canonical}/{bits}");
    if value != canonical {
        errors.invalid(path, value, &format!("must be in canonical form ({canonical:?})"));
    }
}

/// Of a template for objects of another kind: labels and annotations, nothing more.
pub(crate) fn template_metadata(meta: &ObjectMeta, path: &Path<'_>, errors: &mut Errors) {
    if let Some(annotations) = &meta.annotations {
        let annotations = annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        metadata::validate_annotations(annotations, &path.child("annotations"), errors);
    }
    labels_of(meta.labels.iter().flatten(), &path.child("labels"), errors);
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(meta) else { return };
    for field in fields.keys().filter(|field| !matches!(field.as_str(), "annotations" | "labels")) {
        // In Go's spelling, as upstream tells it.
        let name = match field.as_str() {
            "uid" => "UID".to_owned(),
            other => other[..1].to_uppercase() + &other[1..],
        };
        errors.forbidden(&path.child(&name), "cannot be set");
    }
}

/// No `..` anywhere.
pub(crate) fn no_backsteps(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

/// A path below some folder.
pub(crate) fn descending_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if is_absolute(value) {
        errors.invalid(path, value, "must be a relative path");
    }
    no_backsteps(value, path, errors);
}

/// A path below some folder that does not start with what the atomic writer of volumes uses.
pub(crate) fn local_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    descending_path(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.invalid(path, value, "must not start with '..'");
    }
}

pub(crate) fn is_absolute(value: &str) -> bool {
    FilePath::new(value).components().next() == Some(Component::RootDir)
}

pub(crate) fn label_selector(selector: &LabelSelector, path: &Path<'_>, errors: &mut Errors) {
    if let Some(labels) = &selector.match_labels {
        labels_of(labels, &path.child("matchLabels"), errors);
    }
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let list = path.child("matchExpressions");
        let path = list.index(i);
        let values = expression.values.as_deref().unwrap_or_default();
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => errors
                .forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        qualified_name(&expression.key, &path.child("key"), errors);
        for (i, value) in values.iter().enumerate() {
            errors.invalid_each(&path.child("values").index(i), value, names::label_value(value));
        }
    }
}

pub(crate) fn labels_of<'a>(
    labels: impl IntoIterator<Item = (&'a String, &'a String)>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    metadata::validate_labels(labels.into_iter().map(|(k, v)| (k.as_str(), v.as_str())), path, errors);
}

/// A number that is not negative, or a percentage.
pub(crate) fn int_or_percent(value: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    match value {
        IntOrString::Int(number) => nonnegative(*number, path, errors),
        IntOrString::String(text) if percent_of(text).is_none() => errors.invalid(
            path,
            text,
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used \
             for validation is '[0-9]+%')",
        ),
        IntOrString::String(_) => {}
    }
}

pub(crate) fn percent_of(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The amount; a text that is none is an error and reads as nothing.
pub(crate) fn quantity(value: &QuantityText, path: &Path<'_>, errors: &mut Errors) -> Quantity {
    value.0.parse().unwrap_or_else(|e: crate::quantity::ParseError| {
        errors.invalid(path, &value.0, &e.to_string());
        Quantity::ZERO
    })
}

/// An amount of something there must be some of.
pub(crate) fn positive_quantity(value: &QuantityText, path: &Path<'_>, errors: &mut Errors) -> Quantity {
    let before = errors.len();
    let amount = quantity(value, path, errors);
    if errors.len() == before && (amount.is_negative() || amount.is_zero()) {
        errors.invalid(path, amount.to_string(), NOT_POSITIVE);
    }
    amount
}

pub(crate) fn nonnegative_quantity(value: &QuantityText, path: &Path<'_>, errors: &mut Errors) -> Quantity {
    let amount = quantity(value, path, errors);
    if amount.is_negative() {
        errors.invalid(path, amount.to_string(), NEGATIVE);
    }
    amount
}

/// Where there is a percentage, it is one of a whole.
pub(crate) fn at_most_all(value: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    if let IntOrString::String(text) = value
        && percent_of(text).is_some_and(|percent| percent > 100)
    {
        errors.invalid(path, text, "must not be greater than 100%");
    }
}

/// Upstream's `IsScaledValueZero` in spirit: the number that counts, whichever form it has.
pub(crate) fn int_or_percent_number(value: Option<&IntOrString>) -> i64 {
    match value {
        Some(IntOrString::Int(number)) => i64::from(*number),
        Some(IntOrString::String(text)) => percent_of(text).unwrap_or(0),
        None => 0,
    }
}

/// The name of a CSI driver.
pub(crate) fn csi_driver_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > 63 {
        errors.too_long(path, 63);
    }
    errors.invalid_each(path, name, names::dns_subdomain(&name.to_lowercase()));
}

/// `metav1.Condition`s of a status.
pub(crate) fn conditions(conditions: &[Condition], list: &Path<'_>, errors: &mut Errors) {
    for (i, condition) in conditions.iter().enumerate() {
        let path = list.index(i);
        if conditions[..i].iter().any(|c| c.type_ == condition.type_) {
            errors.duplicate(&path.child("type"), &condition.type_);
        }
        qualified_name(&condition.type_, &path.child("type"), errors);
        if !["False", "True", "Unknown"].contains(&condition.status.as_str()) {
            errors.not_supported(&path.child("status"), &condition.status, &["False", "True", "Unknown"]);
        }
        if let Some(generation) = condition.observed_generation.filter(|g| *g < 0) {
            let message = "must be greater than or equal to zero";
            errors.invalid(&path.child("observedGeneration"), generation, message);
        }
        condition_reason(&condition.reason, &path.child("reason"), errors);
        if condition.message.len() > CONDITION_MESSAGE_MAX_B {
            errors.too_long(&path.child("message"), CONDITION_MESSAGE_MAX_B);
        }
    }
}

fn condition_reason(reason: &str, path: &Path<'_>, errors: &mut Errors) {
    if reason.is_empty() {
        return errors.required(path, "must be set");
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = reason.as_bytes();
    let good = bytes[0].is_ascii_alphabetic()
        && bytes.iter().all(|b| word(*b) || matches!(b, b',' | b':'))
        && bytes.last().is_some_and(|b| word(*b));
    if !good {
        errors.invalid(path, reason, CONDITION_REASON);
    }
    if reason.len() > CONDITION_REASON_MAX_B {
        errors.too_long(path, CONDITION_REASON_MAX_B);
    }
}

/// `acme.io/foo`.
pub(crate) fn domain_prefixed_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        return errors.required(path, "");
    }
    let Some((host, rest)) = value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        return errors.invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    errors.invalid_each(path, host, names::dns_subdomain(host));
    let good = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(good) {
        let message = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
        errors.invalid(path, rest, message);
    }
}
