//! What is wrong with a configuration, and where.
//!
//! Comes in: byte spans in one of the files read. Goes out: [`ConfigError`]s in order of place. Mistakes are
//! collected, not returned, so that one run shows all of them; a value that was dropped as wrong is remembered, so
//! that nobody complains that it is missing as well.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use toml::Spanned;

use super::values::Later;

/// One mistake: `file:line:column: message`, with a hint on a second line when there is one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What was probably meant.
    pub hint: Option<String>,
}

/// Something that works but is probably not meant; shown like an error.
pub type ConfigWarning = ConfigError;

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n  {hint}"))
    }
}

impl std::error::Error for ConfigError {}

/// A file that was read.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    dir: PathBuf,
    text: String,
    /// Where its lines begin.
    lines: Vec<usize>,
}

/// A span of bytes in one of the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    source: usize,
    span: Range<usize>,
}

/// A table of the configuration that is being compiled: where it stands and what it is called.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    /// The file that holds it.
    pub(super) source: usize,
    /// Its name in that file.
    pub(super) span: Range<usize>,
    /// Dotted, such as `routes.orders`.
    pub(super) path: String,
}

impl Scope {
    /// The table's own name.
    pub(super) fn here(&self) -> Place {
        Place { source: self.source, span: self.span.clone() }
    }

    /// A value in it.
    pub(super) fn at<T>(&self, value: &Spanned<T>) -> Place {
        Place { source: self.source, span: value.span() }
    }

    /// A table in it.
    pub(super) fn inner<T>(&self, key: &str, table: &Spanned<T>) -> Self {
        Self { source: self.source, span: table.span(), path: format!("{}.{key}", self.path) }
    }

    /// The last part of its path.
    pub(super) fn name(&self) -> &str {
        self.path.split_once('.').map_or(self.path.as_str(), |(_, name)| name)
    }
}

/// Collects mistakes.
#[derive(Debug, Default)]
pub(super) struct Report {
    sources: Vec<Source>,
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigWarning>,
    /// Dotted paths of values that were dropped as wrong.
    dropped: Vec<String>,
}

impl Report {
    /// Takes a text in; answers the number by which places refer to it.
    pub(super) fn add_source(&mut self, path: PathBuf, dir: PathBuf, text: String) -> usize {
        let lines = text.match_indices('\n').map(|(newline, _)| newline + 1);
        let lines = std::iter::once(0).chain(lines).collect();
        self.sources.push(Source { path, dir, text, lines });
        self.sources.len() - 1
    }

    /// The text of a source.
    pub(super) fn text(&self, source: usize) -> &str {
        self.sources.get(source).map_or("", |s| &s.text)
    }

    /// A path as the file that names it means it.
    pub(super) fn resolve_path(&self, source: usize, path: &str) -> PathBuf {
        self.sources.get(source).map_or_else(|| PathBuf::from(path), |s| s.dir.join(path))
    }

    /// Every source with the SHA-256 of its text.
    pub(super) fn fingerprints(&self) -> Vec<(PathBuf, [u8; 32])> {
        let digest = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
        // SHA-256 has so many bytes.
        let of = |text: &str| digest(text).as_ref().try_into().unwrap_or_default();
        self.sources.iter().map(|source| (source.path.clone(), of(&source.text))).collect()
    }

    /// The path of a source, as it was named.
    pub(super) fn source_path(&self, source: usize) -> &Path {
        self.sources.get(source).map_or(Path::new(""), |s| &s.path)
    }

    /// A span of a source.
    pub(super) fn place(&self, source: usize, span: Range<usize>) -> Place {
        debug_assert!(source < self.sources.len(), "a place is in a source that was added");
        Place { source, span }
    }

    /// `file:line:column` of a place, for messages that name a second one.
    pub(super) fn show(&self, place: &Place) -> String {
        let (line, column) = self.line_column(place.source, place.span.start);
        format!("{}:{line}:{column}", self.source_path(place.source).display())
    }

    /// Records a mistake.
    pub(super) fn error(&mut self, place: Place, message: impl Into<String>) {
        let error = self.locate(place, message.into(), None);
        self.errors.push(error);
    }

    /// Records a mistake and what was probably meant.
    pub(super) fn error_with_hint(&mut self, place: Place, message: impl Into<String>, hint: Option<String>) {
        let error = self.locate(place, message.into(), hint);
        self.errors.push(error);
    }

