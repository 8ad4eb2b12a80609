//! ClusterTrustBundle. What is in its anchors is for those to check who can read X.509.

use k8s_openapi::api::certificates::v1beta1 as certificates;
use serde_json::Value;

use super::certificate_signing_request::signer_name;
use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks::immutable;
use crate::kinds::facts::{self, Facts, NAME};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::names;

const SPEC: Path<'static> = Path::new("spec");
const METADATA: Path<'static> = Path::new("metadata");

pub(super) struct ClusterTrustBundles;

impl Kind for ClusterTrustBundles {
    type Typed = certificates::ClusterTrustBundle;
    const FACTS: Facts = Facts {
        namespaced: false,
        columns: &[NAME, facts::text("SignerName", "Whose certificates the anchors are for.")],
        // The rest depends on the signer.
        name: names::name_is_path_segment,
        unconditional_update: false,
        ..Facts::new("certificates.k8s.io", "v1beta1", "clustertrustbundles", "ClusterTrustBundle")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] = &[("spec.signerName", |o| o.text("spec.signerName").to_owned())];
    const FIELD_LABELS: &'static [&'static str] = &["spec.signerName"];

    fn validate(bundle: &certificates::ClusterTrustBundle, errors: &mut Errors) {
        let signer = bundle.spec.signer_name.as_deref().unwrap_or_default();
        let name = bundle.metadata.name.as_deref().unwrap_or_default();
        errors.invalid_each(&METADATA.child("name"), name, names::trust_bundle(name, signer));
        if !signer.is_empty() {
            signer_name(signer, &SPEC.child("signerName"), errors);
        }
    }

    fn validate_update(
        bundle: &certificates::ClusterTrustBundle,
        old: &certificates::ClusterTrustBundle,
        errors: &mut Errors,
    ) {
        Self::validate(bundle, errors);
        immutable(&bundle.spec.signer_name, &old.spec.signer_name, &SPEC.child("signerName"), errors);
    }

    fn cells(bundle: &Value, row: &mut Row) {
        row.name(bundle);
        row.or(bundle.text("spec.signerName"), "<none>");
    }
}
