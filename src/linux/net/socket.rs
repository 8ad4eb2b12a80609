use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::message::{Attributes, Reply, read_u32, split_messages, write_message};

pub const NLM_F_REQUEST: u16 = 1;
pub const NLM_F_ACK: u16 = 4;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
pub const NLM_F_DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSGERR_ATTR_MSG: u16 = 1;

const RTNLGRP_IPV4_IFADDR: libc::c_int = 5;

const RECEIVE_BUFFER: usize = 128 * 1024;
/// Used only while events wait.
const EVENT_BUFFER: usize = 4 * 1024 * 1024;
/// The kernel answers within milliseconds; this only keeps a bug from hanging a thread.
const ANSWER_LIMIT_S: i64 = 30;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kernel refused a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub errno: Errno,
    /// What the kernel adds, often empty.
    pub detail: String,
}

impl Error {
    /// Something that was to be made is there already.
    pub fn is_exists(&self) -> bool {
        self.errno == Errno::EEXIST
    }

    /// Something that was to be removed is gone already.
    pub fn is_gone(&self) -> bool {
        matches!(self.errno, Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno.desc())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

impl std::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self { errno, detail: String::new() }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error.detail.is_empty() {
            true => error.errno.into(),
            false => io::Error::other(error),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Errno::from_raw(code).into(),
            None => Self { errno: Errno::EIO, detail: error.to_string() },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Route,
    Netfilter,
}

/// Multicast groups of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Every change to nf_tables in this network namespace.
    Nftables,
    /// Every change to the IPv4 addresses of links.
    Addresses,
}

/// A netlink socket with one conversation at a time.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// A socket of the network namespace that the calling thread is in.
    pub fn open(protocol: Protocol) -> Result<Self> {
        let protocol = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        // Old kernels lack these; they only make messages better.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            if let Err(errno) = set_netlink_option(fd.as_fd(), option, 1) {
                tracing::debug!(option, error = %errno, "netlink socket option");
            }
        }
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_LIMIT_S))?;
        Ok(Self { fd, port, sequence: 0, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// A socket that receives the events of `group`, to be read with [`Socket::receive`] when it is readable.
    pub fn listen(protocol: Protocol, group: Group) -> Result<Self> {
        let socket = Self::open(protocol)?;
        let group = match group {
            Group::Nftables => libc::NFNLGRP_NFTABLES,
            Group::Addresses => RTNLGRP_IPV4_IFADDR,
        };
        setsockopt(&socket.fd, sockopt::RcvBufForce, &EVENT_BUFFER)?;
        set_netlink_option(socket.fd.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, group)?;
        let flags = nix::fcntl::OFlag::from_bits_retain(nix::fcntl::fcntl(&socket.fd, nix::fcntl::FcntlArg::F_GETFL)?);
        nix::fcntl::fcntl(&socket.fd, nix::fcntl::FcntlArg::F_SETFL(flags | nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(socket)
    }

    /// Receives no event that the socket with this port caused. A large change of our own would else fill the
    /// buffer, and the events of others be lost.
    #[allow(unsafe_code, reason = "nix has no socket filters")]
    pub fn ignore(&self, port: u32) -> Result<()> {
        const PORT_OFFSET: u32 = 12;
        // Loads are big-endian, a message's header is in the host's order.
        let port = u32::from_be_bytes(port.to_ne_bytes());
        let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let mut program = [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, PORT_OFFSET),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, port),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the program outlives the call, which copies it.
        let done = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        Errno::result(done)?;
        Ok(())
    }

    /// Waits for events on the runtime of the calling task.
    #[allow(unsafe_code, reason = "registering asks for a promise that the type can't show")]
    pub fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is owned by the socket, never replaced, and closed only when it is dropped.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }.map_err(io::Error::from)
    }

    /// The number by which events name this socket as their cause.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Asks for something to be done, and waits for the acknowledgement.
    pub fn request(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        write: impl FnOnce(&mut Attributes<'_>),
    ) -> Result<()> {
        self.exchange(kind, flags | NLM_F_ACK, header, write).map(drop)
    }

    /// Asks for one thing, and gives the answers that come before the acknowledgement.
    pub fn query(
        &mut self,
        kind: u16,
        header: &[u8],
        write: impl FnOnce(&mut Attributes<'_>),
    ) -> Result<Option<Reply>> {
        Ok(self.exchange(kind, NLM_F_ACK, header, write)?.into_iter().next())
    }

    /// Asks for all things of a kind.
    pub fn dump(&mut self, kind: u16, header: &[u8], write: impl Fn(&mut Attributes<'_>)) -> Result<Vec<Reply>> {
        loop {
            let replies = self.exchange(kind, NLM_F_DUMP, header, &write)?;
            // Something changed meanwhile, and the answer may lack entries.
            if !replies.iter().any(|r| r.flags & NLM_F_DUMP_INTR != 0) {
                return Ok(replies);
            }
        }
    }

    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        write: impl FnOnce(&mut Attributes<'_>),
    ) -> Result<Vec<Reply>> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::with_capacity(256);
        write_message(&mut bytes, kind, flags | NLM_F_REQUEST, sequence, header, write);
        self.send(&bytes)?;
        let mut replies = Vec::new();
        loop {
            for reply in self.receive()? {
                if reply.sequence != sequence {
                    continue;
                }
                match reply.kind {
                    NLMSG_ERROR | NLMSG_DONE => return status(&reply).map(|()| replies),
                    _ => replies.push(reply),
                }
            }
        }
    }

    pub(super) fn next_sequence(&mut self) -> u32 {
        // Zero is what the kernel gives to events.
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<()> {
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    }

    /// Makes room for a datagram of `len` bytes, above the limit of the system.
    pub(super) fn ensure_send_buffer(&self, len: usize) -> Result<()> {
        // The kernel counts its own overhead too, and doubles what is asked for.
        setsockopt(&self.fd, sockopt::SndBufForce, &(len + 64 * 1024))?;
        Ok(())
    }

    /// Everything of one datagram.
    pub fn receive(&mut self) -> Result<Vec<Reply>> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(len) => return Ok(split_messages(&self.buffer[..len])),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The answers to a batch up to the acknowledgement of its message `last`, or the first refusal.
    pub(super) fn batch_status(&mut self, last: u32) -> Result<()> {
        let mut first_error = None;
        loop {
            let received = match first_error {
                None => self.receive(),
                // After a refusal there may be no acknowledgement to wait for: take what is there.
                Some(_) => self.receive_now(),
            };
            let replies = match (received, first_error.take()) {
                (Ok(replies), error) => {
                    first_error = error;
                    replies
                }
                (Err(_), Some(error)) => return Err(error),
                (Err(error), None) => return Err(error),
            };
            for reply in replies {
                if reply.kind != NLMSG_ERROR {
                    continue;
                }
                match status(&reply) {
                    Ok(()) if reply.sequence == last && first_error.is_none() => return Ok(()),
                    Ok(()) => {}
                    Err(error) => first_error = first_error.or(Some(error)),
                }
            }
        }
    }

    fn receive_now(&mut self) -> Result<Vec<Reply>> {
        let len = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT)?;
        Ok(split_messages(&self.buffer[..len]))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// What an NLMSG_ERROR or NLMSG_DONE message says.
fn status(reply: &Reply) -> Result<()> {
    let code = read_u32(&reply.body).unwrap_or(0).cast_signed();
    if code == 0 || (reply.kind == NLMSG_DONE && code > 0) {
        return Ok(());
    }
    // An error is followed by the header of the request (the whole of it without NETLINK_CAP_ACK),
    // then attributes; the end of a dump by attributes.
    let attributes_at = if reply.kind == NLMSG_DONE { 4 } else { 4 + 16 };
    let detail = reply.attributes(attributes_at).find(|a| a.kind == NLMSGERR_ATTR_MSG);
    Err(Error { errno: Errno::from_raw(-code), detail: detail.map(|a| a.string().to_owned()).unwrap_or_default() })
}

#[allow(unsafe_code, reason = "nix has no netlink socket options")]
fn set_netlink_option(fd: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the descriptor is open for the length of the call, and the kernel only reads the integer.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop)
}
