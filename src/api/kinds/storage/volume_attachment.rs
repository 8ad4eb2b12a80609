//! VolumeAttachment.

use k8s_openapi::api::storage::v1 as storage;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::adapter::{Kind, keep_meta};
use crate::kinds::checks::{csi_driver_name, dns_subdomain, immutable, text};
use crate::kinds::core::persistent_volume;
use crate::kinds::facts::{self, AGE, Facts, NAME, boolean};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::strategy::Subresource;

const MESSAGE_MAX_B: usize = 1024;
const METADATA_MAX_B: usize = 256 * 1024;

pub(super) struct VolumeAttachments;

impl Kind for VolumeAttachments {
    type Typed = storage::VolumeAttachment;
    const FACTS: Facts = Facts {
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            facts::text("Attacher", "The driver that attaches the volume.").named(),
            facts::text("PV", "The persistent volume."),
            facts::text("Node", "Where it is attached to."),
            boolean("Attached", "Whether it is attached."),
            AGE,
        ],
        unconditional_update: false,
        ..Facts::new("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment")
    };

    fn prepare_create(attachment: &mut Value) {
        if let Some(map) = attachment.as_object_mut() {
            map.insert("status".to_owned(), json!({"attached": false}));
        }
    }

    fn prepare_status_update(attachment: &mut Value, old: &Value) {
        keep_meta(attachment, old);
    }

    fn validate(attachment: &storage::VolumeAttachment, errors: &mut Errors) {
        let (spec, path) = (&attachment.spec, Path::new("spec"));
        csi_driver_name(&spec.attacher, &path.child("attacher"), errors);
        let source = path.child("source");
        match (&spec.source.inline_volume_spec, &spec.source.persistent_volume_name) {
            (None, None) => {
                errors.required(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
            }
            (Some(_), Some(_)) => {
                errors.forbidden(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
            }
            (None, Some(name)) if name.is_empty() => {
                errors.required(&source.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
            }
            (Some(volume), None) => {
                persistent_volume::inline(volume, &source.child("inlineVolumeSpec"), errors);
            }
            (None, Some(_)) => {}
        }
        dns_subdomain(&spec.node_name, &path.child("nodeName"), errors);
        if let Some(name) = &spec.source.persistent_volume_name {
            dns_subdomain(name, &source.child("persistentVolumeName"), errors);
        }
    }

    fn validate_update(new: &storage::VolumeAttachment, old: &storage::VolumeAttachment, errors: &mut Errors) {
        Self::validate(new, errors);
        immutable(&new.spec, &old.spec, &Path::new("spec"), errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(
        attachment: &storage::VolumeAttachment,
        _old: &storage::VolumeAttachment,
        errors: &mut Errors,
    ) {
        let Some(status) = &attachment.status else { return };
        let path = Path::new("status");
        let size: usize = status.attachment_metadata.iter().flatten().map(|(k, v)| k.len() + v.len()).sum();
        if size > METADATA_MAX_B {
            errors.too_long(&path.child("attachmentMetadata"), METADATA_MAX_B);
        }
        for (field, error) in [("attachError", &status.attach_error), ("detachError", &status.detach_error)] {
            let path = path.child(field);
            let Some(error) = error else { continue };
            if text(&error.message).len() > MESSAGE_MAX_B {
                // As upstream: the limit that it names is the other one.
                errors.too_long(&path.child("message"), METADATA_MAX_B);
            }
            if let Some(code) = error.error_code.filter(|code| *code < 0) {
                errors.invalid(&path.child("errorCode"), code, "must be between 0 and 2147483647, inclusive");
            }
        }
    }

    fn cells(attachment: &Value, row: &mut Row) {
        row.name(attachment);
        row.push(attachment.text("spec.attacher"));
        row.push(attachment.text("spec.source.persistentVolumeName"));
        row.push(attachment.text("spec.nodeName"));
        row.push(attachment.flag("status.attached"));
        row.age(attachment);
    }
}
