//! `portcullis can`: whether somebody may do something, and why.
//!
//! What an API key carries stands in its store, so where the route takes keys, each key that they hold is answered for:
//! what two keys could do together nobody can do. The stores are read as `portcullis keys` reads them, whether a gateway
//! runs or not.
//!
//! 0: they may, 1: they may not, 2: that cannot be told, 3: they may with one key and not with another.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use portcullis::{
    codec::{HEADERS_MAX, HeadLimits, HeaderSlots, RequestHead, request_head},
    config::{AuthKind, Config},
    control,
    decide::{
        Now, Peer, Policy,
        explain::{self, Asker, Case, Said, Through},
        key_table::ApiKey,
    },
    keys::{Key, rfc3339},
    net,
    respond::{self, Answer, Failure},
};
use serde_json::{Value, json};

use super::{CONFIG_DEFAULT, Told, keys, load};

/// Nobody writes a longer one by hand.
const LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 64 * 1024, headers_max: HEADERS_MAX, target_bytes_max: 32 * 1024 };

#[derive(Debug, Args)]
pub(crate) struct Can {
    /// Who asks: the name of a consumer, also the claim `sub` of their token
    consumer: String,
    /// How, such as GET
    method: String,
    /// For what: a URL, or a path on any host
    url: String,
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    config: PathBuf,
    /// With this of their API keys alone: its id, or the key itself
    #[arg(long, value_name = "ID", value_parser = keys::id, conflicts_with_all = ["roles", "scopes", "claims"])]
    key: Option<String>,
    /// A role that their credential carries, beside those of [consumers], instead of what their keys carry; may be given
    /// several times
    #[arg(long = "role", value_name = "NAME")]
    roles: Vec<String>,
    /// A scope of their credential; may be given several times
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A claim of their token, its value in JSON or as it stands; may be given several times
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, String)>,
    /// Where they ask from
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    source: IpAddr,
    /// A JSON object for each answer, in a line of its own
    #[arg(long)]
    json: bool,
}

/// Exit code where one key may and another may not.
const IT_DEPENDS: u8 = 3;

/// What is told.
struct Outcome {
    /// With which key.
    held: Option<Held>,
    case: Option<Case>,
    /// What they are answered instead; none: they may.
    answer: Option<Answer>,
    why: Option<String>,
    destination: Option<String>,
}

/// An API key that they hold.
struct Held {
    key: Key,
    /// What the gateway makes of it; none: it was taken back.
    entry: Option<Arc<ApiKey>>,
    /// Index of the auth that knows it, and its name.
    auth: u16,
    auth_name: Arc<str>,
}

/// All that there is to say.
struct Outcomes {
    /// At least one.
    all: Vec<Outcome>,
    /// Keys of theirs that are good no longer, where others are.
    spent: Vec<Held>,
    /// Auths of the route that take no keys, where keys were answered for.
    others: Vec<Arc<str>>,
    /// Roles that keys carry and the configuration does not know.
    odd_roles: Vec<String>,
}

impl Can {
    pub(crate) fn run(self) -> ExitCode {
        match self.outcomes() {
            Ok(outcomes) => {
                if self.json {
                    outcomes.all.iter().for_each(|outcome| println!("{}", self.to_json(outcome)));
                } else {
                    self.print(&outcomes);
                }
                let may = |outcome: &Outcome| outcome.answer.is_none();
                match (outcomes.all.iter().any(may), outcomes.all.iter().all(may)) {
                    (_, true) => ExitCode::SUCCESS,
                    (false, _) => ExitCode::FAILURE,
                    (true, false) => ExitCode::from(IT_DEPENDS),
                }
            }
            Err(message) => {
                eprintln!("{message}");
                ExitCode::from(2)
            }
        }
    }

