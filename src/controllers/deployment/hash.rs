//! Names of replica sets: a short hash of the pod template.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// No vowels, nor what looks alike: no words come out.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The value of the label `pod-template-hash`; `collisions` makes another one of the same template.
pub fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut hash = Fnv::new();
    let text = serde_json::to_vec(template).expect("a template always encodes");
    hash.write(&text);
    if collisions != 0 {
        hash.write(&collisions.to_le_bytes());
    }
    hash.0.to_string().bytes().map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).collect()
}

/// FNV-1a with 32 bits.
struct Fnv(u32);

impl Fnv {
    fn new() -> Self {
        Self(0x811c_9dc5)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn is_fnv_1a() {
        for (text, expect) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            let mut hash = Fnv::new();
            hash.write(text.as_bytes());
            assert_eq!(hash.0, expect, "{text}");
        }
    }

    #[test]
    fn depends_on_template_and_collisions_alone() {
        let template = |image: &str| -> PodTemplateSpec {
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": image}]}}))
                .expect("a template")
        };
        let hash = template_hash(&template("a"), 0);
        assert_eq!(hash, template_hash(&template("a"), 0));
        assert_ne!(hash, template_hash(&template("b"), 0));
        assert_ne!(hash, template_hash(&template("a"), 1));
        assert!(hash.len() <= 10 && hash.bytes().all(|byte| LETTERS.contains(&byte)), "{hash}");
    }
}
