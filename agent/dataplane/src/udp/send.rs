//! Sending in bursts: several runs of equal datagrams with one system call (`sendmmsg`, `UDP_SEGMENT`).
//!
//! An egress that refuses runs gets single datagrams for a while; the others are not affected.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::control::Control;
use super::{Discover, Headers, Udp};
use crate::output::{Run, Sent};
use crate::tos::Tos;

/// Messages of one system call.
const MOST: usize = 64;
/// How long a destination gets single datagrams after runs to it were refused.
const PAUSE: Duration = Duration::from_secs(60);
/// Destinations whose egress refuses runs; a host has few egresses, and forgetting one costs a call.
const MOST_REFUSALS: usize = 64;
/// So many destinations that take no run at all tell that the egress does not: it is not asked for each of them.
const TELLING: usize = 4;

/// A destination whose way out does not take runs.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    to: IpAddr,
    /// Datagrams of so many bytes, and longer ones.
    segment: usize,
    until: Instant,
}

/// A worker's memory for sending. Not to be sent to another thread.
pub(crate) struct Outbox {
    headers: Headers,
    controls: Vec<Control>,
    refusals: Vec<Refusal>,
    /// Until then nobody gets runs.
    singly_until: Option<Instant>,
    /// Until then no other refusal is told.
    told_until: Option<Instant>,
    /// How much later than now it is for a test.
    #[cfg(test)]
    pub(super) ahead: Duration,
    /// What a test has the kernel say to runs.
    #[cfg(test)]
    pub(super) kernel_says: Option<i32>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

/// One message of a call.
#[derive(Debug, Clone, Copy)]
struct Message {
    to: SocketAddr,
    start: usize,
    length: usize,
    /// Where the kernel cuts it, if it is more than one datagram.
    segment: Option<usize>,
    tos: Tos,
}

/// How far the single datagrams of a run came.
#[derive(Debug, Clone, Copy, Default)]
struct Singly {
    /// Datagrams that are dealt with.
    done: usize,
    /// Those of them that the kernel refused.
    lost: u64,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            headers: Headers::new(MOST),
            controls: vec![Control::EMPTY; MOST],
            refusals: Vec::with_capacity(MOST_REFUSALS),
            singly_until: None,
            told_until: None,
            #[cfg(test)]
            ahead: Duration::ZERO,
            #[cfg(test)]
            kernel_says: None,
        }
    }

    /// Sends runs in order, until the kernel takes no more.
    pub(crate) fn send(&mut self, udp: &Udp, slab: &[u8], runs: &[Run]) -> Sent {
        self.forget();
        let mut sent = Sent::default();
        while let Some(first) = runs.get(sent.runs) {
            if first.is_probe {
                udp.discover(Discover::Probe);
                let Singly { done, lost } = self.send_singly(udp, slab, first);
                udp.discover(Discover::Ordinary);
                // It may be lost: nobody waits until there is room for it.
                sent.lost += lost + (first.count() - done) as u64;
                sent.runs += 1;
                continue;
            }
            if self.refuses(first) {
                let Singly { done, lost } = self.send_singly(udp, slab, first);
                sent.lost += lost;
                if done < first.count() {
                    sent.partial = done;
                    return sent;
                }
                sent.runs += 1;
                continue;
            }
            let mut count = 0;
            for run in runs[sent.runs..].iter().take(MOST) {
                if self.refuses(run) || run.is_probe {
                    break;
                }
                let message = Message {
                    to: run.to,
                    start: run.start,
                    length: run.length,
                    segment: (run.count() > 1).then_some(run.segment),
                    tos: run.tos,
                };
                self.set(count, udp, slab, message);
                count += 1;
            }
            match self.call(udp, 0, count) {
                Ok(taken) => sent.runs += taken,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return sent,
                    Some(libc::EINTR) => {}
                    Some(code) if first.count() > 1 && is_refusal(code) => {
                        self.refuse(first, code);
                    }
                    Some(_) | None => {
                        debug!(to = %first.to, %error, "datagrams were not sent");
                        sent.lost += first.count() as u64;
                        sent.runs += 1;
                    }
                },
            }
        }
        sent
    }

    /// Sends the datagrams of a run each for itself, until the kernel takes no more.
    fn send_singly(&mut self, udp: &Udp, slab: &[u8], run: &Run) -> Singly {
        let mut all = Singly::default();
        let mut count = 0;
        for (start, length) in run.datagrams() {
            let message = Message {
                to: run.to,
                start,
                length,
                segment: None,
                tos: run.tos,
            };
            self.set(count, udp, slab, message);
            count += 1;
            if count == MOST {
                if !self.call_until(udp, count, &mut all) {
                    return all;
                }
                count = 0;
            }
        }
        self.call_until(udp, count, &mut all);
        all
    }

    /// Sends the first `count` messages. False if the kernel takes no more for now.
    fn call_until(&mut self, udp: &Udp, count: usize, all: &mut Singly) -> bool {
        let mut from = 0;
        while from < count {
            let taken = match self.call(udp, from, count) {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    debug!(%error, "a datagram was not sent");
                    all.lost += 1;
                    1
                }
            };
            from += taken;
            all.done += taken;
        }
        true
    }

    fn set(&mut self, index: usize, udp: &Udp, slab: &[u8], message: Message) {
        let Headers {
            names,
            pieces,
            headers,
        } = &mut self.headers;
        let length = name(udp, message.to, &mut names[index]);
        let bytes = &slab[message.start..message.start + message.length];
        pieces[index] = libc::iovec {
            // The kernel only reads it.
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let header = &mut headers[index].msg_hdr;
        header.msg_name = (&raw mut names[index]).cast();
        header.msg_namelen = length;
        header.msg_iov = &raw mut pieces[index];
        header.msg_iovlen = 1;
        let control = &mut self.controls[index];
        let used = describe(message, control);
        header.msg_control = if used > 0 {
            control.as_mut_ptr()
        } else {
            std::ptr::null_mut()
        };
        header.msg_controllen = used as _;
    }

    #[expect(
        unsafe_code,
        reason = "sendmmsg has no safe wrapper that does not allocate"
    )]
    fn call(&mut self, udp: &Udp, from: usize, to: usize) -> io::Result<usize> {
        let headers = &mut self.headers.headers[from..to];
        #[cfg(test)]
        if let Some(code) = self.kernel_says
            && is_segmented(&self.controls[from], headers[0].msg_hdr.msg_controllen as _)
        {
            return Err(io::Error::from_raw_os_error(code));
        }
        // SAFETY: each header was set by `set` for this call: its name, piece and control are ours and live as long as
        // `self`, and the bytes it points to are borrowed by our callers until this returns.
        let count = unsafe {
            libc::sendmmsg(
                udp.socket().as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    pub(super) fn refuses(&self, run: &Run) -> bool {
        let is_refused =
            |refusal: &Refusal| refusal.to == run.to.ip() && run.segment >= refusal.segment;
        run.count() > 1 && (self.singly_until.is_some() || self.refusals.iter().any(is_refused))
    }

    /// Remembers that the way to this destination takes no such runs.
    fn refuse(&mut self, run: &Run, code: i32) {
        let until = self.now() + PAUSE;
        if self.refusals.len() == MOST_REFUSALS {
            self.refusals.remove(0);
        }
        // Without checksum offload it takes no run at all (EIO); otherwise these datagrams exceed the path's MTU.
        let segment = if code == libc::EIO { 0 } else { run.segment };
        if self.told_until.is_none() {
            self.told_until = Some(until);
            info!(to = %run.to, segment, error = %io::Error::from_raw_os_error(code), "datagrams go one by one for a minute");
        }
        self.refusals.push(Refusal {
            to: run.to.ip(),
            segment,
            until,
        });
        let whole = self.refusals.iter().filter(|refusal| refusal.segment == 0);
        if whole.count() >= TELLING {
            self.singly_until = Some(until);
        }
    }

    /// Destinations that get single datagrams now.
    #[cfg(test)]
    pub(super) fn refused(&self) -> usize {
        self.refusals.len()
    }

    /// Forgets refusals whose time is over.
    fn forget(&mut self) {
        if self.refusals.is_empty() && self.singly_until.is_none() && self.told_until.is_none() {
            return;
        }
        let now = self.now();
        self.refusals.retain(|refusal| refusal.until > now);
        self.singly_until = self.singly_until.filter(|until| *until > now);
        self.told_until = self.told_until.filter(|until| *until > now);
    }

    fn now(&self) -> Instant {
        let now = Instant::now();
        #[cfg(test)]
        let now = now + self.ahead;
        now
    }
}

/// What the kernel says to a run that the way out cannot carry: EIO without checksum offload,
/// EMSGSIZE, or EINVAL before Linux 6.14, if a datagram exceeds the path's MTU.
fn is_refusal(code: i32) -> bool {
    matches!(code, libc::EIO | libc::EINVAL | libc::EMSGSIZE)
}

/// Writes what the kernel must know of a message besides its destination; the bytes of that. Nothing for most single ones.
fn describe(message: Message, control: &mut Control) -> usize {
    let mut used = 0;
    if let Some(segment) = message.segment {
        let segment = (segment as u16).to_ne_bytes();
        used = control.push(used, libc::SOL_UDP, libc::UDP_SEGMENT, &segment);
    }
    if message.tos != Tos::default() {
        // What goes to an IPv4 address is IPv4, whatever the socket.
        let (level, kind) = if message.to.ip().to_canonical().is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_TOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        };
        let tos = i32::from(message.tos.0).to_ne_bytes();
        used = control.push(used, level, kind, &tos);
    }
    used
}

/// Whether the kernel is to cut a message.
#[cfg(test)]
fn is_segmented(control: &Control, used: usize) -> bool {
    control
        .messages(used)
        .any(|(level, kind, _)| (level, kind) == (libc::SOL_UDP, libc::UDP_SEGMENT))
}

/// Writes the destination as the socket wants it; its length.
fn name(udp: &Udp, to: SocketAddr, name: &mut libc::sockaddr_in6) -> libc::socklen_t {
    match udp.mapped(to) {
        SocketAddr::V6(v6) => {
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = v6.port().to_be();
            name.sin6_addr.s6_addr = v6.ip().octets();
            name.sin6_flowinfo = 0;
            name.sin6_scope_id = v6.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
        SocketAddr::V4(v4) => {
            name.sin6_family = libc::AF_INET as libc::sa_family_t;
            name.sin6_port = v4.port().to_be();
            // The address of sockaddr_in lies where this has its flow label.
            name.sin6_flowinfo = u32::from(*v4.ip()).to_be();
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
    }
}
