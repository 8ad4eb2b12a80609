//! Checks that several kinds of the group share.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde::Serialize;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::checks::{csi_driver_name, dns_label, dns_subdomain, qualified_name};
use crate::names;

pub(super) const LABEL_KEY_MAX: usize = names::LABEL_MAX;
const POOL_NAME_MAX: usize = names::SUBDOMAIN_MAX;
const IDENTIFIER_MAX: usize = 32;
const BINDING_CONDITIONS_MAX: usize = 4;
const UUID_LENGTHS: [usize; 4] = [32, 36, 38, 45];

/// Checks every item, unless there are more than `max`.
pub(super) fn each<T>(
    items: &[T],
    max: usize,
    list: &Path<'_>,
    errors: &mut Errors,
    mut check: impl FnMut(&T, &Path<'_>, &mut Errors),
) -> bool {
    if items.len() > max {
        errors.too_many(list, items.len(), max);
        return false;
    }
    for (i, item) in items.iter().enumerate() {
        check(item, &list.index(i), errors);
    }
    true
}

/// The same for items that differ in a key.
pub(super) fn each_once<'a, T, K: Ord + Serialize>(
    items: &'a [T],
    max: usize,
    list: &Path<'_>,
    errors: &mut Errors,
    key: impl Fn(&'a T) -> K,
    check: impl FnMut(&T, &Path<'_>, &mut Errors),
) {
    if !each(items, max, list, errors, check) {
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, key) in items.iter().map(key).enumerate() {
        if seen.contains(&key) {
            errors.duplicate(&list.index(i), key);
        } else {
            seen.insert(key);
        }
    }
}

/// The entries of a map; what is wrong with a key is told at the map.
pub(super) fn entries<T>(
    map: &BTreeMap<String, T>,
    max: usize,
    shown_key_max: usize,
    path: &Path<'_>,
    errors: &mut Errors,
    mut check_key: impl FnMut(&str, &Path<'_>, &mut Errors),
    mut check: impl FnMut(&T, &Path<'_>, &mut Errors),
) {
    if map.len() > max {
        return errors.too_many(path, map.len(), max);
    }
    for (key, value) in map {
        check_key(key, path, errors);
        check(value, &path.key(&shortened(key, shown_key_max)), errors);
    }
}

/// Without its middle where it is too long.
fn shortened(text: &str, max: usize) -> String {
    let max = max.max(16);
    if text.len() <= max || !text.is_ascii() {
        return text.to_owned();
    }
    let rest = max - "...".len();
    format!("{}...{}", &text[..rest.div_ceil(2)], &text[text.len() - rest / 2..])
}

pub(super) fn pool_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > POOL_NAME_MAX {
        errors.too_long(path, POOL_NAME_MAX);
    }
    for part in name.split('/') {
        dns_subdomain(part, path, errors);
    }
}

pub(super) fn class_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        dns_subdomain(name, path, errors);
    }
}

pub(super) fn counter_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        dns_label(name, path, errors);
    }
}

pub(super) fn uid(uid: &str, path: &Path<'_>, errors: &mut Errors) {
    if !UUID_LENGTHS.contains(&uid.len()) {
        let message = format!("error validating uid: invalid UUID length: {}", uid.len());
        return errors.invalid(path, uid, &message);
    }
    let normal = uid.len() == 36;
    let dashes = |i: usize| matches!(i, 8 | 13 | 18 | 23);
    let digits = uid.bytes().enumerate().all(|(i, b)| if dashes(i) { b == b'-' } else { b.is_ascii_hexdigit() });
    if normal && !digits {
        errors.invalid(path, uid, "error validating uid: invalid UUID format");
    } else if !normal || uid.bytes().any(|b| b.is_ascii_uppercase()) {
        let message = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                       hexadecimal characters";
        errors.invalid(path, uid, message);
    }
}

/// Of an attribute or a capacity: an identifier, with the domain of a driver before it or not.
pub(super) fn attribute_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [identifier] => self::identifier(identifier, path, errors),
        [domain, identifier] => {
            if domain.is_empty() {
                errors.invalid(path, "", "the domain must not be empty");
            } else {
                csi_driver_name(domain, path, errors);
            }
            if identifier.is_empty() {
                errors.invalid(path, "", "the name must not be empty");
            } else {
                self::identifier(identifier, path, errors);
            }
        }
        // As upstream: more slashes are let through.
        _ => {}
    }
}

/// The same with a domain.
pub(super) fn full_attribute_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    attribute_name(name, path, errors);
    if !name.contains('/') {
        errors.invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

fn identifier(id: &str, path: &Path<'_>, errors: &mut Errors) {
    if id.len() > IDENTIFIER_MAX {
        errors.too_long(path, IDENTIFIER_MAX);
    }
    errors.invalid_each(path, id, names::c_identifier(id));
}

/// Parameters in a form of somebody else's: an object that is not too large.
pub(super) fn raw_object(raw: &RawExtension, max_b: usize, path: &Path<'_>, errors: &mut Errors) {
    match &raw.0 {
        Value::Null => errors.required(path, ""),
        other if other.to_string().len() > max_b => errors.too_long(path, max_b),
        Value::Object(_) => {}
        _ => errors.invalid(path, "<value omitted>", "must be a valid JSON object"),
    }
}

/// What a device waits for after it was allocated, and what tells that it waits in vain.
pub(super) fn binding_conditions(
    awaited: &Option<Vec<String>>,
    failures: &Option<Vec<String>>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let awaited_path = path.child("bindingConditions");
    let failures_path = path.child("bindingFailureConditions");
    let [awaited, failures] = [awaited, failures].map(|list| list.as_deref().unwrap_or_default());
    for (list, path) in [(awaited, &awaited_path), (failures, &failures_path)] {
        each(list, BINDING_CONDITIONS_MAX, path, errors, |name, path, errors| qualified_name(name, path, errors));
    }
    for (i, condition) in awaited.iter().enumerate() {
        if awaited[..i].contains(condition) {
            errors.duplicate(&awaited_path.index(i), condition);
        }
    }
    for (i, condition) in failures.iter().enumerate() {
        if failures[..i].contains(condition) {
            errors.duplicate(&failures_path.index(i), condition);
        }
        if awaited.contains(condition) {
            let message = "bindingFailureConditions must not overlap with bindingConditions";
            errors.invalid(&failures_path.index(i), condition, message);
        }
    }
    match (awaited.is_empty(), failures.is_empty()) {
        (true, false) => {
            let message = "bindingConditions are required to use bindingFailureConditions";
            errors.invalid(&awaited_path, awaited, message);
        }
        (false, true) => {
            let message = "bindingFailureConditions are required to use bindingConditions";
            errors.invalid(&failures_path, failures, message);
        }
        _ => {}
    }
}
