//! Which of the host's ids a pod with a user namespace has: a range that no other pod has, for as long as it is there.
//!
//! As upstream: each takes 65,536 ids of those that `/etc/subuid` and `/etc/subgid` give the user `kubelet`, or of all but
//! the first ones; the file `userns` in the pod's directory keeps them over restarts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};
use skiff_base::file;
use skiff_linux::mark;
use skiff_runtime::IdRange;

use crate::leftovers;
use crate::options::Options;
use crate::pod::PodUid;

const FILE: &str = "userns";
const LENGTH: u32 = 1 << 16;
const USER: &str = "kubelet";

pub(crate) struct UserNamespaces {
    pods_directory: PathBuf,
    slots: Slots,
    taken: Mutex<Taken>,
}

/// Ranges by their numbers: the first begins at id `first * LENGTH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slots {
    first: u32,
    count: u32,
}

#[derive(Default)]
struct Taken {
    slots: BTreeMap<PodUid, u32>,
    /// The one given last, so that one that is free again rests a while.
    last: u32,
}

impl UserNamespaces {
    /// Reads what the machine gives, and what pods have already; blocking.
    pub(crate) fn open(options: &Options, etc: &Path) -> Result<Self, String> {
        let read = |name: &str| match fs::read_to_string(etc.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other.map_err(|e| format!("read {}: {e}", etc.join(name).display())),
        };
        let slots = plan_slots(&read("passwd")?, &read("subuid")?, &read("subgid")?, options.settings.max_pods)?;
        let pods_directory = options.pods_directory();
        let taken = Mutex::new(taken(&pods_directory, slots)?);
        Ok(Self { pods_directory, slots, taken })
    }

    /// The ids of a pod, which it has already or gets now; blocking.
    pub(crate) fn ensure(&self, uid: &PodUid) -> Result<IdRange, String> {
        let mut taken = self.taken.lock().expect("no holder of this lock panics");
        let range = |slot: u32| IdRange { first: slot * LENGTH, length: LENGTH };
        if let Some(slot) = taken.slots.get(uid) {
            return Ok(range(*slot));
        }
        let slot = match recorded(&self.pods_directory, uid, self.slots).map_err(|e| format!("user namespace: {e}"))? {
            Some(slot) if taken.has(slot) => return Err(format!("user namespace: {}", already_taken(uid))),
            Some(slot) => slot,
            None => {
                let slot = taken.free(self.slots).ok_or(
                    "create user namespace: could not find an empty slot to allocate a user namespace".to_owned(),
                )?;
                let directory = self.pods_directory.join(&uid.0);
                leftovers::ensure_ours(&directory, 0o750)
                    .and_then(|()| file::replace(&directory.join(FILE), render(range(slot)).as_bytes(), 0o644))
                    .map_err(|e| format!("create user namespace: {e}"))?;
                taken.last = slot;
                slot
            }
        };
        taken.slots.insert(uid.clone(), slot);
        Ok(range(slot))
    }

    /// For when nothing of the pod is left.
    pub(crate) fn release(&self, uid: &PodUid) {
        self.taken.lock().expect("no holder of this lock panics").slots.remove(uid);
    }
}

impl Taken {
    fn has(&self, slot: u32) -> bool {
        self.slots.values().any(|taken| *taken == slot)
    }

    fn free(&self, slots: Slots) -> Option<u32> {
        let start = (self.last + 1).saturating_sub(slots.first);
        // Among one more than are taken, one is free.
        let some = u32::try_from(self.slots.len()).unwrap_or(u32::MAX).saturating_add(1);
        let candidates = (0..some.min(slots.count)).map(|n| slots.first + (start.wrapping_add(n)) % slots.count);
        candidates.into_iter().find(|slot| !self.has(*slot))
    }
}

/// What the pods of a directory have. Another kubelet may have had it before: of what is not ours, only what can be read
/// counts.
fn taken(pods_directory: &Path, slots: Slots) -> Result<Taken, String> {
    let mut taken = Taken::default();
    let all = pods(pods_directory).map_err(|e| format!("read pods from disk: {e}"))?;
    let (own, foreign): (Vec<_>, Vec<_>) = all.into_iter().partition(|uid| mark::is_set(&pods_directory.join(&uid.0)));
    for (uids, own) in [(own, true), (foreign, false)] {
        for uid in uids {
            let recorded = recorded(pods_directory, &uid, slots)
                .and_then(|slot| if slot.is_some_and(|s| taken.has(s)) { Err(already_taken(&uid)) } else { Ok(slot) })
                .map_err(|e| format!("record pod mappings for existing pod {:?}: {e}", uid.0));
            match recorded {
                Ok(slot) => taken.slots.extend(slot.map(|slot| (uid, slot))),
                Err(error) if own => return Err(error),
                Err(error) => tracing::warn!(error, "the user namespace of a pod that is not ours is not looked at"),
            }
        }
    }
    Ok(taken)
}

