//! CSIDriver.

use std::collections::BTreeSet;

use k8s_openapi::api::storage::v1 as storage;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{immutable, one_of_if_set};
use crate::kinds::facts::{self, AGE, Facts, NAME, boolean};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;

const GROUP_POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
const MODES: &[&str] = &["Ephemeral", "Persistent"];
const TOKEN_MIN_S: i64 = 600;
const TOKEN_MAX_S: i64 = 1 << 32;
const UPDATE_PERIOD_MIN_S: i64 = 10;

const TOKENS_IN_SECRETS: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true \
                                 to prevent possible logging of tokens in volume attributes";

pub(super) struct CsiDrivers;

impl Kind for CsiDrivers {
    type Typed = storage::CSIDriver;
    const FACTS: Facts = Facts {
        namespaced: false,
        columns: &[
            NAME,
            boolean("AttachRequired", "Whether its volumes are attached before they are mounted."),
            boolean("PodInfoOnMount", "Whether it is told of the pod."),
            boolean("StorageCapacity", "Whether its capacity counts when pods are scheduled."),
            facts::text("TokenRequests", "Audiences of the tokens that it is given."),
            boolean("RequiresRepublish", "Whether it is called again and again."),
            facts::text("Modes", "The kinds of volumes that it serves."),
            AGE,
        ],
        generation: true,
        unconditional_update: false,
        ..Facts::new("storage.k8s.io", "v1", "csidrivers", "CSIDriver")
    };

    fn default(driver: &mut Value) {
        let Some(spec) = spec_of(driver) else { return };
        spec.fill("attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            spec.fill(field, false);
        }
        spec.fill("fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
        }
    }

    fn prepare_create(driver: &mut Value) {
        drop_alpha(driver);
    }

    fn prepare_update(driver: &mut Value, _old: &Value) {
        drop_alpha(driver);
    }

    fn validate(driver: &storage::CSIDriver, errors: &mut Errors) {
        let (spec, path) = (&driver.spec, Path::new("spec"));
        one_of_if_set(&spec.fs_group_policy, GROUP_POLICIES, &path.child("fsGroupPolicy"), errors);
        tokens(spec.token_requests.as_deref().unwrap_or_default(), &path.child("tokenRequests"), errors);
        for mode in spec.volume_lifecycle_modes.iter().flatten().filter(|m| !MODES.contains(&m.as_str())) {
            errors.not_supported(&path.child("volumeLifecycleModes"), mode, MODES);
        }
        if let Some(period) = spec.node_allocatable_update_period_seconds.filter(|s| *s < UPDATE_PERIOD_MIN_S) {
            let path = path.child("nodeAllocatableUpdatePeriodSeconds");
            errors.invalid(&path, period, "must be greater than or equal to 10 seconds");
        }
        if spec.service_account_token_in_secrets.is_some() && spec.token_requests.as_ref().is_none_or(Vec::is_empty) {
            let path = path.child("serviceAccountTokenInSecrets");
            let message = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.invalid(&path, spec.service_account_token_in_secrets, message);
        }
    }

    fn validate_update(driver: &storage::CSIDriver, old: &storage::CSIDriver, errors: &mut Errors) {
        Self::validate(driver, errors);
        let (new, old, path) = (&driver.spec, &old.spec, Path::new("spec"));
        immutable(&new.attach_required, &old.attach_required, &path.child("attachedRequired"), errors);
        immutable(
            &new.volume_lifecycle_modes,
            &old.volume_lifecycle_modes,
            &path.child("volumeLifecycleModes"),
            errors,
        );
    }

    fn warnings(driver: &Value, old: Option<&Value>) -> Vec<String> {
        let tokens = "spec.tokenRequests";
        let changed = old.is_none_or(|old| old.at(tokens) != driver.at(tokens));
        if driver.count(tokens) > 0 && changed && driver.at("spec.serviceAccountTokenInSecrets").is_null() {
            return vec![TOKENS_IN_SECRETS.to_owned()];
        }
        Vec::new()
    }

    fn cells(driver: &Value, row: &mut Row) {
        let flag = |field: &str| driver.at("spec").flag(field);
        let audiences: Vec<&str> =
            driver.list("spec.tokenRequests").iter().map(|t| t.text("audience")).filter(|a| !a.is_empty()).collect();
        let modes: Vec<&str> = driver.list("spec.volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
        row.name(driver);
        row.push(driver.at("spec.attachRequired").as_bool().unwrap_or(true));
        row.push(flag("podInfoOnMount"));
        row.push(flag("storageCapacity"));
        row.or(&audiences.join(","), "<unset>");
        row.push(flag("requiresRepublish"));
        row.or(&modes.join(","), "<none>");
        row.age(driver);
    }
}

/// What upstream takes only behind a gate that is shut.
fn drop_alpha(driver: &mut Value) {
    if let Some(spec) = spec_of(driver) {
        spec.remove("preventPodSchedulingIfMissing");
    }
}

fn tokens(requests: &[storage::TokenRequest], list: &Path<'_>, errors: &mut Errors) {
    let mut audiences = BTreeSet::new();
    for (i, request) in requests.iter().enumerate() {
        let path = list.index(i);
        if !audiences.insert(&request.audience) {
            errors.duplicate(&path.child("audience"), &request.audience);
            continue;
        }
        let Some(seconds) = request.expiration_seconds else { continue };
        let path = path.child("expirationSeconds");
        if seconds < TOKEN_MIN_S {
            errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > TOKEN_MAX_S {
            errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
}
