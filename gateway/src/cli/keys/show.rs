//! What `portcullis keys` says about keys. Of their hashes nothing is shown.

use std::io::{self, BufWriter, Write};

use portcullis::{
    decide::api_key::Minted,
    keys::{Key, Reader, StoreError, Use, rfc3339},
};
use serde_json::{Value, json};

use super::{Told, told};

/// The key's text, this once: alone on standard output, so that a script can take it.
pub(super) fn print_minted(minted: &Minted, key: &Key, json: bool, now_s: u64) {
    if json {
        let mut value = to_json(key, None, now_s);
        if let Value::Object(fields) = &mut value {
            fields.insert("key".to_owned(), Value::from(minted.text.as_str()));
        }
        println!("{value}");
        return;
    }
    println!("{}", *minted.text);
    let until = key.expires.map_or("it is revoked".to_owned(), rfc3339);
    eprintln!("key {} of {}, good until {until}; it is not shown again", key.id, key.consumer);
    if let Some(quota) = key.quota {
        eprintln!("its quota of {quota} is kept and shown, but not enforced yet");
    }
}

pub(super) fn print_list(store: &Reader, consumer: Option<&str>, json: bool, now_s: u64) -> Told<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut count = 0_usize;
    let mut write = |key: Key, used: Option<Use>| {
        if consumer.is_some_and(|consumer| consumer != key.consumer) {
            return Ok(());
        }
        count += 1;
        let written = if json {
            let before = if count == 1 { "[" } else { ",\n" };
            write!(out, "{before}{}", to_json(&key, used, now_s))
        } else {
            if count == 1 { write_row(&mut out, &HEADINGS) } else { Ok(()) }
                .and_then(|()| write_row(&mut out, &row_of(&key, used, now_s).each_ref().map(|text| &**text)))
        };
        written.map_err(|error| StoreError::Io("standard output".into(), error))
    };
    let listed = store.each(&mut write).map(drop);
    let ended = match (json, count) {
        (true, 0) => writeln!(out, "[]"),
        (true, _) => writeln!(out, "]"),
        (false, 0) => writeln!(out, "there are no keys"),
        (false, _) => Ok(()),
    };
    // Whoever reads only the beginning closes the pipe.
    match listed {
        Err(StoreError::Io(_, error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        listed => listed.map_err(told)?,
    }
    match ended.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

const HEADINGS: [&str; 8] = ["ID", "CONSUMER", "ROLES", "STATE", "UNTIL", "LAST USED", "FROM", "USES"];

fn write_row(out: &mut impl Write, row: &[&str; 8]) -> io::Result<()> {
    let [id, consumer, roles, state, until, last, from, uses] = row;
    writeln!(
        out,
        "{id:<8}  {consumer:<16}  {roles:<16}  {state:<20}  {until:<20}  {last:<20}  {from:<24}  {uses:>8}"
    )
}

fn row_of(key: &Key, used: Option<Use>, now_s: u64) -> [String; 8] {
    let dash = || "-".to_owned();
    [
        key.id.clone(),
        key.consumer.clone(),
        if key.roles.is_empty() { dash() } else { key.roles.join(",") },
        match (state(key, now_s), &key.replaced_by) {
            (State::Replaced, Some(by)) => format!("replaced by {by}"),
            (state, _) => state.name().to_owned(),
        },
        key.revoked.or(key.expires).map_or_else(dash, rfc3339),
        used.map_or_else(|| "never".to_owned(), |used| rfc3339(used.last_s)),
        used.map_or_else(dash, |used| used.source.to_string()),
        used.map_or(0, |used| used.count).to_string(),
    ]
}

pub(super) fn print_key(key: &Key, used: Option<Use>, json: bool, now_s: u64) {
    if json {
        println!("{}", to_json(key, used, now_s));
        return;
    }
    let say = |what: &str, text: &str| println!("{what:<12}{text}");
    let say_names = |what: &str, names: &[String]| {
        if !names.is_empty() {
            say(what, &names.join(" "));
        }
    };
    say("id", &key.id);
    say("consumer", &key.consumer);
    say("state", state(key, now_s).name());
    say_names("roles", &key.roles);
    say_names("scopes", &key.scopes);
    say("created", &rfc3339(key.created));
    say("expires", &key.expires.map_or("never".to_owned(), rfc3339));
    if let Some(revoked_s) = key.revoked {
        say("revoked", &rfc3339(revoked_s));
    }
    if let Some(quota) = key.quota {
        say("quota", &format!("{quota} (not enforced yet)"));
    }
    if let Some(id) = &key.replaces {
        say("replaces", id);
    }
    if let Some(id) = &key.replaced_by {
        say("replaced by", id);
    }
    match used {
        Some(Use { last_s, source, count }) => {
            say("last used", &format!("{} from {source}, {count} times in all", rfc3339(last_s)));
        }
        None => say("last used", "never"),
    }
    if let Some(note) = &key.note {
        say("note", note);
    }
}

/// All but the hash.
fn to_json(key: &Key, used: Option<Use>, now_s: u64) -> Value {
    let mut value = json!(key);
    if let Value::Object(fields) = &mut value {
        fields.remove("hash");
        fields.insert("state".to_owned(), Value::from(state(key, now_s).name()));
        fields.insert("uses".to_owned(), Value::from(used.map_or(0, |used| used.count)));
        fields.insert("last_used".to_owned(), Value::from(used.map(|used| rfc3339(used.last_s))));
        fields.insert("last_source".to_owned(), Value::from(used.map(|used| used.source.to_string())));
    }
    value
}

/// What a key is good for at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// Good for the rest of the overlap.
    Replaced,
    Expired,
    Revoked,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

fn state(key: &Key, now_s: u64) -> State {
    match key {
        Key { revoked: Some(_), .. } => State::Revoked,
        key if !key.is_good(now_s) => State::Expired,
        Key { replaced_by: Some(_), .. } => State::Replaced,
        _ => State::Good,
    }
}