    fn outcomes(&self) -> Told<Outcomes> {
        let config = load(&self.config)?.config;
        let policy = Policy::compile(&config)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        let text = self.request()?;
        let mut slots = HeaderSlots::new();
        let head = match request_head(text.as_bytes(), &mut slots, &LIMITS) {
            Ok(Some(head)) => head,
            Ok(None) => return Err("the URL is too long".to_owned()),
            Err(error) => {
                let answer = respond::answer(&Failure::Request(&error));
                let outcome = Outcome { held: None, case: None, answer, why: None, destination: None };
                return Ok(Outcomes::one(outcome));
            }
        };
        let now = Now { monotonic_ns: net::monotonic_ns(), unix_s: net::unix_s() };
        let outcome = |asker: &Asker, held: Option<Held>| {
            let peer = Peer { source: self.source, source_is_forwarded: false, tls: true, certificate: None };
            let case = explain::explain(&policy, &head, &peer, asker, now);
            Ok::<_, String>(Outcome::of(held, case.map_err(|error| error.to_string())?, &config))
        };
        let ways = self.ways(&policy, &config, &head, now.unix_s)?;
        if ways.keys.is_empty() {
            let said = || Said {
                consumer: self.consumer.clone(),
                roles: self.roles.clone(),
                scopes: self.scopes.clone(),
                claims: self.claims.clone(),
            };
            let outcome = match ways.without {
                None => outcome(&Asker::Somebody(said()), None)?,
                Some(auth) => {
                    let why = Some("they hold no key that is good there".to_owned());
                    Outcome { why, ..outcome(&Asker::Holder(auth, None), None)? }
                }
            };
            return Ok(Outcomes { spent: ways.spent, ..Outcomes::one(outcome) });
        }
        let carried = ways.keys.iter().flat_map(|held| &held.key.roles);
        let mut odd_roles: Vec<String> =
            carried.filter(|role| policy.role(role).is_none()).cloned().collect();
        odd_roles.sort();
        odd_roles.dedup();
        let of_key = |held: Held| outcome(&Asker::Holder(held.auth, held.entry.clone()), Some(held));
        let all = ways.keys.into_iter().map(of_key).collect::<Told<_>>()?;
        Ok(Outcomes { all, spent: ways.spent, others: ways.others, odd_roles })
    }

    /// By what they may be known where the request goes.
    fn ways(&self, policy: &Policy, config: &Config, head: &RequestHead<'_, '_>, unix_s: u64) -> Told<Ways> {
        let mut ways = Ways::default();
        let is_made_up = !(self.roles.is_empty() && self.scopes.is_empty() && self.claims.is_empty());
        if is_made_up {
            return Ok(ways);
        }
        let (mut held, mut takes_keys) = (Vec::new(), None);
        for auth in explain::auths(policy, head) {
            let Some(settings) = config.auths.get(usize::from(auth)) else { continue };
            let AuthKind::ApiKey(api_key) = &settings.kind else {
                ways.others.push(settings.name.clone());
                continue;
            };
            takes_keys.get_or_insert(auth);
            let keys = control::keys_of(&api_key.store, &self.consumer).map_err(|error| {
                let told = keys::told(error);
                format!(
                    "auth.{}: {told}\nwhat a key of theirs carries can be said by --role and --scope",
                    settings.name
                )
            })?;
            let of_auth = |(key, entry)| Held { key, entry, auth, auth_name: settings.name.clone() };
            held.extend(keys.into_iter().map(of_auth));
        }
        if takes_keys.is_none() {
            return match (&self.key, &*ways.others) {
                (Some(_), [_, ..]) => Err("no key is of use there: the route takes none".to_owned()),
                // Nobody is asked who they are, or something else is asked.
                _ => Ok(Ways::default()),
            };
        }
        if let Some(id) = &self.key {
            held.retain(|held| held.key.id == *id);
            if held.is_empty() {
                return Err(format!("{} holds no key {id} of those that the route takes", self.consumer));
            }
            ways.keys = held;
            return Ok(ways);
        }
        (ways.keys, ways.spent) = held.into_iter().partition(|held| held.key.is_good(unix_s));
        ways.without = takes_keys.filter(|_| ways.others.is_empty());
        Ok(ways)
    }

    /// The request as it would come, in which nothing else comes along.
    fn request(&self) -> Told<String> {
        let rest = self.url.strip_prefix("https://").or_else(|| self.url.strip_prefix("http://"));
        let (host, target) = match rest {
            Some(rest) => match rest.find(['/', '?']) {
                Some(at) => rest.split_at(at),
                None => (rest, "/"),
            },
            None => ("localhost", self.url.as_str()),
        };
        let is_one = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_one(&self.method) || !is_one(host) || !is_one(target) {
            return Err("METHOD and URL are of printable ASCII, without spaces".to_owned());
        }
        if !target.starts_with('/') {
            return Err(format!("{:?} is neither a URL nor a path", self.url));
        }
        Ok(format!("{} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n", self.method))
    }

    fn print(&self, outcomes: &Outcomes) {
        outcomes.all.iter().for_each(|outcome| self.print_one(outcome));
        for held in &outcomes.spent {
            println!("no longer good: {held}");
        }
        if !outcomes.odd_roles.is_empty() {
            println!("roles of keys that the configuration does not know: {}", outcomes.odd_roles.join(", "));
        }
        if !outcomes.others.is_empty() {
            let others = outcomes.others.join(" or ");
            println!(
                "with a credential of {others} instead: say what it carries by --role, --scope or --claim"
            );
        }
    }

