//! `routes.NAME.cors`: which pages of other origins may read a route's answers (the Fetch standard).

use std::sync::Arc;

/// Checked rules, with what they say in a head already put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Who may read.
    pub origins: Origins,
    /// Cookies and TLS client certificates may come along.
    pub credentials: bool,
    /// Value of `Access-Control-Allow-Methods`.
    pub methods: Arc<str>,
    /// Value of `Access-Control-Allow-Headers`; empty: only what needs no leave.
    pub headers: Arc<str>,
    /// Value of `Access-Control-Expose-Headers`; empty: only what needs no leave.
    pub expose: Arc<str>,
    /// Value of `Access-Control-Max-Age`, in seconds; empty: the browser's own.
    pub max_age: Arc<str>,
}

/// `routes.NAME.cors.origins`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// "*": any.
    Any,
    /// Any of these.
    Listed(Vec<OriginPattern>),
}

/// One of `routes.NAME.cors.origins`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// This one, be it `null`.
    Exact(Arc<str>),
    /// One label stands between the two: `https://` and `.example.com`.
    OneLabel(Arc<str>, Arc<str>),
}
