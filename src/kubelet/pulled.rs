//! Who may use an image that was pulled with somebody's credentials (KEP-2535): whoever shows the same ones, or has the
//! registry say so. An image that this agent has not pulled (an archive, `skiff ctr`) is everybody's.
//!
//! Below the agent's data directory: `pulled/<image>.json` says with what an image was pulled; `pulling/<reference>` is
//! there while one is. After a crash the latter makes an image without a record one that nobody is known to own.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skiff_runtime::{Image, RegistryAuth};

/// Matches that are remembered, at most: namespaces come and go.
const MAX_REMEMBERED: usize = 100;

/// Where credentials came from, and what they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecretCredential {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) credential_hash: String,
}

/// Who may use an image by one name of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Grants {
    /// It was had without a pod's credentials.
    node_pods_accessible: bool,
    kubernetes_secrets: Vec<SecretCredential>,
}

/// Of one image: grants by repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    image_ref: String,
    credential_mapping: BTreeMap<String, Grants>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    Granted,
    /// Granted, and these credentials are good as well from now on.
    Remember(SecretCredential),
    /// The registry has to say.
    Verify,
}

/// What says that two credentials are the same, without telling them.
pub(crate) fn hash(auth: &RegistryAuth) -> String {
    let text = serde_json::json!([auth.username, auth.password, auth.identity_token]).to_string();
    hex(text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn plan_access(grants: Option<&Grants>, presented: &[SecretCredential]) -> Access {
    let Some(grants) = grants else { return Access::Verify };
    if grants.node_pods_accessible {
        return Access::Granted;
    }
    for own in presented {
        for known in &grants.kubernetes_secrets {
            let same = (&own.uid, &own.namespace, &own.name) == (&known.uid, &known.namespace, &known.name);
            let equal = own.credential_hash == known.credential_hash;
            if same && equal {
                return Access::Granted;
            }
            // The same credentials in another secret, or others in the same secret.
            if same || equal {
                let room = grants.kubernetes_secrets.len() < MAX_REMEMBERED;
                return if room { Access::Remember(own.clone()) } else { Access::Granted };
            }
        }
    }
    Access::Verify
}

impl Grants {
    /// True where that was not known.
    fn add(&mut self, credential: Option<&SecretCredential>) -> bool {
        let Some(new) = credential else { return !std::mem::replace(&mut self.node_pods_accessible, true) };
        if self.node_pods_accessible || self.kubernetes_secrets.contains(new) {
            return false;
        }
        // Of one secret, what it holds now counts.
        self.kubernetes_secrets
            .retain(|old| (&old.uid, &old.namespace, &old.name) != (&new.uid, &new.namespace, &new.name));
        self.kubernetes_secrets.push(new.clone());
        true
    }
}

/// A cheap handle on the records.
#[derive(Clone)]
pub(crate) struct Pulled {
    inner: Arc<Inner>,
}

struct Inner {
    records_directory: PathBuf,
    intents_directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the image's id.
    records: BTreeMap<String, Record>,
    /// Pulls under way, by reference.
    under_way: HashMap<String, usize>,
    /// Counts the pulls that brought something, and which of them was an image's last.
    pulls: u64,
    last: HashMap<String, u64>,
}

/// A moment between pulls.
pub(crate) struct Moment(u64);

impl Pulled {
    /// Reads the records; images that a crash left without one get one that grants nobody anything.
    pub(crate) fn open(data_directory: &Path, images: &[Image]) -> io::Result<Self> {
        let inner = Inner {
            records_directory: data_directory.join("pulled"),
            intents_directory: data_directory.join("pulling"),
            state: Mutex::default(),
        };
        for directory in [&inner.records_directory, &inner.intents_directory] {
            std::fs::create_dir_all(directory)?;
        }
        for (path, bytes) in files(&inner.records_directory)? {
            match serde_json::from_slice::<Record>(&bytes) {
                Ok(record) => drop(inner.lock().records.insert(record.image_ref.clone(), record)),
                // Without any the image would be everybody's: with an empty one the registry has to say.
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a record of a pull is damaged");
                    let digest = path.file_stem().unwrap_or_default().to_string_lossy();
                    let image_ref = format!("sha256:{digest}");
                    inner.lock().records.insert(image_ref.clone(), Record { image_ref, ..Record::default() });
                }
            }
        }
        for (path, reference) in files(&inner.intents_directory)? {
            let reference = String::from_utf8_lossy(&reference).into_owned();
            for image in images.iter().filter(|i| i.tags.contains(&reference) || i.digests.contains(&reference)) {
                let record = inner
                    .lock()
                    .records
                    .entry(image.id.0.clone())
                    .or_insert_with(|| Record { image_ref: image.id.0.clone(), ..Record::default() })
                    .clone();
                inner.write(&record)?;
            }
            std::fs::remove_file(path)?;
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether a pod that shows these credentials may use an image that is here.
    pub(crate) fn access(&self, reference: &str, image: &Image, presented: &[SecretCredential]) -> Access {
        let state = self.inner.lock();
        match state.records.get(&image.id.0) {
            Some(record) => plan_access(record.credential_mapping.get(repository(reference)), presented),
            // It has come a moment ago, and its record is about to be written.
            None if state.under_way.contains_key(reference) => Access::Verify,
            None => Access::Granted,
        }
    }

    /// A pull begins: from now on the image is not everybody's by lack of a record.
    pub(crate) async fn begin(&self, reference: &str) -> io::Result<()> {
        *self.inner.lock().under_way.entry(reference.to_owned()).or_default() += 1;
        let (inner, reference) = (self.inner.clone(), reference.to_owned());
        blocking(move || {
            let path = inner.intent(&reference);
            if path.exists() { Ok(()) } else { skiff_base::file::replace(&path, reference.as_bytes(), 0o600) }
        })
        .await
    }

    /// The pull brought an image, with a pod's credentials or (`None`) without.
    pub(crate) async fn done(&self, reference: &str, image: &Image, credential: Option<SecretCredential>) {
        match self.grant(reference, image, credential.as_ref()).await {
            Ok(()) => self.end(reference).await,
            // The mark of the pull stays: at the next start the image is nobody's, not everybody's.
            Err(error) => tracing::error!(reference, %error, "who pulled an image can't be written down"),
        }
    }

    pub(crate) async fn failed(&self, reference: &str) {
        self.end(reference).await;
    }

    /// Writes down that these credentials are good for an image.
    pub(crate) async fn grant(
        &self,
        reference: &str,
        image: &Image,
        credential: Option<&SecretCredential>,
    ) -> io::Result<()> {
        let record = {
            let mut state = self.inner.lock();
            state.pulls += 1;
            let now = state.pulls;
            state.last.insert(image.id.0.clone(), now);
            let fresh = || Record { image_ref: image.id.0.clone(), ..Record::default() };
            let record = state.records.entry(image.id.0.clone()).or_insert_with(fresh);
            let grants = record.credential_mapping.entry(repository(reference).to_owned()).or_default();
            if !grants.add(credential) {
                return Ok(());
            }
            record.clone()
        };
        let inner = self.inner.clone();
        blocking(move || inner.write(&record)).await
    }

    async fn end(&self, reference: &str) {
        let (inner, reference) = (self.inner.clone(), reference.to_owned());
        let ended = blocking(move || {
            // Under the lock: a pull that begins now writes its mark after this.
            let mut state = inner.lock();
            let others = state.under_way.get(&reference).copied().unwrap_or(1) - 1;
            if others > 0 {
                state.under_way.insert(reference, others);
                return Ok(());
            }
            state.under_way.remove(&reference);
            std::fs::remove_file(inner.intent(&reference))
        });
        if let Err(error) = ended.await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the mark of a pull can't be removed");
        }
    }

    /// To be asked for before images are listed.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.inner.lock().pulls)
    }

    /// Forgets images that were not among `images`, listed after `moment`; not those that were pulled since.
    pub(crate) async fn prune(&self, moment: Moment, images: &[Image]) {
        let gone: Vec<String> = {
            let mut state = self.inner.lock();
            let is_old = |id: &String| state.last.get(id).is_none_or(|last| *last <= moment.0);
            let is_gone = |id: &&String| is_old(id) && !images.iter().any(|i| i.id.0 == **id);
            let gone: Vec<String> = state.records.keys().filter(is_gone).cloned().collect();
            for id in &gone {
                state.records.remove(id);
                state.last.remove(id);
            }
            gone
        };
        let inner = self.inner.clone();
        let removed = blocking(move || gone.iter().try_for_each(|id| std::fs::remove_file(inner.record(id))));
        if let Err(error) = removed.await {
            tracing::warn!(%error, "the record of a pull can't be removed");
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn record(&self, image_id: &str) -> PathBuf {
        self.records_directory.join(format!("{}.json", image_id.trim_start_matches("sha256:")))
    }

    fn intent(&self, reference: &str) -> PathBuf {
        self.intents_directory.join(hex(reference.as_bytes()))
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec(record).expect("a record always encodes");
        skiff_base::file::replace(&self.record(&record.image_ref), &bytes, 0o600)
    }
}

fn files(directory: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')) {
            found.push((path.clone(), std::fs::read(path)?));
        }
    }
    Ok(found)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// `docker.io/library/busybox:1.36` without tag and digest.
pub(crate) fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    match name[slash..].find(':') {
        Some(colon) => &name[..slash + colon],
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_runtime::{ImageConfig, ImageId};

    fn credential(name: &str, password: &str) -> SecretCredential {
        let auth = RegistryAuth { username: "u".into(), password: password.into(), identity_token: String::new() };
        SecretCredential {
            uid: format!("uid-{name}"),
            namespace: "n".into(),
            name: name.into(),
            credential_hash: hash(&auth),
        }
    }

    fn image(name: &str) -> Image {
        Image {
            id: ImageId(format!("sha256:{name}")),
            tags: vec![format!("r.test/{name}:1")],
            digests: Vec::new(),
            size_bytes: 1,
            pinned: false,
            user: String::new(),
            config: ImageConfig::default(),
        }
    }

    #[test]
    fn who_may_use_an_image() {
        let grants = |secrets: &[&SecretCredential]| Grants {
            node_pods_accessible: false,
            kubernetes_secrets: secrets.iter().map(|s| (*s).clone()).collect(),
        };
        let everyone = Grants { node_pods_accessible: true, ..Grants::default() };
        let (a, b) = (credential("a", "x"), credential("b", "y"));
        let (copy, changed) = (credential("c", "x"), credential("a", "z"));
        let full: Vec<SecretCredential> = (0..MAX_REMEMBERED).map(|n| credential(&n.to_string(), "x")).collect();
        for (what, grants, presented, expected) in [
            ("nothing is known of this name", None, vec![a.clone()], Access::Verify),
            ("everybody's", Some(everyone), vec![], Access::Granted),
            ("nobody's", Some(Grants::default()), vec![a.clone()], Access::Verify),
            ("none shown", Some(grants(&[&a])), vec![], Access::Verify),
            ("others shown", Some(grants(&[&a])), vec![b.clone()], Access::Verify),
            ("the same", Some(grants(&[&a])), vec![b.clone(), a.clone()], Access::Granted),
            ("in another secret", Some(grants(&[&a])), vec![copy.clone()], Access::Remember(copy.clone())),
            ("the secret changed", Some(grants(&[&a])), vec![changed.clone()], Access::Remember(changed)),
            ("enough are remembered", Some(grants(&full.iter().collect::<Vec<_>>())), vec![copy], Access::Granted),
        ] {
            assert_eq!(plan_access(grants.as_ref(), &presented), expected, "{what}");
        }
        let mut grants = grants(&[&a]);
        assert!(!grants.add(Some(&a)) && grants.add(Some(&b)) && grants.add(None) && !grants.add(None));
        assert!(!grants.add(Some(&credential("d", "w"))), "everybody's already");
    }

    #[tokio::test]
    async fn records_outlive_the_agent() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = |images: &[Image]| Pulled::open(directory.path(), images).expect("opened");
        let (own, free, half) = (image("own"), image("free"), image("half"));
        let pulled = open(&[]);
        let a = credential("a", "x");
        pulled.begin("r.test/own:1").await.expect("marked");
        assert_eq!(pulled.access("r.test/own:1", &own, &[]), Access::Verify, "its record is on the way");
        pulled.done("r.test/own:1", &own, Some(a.clone())).await;
        pulled.begin("r.test/free:1").await.expect("marked");
        pulled.done("r.test/free:1", &free, None).await;
        // A crash in the middle of a pull.
        pulled.begin("r.test/half:1").await.expect("marked");

        let pulled = open(&[own.clone(), free.clone(), half.clone()]);
        for (reference, image, presented, expected) in [
            ("r.test/own:1", &own, vec![], Access::Verify),
            ("r.test/own@sha256:0", &own, vec![a.clone()], Access::Granted),
            ("r.test/other:1", &own, vec![a.clone()], Access::Verify),
            ("r.test/free:1", &free, vec![], Access::Granted),
            ("r.test/half:1", &half, vec![a.clone()], Access::Verify),
            ("r.test/archive:1", &image("archive"), vec![], Access::Granted),
        ] {
            assert_eq!(pulled.access(reference, image, &presented), expected, "{reference}");
        }
        let before = pulled.moment();
        pulled.done("r.test/half:1", &half, Some(a)).await;
        pulled.prune(before, std::slice::from_ref(&free)).await;
        assert_eq!(pulled.access("r.test/half:1", &half, &[]), Access::Verify, "pulled after the list");
        assert_eq!(open(&[]).access("r.test/own:1", &own, &[]), Access::Granted, "pulled no more");
        assert_eq!(directory.path().join("pulling").read_dir().expect("listed").count(), 0);
    }

    #[test]
    fn names_without_versions() {
        for (reference, expected) in [
            ("docker.io/library/busybox:1.36", "docker.io/library/busybox"),
            ("r:5000/a@sha256:0", "r:5000/a"),
            ("r:5000/a:1@sha256:0", "r:5000/a"),
            ("r:5000/a", "r:5000/a"),
        ] {
            assert_eq!(repository(reference), expected);
        }
    }
}
