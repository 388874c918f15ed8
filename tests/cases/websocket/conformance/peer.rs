//! Servers that say every message again: a strict one of our own, and tungstenite.
//!
//! Both end a connection as RFC 6455 §7 wants it: with a close that tells why, then with the end of their direction,
//! and they read on until the client has ended its own, so that no reset takes away what was said last.

use std::io::{self, BufReader};

use tungstenite::error::Error;

use super::{deflate::Deflate, *};

/// Octets of a message; more is 1009.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How a conversation ends.
enum End {
    /// The client has closed: what is said in return.
    Closed(Vec<u8>),
    /// The client has broken a rule.
    Failed(u16),
    /// The client has gone.
    Gone,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Says the last words, ends its direction, and waits for the client's end.
fn finish(mut stream: &TcpStream, end: &End) {
    let payload = match end {
        End::Closed(payload) => payload.clone(),
        End::Failed(code) => code.to_be_bytes().to_vec(),
        End::Gone => return,
    };
    let farewell = [vec![CLOSE, u8::try_from(payload.len()).unwrap()], payload].concat();
    // A client that has gone meanwhile has no use for it.
    let _gone = stream.write_all(&farewell).and_then(|()| stream.shutdown(Shutdown::Write));
    let _gone = io::copy(&mut stream, &mut io::sink());
}

/// The second opinion.
pub(super) fn echo_by_tungstenite(stream: TcpStream) {
    let raw = stream.try_clone().unwrap();
    let mut socket = tungstenite::accept(stream).expect("a handshake");
    let end = loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => match socket.send(message) {
                Ok(()) => {}
                Err(_) => return,
            },
            Ok(_) => {}
            Err(Error::Protocol(_)) => break End::Failed(PROTOCOL_ERROR),
            Err(Error::Utf8(_)) => break End::Failed(INVALID_PAYLOAD),
            Err(Error::Capacity(_)) => break End::Failed(TOO_BIG),
            // It has answered the close by itself.
            Err(Error::ConnectionClosed) => {
                let _gone = raw.shutdown(Shutdown::Write);
                let _gone = io::copy(&mut &raw, &mut io::sink());
                return;
            }
            Err(_) => return,
        }
    };
    finish(&raw, &end);
}

/// Breaks off at the first octet that RFC 6455 forbids, be it in the middle of a frame.
pub(super) fn echo_strictly(mut stream: TcpStream) {
    let head = read_head(&mut stream);
    let (deflate, extensions) = Deflate::agreed(field(&head, "Sec-WebSocket-Extensions").unwrap_or_default());
    let key = field(&head, "Sec-WebSocket-Key").expect("a key");
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n{extensions}\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(answer.as_bytes()).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut conversation =
        Conversation { reader: BufReader::new(stream.try_clone().unwrap()), message: None, deflate };
    let end = loop {
        if let Err(end) = conversation.take_frame() {
            break end;
        }
    };
    finish(&stream, &end);
}

/// A message that has begun.
struct Begun {
    opcode: u8,
    compressed: bool,
    payload: Vec<u8>,
    text: Utf8,
}

struct Conversation {
    reader: BufReader<TcpStream>,
    message: Option<Begun>,
    deflate: Option<Deflate>,
}

impl Conversation {
    fn take<const BYTES: usize>(&mut self) -> io::Result<[u8; BYTES]> {
        let mut octets = [0; BYTES];
        self.reader.read_exact(&mut octets)?;
        Ok(octets)
    }

