//! The trust anchors that projected volumes ask for, from ClusterTrustBundles.

use http::Method;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use serde_json::Value;
use skiff_api::selector::LabelSelector;
use skiff_base::chain;
use skiff_client::{Client, percent_encoded};

/// After this time they are asked for again, as upstream does at every sync of a pod.
pub(crate) const RENEW: SignedDuration = SignedDuration::from_secs(60);

const BUNDLES: &str = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";

/// The anchors of a bundle, or of all of a signer that a selector chooses; no selector chooses none.
pub(crate) async fn anchors(client: &Client, source: &ClusterTrustBundleProjection) -> Result<String, String> {
    let optional = source.optional == Some(true);
    let bundles = match (&source.name, &source.label_selector) {
        (Some(name), _) => {
            let path = format!("{BUNDLES}/{}", percent_encoded(name));
            match client.call::<Value>(Method::GET, &path, None).await {
                Ok(bundle) => vec![bundle],
                Err(error) if optional && error.is_not_found() => Vec::new(),
                Err(error) => return Err(format!("while getting ClusterTrustBundle: {}", chain(&error))),
            }
        }
        (None, None) => Vec::new(),
        (None, Some(selector)) => {
            let selector = LabelSelector::from_typed(Some(selector))
                .map_err(|error| format!("while parsing label selector: {error}"))?;
            let field = format!("spec.signerName={}", source.signer_name.as_deref().unwrap_or_default());
            let path = format!(
                "{BUNDLES}?fieldSelector={}&labelSelector={}",
                percent_encoded(&field),
                percent_encoded(&selector.to_string())
            );
            let mut list = client.call::<Value>(Method::GET, &path, None).await.map_err(|error| {
                format!("while listing ClusterTrustBundles matching label selector {selector}: {}", chain(&error))
            })?;
            serde_json::from_value(list["items"].take()).unwrap_or_default()
        }
    };
    if bundles.is_empty() && !optional {
        return Err("combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned());
    }
    Ok(skiff_pki::anchors(bundles.iter().filter_map(|bundle| bundle["spec"]["trustBundle"].as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skiff_client::fake::FakeTransport;
    use std::sync::Arc;

    #[tokio::test]
    async fn bundles_are_found_by_name_and_by_signer() {
        let fake = Arc::new(FakeTransport::new());
        let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fake.put(json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
            "metadata": {"name": "b"}, "spec": {"trustBundle": format!("# one\n{text}{text}")}}));
        let client = Client::new(fake);
        let ask = async |source: Value| {
            let source = serde_json::from_value(source).expect("a projection");
            anchors(&client, &source).await
        };
        let none = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        assert_eq!(ask(json!({"path": "p", "name": "b"})).await.as_deref(), Ok(text));
        assert!(ask(json!({"path": "p", "name": "no"})).await.is_err_and(|why| why.contains("while getting")));
        assert_eq!(ask(json!({"path": "p", "name": "no", "optional": true})).await.as_deref(), Ok(""));
        assert_eq!(
            ask(json!({"path": "p", "signerName": "a.b/c"})).await,
            Err(none.to_owned()),
            "no selector, no bundle"
        );
        assert_eq!(ask(json!({"path": "p", "signerName": "a.b/c", "optional": true})).await.as_deref(), Ok(""));
    }
}
