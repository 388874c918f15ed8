//! Credentials that have to be asked about: the request waits, the worker does not.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use tokio::sync::mpsc;

use super::worker::{Current, Worker};
use crate::{
    decide::{
        Answered, Asks, AuthFailure, Inquiry, Question, Reply, Said,
        oidc::visit::{Told, Visit},
    },
    net::{self, Mailbox, Postman},
    telemetry::Bound,
};

/// Questions of a worker that are open at once.
const OPEN_MAX: usize = 4096;
/// Every inquiry is answered sooner; a request that waits for longer has been forgotten by a fault of ours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Where a worker asks, and where its requests wait.
pub(super) struct Desk {
    inquiries: mpsc::Sender<Inquiry>,
    postman: Postman<(u64, Said)>,
    waiting: RefCell<HashMap<u64, Rc<Slot>>>,
    count: Cell<u64>,
}

#[derive(Default)]
struct Slot {
    said: Cell<Option<Said>>,
    waker: Cell<Option<Waker>>,
}

impl Desk {
    /// The second has to be given to [`deliver`].
    pub(super) fn new(inquiries: mpsc::Sender<Inquiry>) -> std::io::Result<(Self, Mailbox<(u64, Said)>)> {
        let (postman, mailbox) = Mailbox::new()?;
        Ok((Self { inquiries, postman, waiting: RefCell::default(), count: Cell::new(0) }, mailbox))
    }
}

/// Hands answers to those who wait for them.
pub(super) async fn deliver(worker: Rc<Worker>, mut mailbox: Mailbox<(u64, Said)>) {
    while let Some(letters) = mailbox.receive().await {
        for (id, said) in letters {
            // Whoever has given up is no longer there.
            if let Some(slot) = worker.desk.waiting.borrow_mut().remove(&id) {
                slot.said.set(Some(said));
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

impl Worker {
    /// Asks, and remembers a good answer.
    pub(super) async fn ask(&self, current: &Current, question: Question) -> Answered {
        let (auth, generation) = (question.auth, question.generation);
        let credential = question.credential.clone();
        let answer = match self.hear(current, Asks::Whose(question)).await {
            Some(Said::Whose(answer)) => answer,
            Some(Said::Tell(_)) | None => Err(AuthFailure::Unavailable),
        };
        let answer = answer.map(|identity| Rc::new(crate::decide::Identity { auth, ..identity }));
        if let Ok(identity) = &answer {
            current.memory.borrow_mut().keep(generation, &credential, identity);
        }
        Answered { auth, answer }
    }

    /// Asks what a visitor of the gateway itself is told.
    pub(super) async fn visit(&self, current: &Current, visit: Box<Visit>) -> Told {
        match self.hear(current, Asks::Tell(visit)).await {
            Some(Said::Tell(told)) => told,
            Some(Said::Whose(_)) | None => Told::unavailable(),
        }
    }

    /// None: nobody has said anything in time.
    async fn hear(&self, current: &Current, asks: Asks) -> Option<Said> {
        let desk = &self.desk;
        if desk.waiting.borrow().len() >= OPEN_MAX {
            self.cells.bound_hit(Bound::Inquiries);
            return None;
        }
        let id = desk.count.get();
        desk.count.set(id + 1);
        let postman = desk.postman.clone();
        let reply = Reply::new(move |said| postman.send((id, said)));
        let snapshot = Arc::clone(&current.snapshot);
        let slot = Rc::new(Slot::default());
        desk.waiting.borrow_mut().insert(id, Rc::clone(&slot));
        if desk.inquiries.try_send(Inquiry { snapshot, asks, reply }).is_err() {
            // The reply that came back in the error has answered already.
            self.cells.bound_hit(Bound::Inquiries);
        }
        let mut too_late = pin!(net::sleep(ANSWER_TIMEOUT));
        let said = poll_fn(|context| {
            if let Some(said) = slot.said.take() {
                return Poll::Ready(Some(said));
            }
            if too_late.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            slot.waker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
        desk.waiting.borrow_mut().remove(&id);
        said
    }
}