fn already_taken(uid: &PodUid) -> String {
    format!("range picked for pod {:?} already taken", uid.0)
}

fn pods(directory: &Path) -> io::Result<Vec<PodUid>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(PodUid(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(found)
}

fn render(range: IdRange) -> String {
    let mappings = json!([{"hostId": range.first, "containerId": 0, "length": range.length}]);
    json!({"uidMappings": mappings, "gidMappings": mappings}).to_string()
}

/// What a pod's file says.
fn recorded(pods_directory: &Path, uid: &PodUid, slots: Slots) -> Result<Option<u32>, String> {
    let text = match fs::read_to_string(pods_directory.join(&uid.0).join(FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| e.to_string())?,
    };
    // As upstream takes it.
    if text.is_empty() { Ok(None) } else { parse(&text, slots).map(Some) }
}

fn parse(text: &str, slots: Slots) -> Result<u32, String> {
    let invalid = |why: &str| format!("invalid user namespace configuration: {why}");
    let file: Value = serde_json::from_str(text).map_err(|e| format!("invalid user namespace mappings file: {e}"))?;
    let [mapping] = file["uidMappings"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Err(invalid("no more than one mapping allowed."));
    };
    if file["uidMappings"] != file["gidMappings"] {
        return Err(invalid("GID and UID mapping should be identical"));
    }
    if mapping["containerId"] != 0 {
        return Err(invalid("UID 0 must be mapped"));
    }
    let number = |field: &str| mapping[field].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let (first, length) = (number("hostId"), number("length"));
    if length != LENGTH {
        return Err(format!("wrong user namespace length {length}"));
    }
    if first % LENGTH != 0 {
        return Err(format!("wrong user namespace offset specified {first}"));
    }
    let slot = first / LENGTH;
    if slot < slots.first || slot - slots.first >= slots.count {
        return Err(format!("id {first} is out of range"));
    }
    Ok(slot)
}

/// From `/etc/passwd`, `/etc/subuid` and `/etc/subgid`.
fn plan_slots(passwd: &str, subuid: &str, subgid: &str, max_pods: u32) -> Result<Slots, String> {
    let user = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == USER);
    let given = |file: &str| -> Vec<(String, String)> {
        let Some(user) = &user else { return Vec::new() };
        let lines = file.lines().filter_map(|line| {
            let mut fields = line.split(':').map(str::trim);
            Some((fields.next()?, fields.next()?.to_owned(), fields.next()?.to_owned()))
        });
        let own = lines.filter(|(name, ..)| *name == USER || Some(name) == user.get(2));
        own.map(|(_, first, length)| (first, length)).collect()
    };
    let (uids, gids) = (given(subuid), given(subgid));
    if uids != gids {
        return Err(format!("mismatched subuids and subgids for user {USER:?}"));
    }
    let (first, length) = match uids.as_slice() {
        // All but those of the host itself.
        [] => return Ok(Slots { first: 1, count: (u32::MAX / LENGTH) }),
        [(first, length)] => {
            let number = |text: &String| text.parse::<u32>().map_err(|_| format!("cannot parse id {text:?}"));
            (number(first)?, number(length)?)
        }
        _ => return Err("error parsing getsubids output: the only one mapping is supported".to_owned()),
    };
    if first % LENGTH != 0 {
        return Err(format!("kubelet user assigned ID {first} is not a multiple of {LENGTH}"));
    }
    if first < LENGTH {
        return Err(format!("kubelet user assigned ID {first} must be greater or equal to {LENGTH}"));
    }
    if length % LENGTH != 0 {
        return Err(format!("kubelet user assigned IDs length {length} is not a multiple of {LENGTH}"));
    }
    if length / LENGTH < max_pods {
        return Err(format!("kubelet user assigned IDs are not enough to support {max_pods} pods"));
    }
    Ok(Slots { first: first / LENGTH, count: length / LENGTH })
}

/// Whether the machine can do it: file systems in memory take other ids since Linux 6.3.
pub(crate) fn is_supported() -> bool {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let most: u64 = text("/proc/sys/user/max_user_namespaces").trim().parse().unwrap_or(0);
    most > 0 && is_new_enough(&text("/proc/sys/kernel/osrelease"))
}

