//! Namespaces held open by a process that only sleeps, and ways to act in them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

use super::http::{self, Answer};
use super::text;

pub struct Namespaces {
    holder: Child,
    mounts: bool,
}

impl Namespaces {
    /// `unshare` is the command that makes them, `script` what is run in them at first.
    pub fn new(unshare: &str, script: &str) -> Self {
        let script = format!("{script}\necho made\nexec sleep 2147483647");
        let mut words = unshare.split(' ');
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).args(["sh", "-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("make namespaces");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("read from the holder");
        assert_eq!(line, "made\n", "the namespaces could not be made");
        Self { holder, mounts: unshare.contains("--mount") }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.holder.id()).expect("a pid"))
    }

    /// A command in these namespaces; nsenter becomes it, so its pid is the command's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "--net"]);
        if self.mounts {
            command.args(["--mount", "--uts"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Standard output of a command that has to succeed.
    #[track_caller]
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.command(words[0]).args(&words[1..]).output().expect("run a command");
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a function on a thread in the network namespace.
    pub fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).expect("open the network namespace");
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the network namespace");
            work()
        })
    }

    /// GET from inside of the network namespace.
    pub fn get(&self, url: &str) -> io::Result<Answer> {
        let url = url.to_owned();
        self.on_thread(move || http::request("GET", &url, &[], &[])).join().expect("the request does not panic")
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