    fn print_one(&self, outcome: &Outcome) {
        match (&outcome.answer, &outcome.destination) {
            (Some(answer), _) => {
                let why = outcome.why.as_deref().unwrap_or(answer.detail);
                println!("refused: {} {}: {why}", answer.status, answer.label);
            }
            (None, to) => println!("allowed: {}", to.as_deref().unwrap_or_default()),
        }
        let Some(case) = &outcome.case else { return };
        let Some(asked) = &case.asked else { return };
        let line = |name: &str, value: &str| println!("  {name:<11}{value}");
        line("route", &asked.route);
        if asked.auths.is_empty() {
            line("auth", "none: the route is public");
        } else {
            line("auth", &asked.auths.join(" or "));
        }
        line("consumer", &self.consumer);
        if let Some(held) = &outcome.held {
            line("key", &held.to_string());
        }
        let roles: Vec<String> =
            case.roles.iter().map(|role| format!("{} ({})", role.name, through(&role.through))).collect();
        line("roles", &or_none(&roles));
        match &asked.permission {
            None => line("permission", "none asked"),
            Some((permission, by)) if by.is_empty() => {
                line("permission", &format!("{permission}: no role of theirs holds it"));
            }
            Some((permission, by)) => line("permission", &format!("{permission}: held by {}", by.join(", "))),
        }
        let scopes: Vec<String> = asked
            .scopes
            .iter()
            .map(|(scope, has)| format!("{scope} ({})", if *has { "has it" } else { "missing" }))
            .collect();
        line("scopes", &or_none(&scopes));
        if let Some(when) = &asked.when {
            line("when", &format!("{when}: {}", outcome.condition()));
        }
    }

    fn to_json(&self, outcome: &Outcome) -> Value {
        let case = outcome.case.as_ref();
        let asked = case.and_then(|case| case.asked.as_ref());
        let roles = case.map(|case| case.roles.as_slice()).unwrap_or_default().iter();
        json!({
            "allowed": outcome.answer.is_none(),
            "status": outcome.answer.as_ref().map(|answer| answer.status),
            "reason": outcome.answer.as_ref().map(|answer| answer.label),
            "why": outcome.why,
            "to": outcome.destination,
            "consumer": self.consumer,
            "key": outcome.held.as_ref().map(|held| &held.key.id),
            "route": asked.map(|asked| &asked.route),
            "auth": asked.map(|asked| &asked.auths),
            "roles": roles
                .map(|role| json!({ "name": role.name, "through": through(&role.through) }))
                .collect::<Vec<_>>(),
            "permission": asked.and_then(|asked| asked.permission.as_ref()).map(|(name, by)| {
                json!({ "asked": name, "held_by": by })
            }),
            "scopes": asked.map(|asked| {
                let scopes = asked.scopes.iter();
                scopes.map(|(scope, has)| json!({ "asked": scope, "held": has })).collect::<Vec<_>>()
            }),
            "when": asked.and_then(|asked| asked.when.as_ref()).map(|text| {
                json!({ "text": text, "result": outcome.condition() })
            }),
        })
    }
}

/// By what somebody may be known.
#[derive(Default)]
struct Ways {
    /// Keys, each of which is answered for.
    keys: Vec<Held>,
    spent: Vec<Held>,
    others: Vec<Arc<str>>,
    /// The route takes keys alone, so that without one nobody is known: by this auth.
    without: Option<u16>,
}

impl Outcomes {
    fn one(outcome: Outcome) -> Self {
        Self { all: vec![outcome], spent: Vec::new(), others: Vec::new(), odd_roles: Vec::new() }
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.key.id, self.auth_name)?;
        match (self.key.revoked, self.key.expires) {
            (Some(revoked_s), _) => write!(f, ", revoked {}", rfc3339(revoked_s)),
            (None, Some(expires_s)) => write!(f, ", good until {}", rfc3339(expires_s)),
            (None, None) => Ok(()),
        }
    }
}

impl Outcome {
    fn of(held: Option<Held>, case: Case, config: &Config) -> Self {
        let (answer, why, destination) = match &case.decision {
            Ok(plan) => (None, None, Some(explain::destination(plan.as_ref(), config))),
            Err(refused) => (Some(respond::refused(&refused.refusal)), refused.refusal.why(), None),
        };
        Self { held, case: Some(case), answer, why, destination }
    }

    /// What became of the route's condition.
    fn condition(&self) -> &'static str {
        let decision = self.case.as_ref().map(|case| &case.decision);
        match decision {
            Some(Ok(_)) => "true",
            Some(Err(refused)) if refused.refusal.is_unmet() => "not met",
            _ => "not asked",
        }
    }
}

fn or_none(list: &[String]) -> String {
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

fn through(through: &Through) -> String {
    match through {
        Through::Credential => "of the credential".to_owned(),
        Through::Consumer => "of the consumer".to_owned(),
        Through::Role(role) => format!("through {role}"),
    }
}

fn claim(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not NAME=VALUE")?;
    if name.is_empty() { Err("it has no name".to_owned()) } else { Ok((name.to_owned(), value.to_owned())) }
}