    /// Records a mistake of a file that could not be read at all.
    pub(super) fn error_in_file(&mut self, file: &Path, message: impl Into<String>) {
        let (line, column) = (1, 1);
        self.errors.push(ConfigError {
            file: file.into(),
            line,
            column,
            message: message.into(),
            hint: None,
        });
    }

    /// Records something odd.
    pub(super) fn warn(&mut self, place: Place, message: impl Into<String>, hint: Option<String>) {
        let warning = self.locate(place, message.into(), hint);
        self.warnings.push(warning);
    }

    /// Records that a value at this dotted path was dropped as wrong.
    pub(super) fn dropped(&mut self, path: String) {
        self.dropped.push(path);
    }

    /// Whether the value at this dotted path, or an element of it, was dropped as wrong.
    pub(super) fn was_dropped(&self, path: &str) -> bool {
        self.dropped.iter().any(|dropped| {
            dropped.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        })
    }

    /// Records that `key` is missing, unless it was there and wrong.
    pub(super) fn missing(&mut self, at: &Scope, key: &str, example: &str) {
        if !self.was_dropped(&format!("{}.{key}", at.path)) {
            self.error(at.here(), format!("`{}` needs `{key}`, for example {example}", at.path));
        }
    }

    /// Records each of these keys that asks for something that does not work yet.
    pub(super) fn later(&mut self, at: &Scope, keys: &[(&str, &Option<Spanned<Later>>)]) {
        for (key, value) in keys {
            if let Some(value) = value
                && value.get_ref().asks()
            {
                self.error(at.at(value), format!("`{}.{key}` is not supported yet", at.path));
            }
        }
    }

    /// Takes the value out of a choice of words, or records that it is none of them.
    pub(super) fn choose<T: Copy>(
        &mut self,
        at: &Scope,
        key: &str,
        word: &Spanned<String>,
        choices: &[(&str, Choice<T>)],
    ) -> Option<T> {
        match choices.iter().find(|(name, _)| name == word.get_ref()) {
            Some((_, Choice::Works(value))) => return Some(*value),
            Some((name, Choice::Later)) => {
                self.error(at.at(word), format!("`{}.{key} = \"{name}\"` is not supported yet", at.path));
            }
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                let message =
                    format!("`{}.{key}` cannot be {:?}: it is one of {names:?}", at.path, word.get_ref());
                self.error_with_hint(at.at(word), message, did_you_mean(word.get_ref(), &names));
            }
        }
        None
    }

    /// All that was recorded, in order of place, each once.
    pub(super) fn into_parts(self) -> (Vec<ConfigError>, Vec<ConfigWarning>) {
        let order: Vec<PathBuf> = self.sources.into_iter().map(|s| s.path).collect();
        let rank = |file: &PathBuf| order.iter().position(|p| p == file).unwrap_or(order.len());
        let sort = |mut list: Vec<ConfigError>| {
            list.sort_by(|a, b| rank(&a.file).cmp(&rank(&b.file)).then_with(|| a.cmp(b)));
            list.dedup();
            list
        };
        (sort(self.errors), sort(self.warnings))
    }

    fn locate(&self, place: Place, message: String, hint: Option<String>) -> ConfigError {
        let Place { source, span } = place;
        let (line, column) = self.line_column(source, span.start);
        ConfigError { file: self.source_path(source).into(), line, column, message, hint }
    }

    /// Line and column (in characters) of a byte of a source, both from 1.
    fn line_column(&self, source: usize, byte: usize) -> (usize, usize) {
        let Some(source) = self.sources.get(source) else { return (1, 1) };
        let offset = byte.min(source.text.len());
        let line = source.lines.partition_point(|start| *start <= offset);
        let start = source.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        (line, source.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1)
    }
}

/// What a word of a choice stands for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Choice<T> {
    /// This.
    Works(T),
    /// Something that does not work yet.
    Later,
}

/// The name that is nearest to `word`, as a question; none when all are far away.
pub(super) fn did_you_mean(word: &str, names: &[impl AsRef<str>]) -> Option<String> {
    let length = word.chars().count();
    let far = ((length / 3).max(1) + 1).min(length);
    names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(word, name.as_ref()), name.as_ref()))
        .filter(|(distance, _)| *distance < far)
        .min()
        .map(|(_, name)| format!("did you mean `{name}`?"))
}
