//! What clippy can't check: which module may name which, where a runtime, a clock or a socket may be named, and how
//! long a file may be.
//!
//! Pure: paths and texts come in, findings go out. It reads Rust as text without comments and literals, no deeper:
//! names that a macro puts together escape it. Code under `#[cfg(test)]` may name whatever it needs.

/// A rule that a file breaks, ready to print.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Counted from 1.
    pub(crate) line: usize,
    /// What is wrong and what to do instead.
    pub(crate) what: String,
}

/// A module at the root of a crate and the modules that it may name; `None` means all.
pub(crate) type Row = (&'static str, Option<&'static [&'static str]>);

/// Words that only some modules may say.
pub(crate) struct Reserved {
    /// The words, as identifiers or paths.
    pub(crate) words: &'static [&'static str],
    /// Whether a module falls under the rule.
    pub(crate) applies: fn(module: &str) -> bool,
    /// Why, with the place to go instead.
    pub(crate) reason: &'static str,
}

/// Everything that a file of the crate says against the rules; `path` is relative to `src`, as `decide/route.rs`.
pub(crate) fn check_file(path: &str, text: &str, rows: &[Row], reserved: &[Reserved]) -> Vec<Finding> {
    let module = module_of(path);
    let code = without_tests(&code_only(text));
    let mut findings = Vec::new();
    match rows.iter().find(|(name, _)| *name == module) {
        None => findings
            .push(Finding { line: 1, what: format!("module `{module}` has no row in the table of imports") }),
        Some((_, None)) => {}
        Some((_, Some(allowed))) => {
            for (at, named) in named_modules(&code, depth_of(path)) {
                let is_known = rows.iter().any(|(name, _)| *name == named);
                if is_known && named != module && !allowed.contains(&named) {
                    let what = format!("`{module}` names `crate::{named}`: it may name {}", list(allowed));
                    findings.push(Finding { line: line_at(&code, at), what });
                }
            }
        }
    }
    for rule in reserved.iter().filter(|rule| (rule.applies)(module)) {
        for word in rule.words {
            for at in occurrences(&code, word) {
                let what = format!("`{module}` names `{word}`: {}", rule.reason);
                findings.push(Finding { line: line_at(&code, at), what });
            }
        }
    }
    findings.sort();
    findings.dedup();
    findings
}

/// The finding that a file is longer than `lines_max`.
pub(crate) fn check_length(text: &str, lines_max: usize) -> Option<Finding> {
    let lines = text.lines().count();
    let what = || format!("{lines} lines, at most {lines_max}: divide it by idea");
    (lines > lines_max).then(|| Finding { line: lines, what: what() })
}

/// The module at the crate's root to which a file belongs.
fn module_of(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// How many `super` lead from the file's module to the crate's root.
fn depth_of(path: &str) -> usize {
    let parts = path.split('/').count();
    if path.ends_with("/mod.rs") { parts - 1 } else { parts }
}

/// Byte offset and name of every module that is named as `crate::NAME`, within `crate::{…}`, or from the root by
/// `super`.
fn named_modules(code: &str, depth: usize) -> Vec<(usize, &str)> {
    let from_root = "super::".repeat(depth);
    let mut named = Vec::new();
    for root in ["crate::", from_root.as_str()] {
        for at in occurrences(code, root) {
            let start = at + root.len();
            named.extend(
                first_names(code.get(start..).unwrap_or_default()).into_iter().map(|name| (at, name)),
            );
        }
    }
    named
}

/// The identifier that `rest` begins with, or those that lead the members of its braces.
fn first_names(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else { return identifier(rest).into_iter().collect() };
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut expects_name = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects_name = true,
            c if expects_name && is_word(c) => {
                names.extend(identifier(group.get(at..).unwrap_or_default()));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
    text.get(..end).filter(|name| !name.is_empty())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands in the code, not as a part of a longer identifier or path.
fn occurrences<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code.get(..*at).and_then(|text| text.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|text| text.chars().next());
        let ends_open = word.ends_with(':');
        let continues_path =
            word.starts_with("super") && code.get(..*at).is_some_and(|text| text.ends_with("::"));
        !before.is_some_and(is_word) && (ends_open || !after.is_some_and(is_word)) && !continues_path
    })
}

fn line_at(code: &str, at: usize) -> usize {
    code.get(..at).unwrap_or_default().matches('\n').count() + 1
}

fn list(modules: &[&str]) -> String {
    if modules.is_empty() { "no other module".to_owned() } else { modules.join(", ") }
}

/// Blanks the inline modules under `#[cfg(test)]`, lines kept.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some((before, after)) = rest.split_once(MARK) {
        out.push_str(before);
        let body = after.trim_start().strip_prefix("mod ").and_then(|_| braces(after));
        let end = body.unwrap_or(0);
        out.extend(after.get(..end).unwrap_or_default().chars().filter(|c| *c == '\n'));
        rest = after.get(end..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The offset behind the first balanced pair of braces; none if a `;` ends the item before it.
fn braces(code: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return None,
            '{' => depth += 1,
            '}' if depth == 1 => return Some(at + 1),
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// The text with comments and the insides of literals blanked, lines kept.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            'r' | 'b' | 'c' if !out.ends_with(is_word) => raw_string(rest).unwrap_or(0),
            '"' => quoted(rest, '"'),
            '\'' => character(rest).unwrap_or(0),
            _ => 0,
        };
        if skipped == 0 {
            out.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        } else {
            let (gone, left) = rest.split_at(skipped);
            out.push(' ');
            out.extend(gone.chars().filter(|c| *c == '\n'));
            rest = left;
        }
    }
    out
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a literal with escapes, both quotes counted.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"`, `br#"…"#` and their like; none if no raw string begins here.
fn raw_string(text: &str) -> Option<usize> {
    let after_prefix = text.trim_start_matches(['b', 'c']).strip_prefix('r')?;
    let hashes = after_prefix.len() - after_prefix.trim_start_matches('#').len();
    let body = after_prefix.get(hashes..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len();
    Some(body.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

/// The length of a character literal; none if the quote begins a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut inside = text.chars().skip(1);
    let first = inside.next()?;
    (first == '\\' || inside.next() == Some('\'')).then(|| quoted(text, '\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[Row] = &[
        ("config", Some(&[])),
        ("net", Some(&[])),
        ("codec", Some(&[])),
        ("decide", Some(&["config", "codec"])),
        ("boot", None),
    ];
    const RESERVED: &[Reserved] = &[
        Reserved { words: &["monoio"], applies: |module| module != "net", reason: "ask `net`" },
        Reserved {
            words: &["unsafe", "Instant::now"],
            applies: |module| module == "codec",
            reason: "it is pure",
        },
    ];

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[(usize, &str)]) {
        let findings = check_file(path, text, ROWS, RESERVED);
        let seen: Vec<_> = findings.iter().map(|f| (f.line, f.what.split(": ").next().unwrap())).collect();
        assert_eq!(seen, expected, "{path}: {text}");
    }

    #[test]
    fn imports_go_one_way() {
        check("decide/mod.rs", "use crate::config::Config;", &[]);
        check("decide/mod.rs", "use crate::decide::route;", &[]);
        check("decide/mod.rs", "use crate::net::Stream;", &[(1, "`decide` names `crate::net`")]);
        check("codec/head.rs", "\nuse crate::decide;", &[(2, "`codec` names `crate::decide`")]);
        check("boot.rs", "use crate::{net, decide, codec};", &[]);
    }

    #[test]
    fn every_way_to_name_a_module_counts() {
        check(
            "decide/mod.rs",
            "use crate::{config::{net, X}, net::{self}};",
            &[(1, "`decide` names `crate::net`")],
        );
        check("decide/mod.rs", "use crate::{\n    codec,\n    config::net,\n};", &[]);
        check("decide/mod.rs", "fn f() { crate::net::open() }", &[(1, "`decide` names `crate::net`")]);
        check("decide/mod.rs", "use super::net;", &[(1, "`decide` names `crate::net`")]);
        check("decide/route.rs", "use super::net;", &[]);
        check("decide/route.rs", "use super::super::net;", &[(1, "`decide` names `crate::net`")]);
        check("decide/mod.rs", "pub(in crate::decide) fn f() {}", &[]);
        check("decide/mod.rs", "use mycrate::net;", &[]);
    }

    #[test]
    fn a_module_without_a_row_is_an_error() {
        check("shiny/mod.rs", "", &[(1, "module `shiny` has no row in the table of imports")]);
    }

    #[test]
    fn reserved_words_stay_where_they_belong() {
        check("net/ring.rs", "use monoio::net;", &[]);
        check("boot.rs", "monoio::start()", &[(1, "`boot` names `monoio`")]);
        check("boot.rs", "let monoio_like = 1;", &[]);
        check("codec/mod.rs", "#![forbid(unsafe_code)]", &[]);
        check("codec/mod.rs", "unsafe { f() }", &[(1, "`codec` names `unsafe`")]);
        check("decide/mod.rs", "unsafe { f() }", &[]);
        check("codec/mod.rs", "fn f(now: Instant) {}", &[]);
        check("codec/mod.rs", "Instant::now()", &[(1, "`codec` names `Instant::now`")]);
    }

    #[test]
    fn comments_literals_and_tests_do_not_count() {
        check("codec/mod.rs", "// unsafe\n/// crate::net\n/* a /* monoio */ unsafe */", &[]);
        check(
            "codec/mod.rs",
            r##"f("unsafe \" unsafe", r#"unsafe " unsafe"#, b"unsafe", '"', unsafe_)"##,
            &[],
        );
        check("codec/mod.rs", "fn f<'a>(x: &'a str) { unsafe {} }", &[(1, "`codec` names `unsafe`")]);
        check("codec/mod.rs", "'\\'' unsafe '\\''", &[(1, "`codec` names `unsafe`")]);
        check("codec/mod.rs", "#[cfg(test)]\nmod tests { unsafe {} }", &[]);
        check(
            "codec/mod.rs",
            "#[cfg(test)]\nmod tests { a {} }\nunsafe {}",
            &[(3, "`codec` names `unsafe`")],
        );
        check("codec/mod.rs", "#[cfg(test)]\nmod tests;\nunsafe {}", &[(3, "`codec` names `unsafe`")]);
    }

    #[test]
    fn a_file_may_be_as_long_as_the_limit() {
        assert_eq!(check_length("a\nb\n", 2), None);
        assert_eq!(check_length("a\nb\nc\n", 2).map(|finding| finding.line), Some(3));
    }
}