    fn send(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![first];
        match payload.len() {
            bytes @ ..126 => frame.push(u8::try_from(bytes).unwrap()),
            bytes @ ..0x1_0000 => {
                frame.push(126);
                frame.extend(u16::try_from(bytes).unwrap().to_be_bytes());
            }
            bytes => {
                frame.push(127);
                frame.extend((bytes as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        self.reader.get_mut().write_all(&frame)
    }

    /// RFC 6455 §5.2, in the order of its octets.
    fn take_frame(&mut self) -> Result<(), End> {
        let [first] = self.take()?;
        let (fin, reserved, opcode) = (first & FIN != 0, first & 0x70, first & 0x0f);
        let compressed = reserved == RSV1 && self.deflate.is_some() && matches!(opcode, TEXT | BINARY);
        let continues = opcode == CONTINUATION;
        let known = matches!(opcode, 0..=2 | 8..=10);
        let in_place = opcode >= 8 || continues == self.message.is_some();
        if !known || !in_place || (reserved != 0 && !compressed) {
            return Err(End::Failed(PROTOCOL_ERROR));
        }
        let [second] = self.take()?;
        let control_is_short = fin && second & 0x7f < 126;
        if second & 0x80 == 0 || (opcode >= 8 && !control_is_short) {
            return Err(End::Failed(PROTOCOL_ERROR));
        }
        let (bytes, bytes_min) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(self.take()?)), 126),
            127 => (u64::from_be_bytes(self.take()?), 0x1_0000),
            bytes => (bytes.into(), 0),
        };
        if bytes < bytes_min || bytes >> 63 != 0 {
            return Err(End::Failed(PROTOCOL_ERROR));
        }
        let bytes = usize::try_from(bytes).map_err(|_| End::Failed(TOO_BIG))?;
        let mask = self.take()?;
        if opcode >= 8 {
            return self.take_control(opcode, bytes, mask);
        }
        let message = match self.message.take() {
            Some(begun) => begun,
            None => Begun { opcode, compressed, payload: Vec::new(), text: Utf8::default() },
        };
        let message = self.take_payload(message, bytes, mask)?;
        if fin {
            return self.answer(message);
        }
        self.message = Some(message);
        Ok(())
    }

    fn take_control(&mut self, opcode: u8, bytes: usize, mask: [u8; 4]) -> Result<(), End> {
        let mut payload = vec![0; bytes];
        self.reader.read_exact(&mut payload)?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(octet, mask)| *octet ^= mask);
        match FIN | opcode {
            PING => Ok(self.send(PONG, &payload)?),
            PONG => Ok(()),
            _ => Err(closing(payload)),
        }
    }

    /// Text is looked at as it comes.
    fn take_payload(&mut self, mut message: Begun, bytes: usize, mask: [u8; 4]) -> Result<Begun, End> {
        if message.payload.len().saturating_add(bytes) > MESSAGE_BYTES_MAX {
            return Err(End::Failed(TOO_BIG));
        }
        let mut masks = mask.iter().cycle();
        let mut left = bytes;
        while left > 0 {
            let mut piece = vec![0; left.min(65_536)];
            let count = self.reader.read(&mut piece)?;
            if count == 0 {
                return Err(End::Gone);
            }
            piece.truncate(count);
            piece.iter_mut().zip(&mut masks).for_each(|(octet, mask)| *octet ^= mask);
            if message.opcode == TEXT && !message.compressed && !message.text.takes(&piece) {
                return Err(End::Failed(INVALID_PAYLOAD));
            }
            message.payload.extend(&piece);
            left -= count;
        }
        Ok(message)
    }

    fn answer(&mut self, mut message: Begun) -> Result<(), End> {
        if message.compressed {
            let deflate = self.deflate.as_mut().expect("compressed because it was agreed on");
            message.payload = deflate.unpack(&message.payload).ok_or(End::Failed(INVALID_PAYLOAD))?;
            if message.opcode == TEXT && !message.text.takes(&message.payload) {
                return Err(End::Failed(INVALID_PAYLOAD));
            }
        }
        if !message.text.is_whole() {
            return Err(End::Failed(INVALID_PAYLOAD));
        }
        let first = FIN | message.opcode;
        match self.deflate.as_mut() {
            Some(deflate) => {
                let packed = deflate.pack(&message.payload);
                Ok(self.send(first | RSV1, &packed)?)
            }
            None => Ok(self.send(first, &message.payload)?),
        }
    }
}

/// RFC 6455 §5.5.1, §7.4
fn closing(payload: Vec<u8>) -> End {
    match payload.split_first_chunk() {
        None if payload.is_empty() => End::Closed(payload),
        None => End::Failed(PROTOCOL_ERROR),
        Some((code, reason)) => match u16::from_be_bytes(*code) {
            _ if str::from_utf8(reason).is_err() => End::Failed(INVALID_PAYLOAD),
            1000..=1003 | 1007..=1014 | 3000..=4999 => End::Closed(payload),
            _ => End::Failed(PROTOCOL_ERROR),
        },
    }
}

/// UTF-8 as it comes, in pieces that cut characters anywhere.
#[derive(Default)]
struct Utf8 {
    /// The character that has begun.
    begun: Vec<u8>,
}

impl Utf8 {
    /// Whether it can still become UTF-8.
    fn takes(&mut self, piece: &[u8]) -> bool {
        self.begun.extend(piece);
        let end = match str::from_utf8(&self.begun) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return false,
        };
        self.begun.drain(..end);
        true
    }

    fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}
