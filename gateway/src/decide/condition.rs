//! Whether a route's `when` holds for a request.
//!
//! Comes in: the condition and what the request and its credential say. Goes out: yes, or why not. Whatever cannot be
//! computed is a no: a claim that is not there, a comparison of two kinds, a value that is neither true nor false. Lists
//! and objects of claims are seen up to [`ITEMS_MAX`]; with loops that do not stand in each other (`config::condition`)
//! that bounds the time it takes.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use cel::{Context, ExecutionError, Value};

use super::{
    claims::{Claims, Json},
    edit,
};
use crate::{
    config::{CertificateName, Condition},
    tls::ClientCertificate,
};

/// Items of one list, members of one object.
pub(super) const ITEMS_MAX: usize = 256;

/// What a condition can ask for.
pub(super) struct Facts<'f> {
    /// The canonical path.
    pub(super) path: &'f str,
    pub(super) method: &'f str,
    pub(super) source: IpAddr,
    pub(super) certificate: Option<&'f ClientCertificate>,
    pub(super) known: Option<Known<'f>>,
}

/// What is known of who asks.
pub(super) struct Known<'f> {
    pub(super) consumer: &'f str,
    /// The name of the auth that knew them.
    pub(super) auth: &'f str,
    pub(super) claims: &'f Claims,
    pub(super) scopes: &'f [Box<str>],
    /// Names, those that are inherited among them.
    pub(super) roles: Vec<&'f str>,
}

/// Why a condition does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// It is false.
    #[error("the route's condition is false")]
    False,
    /// It is neither true nor false.
    #[error("the route's condition is neither true nor false")]
    NotBool,
    /// It could not be computed.
    #[error("the route's condition cannot be computed: {0}")]
    Failed(String),
}

/// Whether `condition` holds.
///
/// # Errors
/// It does not.
pub(super) fn check(condition: &Condition, facts: &Facts<'_>) -> Result<(), Unmet> {
    let mut context = Context::with_env(Arc::clone(condition.language()));
    for (name, value) in values(condition, facts)? {
        context.add_variable_from_value(name, value);
    }
    match condition.program().execute(&context) {
        Ok(Value::Bool(true)) => Ok(()),
        Ok(Value::Bool(false)) => Err(Unmet::False),
        Ok(_) => Err(Unmet::NotBool),
        Err(error) => Err(Unmet::Failed(words(&error))),
    }
}

/// Values of what the condition names, and no others.
fn values(condition: &Condition, facts: &Facts<'_>) -> Result<Vec<(&'static str, Value)>, Unmet> {
    let mut values = Vec::new();
    let mut add = |name: &'static str, value: &dyn Fn() -> Result<Value, Unmet>| {
        if condition.asks_for(name) {
            values.push((name, value()?));
        }
        Ok(())
    };
    add("path", &|| parameters(condition, facts.path))?;
    add("method", &|| Ok(text(facts.method)))?;
    add("source", &|| Ok(text(&facts.source.to_string())))?;
    add("certificate", &|| facts.certificate.map_or(Ok(Value::Null), certificate))?;
    if let Some(known) = &facts.known {
        add("consumer", &|| Ok(text(known.consumer)))?;
        add("auth", &|| Ok(text(known.auth)))?;
        add("claims", &|| claims(condition, known.claims))?;
        add("scopes", &|| list(known.scopes.len(), known.scopes.iter().map(|scope| Ok(text(scope)))))?;
        add("roles", &|| list(known.roles.len(), known.roles.iter().map(|role| Ok(text(role)))))?;
    }
    Ok(values)
}

/// Those that the condition names: most tokens say more than that.
fn claims(condition: &Condition, claims: &Claims) -> Result<Value, Unmet> {
    let Some(named) = condition.claims() else { return object(claims) };
    let named = named.iter().filter_map(|name| claims.get_key_value(&**name));
    let members = named.map(|(name, value)| Ok((name.clone(), json(value)?)));
    Ok(members.collect::<Result<HashMap<String, Value>, Unmet>>()?.into())
}

/// As the upstream will read them: without escapes.
fn parameters(condition: &Condition, path: &str) -> Result<Value, Unmet> {
    let mut map = HashMap::new();
    for (name, placeholder) in condition.parameters() {
        let value = decoded(edit::parameter(path, *placeholder))
            .ok_or_else(|| Unmet::Failed(format!("path.{name} is not UTF-8")))?;
        map.insert(name.to_string(), Value::String(Arc::new(value)));
    }
    Ok(map.into())
}

/// Percent escapes undone (RFC 3986 §2.1); none: what comes of it is no text.
fn decoded(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// What it names by kind, each a list but for the common name; and its fingerprint.
fn certificate(certificate: &ClientCertificate) -> Result<Value, Unmet> {
    let of = |wanted: CertificateName| {
        let names = certificate.names.iter().filter(|(kind, _)| *kind == wanted);
        let names: Vec<&str> = names.map(|(_, name)| &**name).collect();
        list(names.len(), names.iter().map(|name| Ok(text(name))))
    };
    let cn = certificate.name(CertificateName::Cn).unwrap_or_default();
    let digits = certificate.sha256.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let sha256: String = digits.filter_map(|nibble| char::from_digit(nibble.into(), 16)).collect();
    let members = [
        ("dns", of(CertificateName::SanDns)?),
        ("uri", of(CertificateName::SanUri)?),
        ("email", of(CertificateName::SanEmail)?),
        ("cn", text(cn)),
        ("sha256", text(&sha256)),
    ];
    Ok(HashMap::from(members.map(|(name, value)| (name.to_owned(), value))).into())
}

fn json(json: &Json) -> Result<Value, Unmet> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Whole(number) => i64::try_from(*number).map_or(Value::UInt(*number), Value::Int),
        Json::Number(number) => Value::Float(*number),
        Json::Text(text) => self::text(text),
        Json::List(items) => list(items.len(), items.iter().map(self::json))?,
        Json::Object(claims) => object(claims)?,
    })
}

fn object(claims: &Claims) -> Result<Value, Unmet> {
    bound(claims.len())?;
    let members = claims.iter().map(|(name, value)| Ok((name.clone(), json(value)?)));
    Ok(members.collect::<Result<HashMap<String, Value>, Unmet>>()?.into())
}

fn list(count: usize, items: impl Iterator<Item = Result<Value, Unmet>>) -> Result<Value, Unmet> {
    bound(count)?;
    Ok(Value::List(Arc::new(items.collect::<Result<_, _>>()?)))
}

fn bound(count: usize) -> Result<(), Unmet> {
    if count <= ITEMS_MAX {
        return Ok(());
    }
    Err(Unmet::Failed(format!("a list or an object has more than {ITEMS_MAX} items")))
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

/// Without any value: the log is no place for what somebody's token says.
fn words(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(name) => format!("there is no {name}"),
        ExecutionError::NoSuchOverload(error) => error.to_string(),
        ExecutionError::UnexpectedType { got, want } => format!("{got} where {want} is wanted"),
        ExecutionError::FunctionError { function, message } => format!("{function}: {message}"),
        ExecutionError::ValuesNotComparable(..) | ExecutionError::UnsupportedBinaryOperator(..) => {
            "two values that cannot be compared".to_owned()
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "a division by zero".to_owned()
        }
        ExecutionError::Overflow(..) => "a number that is too large".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "an index past the end".to_owned(),
        _ => "a value is not what it should be".to_owned(),
    }
}

#[cfg(test)]
mod tests;
