//! `${VAR}` and `${VAR:-default}` in string values.
//!
//! A variable's value is taken as it is: nothing in it is expanded again. `$${` stands for a literal `${`.

/// Answers what a variable is set to.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces every variable in `text`; `None` when there is none. The error is a sentence.
pub(super) fn expand(text: &str, env: Env<'_>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (inner, after) =
            after.split_once('}').ok_or("`${` is never closed by `}`; a literal one is written `$${`")?;
        out.push_str(&value_of(inner, env)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(Some(out))
}

fn value_of(inner: &str, env: Env<'_>) -> Result<String, String> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !well_formed {
        return Err(format!("`${{{inner}}}` does not name an environment variable"));
    }
    // As in a shell, `:-` also stands in for a variable that is set to nothing.
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            Err(format!("the environment variable `{name}` is not set and `${{{name}:-…}}` gives no default"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[track_caller]
    fn check(text: &str, expected: Result<Option<&str>, &str>) {
        let env = |name: &str| match name {
            "HOME" => Some("/root".to_owned()),
            "EMPTY" => Some(String::new()),
            "ODD" => Some("${HOME}".to_owned()),
            _ => None,
        };
        match (expand(text, &env), expected) {
            (Ok(value), Ok(expected)) => assert_eq!(value.as_deref(), expected),
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            (value, expected) => panic!("{value:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn variables() {
        check("plain $HOME }", Ok(None));
        check("${HOME}/x", Ok(Some("/root/x")));
        check("${HOME}${HOME}", Ok(Some("/root/root")));
        check("${NONE:-d}", Ok(Some("d")));
        check("${HOME:-d}", Ok(Some("/root")));
        check("${EMPTY:-d}", Ok(Some("d")));
        check("${EMPTY}", Ok(Some("")));
        check("${NONE:-}", Ok(Some("")));
        check("${ODD}", Ok(Some("${HOME}")));
        check("$${HOME} ${HOME}", Ok(Some("${HOME} /root")));
        check("${NONE}", Err("`NONE` is not set"));
        check("${HOME", Err("never closed"));
        check("${}", Err("does not name"));
        check("${1A}", Err("does not name"));
        check("${A B}", Err("does not name"));
    }
}
