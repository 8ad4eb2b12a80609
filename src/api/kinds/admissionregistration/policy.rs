//! Policies in CEL and their bindings. The API server refuses to make any while it evaluates no CEL, so there is nothing to
//! check here yet but the metadata.

use k8s_openapi::api::admissionregistration::v1 as admission;
use serde_json::Value;

use crate::kinds::adapter::Kind;
use crate::kinds::facts::{AGE, Facts, NAME, integer, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::strategy::Subresource;

const GROUP: &str = "admissionregistration.k8s.io";
const CATEGORIES: &[&str] = &["api-extensions"];

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
        categories: CATEGORIES,
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            integer("Validations", "How many expressions it has."),
            text("ParamKind", "The kind of its parameters."),
            AGE,
        ],
        generation: true,
        unconditional_update: false,
        ..Facts::new(GROUP, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy")
    };

    fn cells(policy: &Value, row: &mut Row) {
        row.name(policy);
        row.push(policy.count("spec.validations"));
        param_kind(policy, row);
        row.age(policy);
    }
}

pub(super) struct ValidatingAdmissionPolicyBindings;

impl Kind for ValidatingAdmissionPolicyBindings {
    type Typed = admission::ValidatingAdmissionPolicyBinding;
    const FACTS: Facts = Facts {
        categories: CATEGORIES,
        namespaced: false,
        columns: &[
            NAME,
            text("PolicyName", "The policy that it puts into effect."),
            text("ParamRef", "The policy's parameters."),
            AGE,
        ],
        generation: true,
        unconditional_update: false,
        ..Facts::new(GROUP, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding")
    };

    fn cells(binding: &Value, row: &mut Row) {
        binding_cells(binding, row);
    }
}

pub(super) struct MutatingAdmissionPolicies;

impl Kind for MutatingAdmissionPolicies {
    type Typed = admission::MutatingAdmissionPolicy;
    const FACTS: Facts = Facts {
        categories: CATEGORIES,
        namespaced: false,
        columns: &[
            NAME,
            integer("Mutations", "How many mutations it makes."),
            text("ParamKind", "The kind of its parameters."),
            AGE,
        ],
        generation: true,
        unconditional_update: false,
        ..Facts::new(GROUP, "v1", "mutatingadmissionpolicies", "MutatingAdmissionPolicy")
    };

    fn cells(policy: &Value, row: &mut Row) {
        row.name(policy);
        row.push(policy.count("spec.mutations"));
        param_kind(policy, row);
        row.age(policy);
    }
}

pub(super) struct MutatingAdmissionPolicyBindings;

impl Kind for MutatingAdmissionPolicyBindings {
    type Typed = admission::MutatingAdmissionPolicyBinding;
    const FACTS: Facts = Facts {
        categories: CATEGORIES,
        namespaced: false,
        columns: &[
            NAME,
            text("PolicyName", "The policy that it puts into effect."),
            text("ParamRef", "The policy's parameters."),
            AGE,
        ],
        generation: true,
        unconditional_update: false,
        ..Facts::new(GROUP, "v1", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding")
    };

    fn cells(binding: &Value, row: &mut Row) {
        binding_cells(binding, row);
    }
}
