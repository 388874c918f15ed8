//! A DNS server that says what a test wants: for names that move, and for DNS that fails.
//!
//! Comes in: what to say, at any time. Goes out: answers to A and AAAA questions over UDP (RFC 1035 §4), and how many
//! questions came. It knows one zone for all names and no compression but that of the question's own name.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

/// What it says of every name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// These addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// That there is no such name.
    NoSuchName,
    /// That it has failed.
    Failure,
    /// Nothing at all.
    Nothing,
}

/// A running server.
#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    says: Mutex<Says>,
    asked: AtomicUsize,
    ended: AtomicBool,
}

impl Dns {
    /// Listens on a port of loopback.
    pub fn start(says: Says) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            says: Mutex::new(says),
            asked: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("dns".into()).spawn(move || answer_all(&socket, &of_thread))?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it says this.
    pub fn say(&self, says: Says) {
        *self.shared.says.lock().unwrap_or_else(PoisonError::into_inner) = says;
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Any datagram wakes the thread, which then ends.
        let woken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|own| own.send_to(&[0], self.address));
        if let (Ok(_), Some(thread)) = (woken, self.thread.take())
            && thread.join().is_err()
        {
            log::warn!("the DNS server panicked");
        }
    }
}

fn answer_all(socket: &UdpSocket, shared: &Shared) {
    let mut question = [0; 1500];
    while let Ok((octets, peer)) = socket.recv_from(&mut question) {
        if shared.ended.load(Ordering::Relaxed) {
            return;
        }
        shared.asked.fetch_add(1, Ordering::Relaxed);
        let says = shared.says.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(answer) = question.get(..octets).and_then(|question| answer(question, &says)) {
            // Whoever asked may have gone.
            let _gone = socket.send_to(&answer, peer);
        }
    }
}

/// RFC 1035 §4.1: the header, the question as it came, and addresses of the type that was asked for.
fn answer(message: &[u8], says: &Says) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const AAAA: u16 = 28;
    const NAME_OF_QUESTION: [u8; 2] = [0xc0, 12];
    let name = message.get(HEADER..)?.iter().position(|octet| *octet == 0)? + 1;
    let question = message.get(HEADER..HEADER + name + 4)?;
    let asked = u16::from_be_bytes(question.get(name..name + 2)?.try_into().ok()?);
    let (code, addresses, ttl) = match says {
        Says::Addresses(addresses, ttl) => (0, addresses.as_slice(), *ttl),
        Says::NoSuchName => (3, &[][..], 0),
        Says::Failure => (2, &[][..], 0),
        Says::Nothing => return None,
    };
    let matching: Vec<&IpAddr> =
        addresses.iter().filter(|address| address.is_ipv6() == (asked == AAAA)).collect();
    let mut out = message.get(..2)?.to_vec();
    // An answer, recursion available; one question, so many answers.
    out.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(matching.len()).ok()?, 0, 0, 0, 0]);
    out.extend(question);
    for address in matching {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        out.extend(NAME_OF_QUESTION);
        out.extend(asked.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend(u16::try_from(octets.len()).ok()?.to_be_bytes());
        out.extend(octets);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_gets_the_addresses_of_its_type() {
        let question = |kind: u8| {
            let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            message.extend(b"\x01a\x00");
            message.extend([0, kind, 0, 1]);
            message
        };
        let says = Says::Addresses(vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()], 5);
        let v4 = answer(&question(1), &says).unwrap();
        assert_eq!((&v4[..2], v4[7], &v4[v4.len() - 4..]), (&[7, 9][..], 1, &[192, 0, 2, 1][..]));
        let v6 = answer(&question(28), &says).unwrap();
        assert_eq!((v6[7], v6.len()), (1, v4.len() + 12));
        assert_eq!(answer(&question(1), &Says::NoSuchName).unwrap()[3] & 15, 3);
        assert_eq!(answer(&question(1), &Says::Nothing), None);
        assert_eq!(answer(b"short", &says), None);
    }
}
