//! What the documents of an image say, whoever wrote them: which of several images is meant, and the names of layers.

use oci_spec::image::{Arch, Descriptor, Os};

use super::layer::sha256;

/// The entry for this machine; one without a platform serves where there is no better.
pub fn pick_platform(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let own = Arch::default();
    let fits =
        |d: &&Descriptor| d.platform().as_ref().is_some_and(|p| *p.os() == Os::Linux && *p.architecture() == own);
    manifests.iter().find(fits).or_else(|| manifests.iter().find(|d| d.platform().is_none()))
}

/// Directory names of the layers, lowest first: the start of each chain id. They say what is in a directory that is there
/// already, so a content's name has to be one: not every text that a configuration may hold.
pub fn chain_names(diff_ids: &[String]) -> Result<Vec<String>, String> {
    let mut names = Vec::with_capacity(diff_ids.len());
    let mut chain = String::new();
    for diff_id in diff_ids {
        let hex = diff_id
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        if hex.is_none() {
            return Err(format!("the image's configuration calls a layer {diff_id:?}, which is no SHA-256 digest"));
        }
        chain = if chain.is_empty() { diff_id.clone() } else { sha256(format!("{chain} {diff_id}").as_bytes()) };
        names.push(chain["sha256:".len()..][..32].to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_named_by_its_content_alone() {
        let good = sha256(b"a");
        let names = chain_names(&[good.clone(), good.clone()]).expect("digests");
        assert_eq!(names, [good[7..39].to_owned(), sha256(format!("{good} {good}").as_bytes())[7..39].to_owned()]);
        // Joined to the directory of all layers, these would be that directory, or some other layer.
        for bad in [
            "",
            "sha256:",
            "../x",
            &good[7..],
            &good.to_uppercase(),
            &good.replace("sha256", "sha512"),
            &format!("{good}0"),
        ] {
            assert!(chain_names(&[bad.to_owned()]).expect_err("refused").contains("no SHA-256 digest"), "{bad}");
        }
    }
}
