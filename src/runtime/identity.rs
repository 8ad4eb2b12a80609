//! Users and groups, looked up in the image's own files.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::plan::{ProcessPlan, UserPlan};

/// Files longer than this are not read: they are the image's, which nobody vouches for.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// With `gid`, sorted.
    pub groups: Vec<u32>,
    pub home: String,
}

impl Identity {
    /// Makes the process this user's.
    pub fn apply(&self, process: &mut ProcessPlan) {
        (process.uid, process.gid, process.groups) = (self.uid, self.gid, self.groups.clone());
        // An empty one counts as none. Else libcontainer asks the C library, which loads modules of the image's glibc.
        if !process.env.iter().any(|pair| pair.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
            process.env.push(format!("HOME={}", self.home));
        }
    }
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or("");
        Some(User { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Group { name, gid: gid.parse().ok()?, members: fields.next().unwrap_or("") })
    })
}

/// Decides who runs: numbers of the pod before the image's user, names from `passwd` and `group`.
pub fn plan_identity(plan: &UserPlan, passwd: &str, group: &str) -> Result<Identity, String> {
    let (image_user, image_group) = match plan.image_user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (plan.image_user.as_str(), None),
    };
    let found = match plan.uid {
        Some(uid) => users(passwd).find(|user| user.uid == uid),
        None if image_user.is_empty() => users(passwd).find(|user| user.uid == 0),
        None => users(passwd)
            .find(|user| user.name == image_user)
            .or_else(|| users(passwd).find(|user| image_user.parse() == Ok(user.uid))),
    };
    let uid = match (&found, plan.uid) {
        (_, Some(uid)) => uid,
        (Some(user), None) => user.uid,
        (None, None) if image_user.is_empty() => 0,
        (None, None) => image_user
            .parse()
            .map_err(|_| format!("unable to find user {image_user}: no matching entries in passwd file"))?,
    };
    let from_image_group = match image_group.filter(|_| plan.uid.is_none()) {
        None => None,
        Some(wanted) => Some(
            groups(group)
                .find(|group| group.name == wanted)
                .map(|group| group.gid)
                .or_else(|| wanted.parse().ok())
                .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))?,
        ),
    };
    let gid = plan.gid.or(from_image_group).or(found.as_ref().map(|user| user.gid)).unwrap_or(0);
    let name = found.as_ref().map(|user| user.name).filter(|_| !plan.only_given_groups);
    let of_image = groups(group).filter(|group| name.is_some_and(|name| group.members.split(',').any(|m| m == name)));
    let mut all: Vec<u32> = plan.groups.iter().copied().chain(of_image.map(|group| group.gid)).chain([gid]).collect();
    all.sort_unstable();
    all.dedup();
    let home = found.map(|user| user.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(Identity { uid, gid, groups: all, home })
}

/// Looks the user up in the file system at `root`.
pub fn identity(plan: &UserPlan, root: BorrowedFd<'_>) -> Result<Identity, String> {
    let read =
        |path: &str| read_in_root(root, Path::new(path)).map_err(|error| format!("read {path} of the image: {error}"));
    plan_identity(plan, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// A file that is not there is empty.
fn read_in_root(root: BorrowedFd<'_>, path: &Path) -> io::Result<String> {
    match skiff_linux::mount::open_file_in_root(root, path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(MAX_FILE).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(String::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\nbad line\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:4:web,other\nextra:x:50:web\n";

    fn check(user: &str, uid: Option<u32>, gid: Option<u32>, expect: Result<(u32, u32, &[u32], &str), &str>) {
        let plan = UserPlan { image_user: user.to_owned(), uid, gid, groups: vec![7], only_given_groups: false };
        let found = plan_identity(&plan, PASSWD, GROUP);
        let expect = expect.map_err(str::to_owned).map(|(uid, gid, groups, home)| Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        });
        assert_eq!(found, expect, "{user:?} {uid:?} {gid:?}");
    }

    #[test]
    fn only_the_groups_that_are_given() {
        let plan =
            UserPlan { image_user: "web".into(), uid: None, gid: None, groups: vec![7], only_given_groups: true };
        assert_eq!(plan_identity(&plan, PASSWD, GROUP).expect("found").groups, [7, 34]);
    }

    #[test]
    fn identities() {
        check("", None, None, Ok((0, 0, &[0, 7], "/root")));
        check("web", None, None, Ok((33, 34, &[4, 7, 34, 50], "/var/www")));
        check("33", None, None, Ok((33, 34, &[4, 7, 34, 50], "/var/www")));
        check("web:logs", None, None, Ok((33, 4, &[4, 7, 50], "/var/www")));
        check("1000", None, None, Ok((1000, 0, &[0, 7], "/")));
        check("1000:1001", None, None, Ok((1000, 1001, &[7, 1001], "/")));
        check("web:logs", Some(1000), None, Ok((1000, 0, &[0, 7], "/")));
        check("", Some(33), Some(5), Ok((33, 5, &[4, 5, 7, 50], "/var/www")));
        check("nobody", None, None, Err("unable to find user nobody: no matching entries in passwd file"));
        check("web:none", None, None, Err("unable to find group none: no matching entries in group file"));
    }

    #[test]
    fn only_files_are_read() {
        use std::os::fd::AsFd;
        let directory = tempfile::tempdir().expect("a directory");
        let root = std::fs::File::open(directory.path()).expect("opened");
        let read = |path: &str| read_in_root(root.as_fd(), Path::new(path)).map_err(|error| error.to_string());
        assert_eq!(read("/etc/passwd"), Ok(String::new()));
        let at = |name: &str| directory.path().join(name);
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        std::os::unix::fs::symlink("/etc/passwd", at("link")).expect("a link");
        std::fs::write(at("file"), vec![b'x'; 3 << 20]).expect("a file");
        assert_eq!(read("fifo"), Err("not a file".to_owned()));
        assert_eq!(read("link"), Ok(String::new()), "the link leads into the image");
        assert_eq!(read("file").map(|text| text.len()), Ok(1 << 20));
    }
}