fn is_new_enough(release: &str) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(6), Some(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_ids_are() {
        let passwd = "root:x:0:0::/:/bin/sh\nkubelet:x:990:990::/:/bin/false\n";
        let default = Slots { first: 1, count: 65_535 };
        let own = "other:65536:65536\nkubelet:131072:7208960\n";
        for (passwd, subuid, subgid, expected) in [
            ("", own, own, Ok(default)),
            (passwd, "", "", Ok(default)),
            (passwd, own, own, Ok(Slots { first: 2, count: 110 })),
            (passwd, "990:131072:7208960", own, Ok(Slots { first: 2, count: 110 })),
            (passwd, own, "", Err("mismatched subuids and subgids for user \"kubelet\"")),
            (
                passwd,
                "kubelet:0:7208960",
                "kubelet:0:7208960",
                Err("kubelet user assigned ID 0 must be greater or equal to 65536"),
            ),
            (
                passwd,
                "kubelet:100:65536",
                "kubelet:100:65536",
                Err("kubelet user assigned ID 100 is not a multiple of 65536"),
            ),
            (
                passwd,
                "kubelet:65536:65536",
                "kubelet:65536:65536",
                Err("kubelet user assigned IDs are not enough to support 110 pods"),
            ),
        ] {
            let found = plan_slots(passwd, subuid, subgid, 110);
            assert_eq!(found, expected.map_err(str::to_owned), "{subuid:?}");
        }
        assert!(is_new_enough("6.3.0-generic") && is_new_enough("6.18.44") && is_new_enough("7.0"));
        assert!(!is_new_enough("6.2.16") && !is_new_enough("5.15.0") && !is_new_enough(""));
    }

    #[test]
    fn files() {
        let slots = Slots { first: 1, count: 4 };
        let range = |first, length| render(IdRange { first, length });
        assert_eq!(parse(&range(2 * LENGTH, LENGTH), slots), Ok(2));
        for (text, error) in [
            (range(5 * LENGTH, LENGTH), "id 327680 is out of range"),
            (range(LENGTH + 1, LENGTH), "wrong user namespace offset specified 65537"),
            (range(LENGTH, 5), "wrong user namespace length 5"),
            (range(LENGTH, LENGTH).replace("\"containerId\":0", "\"containerId\":7"), "UID 0 must be mapped"),
            ("{}".to_owned(), "no more than one mapping allowed"),
            (String::new(), "invalid user namespace mappings file"),
        ] {
            assert!(parse(&text, slots).is_err_and(|found| found.contains(error)), "{text}");
        }
    }

    #[test]
    fn what_others_left_stops_nobody() {
        let directory = tempfile::tempdir().expect("a directory");
        let slots = Slots { first: 1, count: 3 };
        let range = |slot: u32, length| render(IdRange { first: slot * LENGTH, length });
        let put = |name: &str, text: &str| {
            std::fs::create_dir_all(directory.path().join(name)).expect("a directory");
            std::fs::write(directory.path().join(name).join(FILE), text).expect("a file");
        };
        for (name, text) in [
            ("empty", String::new()),
            ("longer", range(1, 2 * LENGTH)),
            ("outside", range(7, LENGTH)),
            ("first", range(2, LENGTH)),
            ("second", range(2, LENGTH)),
        ] {
            put(name, &text);
        }
        let numbers = || taken(directory.path(), slots).map(|taken| taken.slots.into_values().collect::<Vec<_>>());
        assert_eq!(numbers(), Ok(vec![2]));
        mark::set(&directory.path().join("empty")).expect("marked (needs root)");
        assert_eq!(numbers(), Ok(vec![2]));
        // Of ours none goes unheard.
        mark::set(&directory.path().join("longer")).expect("marked");
        assert!(numbers().is_err_and(|e| e.contains("wrong user namespace length 131072")));
    }

    #[test]
    fn nobody_has_anothers() {
        let directory = tempfile::tempdir().expect("a directory");
        let open =
            |slots| UserNamespaces { pods_directory: directory.path().to_owned(), slots, taken: Mutex::default() };
        let slots = Slots { first: 1, count: 3 };
        let uid = |name: &str| PodUid(name.to_owned());
        let all = open(slots);
        let given: Vec<u32> = ["a", "b", "c"].iter().map(|name| all.ensure(&uid(name)).expect("given").first).collect();
        assert_eq!(given, [LENGTH, 2 * LENGTH, 3 * LENGTH]);
        assert_eq!(all.ensure(&uid("b")).expect("kept").first, given[1]);
        assert!(all.ensure(&uid("d")).is_err_and(|e| e.contains("could not find an empty slot")));
        all.release(&uid("b"));
        assert_eq!(all.ensure(&uid("d")).expect("free again").first, given[1]);
        // Another agent reads what this one wrote; `b`, of which a file is left, may not have what `d` has.
        let next = open(slots);
        assert_eq!(next.ensure(&uid("d")).expect("read").first, given[1]);
        assert!(next.ensure(&uid("b")).is_err_and(|e| e.contains("already taken")));
    }
}
