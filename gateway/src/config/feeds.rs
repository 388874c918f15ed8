//! `[prefilter.feeds]`: block lists that others keep.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{endpoint::Endpoint, types::Secret};

/// The most feeds that there may be: a block carries its feed's number in a byte.
pub const FEEDS_MAX: usize = 63;

/// One of `prefilter.feeds`.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// Its name.
    pub name: Arc<str>,
    /// Where it comes from.
    pub source: FeedSource,
    /// It is looked at so often at least.
    pub refresh: Duration,
}

/// Where a feed comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedSource {
    /// A file that somebody renews.
    File(PathBuf),
    /// The local API of a CrowdSec engine.
    CrowdSec(Box<CrowdSec>),
}

/// Where a CrowdSec engine is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct CrowdSec {
    /// Where it listens; what comes before `/v1` in its paths, with a slash at the end.
    pub at: Endpoint,
    /// What it knows us by.
    pub key: Secret,
}
