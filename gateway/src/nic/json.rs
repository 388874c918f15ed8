//! Blocks as JSON: one shape for the command line and the admin listener.

use std::{net::IpAddr, time::Duration};

use serde_json::{Value, json};

use super::{
    bans::{BanRecord, Explanation},
    feeds::Listing,
};

impl BanRecord {
    /// What `portcullis bans list --json` shows of a block. Durations are in milliseconds.
    pub fn to_json(&self) -> Value {
        let note = self.note.as_ref();
        json!({
            "source": self.prefix.to_string(),
            "action": self.action.name(),
            "packets_per_s": self.action.packets_per_s(),
            "reason": self.kind.name(),
            "origin": self.origin.name(),
            "feed": self.feed.as_deref(),
            "strikes": self.strikes,
            "drops": self.drops,
            "expires_in_ms": self.expires_in.map(millis),
            "offence_to_first_drop_ms": self.offence_to_first_drop.map(millis),
            "route": note.map(|note| &note.route),
            "request_id": note.map(|note| &note.request_id),
            "offences": note.map(|note| note.offences),
            "at_unix_s": note.map(|note| note.at_unix_s),
        })
    }
}

impl Explanation {
    /// What `portcullis bans why --json` shows.
    pub fn to_json(&self, address: IpAddr) -> Value {
        json!({
            "address": address.to_string(),
            "verdict": self.verdict(),
            "allowed_by": self.allowed_by.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "listed_by": self.listed_by.iter().map(Listing::to_json).collect::<Vec<_>>(),
            "blocked_by": self.blocked_by.iter().map(BanRecord::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Listing {
    fn to_json(&self) -> Value {
        json!({ "feed": &*self.feed, "prefix": self.prefix.to_string() })
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
