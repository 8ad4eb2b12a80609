//! Processes that end in the middle of things: kill -9, power loss with torn writes, a failed fsync, a full disk.
//!
//! The test executable starts itself again as the process that is to end; what it acknowledges, it prints.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use nix::mount::{MsFlags, mount};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::faults::{FAIL_SYNC, TEAR_AFTER};
use crate::store_test::{all, commit, delete, key, open, put};
use crate::{Consistency, Error, Op, Options, Revision, Store, Txn};

const ROLE: &str = "SKIFF_STORE_TEST_ROLE";
const DIRECTORY: &str = "SKIFF_STORE_TEST_DIRECTORY";
const WRITERS: usize = 6;

fn start(role: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash_test::the_process_that_ends", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn say(line: &str) {
    // One write per line, so that a kill leaves no half of one; println would be captured.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// What the child said, without the test harness's own lines.
fn heard(line: &str) -> Option<Vec<&str>> {
    let (_, line) = line.split_once('@')?;
    Some(line.split_whitespace().collect())
}

/// Does nothing unless started by one of the tests below.
#[test]
fn the_process_that_ends() {
    let (Ok(role), Ok(directory)) = (std::env::var(ROLE), std::env::var(DIRECTORY)) else { return };
    let directory = Path::new(&directory);
    if role == "full" {
        // Before there are other threads: they all have to see the small disk.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
        mount(Some("skiff-test"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=48m")).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "write" => write_for_ever(directory).await,
            "tear" => {
                let after = std::process::id() % 40;
                TEAR_AFTER.store(after.into(), Ordering::SeqCst);
                write_for_ever(directory).await;
            }
            "fsync" => fail_fsync(directory).await,
            "full" => fill_the_disk(directory).await,
            other => panic!("unknown role {other}"),
        }
    });
}

/// Says what it finds, then writes with several writers and says what is acknowledged.
async fn write_for_ever(directory: &Path) {
    let store = open(directory).await;
    let mut next = [1; WRITERS];
    for record in all(&store).await {
        let text = String::from_utf8(record.value.to_vec()).unwrap();
        let (count, _) = text.split_once(' ').unwrap();
        let k = String::from_utf8(record.key.to_vec()).unwrap();
        say(&format!("found {k} {count} {}", record.modified.0));
        let writer: usize = k.split('/').nth(1).unwrap().parse().unwrap();
        next[writer] = next[writer].max(count.parse::<u64>().unwrap() + 1);
    }
    say(&format!("opened {}", store.revision().0));
    let mut tasks = Vec::new();
    for (writer, first) in next.into_iter().enumerate() {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for count in first.. {
                let k = format!("/{writer}/{}", count % 5);
                // Some are large, so that segments end now and then.
                let filling = if count % 16 == 3 { 150_000 } else { (count * 37 % 900) as usize };
                if count % 11 == 7 {
                    let revision = commit(&store, delete(&k)).await;
                    say(&format!("deleted {k} {count} {}", revision.0));
                } else {
                    let revision = commit(&store, put(&k, format!("{count} {}", "x".repeat(filling)))).await;
                    say(&format!("written {k} {count} {}", revision.0));
                }
                if writer == 0 && count % 40 == 5 {
                    store.checkpoint().await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// What the parent knows to be acknowledged: per key its count, revision, and whether it is deleted.
type Acknowledged = BTreeMap<String, (u64, u64, bool)>;

struct Round {
    found: BTreeMap<String, (u64, u64)>,
    opened: Option<u64>,
}

/// Follows a child until it has acknowledged `kill_after` writes, or ends; returns what it found at its start.
fn follow(child: &mut Child, acknowledged: &mut Acknowledged, kill_after: Option<usize>) -> (Round, Vec<String>) {
    let mut round = Round { found: BTreeMap::new(), opened: None };
    let mut other = Vec::new();
    let mut writes = 0;
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        match heard(&line).as_deref() {
            Some(["found", k, count, at]) => {
                round.found.insert(k.to_string(), (count.parse().unwrap(), at.parse().unwrap()));
            }
            Some(["opened", revision]) => {
                round.opened = revision.parse().ok();
                check(&round, acknowledged);
                // What was not acknowledged may have been written; from now on what was found counts.
                acknowledged.clear();
                let found = round.found.iter().map(|(k, (count, at))| (k.clone(), (*count, *at, false)));
                acknowledged.extend(found);
            }
            Some([what @ ("written" | "deleted"), k, count, at]) => {
                let entry = (count.parse().unwrap(), at.parse().unwrap(), *what == "deleted");
                acknowledged.insert(k.to_string(), entry);
                writes += 1;
                if kill_after == Some(writes) {
                    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
                }
            }
            Some(_) => other.push(line),
            None => {}
        }
    }
    (round, other)
}

/// Nothing acknowledged is missing; of each writer at most the one write under way is more.
fn check(round: &Round, acknowledged: &Acknowledged) {
    for (k, (count, at, deleted)) in acknowledged {
        assert!(round.opened >= Some(*at), "revision {at} was acknowledged, {:?} is found", round.opened);
        match round.found.get(k) {
            Some((found, found_at)) if found == count && !deleted => assert_eq!(found_at, at, "{k}"),
            // Five counts later the writer comes to this key again.
            Some((found, _)) => assert_eq!(*found, count + 5, "{k}: acknowledged {count}, deleted: {deleted}"),
            None => assert!(*deleted || (count + 5) % 11 == 7, "{k} with {count} is lost"),
        }
    }
}

#[test]
fn kill_at_any_moment_loses_nothing_acknowledged() {
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::new();
    for round in 0..25 {
        println!("seed {seed} round {round}");
        let mut child = start("write", directory.path());
        let (found, _) = follow(&mut child, &mut acknowledged, Some(random.random_range(1..300)));
        assert!(found.opened.is_some(), "the store did not open");
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}

#[test]
fn power_loss_that_tears_the_last_write_loses_nothing_acknowledged() {
    const SECTOR: usize = 512;
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::new();
    for round in 0..25 {
        println!("seed {seed} round {round}");
        let mut child = start("tear", directory.path());
        // The torn write may be one of those that open the store.
        let (_, torn) = follow(&mut child, &mut acknowledged, None);
        assert_eq!(child.wait().unwrap().signal(), Some(nix::libc::SIGABRT));
        let [torn] = torn.as_slice() else { panic!("one write is torn: {torn:?}") };
        let Some(["torn", name, at, length]) =
            heard(torn).as_deref().map(|words| [words[0], words[1], words[2], words[3]])
        else {
            panic!("{torn}")
        };
        let (at, length): (u64, usize) = (at.parse().unwrap(), length.parse().unwrap());
        // Any of the sectors may have reached the disk, or not.
        let file = OpenOptions::new().read(true).write(true).open(directory.path().join("log").join(name)).unwrap();
        let mut sector = at;
        let keep = random.random_range(0.0..1.0);
        while sector < at + length as u64 {
            let end = (sector / SECTOR as u64 + 1) * SECTOR as u64;
            let bytes = (end.min(at + length as u64) - sector) as usize;
            if !random.random_bool(keep) {
                let lost = if random.random_bool(0.5) { vec![0; bytes] } else { vec![0xa5; bytes] };
                file.write_all_at(&lost, sector).unwrap();
            }
            sector = end;
        }
    }
}

async fn fail_fsync(directory: &Path) {
    let store = open(directory).await;
    let revision = commit(&store, put("/0/1", "1 x")).await;
    say(&format!("written /0/1 1 {}", revision.0));
    FAIL_SYNC.store(true, Ordering::SeqCst);
    let outcome = store.txn(put("/0/2", "2 x")).await;
    say(&format!("survived {outcome:?}"));
}

#[test]
fn a_failed_fsync_ends_the_process_before_anything_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start("fsync", directory.path());
    let lines: Vec<_> = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
    let heard: Vec<_> = lines.iter().filter_map(|line| heard(line)).collect();
    assert_eq!(heard, [["written", "/0/1", "1", "1"]]);
    assert_eq!(child.wait().unwrap().signal(), Some(nix::libc::SIGABRT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_the_middle_of_the_log_is_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    for i in 0..20 {
        commit(&store, put(format!("/k{i}"), "value")).await;
    }
    // As if the process had been killed: no checkpoint.
    store.crash().await;
    let path = directory.path().join("log/0000000000000001.log");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 600).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 600).unwrap();
    let error = Store::open(Options::new(directory.path())).await.unwrap_err();
    let text = skiff_base::chain(&error).to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("backup"), "{text}");

    file.write_all_at(&byte, 600).unwrap();
    let store = open(directory.path()).await;
    assert_eq!(all(&store).await.len(), 20);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_a_part_missing_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let value = "x".repeat(1 << 20);
    for i in 0..20 {
        commit(&store, put(format!("/k{i}"), &value)).await;
    }
    store.crash().await;
    let log = directory.path().join("log");
    let aside = directory.path().join("aside");
    let refused = |what: &'static str| {
        let path = directory.path().to_path_buf();
        async move {
            let error = Store::open(Options::new(path)).await.unwrap_err();
            let text = skiff_base::chain(&error).to_string();
            assert!(text.contains(what) && text.contains("backup"), "{what}: {text}");
        }
    };
    for (name, what) in [("0000000000000001.log", "log in"), ("0000000000000002.log", "0000000000000001.log")] {
        std::fs::rename(log.join(name), &aside).unwrap();
        refused(what).await;
        std::fs::rename(&aside, log.join(name)).unwrap();
    }
    let store = open(directory.path()).await;
    assert_eq!(all(&store).await.len(), 20);
    store.close().await;
    std::fs::rename(&log, &aside).unwrap();
    refused("is gone").await;
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::rename(&aside, &log).unwrap();
    std::fs::write(directory.path().join("state/CURRENT"), "nonsense").unwrap();
    refused("CURRENT").await;
}

/// Fills a disk of 48 MB, and says `done` if the store behaved.
async fn fill_the_disk(directory: &Path) {
    let ballast = directory.join("ballast");
    std::fs::write(&ballast, vec![0; 6 << 20]).unwrap();
    let path = directory.join("db");
    let store = open(&path).await;
    let value = "x".repeat(100_000);
    let mut written = 0;
    let full = loop {
        match store.txn(put(format!("/k{written:05}"), &value)).await {
            Ok(_) => written += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full, Error::Full), "{full:?}");
    assert!(written > 100, "{written}");
    assert_eq!(all(&store).await.len(), written, "reads go on");
    assert!(matches!(store.txn(put("/other", &value)).await, Err(Error::Full)), "still full");

    // Neither a start nor a kill needs room: twice, as the second goes on where the first did.
    let rest = directory.join("rest");
    let filled = std::io::copy(&mut std::io::repeat(0), &mut std::fs::File::create(&rest).unwrap());
    assert!(crate::writer::full(&filled.unwrap_err()), "the disk has no room");
    let expect = all(&store).await;
    store.close().await;
    let store = open(&path).await;
    assert!(all(&store).await == expect, "reads go on after a start");
    assert!(matches!(store.txn(put("/other", &value)).await, Err(Error::Full)), "full after a start");
    commit(&store, delete("/k00000")).await;
    store.close().await;
    let store = open(&path).await;
    assert_eq!(all(&store).await.len(), written - 1);
    std::fs::remove_file(&rest).unwrap();
    let before = store.revision();

    // Deleting is the way out.
    for i in 10..written {
        commit(&store, delete(format!("/k{i:05}"))).await;
    }
    assert_eq!(store.revision(), Revision(before.0 + written as u64 - 10));
    std::fs::remove_file(&ballast).unwrap();
    store.checkpoint().await.unwrap();
    store.log_purged().await;
    for i in 10..100 {
        commit(&store, put(format!("/k{i:05}"), &value)).await;
    }
    let expect = all(&store).await;
    assert_eq!(expect.len(), 99);
    store.close().await;
    let store = open(&path).await;
    assert!(all(&store).await == expect);
    let pair = Txn { compares: vec![], ops: vec![Op::Put { key: key("/a"), value: key("1") }] };
    commit(&store, pair).await;
    assert!(store.get(b"/a", Consistency::ReadIndex).await.unwrap().0.is_some());
    store.close().await;
    say("done");
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start("full", directory.path());
    let lines: Vec<_> = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
    let heard: Vec<_> = lines.iter().filter_map(|line| heard(line)).collect();
    assert_eq!(heard, [["done"]], "{lines:#?}");
    assert!(child.wait().unwrap().success());
}
