//! What a route answers by itself, and what it changes in what passes.

use std::sync::Arc;

use super::template::Template;

/// `routes.NAME.respond`: a fixed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    /// Status code, 200 to 599.
    pub status: u16,
    /// Its body; empty for a status that has none.
    pub body: Arc<str>,
    /// Of the body.
    pub content_type: Arc<str>,
    /// Fields that go with it.
    pub headers: Vec<(Arc<str>, Template)>,
}

/// `routes.NAME.redirect`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Scheme and authority, such as `https://{host}`; empty: where the client is already.
    pub origin: Template,
    /// The path, made canonical when it has been filled in.
    pub path: Template,
    /// The query; `None`: the client's own.
    pub query: Option<Template>,
}

/// `routes.NAME.rewrite`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// The path to send instead; the query stays.
    pub path: Option<Template>,
    /// `Host` to send instead.
    pub host: Option<Template>,
    /// What changes in the request's fields.
    pub request: FieldEdits,
    /// What changes in the response's fields.
    pub response: FieldEdits,
}

/// Changes of a head. Names are in lower case where they are removed, and as written where they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldEdits {
    /// Sent beside what came by these names.
    pub add: Vec<(Arc<str>, Template)>,
    /// Sent instead of what came by these names.
    pub set: Vec<(Arc<str>, Template)>,
    /// Not passed on; those of `set` are not repeated here.
    pub remove: Vec<Arc<str>>,
}

impl FieldEdits {
    /// Every name in it, as written.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let sent = self.add.iter().chain(&self.set).map(|(name, _)| &**name);
        sent.chain(self.remove.iter().map(|name| &**name))
    }

    /// Names, in lower case, of fields that are not passed on.
    pub fn removed(&self) -> impl Iterator<Item = Arc<str>> {
        let set = self.set.iter().map(|(name, _)| name.to_ascii_lowercase().into());
        self.remove.iter().cloned().chain(set)
    }
}
