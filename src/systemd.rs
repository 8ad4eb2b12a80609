//! Asks systemd whether the machine goes down: one call over D-Bus, on systemd's own socket, which is there without a
//! bus daemon and for root only. See the D-Bus specification, "Message Protocol".

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const SOCKET: &str = "/run/systemd/private";
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// An answer of one word is shorter.
const MAX_ANSWER: usize = 4096;

/// Whether systemd is about to stop everything; not where there is no systemd, or it does not say.
pub fn machine_goes_down() -> bool {
    if !Path::new(SOCKET).exists() {
        return false;
    }
    let asked = UnixStream::connect(SOCKET).and_then(|stream| system_state(&stream));
    match asked {
        Ok(state) => state == "stopping",
        Err(error) => {
            tracing::warn!(%error, "systemd does not say whether the machine goes down");
            false
        }
    }
}

fn system_state(stream: &UnixStream) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    let uid: String = nix::unistd::geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
    (&*stream).write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
    let said = line(stream)?;
    if !said.starts_with("OK ") {
        return Err(io::Error::other(format!("it answers {said:?} to who we are")));
    }
    (&*stream).write_all(b"BEGIN\r\n")?;
    (&*stream).write_all(&question())?;
    loop {
        let (kind, body) = message(stream)?;
        match kind {
            // The answer: a variant that holds a string.
            2 => return text(&body),
            3 => return Err(io::Error::other("it answers with an error")),
            // Signals are for others.
            _ => {}
        }
    }
}

/// One byte after the other: what follows the line is not ours to take.
fn line(mut stream: &UnixStream) -> io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") && line.len() < MAX_ANSWER {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    pad(bytes, 4);
    let length = u32::try_from(text.len()).expect("our own words are short");
    bytes.extend(length.to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

/// `org.freedesktop.DBus.Properties.Get` of the manager's `SystemState`.
fn question() -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, "org.freedesktop.systemd1.Manager");
    put_text(&mut body, "SystemState");
    let mut fields = Vec::new();
    for (code, kind, value) in [
        (1, b'o', "/org/freedesktop/systemd1"),
        (2, b's', "org.freedesktop.DBus.Properties"),
        (3, b's', "Get"),
        (6, b's', "org.freedesktop.systemd1"),
    ] {
        pad(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        put_text(&mut fields, value);
    }
    pad(&mut fields, 8);
    // The body's signature, itself of the type "signature".
    fields.extend([8, 1, b'g', 0, 2, b's', b's', 0]);
    let number = |n: usize| u32::try_from(n).expect("our own words are short").to_le_bytes();
    // Little endian, a call, no flags, version 1.
    let mut whole = vec![b'l', 1, 0, 1];
    whole.extend(number(body.len()));
    whole.extend(1u32.to_le_bytes());
    whole.extend(number(fields.len()));
    whole.extend(fields);
    pad(&mut whole, 8);
    whole.extend(body);
    whole
}

/// The type and the body of the next message.
fn message(mut stream: &UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    if head[0] != b'l' {
        return Err(io::Error::other("it speaks another byte order"));
    }
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (body, fields) = (number(4), number(12).saturating_add(7) / 8 * 8);
    if body > MAX_ANSWER || fields > MAX_ANSWER {
        return Err(io::Error::other("it answers too much"));
    }
    let mut rest = vec![0; fields + body];
    stream.read_exact(&mut rest)?;
    Ok((head[1], rest.split_off(fields)))
}

/// A variant: its signature `s`, then the string on the next boundary of four bytes.
fn text(body: &[u8]) -> io::Result<String> {
    let wrong = || io::Error::other("it answers with something that is no text");
    if body.get(..3) != Some(&[1, b's', 0]) {
        return Err(wrong());
    }
    let length = body.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes).ok_or_else(wrong)?;
    let end = 8usize.saturating_add(length as usize);
    let text = body.get(8..end).ok_or_else(wrong)?;
    Ok(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut whole = vec![b'l', kind, 1, 1];
        whole.extend(u32::try_from(body.len()).expect("short").to_le_bytes());
        whole.extend(7u32.to_le_bytes());
        // One field: the serial that is answered.
        let fields = [5, 1, b'u', 0, 1, 0, 0, 0];
        whole.extend(8u32.to_le_bytes());
        whole.extend(fields);
        whole.extend(body);
        whole
    }

    fn variant(text: &str) -> Vec<u8> {
        let mut body = vec![1, b's', 0];
        put_text(&mut body, text);
        body
    }

    /// What we make of an answer; the peer checks what it is asked.
    fn asked(greeting: &'static str, answer: Vec<u8>) -> io::Result<String> {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let peer = std::thread::spawn(move || {
            let hello = line(&theirs).expect("a line");
            assert!(hello.starts_with("\0AUTH EXTERNAL 3"), "{hello:?}");
            (&theirs).write_all(greeting.as_bytes()).expect("written");
            if !greeting.starts_with("OK") {
                return;
            }
            assert_eq!(line(&theirs).expect("a line"), "BEGIN");
            let (kind, body) = message(&theirs).expect("a call");
            assert_eq!(kind, 1);
            assert!(body.ends_with(b"SystemState\0"), "{body:?}");
            (&theirs).write_all(&answer).expect("written");
        });
        let state = system_state(&ours);
        peer.join().expect("the peer does not panic");
        state
    }

    #[test]
    fn what_systemd_says() {
        let ok = "OK 0123456789abcdef\r\n";
        assert_eq!(asked(ok, reply(2, &variant("stopping"))).expect("a state"), "stopping");
        let after_a_signal = [reply(4, b""), reply(2, &variant("running"))].concat();
        assert_eq!(asked(ok, after_a_signal).expect("a state"), "running");
        for (greeting, answer, expect) in [
            ("REJECTED EXTERNAL\r\n", vec![], "REJECTED"),
            (ok, reply(3, b""), "an error"),
            (ok, reply(2, &[1, b'u', 0, 0, 1, 0, 0, 0]), "no text"),
            (ok, reply(2, &[1, b's', 0, 0, 255, 255, 255, 255]), "no text"),
            (ok, b"B".repeat(16), "byte order"),
        ] {
            let error = asked(greeting, answer).expect_err(expect).to_string();
            assert!(error.contains(expect), "{error}");
        }
    }
}
