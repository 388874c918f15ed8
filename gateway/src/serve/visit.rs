//! A visit of the gateway itself: what an issuer sends is read, what is said is told.

use std::rc::Rc;

use zeroize::Zeroizing;

use super::{
    after,
    reshape::OwnAnswer,
    worker::{Current, Manners, Worker},
};
use crate::{
    codec::{BodyDecoder, BodyLength},
    decide::oidc::visit::{Errand, FORM_BYTES_MAX, Visit},
    net::{Buffer, Buffers, Deadline, Phase, Receive},
    respond::OffenceKind,
};

/// What is said to it, and what it counts as. None: what it had to say has not come in time, or is too long.
pub(super) async fn visit<R: Receive>(
    worker: &Worker,
    (current, manners): (&Rc<Current>, &Manners),
    (mut visit, body): (Box<Visit>, BodyLength),
    (read, received, deadline): (&mut R, &mut Buffer, &Deadline),
) -> Option<(OwnAnswer, Option<OffenceKind>)> {
    if let Errand::BackChannel(form) = &mut visit.errand {
        deadline.arm(Phase::Body, after(manners.settings.timeouts.head));
        *form = form_in(read, received, &worker.tools.buffers, body).await?;
    }
    deadline.disarm();
    let is_callback = matches!(visit.errand, Errand::Callback(_));
    let told = worker.visit(current, visit).await;
    // Somebody who tries out codes, or other people's logins.
    let is_offence = is_callback && told.status == 400;
    let offence = is_offence.then_some(OffenceKind::Unauthorized);
    Some((OwnAnswer::told(&worker.tools.heads, &told), offence))
}

/// The whole body; none: it has not come in time, is too long or malformed.
async fn form_in<R: Receive>(
    read: &mut R,
    received: &mut Buffer,
    buffers: &Buffers,
    body: BodyLength,
) -> Option<Zeroizing<Vec<u8>>> {
    let mut decoder = BodyDecoder::new(body);
    let mut form = Zeroizing::new(Vec::new());
    loop {
        while !decoder.is_done() && !received.data().is_empty() {
            let decoded = decoder.decode(received.data()).ok()?;
            form.extend_from_slice(received.data().get(decoded.data.clone())?);
            if form.len() > FORM_BYTES_MAX {
                return None;
            }
            received.consume(decoded.consumed);
            if decoded.consumed == 0 {
                break;
            }
        }
        if decoder.is_done() {
            return Some(form);
        }
        received.compact();
        if received.free_bytes() == 0 {
            if !received.data().is_empty() {
                return None;
            }
            *received = buffers.take();
        }
        let taken = std::mem::replace(received, Buffer::placeholder());
        let (count, returned) = read.read(taken, buffers).await;
        *received = returned;
        if !count.is_ok_and(|count| count > 0) {
            return None;
        }
    }
}
