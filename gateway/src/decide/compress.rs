//! Whether a response is compressed, and how (RFC 9110 §8.4, §12.5.3).
//!
//! Comes in: what a client accepts, what a route offers, and the head of a response. Goes out: a content coding, and
//! what has to change in the head whether this response is compressed or not. It never sees a body.
//!
//! Not compressed are: what has a coding already, a part of something (206), what must not be transformed, what
//! carries a digest of its own content, media types that are compressed in themselves, bodies that are known to be
//! shorter than [`BYTES_MIN`], and `text/event-stream`: it lives long, and would hold an encoder for as long.

use crate::{
    codec::{Fields, Recode, RequestHead, ResponseHead},
    config::Coding,
};

/// Below this, the head outweighs what is saved.
pub const BYTES_MIN: u64 = 1024;

/// A weight in thousandths (RFC 9110 §12.4.2).
type Weight = u16;
const WEIGHT_MAX: Weight = 1000;

/// What client and route agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Agreed {
    /// The route offers no coding.
    #[default]
    NotOffered,
    /// The client would rather have none, or does not say.
    Plain,
    /// This one.
    Coded(Coding),
}

/// The coding that the client likes best of those offered; where it likes several as well, the first of them.
pub fn negotiate(head: &RequestHead<'_, '_>, offered: &[Coding]) -> Agreed {
    if offered.is_empty() {
        return Agreed::NotOffered;
    }
    if has_directive(&head.headers, "no-transform") {
        return Agreed::Plain;
    }
    let accepted = Accepted { fields: &head.headers };
    // What is not listed is as good as anything (§12.5.3, rule 2), but only an explicit wish keeps a body plain.
    let plain = accepted.listed("identity").unwrap_or(1);
    let mut best: Option<(Weight, Coding)> = None;
    for &coding in offered {
        let weight = accepted.weight(coding);
        if weight > 0 && weight >= plain && best.is_none_or(|(before, _)| weight > before) {
            best = Some((weight, coding));
        }
    }
    best.map_or(Agreed::Plain, |(_, coding)| Agreed::Coded(coding))
}

/// What becomes of a response.
pub fn recode(head: &ResponseHead<'_, '_>, agreed: Agreed) -> Recode {
    let wants = match agreed {
        Agreed::NotOffered => return Recode::default(),
        Agreed::Plain => None,
        Agreed::Coded(coding) => Some(coding),
    };
    if head.status == 304 {
        // It is about what was sent as 200, whose tag was made weak (RFC 9110 §15.4.5).
        return Recode { coding: None, weaken: wants.is_some(), vary: true };
    }
    if !could_be_coded(head) {
        return Recode::default();
    }
    let length =
        head.headers.get("content-length").and_then(|value| str::from_utf8(value).ok()?.parse().ok());
    let coding = wants.filter(|_| length.is_none_or(|bytes: u64| bytes >= BYTES_MIN)).map(Coding::name);
    Recode { coding, weaken: coding.is_some(), vary: true }
}

fn could_be_coded(head: &ResponseHead<'_, '_>) -> bool {
    const NEVER_WITH: [&str; 6] =
        ["content-encoding", "content-range", "content-md5", "digest", "content-digest", "repr-digest"];
    !matches!(head.status, 204..=206)
        && !NEVER_WITH.iter().any(|name| head.headers.get(name).is_some())
        && !has_directive(&head.headers, "no-transform")
        && head.headers.get("content-type").is_some_and(is_worth_it)
}

fn has_directive(fields: &Fields<'_, '_>, directive: &str) -> bool {
    let members = fields.all("cache-control").flat_map(|value| value.split(|byte| *byte == b','));
    members.map(<[u8]>::trim_ascii).any(|member| member.eq_ignore_ascii_case(directive.as_bytes()))
}

/// Media types whose content is text, in whatever form.
fn is_worth_it(content_type: &[u8]) -> bool {
    const TYPES: [&str; 13] = [
        "application/json",
        "application/javascript",
        "application/x-javascript",
        "application/xml",
        "application/x-ndjson",
        "application/jsonl",
        "application/graphql",
        "application/wasm",
        "application/x-protobuf",
        "image/svg+xml",
        "image/bmp",
        "font/ttf",
        "font/otf",
    ];
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let ends = |suffix: &[u8]| {
        media_type
            .len()
            .checked_sub(suffix.len())
            .and_then(|at| media_type.get(at..))
            .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    let is_text = media_type.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"text/"));
    (is_text && !media_type.eq_ignore_ascii_case(b"text/event-stream"))
        || TYPES.iter().any(|each| media_type.eq_ignore_ascii_case(each.as_bytes()))
        || ends(b"+json")
        || ends(b"+xml")
}

/// `Accept-Encoding`, all of its fields as one list.
struct Accepted<'f> {
    fields: &'f Fields<'f, 'f>,
}

impl Accepted<'_> {
    /// What a coding is worth: by its own name, by an old name, or by `*`.
    fn weight(&self, coding: Coding) -> Weight {
        let old = if coding == Coding::Gzip { self.listed("x-gzip") } else { None };
        self.listed(coding.name()).or(old).or_else(|| self.listed("*")).unwrap_or(0)
    }

    /// What is said of this name; the least, where it is said twice. A member that is malformed says nothing.
    fn listed(&self, name: &str) -> Option<Weight> {
        let members = self.fields.all("accept-encoding").flat_map(|value| value.split(|byte| *byte == b','));
        members
            .filter_map(member)
            .filter(|(each, _)| each.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, weight)| weight)
            .min()
    }
}

/// `gzip` or `gzip;q=0.5`
fn member(member: &[u8]) -> Option<(&[u8], Weight)> {
    let mut parts = member.splitn(2, |byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let Some(parameter) = parts.next() else { return Some((name, WEIGHT_MAX)) };
    let (b"q=" | b"Q=", value) = parameter.split_at_checked(2)? else { return None };
    Some((name, weight(value)?))
}

/// RFC 9110 §12.4.2: at most three digits behind the point.
fn weight(value: &[u8]) -> Option<Weight> {
    let (whole, rest) = value.split_first()?;
    let digits = match rest {
        [] => rest,
        [b'.', digits @ ..] if digits.len() <= 3 => digits,
        _ => return None,
    };
    let mut thousandths = 0;
    for place in 0..3 {
        let digit = digits.get(place).copied().unwrap_or(b'0');
        thousandths = thousandths * 10 + Weight::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(WEIGHT_MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
