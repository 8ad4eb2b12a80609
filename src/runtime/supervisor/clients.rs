//! Agents (and `skiff ctr`) on the socket.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen as listen_on, socket,
};

use serde::{Deserialize, Serialize};

use super::{Source, Supervisor, carry, report};
use crate::protocol::{Answer, Event, MAX_MESSAGE, Message, Request};

/// A client that lets so many messages wait is cut off; it connects again and lists.
const MAX_WAITING: usize = 1024;
const MAX_CLIENTS: usize = 64;
/// Messages taken per round from one client.
const MESSAGES_PER_ROUND: usize = 8;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Client {
    #[serde(with = "carry")]
    pub socket: OwnedFd,
    waiting: VecDeque<Vec<u8>>,
}

/// The socket, open to root only, in the place of one that a dead supervisor left.
pub(super) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let directory = path.parent().ok_or_else(|| io::Error::other("the socket has no directory"))?;
    let name = path.file_name().ok_or_else(|| io::Error::other("the socket has no name"))?;
    // Its path may be longer than a socket's address.
    std::env::set_current_dir(directory)?;
    match std::fs::remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let old = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(Path::new(name))?);
    nix::sys::stat::umask(old);
    std::env::set_current_dir("/")?;
    bound?;
    listen_on(&fd, Backlog::new(16)?)?;
    Ok(fd)
}

impl Supervisor {
    pub(super) fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        while let Ok(number) = accept4(std::os::fd::AsRawFd::as_raw_fd(&self.listener), flags) {
            let Ok(socket) = skiff_linux::process::inherited(number) else { return };
            if self.clients.len() >= MAX_CLIENTS {
                report(format_args!("too many clients"));
                continue;
            }
            match self.watch(&socket, EpollFlags::EPOLLIN, Source::Client) {
                Ok(token) => {
                    self.clients.insert(token, Client { socket, waiting: VecDeque::new() });
                }
                Err(error) => report(format_args!("client: {error}")),
            }
        }
    }

    pub(super) fn serve(&mut self, token: u64, events: EpollFlags) {
        if events.contains(EpollFlags::EPOLLOUT) {
            self.send_waiting(token);
        }
        for _ in 0..MESSAGES_PER_ROUND {
            let Some(client) = self.clients.get(&token) else { return };
            let mut buffer = vec![0; MAX_MESSAGE];
            match skiff_linux::socket::receive(client.socket.as_fd(), &mut buffer) {
                Ok((0, _)) => return self.drop_client(token),
                Ok((length, fds)) => match serde_json::from_slice::<Request>(&buffer[..length]) {
                    Ok(request) => self.call(token, request, fds),
                    Err(error) => {
                        report(format_args!("a client sent nonsense: {error}"));
                        return self.drop_client(token);
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    report(format_args!("client: {error}"));
                    return self.drop_client(token);
                }
            }
        }
    }

    fn drop_client(&mut self, token: u64) {
        if let Some(client) = self.clients.remove(&token) {
            self.unwatch(token, &client.socket);
            self.end_orders(token);
        }
    }

    pub(super) fn reply(&mut self, (client, id): (u64, u64), result: Result<Answer, String>) {
        // An error may quote a program at length.
        let result = result.map_err(|error| error.chars().take(4096).collect());
        self.send(client, &Message::Reply { id, result });
    }

    pub(super) fn broadcast(&mut self, event: &Event) {
        self.tell_others(None, event);
    }

    /// All but a client that knows it already.
    pub(super) fn tell_others(&mut self, but: Option<u64>, event: &Event) {
        let tokens: Vec<u64> = self.clients.keys().copied().filter(|token| Some(*token) != but).collect();
        for token in tokens {
            self.send(token, &Message::Event(event.clone()));
        }
    }

    fn send(&mut self, token: u64, message: &Message) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        let Ok(bytes) = serde_json::to_vec(message) else { return };
        client.waiting.push_back(bytes);
        if client.waiting.len() > MAX_WAITING {
            report(format_args!("a client does not read: cut off"));
            return self.drop_client(token);
        }
        self.send_waiting(token);
    }

    pub(super) fn send_waiting(&mut self, token: u64) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        let mut flags = EpollFlags::EPOLLIN;
        while let Some(message) = client.waiting.front() {
            match skiff_linux::socket::send(client.socket.as_fd(), message, &[]) {
                Ok(()) => drop(client.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flags |= EpollFlags::EPOLLOUT;
                    break;
                }
                Err(_) => return self.drop_client(token),
            }
        }
        if let Some(client) = self.clients.get(&token) {
            self.modify(token, &client.socket, flags);
        }
    }
}
