//! Files into raw tables, with every mistake in them.
//!
//! serde stops at the first value that it cannot take. So the TOML is parsed into a tree with spans first; when
//! serde refuses a value, the mistake is recorded, the value leaves the tree, and the rest is tried again. Each turn
//! removes one value, and after [`MISTAKES_MAX`] of them the rest of the file stays unread.

use std::{fs::File, io::Read as _, ops::Range, path::Path};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    env::{Env, expand},
    report::{Place, Report, did_you_mean},
};

/// A hundred thousand routes with all their keys fit; what is larger went wrong.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// More mistakes than this in one file are not told one by one.
const MISTAKES_MAX: usize = 100;

/// Reads a file as UTF-8 and adds it as a source. `named_at` is the place that named it, if any: it gets the blame
/// for a file that cannot be read.
pub(super) fn open(report: &mut Report, path: &Path, named_at: Option<&Place>) -> Option<usize> {
    match read_text(path) {
        Ok(text) => {
            let dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
            Some(report.add_source(path.to_path_buf(), dir, text))
        }
        Err(message) => {
            match named_at {
                Some(place) => {
                    report.error(place.clone(), format!("cannot read {}: {message}", path.display()));
                }
                None => report.error_in_file(path, format!("cannot read this file: {message}")),
            }
            None
        }
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {} MiB", FILE_BYTES_MAX >> 20));
    }
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(text)
}

/// Reads a source into raw tables; `env` answers `${VAR}`. `None` when it is not TOML at all; otherwise all that was not wrong.
pub(super) fn tables<T: DeserializeOwned>(
    report: &mut Report,
    source: usize,
    env: Option<Env<'_>>,
) -> Option<T> {
    let text = report.text(source).to_owned();
    // Without a mistake, nothing is copied: a tree is many times as large as its text.
    let (span, root) = tree(report, source, &text, env)?;
    if let Ok(raw) = T::deserialize(deserializer(span, root)) {
        return Some(raw);
    }
    let (span, mut root) = tree(report, source, &text, env)?;
    for _ in 0..MISTAKES_MAX {
        let error = match T::deserialize(deserializer(span.clone(), root.clone())) {
            Ok(raw) => return Some(raw),
            Err(error) => error,
        };
        let at = error.span().unwrap_or(0..0);
        let path = remove(&mut root, &at)?;
        let place = report.place(source, at);
        tell(report, place, &path, error.message());
        report.dropped(path);
    }
    let start = report.place(source, 0..0);
    report.error(start, format!("there are more than {MISTAKES_MAX} mistakes; the rest was not read"));
    None
}

fn deserializer(span: Range<usize>, root: DeTable<'_>) -> ValueDeserializer<'_> {
    ValueDeserializer::from(Spanned::new(span, DeValue::Table(root)))
}

/// A text's tree and its span, variables replaced; what is wrong with it is told, and counts once however often.
fn tree<'t>(
    report: &mut Report,
    source: usize,
    text: &'t str,
    env: Option<Env<'_>>,
) -> Option<(Range<usize>, DeTable<'t>)> {
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        for error in syntax_errors.iter().take(MISTAKES_MAX) {
            let place = report.place(source, error.span().unwrap_or(0..0));
            report.error(place, error.message());
        }
        return None;
    }
    let span = table.span();
    let mut root = table.into_inner();
    if let Some(env) = env {
        let mut refused = Vec::new();
        expand_table(&mut root, env, &mut refused);
        for (span, message) in refused.into_iter().take(MISTAKES_MAX) {
            let path = remove(&mut root, &span)?;
            report.dropped(path);
            let place = report.place(source, span);
            report.error(place, message);
        }
    }
    Some((span, root))
}

/// Replaces variables in every string. Goes out: what could not be replaced, and why.
fn expand_table(table: &mut DeTable<'_>, env: Env<'_>, refused: &mut Vec<(Range<usize>, String)>) {
    for (_, value) in table.iter_mut() {
        expand_value(value, env, refused);
    }
}

fn expand_value(value: &mut Spanned<DeValue<'_>>, env: Env<'_>, refused: &mut Vec<(Range<usize>, String)>) {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) => match expand(text, env) {
            Ok(None) => {}
            Ok(Some(expanded)) => *text = expanded.into(),
            Err(message) => refused.push((span, message)),
        },
        DeValue::Array(array) => {
            for element in array.iter_mut() {
                expand_value(element, env, refused);
            }
        }
        DeValue::Table(table) => expand_table(table, env, refused),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// Takes the deepest entry whose key or value has exactly this span out of the tree, and answers its dotted path.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        if let Some(below) = remove_below(value.get_mut(), span) {
            return Some(format!("{}{below}", key.get_ref()));
        }
        if key.span() == *span || value.span() == *span {
            found = Some(key.clone());
        }
    }
    let key = found?;
    table.remove(&key);
    Some(key.into_inner().into_owned())
}

fn remove_below(value: &mut DeValue<'_>, span: &Range<usize>) -> Option<String> {
    match value {
        DeValue::Table(table) => remove(table, span).map(|path| format!(".{path}")),
        DeValue::Array(array) => {
            let below = array
                .iter_mut()
                .enumerate()
                .find_map(|(i, element)| Some(format!("[{i}]{}", remove_below(element.get_mut(), span)?)));
            if below.is_some() {
                return below;
            }
            let i = array.iter().position(|element| element.span() == *span)?;
            // `DeArray` has no `remove`.
            let kept = array.clone().into_iter().enumerate().filter(|(at, _)| *at != i);
            *array = kept.map(|(_, element)| element).collect();
            Some(format!("[{i}]"))
        }
        _ => None,
    }
}

/// Says in the words of a configuration what serde says in the words of Rust.
fn tell(report: &mut Report, place: Place, path: &str, message: &str) {
    if let Some((key, expected)) = message.strip_prefix("unknown field `").and_then(|m| m.split_once('`')) {
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        let hint = did_you_mean(key, &known).or_else(|| Some(format!("known here: {}", known.join(", "))));
        let table =
            path.rsplit_once('.').map_or_else(|| "this file".to_owned(), |(table, _)| format!("`{table}`"));
        report.error_with_hint(place, format!("unknown key `{key}` in {table}"), hint);
        return;
    }
    let mut message = message.to_owned();
    for (rust, plain) in [
        ("expected u64", "expected a whole number"),
        ("expected u16", "expected a port number"),
        ("a sequence", "a list"),
        ("sequence", "a list"),
        ("expected a map", "expected a table"),
        ("invalid type: map", "invalid type: a table"),
        ("invalid type: ", "it is "),
        ("invalid value: ", "it is "),
        (", expected ", ", not "),
    ] {
        message = message.replace(rust, plain);
    }
    report.error(place, format!("`{path}`: {message}"));
}
