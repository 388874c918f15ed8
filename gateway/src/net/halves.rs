//! What an exchange needs of a client's connection, whatever carries it: a socket, or one stream of many on a socket.

use std::{
    future::Future,
    io,
    task::{Context, Poll},
};

use monoio::buf::IoBuf;

use super::{Buffer, Buffers, Meter, ReadHalf, WriteHalf};

/// The half that receives.
pub trait Receive {
    /// Receives into the room behind the buffer's data. `Ok(0)`: the peer (or a deadline) has ended its direction.
    fn read(
        &mut self,
        buffer: Buffer,
        buffers: &Buffers,
    ) -> impl Future<Output = (io::Result<usize>, Buffer)>;

    /// The socket, where bytes come in on it just as they are wanted.
    fn clear(&self) -> Option<&ReadHalf>;
}

/// The half that sends.
pub trait Transmit {
    /// Sends all of `bytes`, or has it taken by something that is bounded and sends it.
    fn write_all<B: IoBuf>(&mut self, bytes: B) -> impl Future<Output = (io::Result<()>, B)>;

    /// The socket, where bytes go out on it just as they are given.
    fn clear(&self) -> Option<&WriteHalf>;

    /// What the peer has taken, for a send that lasts.
    fn meter(&self) -> Meter {
        Meter::default()
    }

    /// Whether it is one stream of many: what its peer still says need not be read before it can be ended.
    fn is_stream(&self) -> bool {
        false
    }

    /// Ready when the peer has said that it wants no more. Where only sending would tell, never.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()>;
}

impl Receive for ReadHalf {
    async fn read(&mut self, buffer: Buffer, buffers: &Buffers) -> (io::Result<usize>, Buffer) {
        self.read(buffer, buffers).await
    }

    fn clear(&self) -> Option<&ReadHalf> {
        self.is_clear().then_some(self)
    }
}

impl Transmit for WriteHalf {
    async fn write_all<B: IoBuf>(&mut self, bytes: B) -> (io::Result<()>, B) {
        self.write_all(bytes).await
    }

    fn clear(&self) -> Option<&WriteHalf> {
        self.is_clear().then_some(self)
    }

    fn meter(&self) -> Meter {
        Meter::of(self.fd())
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// The bytes that an owned buffer holds.
pub fn bytes_of<B: IoBuf>(buffer: &B) -> &[u8] {
    // SAFETY: `IoBuf` promises that so many bytes are initialised there for as long as the buffer is not changed,
    // which the borrow rules out.
    unsafe { std::slice::from_raw_parts(buffer.read_ptr(), buffer.bytes_init()) }
}
