//! Peers that vanish without a word: a host that lost its power, a NAT that forgot.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// Silence after which the kernel asks whether the peer is still there, how often, and how many times.
const SILENCE: Duration = Duration::from_secs(30);
const ASKED_EACH: Duration = Duration::from_secs(10);
const ASKED_TIMES: u32 = 3;
/// What was sent and is not acknowledged for so long (or not taken: a window of zero counts) ends the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_mins(1);

// A peer that is asked in vain is given up about when one is that does not acknowledge.
const _: () =
    assert!(SILENCE.as_secs() + ASKED_EACH.as_secs() * ASKED_TIMES as u64 == UNACKNOWLEDGED_MAX.as_secs());

/// Makes the kernel end a connection whose peer is gone, also where nothing is waited for on it. A listener hands
/// this on to what it accepts.
pub fn notice_dead_peers(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(SILENCE).with_interval(ASKED_EACH).with_retries(ASKED_TIMES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_types, reason = "a blocking client is all that this needs")]
    fn what_is_accepted_inherits_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        notice_dead_peers(&SockRef::from(&listener)).expect("options that Linux has");
        let _client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        let (accepted, _) = listener.accept().expect("a connection");
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().expect("an option"));
        assert_eq!(accepted.tcp_keepalive_time().expect("an option"), SILENCE);
        assert_eq!(accepted.tcp_user_timeout().expect("an option"), Some(UNACKNOWLEDGED_MAX));
    }
}
