//! CertificateSigningRequest. What is in its request and its certificate is for those to check who can read X.509.

use k8s_openapi::api::certificates::v1 as certificates;
use serde_json::Value;

use crate::duration;
use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks::immutable;
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::names;
use crate::strategy::Subresource;

const SHORTEST_S: i32 = 600;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// They exclude each other, and stay.
const VERDICTS: &[&str] = &["Approved", "Denied"];
const SPEC: Path<'static> = Path::new("spec");
const CONDITIONS: Path<'static> = Path::new("status.conditions");

pub(super) struct CertificateSigningRequests;

impl Kind for CertificateSigningRequests {
    type Typed = certificates::CertificateSigningRequest;
    const FACTS: Facts = Facts {
        short_names: &["csr"],
        namespaced: false,
        subresources: &[Subresource::Special("approval"), Subresource::Status],
        columns: &[
            NAME,
            AGE,
            facts::text("SignerName", "Who is asked to sign."),
            facts::text("Requestor", "Who asked."),
            facts::text("RequestedDuration", "How long it shall hold."),
            facts::text("Condition", "What became of it."),
        ],
        ..Facts::new("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] = &[("spec.signerName", |o| o.text("spec.signerName").to_owned())];
    const FIELD_LABELS: &'static [&'static str] = &["spec.signerName"];

    /// The request itself never changes.
    fn prepare_update(request: &mut Value, old: &Value) {
        if let (Some(map), Some(spec)) = (request.as_object_mut(), old.get("spec")) {
            map.insert("spec".to_owned(), spec.clone());
        }
    }

    /// Who signs says nothing of whether it may be signed: that has a subresource of its own. Where a verdict was added
    /// or taken away, that stays, to be refused.
    fn prepare_status_update(request: &mut Value, old: &Value) {
        for verdict in VERDICTS {
            let is = |c: &&mut Value| c.text("type") == *verdict;
            let before: Vec<&Value> =
                old.list("status.conditions").iter().filter(|c| c.text("type") == *verdict).collect();
            let Some(conditions) = request.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else {
                continue;
            };
            if conditions.iter_mut().filter(is).count() == before.len() {
                for (now, before) in conditions.iter_mut().filter(is).zip(before) {
                    now.clone_from(before);
                }
            }
        }
    }

    fn validate(request: &certificates::CertificateSigningRequest, errors: &mut Errors) {
        let spec = &request.spec;
        usages(spec.usages.as_deref().unwrap_or_default(), &SPEC.child("usages"), errors);
        let signer = SPEC.child("signerName");
        signer_name(&spec.signer_name, &signer, errors);
        if spec.signer_name == "kubernetes.io/legacy-unknown" {
            let message = "the legacy signerName is not allowed via this API version";
            errors.invalid(&signer, &spec.signer_name, message);
        }
        if let Some(seconds) = spec.expiration_seconds.filter(|s| *s < SHORTEST_S) {
            let message = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(&SPEC.child("expirationSeconds"), seconds, message);
        }
    }

    fn validate_update(
        request: &certificates::CertificateSigningRequest,
        old: &certificates::CertificateSigningRequest,
        errors: &mut Errors,
    ) {
        immutable(&request.spec, &old.spec, &SPEC, errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(
        request: &certificates::CertificateSigningRequest,
        old: &certificates::CertificateSigningRequest,
        errors: &mut Errors,
    ) {
        conditions(request, old, errors);
        let certificate = |r: &certificates::CertificateSigningRequest| {
            r.status.as_ref().and_then(|s| s.certificate.as_ref()).map(|c| c.0.clone()).filter(|c| !c.is_empty())
        };
        if let Some(before) = certificate(old)
            && certificate(request).as_ref() != Some(&before)
        {
            let path = Path::new("status.certificate");
            errors.forbidden(&path, "updates may not modify existing certificate content");
        }
    }

    fn cells(request: &Value, row: &mut Row) {
        let asked = request.at("spec.expirationSeconds").as_i64();
        row.name(request);
        row.age(request);
        row.or(request.text("spec.signerName"), "<none>");
        row.push(request.text("spec.username"));
        row.push(asked.map_or_else(|| "<none>".to_owned(), duration::human));
        row.push(condition(request));
    }
}

fn condition(request: &Value) -> String {
    let has = |of: &str| request.list("status.conditions").iter().any(|c| c.text("type") == of);
    let mut words = vec![match (has("Approved"), has("Denied")) {
        (_, true) => "Denied",
        (true, false) => "Approved",
        (false, false) => "Pending",
    }];
    if has("Failed") {
        words.push("Failed");
    }
    if !request.text("status.certificate").is_empty() {
        words.push("Issued");
    }
    words.join(",")
}

fn usages(usages: &[String], path: &Path<'_>, errors: &mut Errors) {
    if usages.is_empty() {
        errors.required(path, "");
    }
    for (i, usage) in usages.iter().enumerate() {
        if !USAGES.contains(&usage.as_str()) {
            errors.not_supported(&path.index(i), usage, USAGES);
        } else if usages[..i].contains(usage) {
            errors.duplicate(&path.index(i), usage);
        }
    }
}

pub(super) fn signer_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let message = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, name, message);
    };
    errors.invalid_each(path, domain, names::dns_subdomain(domain));
    if domain.split('.').count() < 2 {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    for part in rest.split('.') {
        errors.invalid_each(path, name, names::dns_label(part));
    }
}

fn conditions(
    request: &certificates::CertificateSigningRequest,
    old: &certificates::CertificateSigningRequest,
    errors: &mut Errors,
) {
    let list = |r: &certificates::CertificateSigningRequest| {
        r.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default()
    };
    let (new, old) = (list(request), list(old));
    for (i, condition) in new.iter().enumerate() {
        let path = CONDITIONS.index(i);
        let kind = condition.type_.as_str();
        if kind.is_empty() {
            errors.required(&path.child("type"), "");
        }
        match condition.status.as_str() {
            "" => errors.required(&path.child("status"), ""),
            "True" => {}
            status if matches!(kind, "Approved" | "Denied" | "Failed") => {
                errors.not_supported(&path.child("status"), status, &["True"]);
            }
            "False" | "Unknown" => {}
            status => errors.not_supported(&path.child("status"), status, &["False", "True", "Unknown"]),
        }
        let is_verdict = |kind: &str| VERDICTS.contains(&kind);
        if is_verdict(kind) && new[..i].iter().any(|c| is_verdict(&c.type_) && c.type_ != kind) {
            let message = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(&path.child("type"), kind, message);
        }
        if new[..i].iter().any(|c| c.type_ == kind) {
            errors.duplicate(&path.child("type"), kind);
        }
    }
    for kind in ["Approved", "Denied", "Failed"] {
        let count =
            |list: &[certificates::CertificateSigningRequestCondition]| list.iter().filter(|c| c.type_ == kind).count();
        if count(&new) < count(&old) {
            errors.forbidden(&CONDITIONS, &format!("updates may not remove a condition of type {kind:?}"));
        }
    }
}
