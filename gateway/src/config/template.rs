//! Texts with placeholders, taken apart when the configuration is read: nothing is searched for when a request comes.
//!
//! `{name}` is a parameter of the route's path, or else one of `{path}`, `{query}`, `{host}`, `{source}`,
//! `{consumer}` and `{request_id}`; `{{` and `}}` are braces. A parameter is kept as the number of its segment, so
//! that filling it in needs no more than the path.

use super::report::did_you_mean;

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template(pub Box<[Piece]>);

/// A part of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Text(Box<str>),
    /// What the request says.
    Value(Placeholder),
}

/// What is filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// So many segments are before it, which the path's own slash does not count.
    Segment(usize),
    /// The same and everything below.
    Rest(usize),
    /// The canonical path.
    Path,
    /// What follows `?`, as it came.
    Query,
    /// The host without its port.
    Host,
    /// Whom the request counts as.
    Source,
    /// Who is asking; empty where nobody is known.
    Consumer,
    /// The request's id.
    RequestId,
}

/// Where a template stands, which says what it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// In a path: what is a part of one, and nothing that could be of more than one segment by surprise.
    Path,
    /// In an authority.
    Authority,
    /// In a query or a field's value.
    Anything,
}

const NAMES: [(&str, Placeholder); 6] = [
    ("path", Placeholder::Path),
    ("query", Placeholder::Query),
    ("host", Placeholder::Host),
    ("source", Placeholder::Source),
    ("consumer", Placeholder::Consumer),
    ("request_id", Placeholder::RequestId),
];

impl Template {
    /// Takes `text` apart. `pattern` is the route's path. The error is the end of a sentence about the text.
    pub(super) fn parse(text: &str, pattern: &str, usage: Use) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, braces) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = braces.strip_prefix("{{").or_else(|| braces.strip_prefix("}}")) {
                literal.push_str(braces.get(..1).unwrap_or_default());
                rest = after;
                continue;
            }
            let Some((name, after)) = braces.strip_prefix('{').and_then(|open| open.split_once('}')) else {
                return Err(
                    "has a brace without its partner: write `{{` or `}}` for a brace itself".to_owned()
                );
            };
            let value = placeholder(name, pattern)?;
            if !usage.takes(value) {
                return Err(format!("holds `{{{name}}}`, which cannot stand in {}", usage.place()));
            }
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(Piece::Value(value));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        Ok(Self(pieces.into()))
    }

    /// What it looks like with short values: good enough to see that it can never be right.
    pub fn sample(&self) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Value(Placeholder::Path) => "/x",
            Piece::Value(_) => "x",
        });
        pieces.collect()
    }

    /// The text, where it has no placeholder.
    pub fn literal(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }
}

impl Use {
    fn takes(self, value: Placeholder) -> bool {
        match self {
            Self::Path => matches!(
                value,
                Placeholder::Segment(_) | Placeholder::Rest(_) | Placeholder::Path | Placeholder::Host
            ),
            Self::Authority => value == Placeholder::Host,
            Self::Anything => true,
        }
    }

    fn place(self) -> &'static str {
        match self {
            Self::Path => "a path",
            Self::Authority => "the host of a URL: only `{host}` can, and only as all of it",
            Self::Anything => "it",
        }
    }
}

fn placeholder(name: &str, pattern: &str) -> Result<Placeholder, String> {
    let own = parameters(pattern);
    let bare = name.strip_prefix('*').unwrap_or(name);
    let found = own.iter().chain(&NAMES).find(|(known, _)| *known == bare);
    if let Some((_, value)) = found
        && (name == bare || matches!(value, Placeholder::Rest(_)))
    {
        return Ok(*value);
    }
    let known: Vec<&str> = own.iter().chain(&NAMES).map(|(known, _)| *known).collect();
    let hint = did_you_mean(bare, &known).map_or_else(String::new, |hint| format!(": {hint}"));
    Err(format!("holds `{{{name}}}`, which is no parameter of the path nor a name{hint}"))
}

/// The parameters of a path pattern, by the number of their segment.
pub(super) fn parameters(pattern: &str) -> Vec<(&str, Placeholder)> {
    let segments = pattern.strip_prefix('/').unwrap_or(pattern).split('/').enumerate();
    let inner =
        segments.filter_map(|(at, segment)| Some((at, segment.strip_prefix('{')?.strip_suffix('}')?)));
    inner
        .map(|(at, inner)| match inner.strip_prefix('*') {
            Some(name) => (name, Placeholder::Rest(at)),
            None => (inner, Placeholder::Segment(at)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Piece, Placeholder, Template, Use};

    #[track_caller]
    fn parsed(text: &str, expected: &[Piece]) {
        let template = Template::parse(text, "/v1/{a}/{*below}", Use::Anything).unwrap();
        assert_eq!(&*template.0, expected, "{text}");
    }

    #[track_caller]
    fn refused(text: &str, usage: Use, part: &str) {
        let error = Template::parse(text, "/v1/{a}/{*below}", usage).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }

    #[test]
    fn texts_are_taken_apart() {
        let text = |text: &str| Piece::Text(text.into());
        parsed("", &[]);
        parsed("plain", &[text("plain")]);
        parsed("{a}", &[Piece::Value(Placeholder::Segment(1))]);
        parsed("{below}", &[Piece::Value(Placeholder::Rest(2))]);
        parsed("{*below}", &[Piece::Value(Placeholder::Rest(2))]);
        parsed("a {consumer}.", &[text("a "), Piece::Value(Placeholder::Consumer), text(".")]);
        parsed("{{\"a\":1}}", &[text("{\"a\":1}")]);
        parsed("{{{a}}}", &[text("{"), Piece::Value(Placeholder::Segment(1)), text("}")]);
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused() {
        refused("{b}", Use::Anything, "no parameter of the path");
        refused("{*a}", Use::Anything, "no parameter of the path");
        refused("{consumr}", Use::Anything, "did you mean `consumer`?");
        refused("{a", Use::Anything, "without its partner");
        refused("a}", Use::Anything, "without its partner");
        refused("/{consumer}", Use::Path, "cannot stand in a path");
        refused("/{query}", Use::Path, "cannot stand in a path");
        refused("{a}", Use::Authority, "only `{host}` can");
    }

    /// A path's own parameter hides a name of ours.
    #[test]
    fn a_parameter_wins() {
        let template = Template::parse("{host}", "/{host}", Use::Anything).unwrap();
        assert_eq!(&*template.0, [Piece::Value(Placeholder::Segment(0))]);
        assert_eq!(Template::parse("/a{path}", "/", Use::Path).unwrap().sample(), "/a/x");
    }
}
