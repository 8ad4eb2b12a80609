//! Policies in CEL and their bindings. The API server refuses to make any while it evaluates no CEL, so there is nothing to
//! check here yet but the metadata.

use k8s_openapi::api::admissionregistration::v1 as admission;
use serde_json::Value;

use super::facts;
use crate::kinds::adapter::{Kind, keep_meta};
use crate::kinds::facts::{AGE, Col, Facts, NAME, integer, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::strategy::Subresource;

const BINDING_COLUMNS: &[Col] = &[
    NAME,
    text("PolicyName", "The policy that it puts into effect."),
    text("ParamRef", "The policy's parameters."),
    AGE,
];

/// Of a policy: how many it has of what it is made of.
const fn policy_columns(count: Col) -> [Col; 4] {
    [NAME, count, text("ParamKind", "The kind of its parameters."), AGE]
}

fn policy_cells(policy: &Value, counted: &str, row: &mut Row) {
    row.name(policy);
    row.push(policy.count(counted));
    param_kind(policy, row);
    row.age(policy);
}

fn param_kind(policy: &Value, row: &mut Row) {
    let kind = policy.at("spec.paramKind");
    row.push(if kind.is_object() {
        format!("{}/{}", kind.text("apiVersion"), kind.text("kind"))
    } else {
        "<unset>".to_owned()
    });
}

fn binding_cells(binding: &Value, row: &mut Row) {
    let reference = binding.at("spec.paramRef");
    let name = match (reference.is_object(), reference.text("namespace"), reference.text("name")) {
        (false, ..) => "<unset>".to_owned(),
        (true, "", name) => format!("*/{name}"),
        (true, namespace, name) => format!("{namespace}/{name}"),
    };
    row.name(binding);
    row.push(binding.text("spec.policyName"));
    row.push(name);
    row.age(binding);
}

pub(super) struct ValidatingAdmissionPolicies;

impl Kind for ValidatingAdmissionPolicies {
    type Typed = admission::ValidatingAdmissionPolicy;
    const FACTS: Facts = Facts {
        subresources: &[Subresource::Status],
        columns: &policy_columns(integer("Validations", "How many expressions it has.")),
        ..facts("validatingadmissionpolicies", "ValidatingAdmissionPolicy")
    };

    fn prepare_status_update(policy: &mut Value, old: &Value) {
        keep_meta(policy, old);
    }

    fn cells(policy: &Value, row: &mut Row) {
        policy_cells(policy, "spec.validations", row);
    }
}

pub(super) struct ValidatingAdmissionPolicyBindings;

impl Kind for ValidatingAdmissionPolicyBindings {
    type Typed = admission::ValidatingAdmissionPolicyBinding;
    const FACTS: Facts = Facts {
        columns: BINDING_COLUMNS,
        ..facts("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding")
    };

    fn cells(binding: &Value, row: &mut Row) {
        binding_cells(binding, row);
    }
}

pub(super) struct MutatingAdmissionPolicies;

impl Kind for MutatingAdmissionPolicies {
    type Typed = admission::MutatingAdmissionPolicy;
    const FACTS: Facts = Facts {
        columns: &policy_columns(integer("Mutations", "How many mutations it makes.")),
        ..facts("mutatingadmissionpolicies", "MutatingAdmissionPolicy")
    };

    fn cells(policy: &Value, row: &mut Row) {
        policy_cells(policy, "spec.mutations", row);
    }
}

pub(super) struct MutatingAdmissionPolicyBindings;

impl Kind for MutatingAdmissionPolicyBindings {
    type Typed = admission::MutatingAdmissionPolicyBinding;
    const FACTS: Facts = Facts {
        columns: BINDING_COLUMNS,
        ..facts("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding")
    };

    fn cells(binding: &Value, row: &mut Row) {
        binding_cells(binding, row);
    }
}
