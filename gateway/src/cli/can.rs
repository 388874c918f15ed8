//! `portcullis can`: whether somebody may do something, and why.
//!
//! 0: they may, 1: they may not, 2: that cannot be told.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use portcullis::{
    codec::{HEADERS_MAX, HeadLimits, HeaderSlots, request_head},
    config::Config,
    decide::{
        Now, Peer, Policy,
        explain::{self, Asker, Case, Through},
    },
    net,
    respond::{self, Answer, Failure},
};
use serde_json::{Value, json};

use super::{CONFIG_DEFAULT, Told, load};

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
    /// A role that their credential carries, beside those of [consumers]; may be given several times
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
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What is told.
struct Outcome {
    case: Option<Case>,
    /// What they are answered instead; none: they may.
    answer: Option<Answer>,
    why: Option<String>,
    destination: Option<String>,
}

impl Can {
    pub(crate) fn run(self) -> ExitCode {
        match self.outcome() {
            Ok(outcome) => {
                if self.json {
                    println!("{}", self.to_json(&outcome));
                } else {
                    self.print(&outcome);
                }
                if outcome.answer.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(message) => {
                eprintln!("{message}");
                ExitCode::from(2)
            }
        }
    }

    fn outcome(&self) -> Told<Outcome> {
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
                return Ok(Outcome { case: None, answer, why: None, destination: None });
            }
        };
        let peer = Peer { source: self.source, source_is_forwarded: false, tls: true, certificate: None };
        let asker = Asker {
            consumer: self.consumer.clone(),
            roles: self.roles.clone(),
            scopes: self.scopes.clone(),
            claims: self.claims.clone(),
        };
        let now = Now { monotonic_ns: net::monotonic_ns(), unix_s: net::unix_s() };
        let case = explain::explain(&policy, &head, &peer, &asker, now).map_err(|error| error.to_string())?;
        Ok(Outcome::of(case, &config))
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

    fn print(&self, outcome: &Outcome) {
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

impl Outcome {
    fn of(case: Case, config: &Config) -> Self {
        let (answer, why, destination) = match &case.decision {
            Ok(plan) => (None, None, Some(explain::destination(plan.as_ref(), config))),
            Err(refused) => (Some(respond::refused(&refused.refusal)), refused.refusal.why(), None),
        };
        Self { case: Some(case), answer, why, destination }
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
