//! D-Bus, as much as systemd and logind are asked: calls with texts and numbers, answers that may carry a descriptor, and
//! signals. Blocking. See the D-Bus specification, "Message Protocol".

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::socket;

/// The system's bus.
pub const SYSTEM: &str = "/run/dbus/system_bus_socket";
/// systemd's own socket, which is there without a bus, and for root only.
pub const SYSTEMD: &str = "/run/systemd/private";

const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What is asked here has short answers.
const MAX_PART: usize = 64 * 1024;

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A word of a call.
#[derive(Debug, Clone, Copy)]
pub enum Word<'a> {
    Text(&'a str),
    Number(i32),
}

/// What a property holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(u64),
}

/// An answer or a signal.
#[derive(Debug, Default)]
pub struct Message {
    kind: u8,
    answers: u32,
    pub member: String,
    error: String,
    body: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

/// A connection.
pub struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Signals that came between a call and its answer.
    signals: VecDeque<Message>,
}

fn wrong(what: &str) -> io::Error {
    io::Error::other(format!("the bus answers with {what}"))
}

impl Bus {
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::open(UnixStream::connect(path)?)
    }

    /// Says who we are.
    fn open(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let mut bus = Self { stream, serial: 0, signals: VecDeque::new() };
        let uid: String = nix::unistd::geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        bus.stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let said = bus.line()?;
        if !said.starts_with("OK ") {
            return Err(io::Error::other(format!("the bus answers {said:?} to who we are")));
        }
        bus.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n")?;
        // Who can't pass descriptors says so when one is asked for.
        bus.line()?;
        bus.stream.write_all(b"BEGIN\r\n")?;
        Ok(bus)
    }

    /// One byte after the other: what follows the line is not ours to take.
    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < MAX_PART {
            let mut byte = [0];
            self.read(&mut byte, &mut Vec::new())?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Fills the buffer; descriptors come with whatever byte they were sent with.
    fn read(&mut self, mut buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<()> {
        while !buffer.is_empty() {
            let (length, came) = socket::receive(self.stream.as_fd(), buffer)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            descriptors.extend(came);
            buffer = &mut buffer[length..];
        }
        Ok(())
    }

    /// The first call on a bus that is shared; it gives us a name.
    pub fn hello(&mut self) -> io::Result<()> {
        let bus = "org.freedesktop.DBus";
        self.call([bus, "/org/freedesktop/DBus", bus, "Hello"], &[]).map(drop)
    }

    /// Has signals of that name come.
    pub fn subscribe(&mut self, interface: &str, member: &str) -> io::Result<()> {
        let rule = format!("type='signal',interface='{interface}',member='{member}'");
        let bus = "org.freedesktop.DBus";
        self.call([bus, "/org/freedesktop/DBus", bus, "AddMatch"], &[Word::Text(&rule)]).map(drop)
    }

    /// A property of an object: destination, path, interface and name.
    pub fn property(&mut self, [destination, path, interface, name]: [&str; 4]) -> io::Result<Value> {
        let to = [destination, path, "org.freedesktop.DBus.Properties", "Get"];
        self.call(to, &[Word::Text(interface), Word::Text(name)])?.variant()
    }

    /// Calls destination, path, interface and member, and waits for the answer.
    pub fn call(&mut self, to: [&str; 4], words: &[Word<'_>]) -> io::Result<Message> {
        self.serial += 1;
        let call = call(self.serial, to, words);
        self.stream.write_all(&call)?;
        self.stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        loop {
            let message = self.message()?;
            match message.kind {
                ANSWER if message.answers == self.serial => return Ok(message),
                ERROR if message.answers == self.serial => {
                    let why = message.text().unwrap_or_default();
                    return Err(io::Error::other(format!("{}: {}: {why}", to[3], message.error)));
                }
                SIGNAL => self.signals.push_back(message),
                // Of a call that was given up.
                _ => {}
            }
        }
    }

    /// Waits for the next signal, for ever; the end of the connection is an error.
    pub fn signal(&mut self) -> io::Result<Message> {
        if let Some(message) = self.signals.pop_front() {
            return Ok(message);
        }
        self.stream.set_read_timeout(None)?;
        loop {
            let message = self.message()?;
            if message.kind == SIGNAL {
                return Ok(message);
            }
        }
    }

    /// A handle whose `shutdown` ends a wait.
    pub fn handle(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    fn message(&mut self) -> io::Result<Message> {
        let (mut head, mut message) = ([0; 16], Message::default());
        self.read(&mut head, &mut message.descriptors)?;
        if head[0] != b'l' {
            return Err(wrong("another byte order"));
        }
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (body, fields) = (number(4), number(12));
        if body > MAX_PART || fields > MAX_PART {
            return Err(wrong("too much"));
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.read(&mut rest, &mut message.descriptors)?;
        message.kind = head[1];
        message.body = rest.split_off(fields.next_multiple_of(8));
        rest.truncate(fields);
        message.take_fields(&Reader(&rest)).ok_or_else(|| wrong("a head that can't be read"))?;
        Ok(message)
    }
}

impl Message {
    /// Structures of a code and a variant; those that are not needed are skipped.
    fn take_fields(&mut self, fields: &Reader<'_>) -> Option<()> {
        let mut at = 0;
        while at < fields.0.len() {
            at = at.next_multiple_of(8);
            let (code, kind) = (*fields.0.get(at)?, *fields.0.get(at + 2)?);
            at += 4;
            match kind {
                b'u' => {
                    let number = fields.number(&mut at)?;
                    if code == 5 {
                        self.answers = number;
                    }
                }
                b's' | b'o' => {
                    let text = fields.text(&mut at)?;
                    match code {
                        3 => self.member = text,
                        4 => self.error = text,
                        _ => {}
                    }
                }
                b'g' => at += usize::from(*fields.0.get(at)?) + 2,
                _ => return None,
            }
        }
        Some(())
    }

    /// The first word, where it is a text.
    pub fn text(&self) -> io::Result<String> {
        Reader(&self.body).text(&mut 0).ok_or_else(|| wrong("something that is no text"))
    }

    /// The first word, where it is a number or a truth.
    pub fn number(&self) -> io::Result<u32> {
        Reader(&self.body).number(&mut 0).ok_or_else(|| wrong("something that is no number"))
    }

    /// The first word, where it is a descriptor: an index of those that came with it.
    pub fn descriptor(mut self) -> io::Result<OwnedFd> {
        let at = self.number()? as usize;
        if at < self.descriptors.len() { Ok(self.descriptors.swap_remove(at)) } else { Err(wrong("no descriptor")) }
    }

    /// A signature of one letter, then the value on its own boundary.
    fn variant(&self) -> io::Result<Value> {
        let body = Reader(&self.body);
        let value = match self.body.get(..3) {
            Some([1, b's', 0]) => body.text(&mut 4).map(Value::Text),
            Some([1, b't', 0]) => {
                body.bytes(8, 8).and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?))).map(Value::Number)
            }
            _ => None,
        };
        value.ok_or_else(|| wrong("a property of another kind"))
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.0.get(at..at.checked_add(length)?)
    }

    fn number(&self, at: &mut usize) -> Option<u32> {
        *at = at.next_multiple_of(4);
        let number = u32::from_le_bytes(self.bytes(*at, 4)?.try_into().ok()?);
        *at += 4;
        Some(number)
    }

    fn text(&self, at: &mut usize) -> Option<String> {
        let length = self.number(at)? as usize;
        let text = String::from_utf8_lossy(self.bytes(*at, length)?).into_owned();
        *at += length + 1;
        Some(text)
    }
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("our own words are short").to_le_bytes()
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    pad(bytes, 4);
    bytes.extend(length(text.len()));
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn call(serial: u32, [destination, path, interface, member]: [&str; 4], words: &[Word<'_>]) -> Vec<u8> {
    let (mut body, mut signature) = (Vec::new(), Vec::new());
    for word in words {
        match word {
            Word::Text(text) => {
                put_text(&mut body, text);
                signature.push(b's');
            }
            Word::Number(number) => {
                pad(&mut body, 4);
                body.extend(number.to_le_bytes());
                signature.push(b'i');
            }
        }
    }
    let mut fields = Vec::new();
    for (code, kind, value) in [(1, b'o', path), (2, b's', interface), (3, b's', member), (6, b's', destination)] {
        pad(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        put_text(&mut fields, value);
    }
    if !words.is_empty() {
        pad(&mut fields, 8);
        // The body's signature, itself of the type "signature".
        fields.extend([8, 1, b'g', 0, u8::try_from(signature.len()).expect("few words")]);
        fields.extend(signature);
        fields.push(0);
    }
    // Little endian, no flags, version 1.
    let mut whole = vec![b'l', CALL, 0, 1];
    whole.extend(length(body.len()));
    whole.extend(serial.to_le_bytes());
    whole.extend(length(fields.len()));
    whole.extend(fields);
    pad(&mut whole, 8);
    whole.extend(body);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, fields: &[u8], body: &[u8]) -> Vec<u8> {
        let mut whole = vec![b'l', kind, 1, 1];
        whole.extend(length(body.len()));
        whole.extend(7u32.to_le_bytes());
        whole.extend(length(fields.len()));
        whole.extend(fields);
        pad(&mut whole, 8);
        whole.extend(body);
        whole
    }

    /// Answers the first call.
    fn reply(kind: u8, body: &[u8]) -> Vec<u8> {
        message(kind, &[5, 1, b'u', 0, 1, 0, 0, 0], body)
    }

    fn variant(text: &str) -> Vec<u8> {
        let mut body = vec![1, b's', 0];
        put_text(&mut body, text);
        body
    }

    const STATE: [&str; 4] =
        ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "SystemState"];

    /// What we make of an answer; the peer checks what it is asked.
    fn asked<T>(
        greeting: &'static str,
        messages: Vec<Vec<u8>>,
        descriptor: bool,
        ask: impl FnOnce(&mut Bus) -> io::Result<T>,
    ) -> io::Result<T> {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let peer = std::thread::spawn(move || {
            let mut peer = Bus { stream: theirs, serial: 0, signals: VecDeque::new() };
            let hello = peer.line().expect("a line");
            assert!(hello.starts_with("\0AUTH EXTERNAL 3"), "{hello:?}");
            peer.stream.write_all(greeting.as_bytes()).expect("written");
            if !greeting.starts_with("OK") {
                return;
            }
            assert_eq!(peer.line().expect("a line"), "NEGOTIATE_UNIX_FD");
            peer.stream.write_all(b"AGREE_UNIX_FD\r\n").expect("written");
            assert_eq!(peer.line().expect("a line"), "BEGIN");
            let call = peer.message().expect("a call");
            assert_eq!((call.kind, call.member.as_str()), (CALL, "Get"));
            assert!(call.body.ends_with(b"SystemState\0"), "{:?}", call.body);
            let null = std::fs::File::open("/dev/null").expect("null");
            for (number, message) in messages.iter().enumerate() {
                let last = number + 1 == messages.len();
                let with: &[_] = if descriptor && last { &[null.as_fd()] } else { &[] };
                socket::send(peer.stream.as_fd(), message, with).expect("written");
            }
        });
        let state = Bus::open(ours).and_then(|mut bus| ask(&mut bus));
        peer.join().expect("the peer does not panic");
        state
    }

    #[test]
    fn properties() {
        let ok = "OK 0123456789abcdef\r\n";
        let state = |greeting, answer| asked(greeting, vec![answer], false, |bus| bus.property(STATE));
        let stopping = Value::Text("stopping".to_owned());
        assert_eq!(state(ok, reply(ANSWER, &variant("stopping"))).expect("a state"), stopping);
        let number = [[1, b't', 0, 0, 0, 0, 0, 0], 5_000_000u64.to_le_bytes()].concat();
        assert_eq!(state(ok, reply(ANSWER, &number)).expect("a number"), Value::Number(5_000_000));
        let mut refused = Vec::new();
        put_text(&mut refused, "not today");
        for (greeting, answer, expect) in [
            ("REJECTED EXTERNAL\r\n", vec![], "REJECTED"),
            (ok, reply(ERROR, &refused), "Get: : not today"),
            (ok, reply(ANSWER, &[1, b'u', 0, 0, 1, 0, 0, 0]), "another kind"),
            (ok, reply(ANSWER, &[1, b's', 0, 0, 255, 255, 255, 255]), "another kind"),
            (ok, b"B".repeat(16), "byte order"),
            (ok, message(ANSWER, &[5, 1, b'u', 0, 1], b""), "can't be read"),
            (ok, message(ANSWER, &[5, 1, b'?', 0, 1, 0, 0, 0], b""), "can't be read"),
        ] {
            let error = state(greeting, answer).expect_err(expect).to_string();
            assert!(error.contains(expect), "{error}");
        }
    }

    #[test]
    fn descriptors_and_signals() {
        let ok = "OK 0123456789abcdef\r\n";
        let ask = |bus: &mut Bus| {
            let words = [Word::Text(STATE[2]), Word::Text(STATE[3])];
            let answer = bus.call([STATE[0], STATE[1], "org.freedesktop.DBus.Properties", "Get"], &words)?;
            Ok((answer.descriptor()?, bus.signal()?))
        };
        let mut signal = vec![3, 1, b's', 0];
        put_text(&mut signal, "PrepareForShutdown");
        let signal = message(SIGNAL, &signal, &1u32.to_le_bytes());
        // One that comes before the answer waits.
        let (_, signal) = asked(ok, vec![signal, reply(ANSWER, &[0; 4])], true, ask).expect("both");
        assert_eq!((signal.member.as_str(), signal.number().expect("a truth")), ("PrepareForShutdown", 1));
        let error = asked(ok, vec![reply(ANSWER, &[0; 4])], false, ask).expect_err("none").to_string();
        assert!(error.contains("no descriptor"), "{error}");
    }
}
