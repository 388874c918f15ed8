//! Credentials in a query: found there, and taken out before it goes anywhere (attacks, row 83).
//!
//! A query is read as forms write it: pairs between `&`, names escaped with `%` and `+`. Whatever a server would read as
//! the parameter's name is taken out, however it was written; what is left stays as it came.

use std::{borrow::Cow, sync::Arc};

/// What stands behind each parameter of this name, as it came: the characters of a credential need no escape.
pub(super) fn values<'q>(query: Option<&'q str>, name: &str) -> impl Iterator<Item = &'q [u8]> {
    pairs(query.unwrap_or_default()).filter_map(move |pair| {
        let (own, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_name(own, name).then_some(value.as_bytes())
    })
}

/// The query without the parameters of these names; `None`: nothing is left of it.
pub fn without<'q>(query: Option<&'q str>, names: &[Arc<str>]) -> Option<Cow<'q, str>> {
    let query = query?;
    let is_listed = |pair: &str| {
        let own = pair.split_once('=').map_or(pair, |(own, _)| own);
        names.iter().any(|name| is_name(own, name))
    };
    if names.is_empty() || !pairs(query).any(is_listed) {
        return Some(Cow::Borrowed(query));
    }
    let mut left = String::with_capacity(query.len());
    for pair in pairs(query).filter(|pair| !is_listed(pair)) {
        if !left.is_empty() {
            left.push('&');
        }
        left.push_str(pair);
    }
    (!left.is_empty()).then_some(Cow::Owned(left))
}

fn pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split('&')
}

/// Whether `escaped` is this name (WHATWG URL §5.1).
fn is_name(escaped: &str, name: &str) -> bool {
    let mut bytes = escaped.bytes();
    let mut decoded = std::iter::from_fn(|| match bytes.next()? {
        b'+' => Some(b' '),
        b'%' => {
            let mut ahead = bytes.clone();
            let escape = ahead.next().and_then(digit).zip(ahead.next().and_then(digit));
            let Some((high, low)) = escape else { return Some(b'%') };
            bytes = ahead;
            Some(high << 4 | low)
        }
        byte => Some(byte),
    });
    name.bytes().all(|byte| decoded.next() == Some(byte)) && decoded.next().is_none()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(query: &str, found: &[&str], left: Option<&str>) {
        let values: Vec<&[u8]> = values(Some(query), "api_key").collect();
        assert_eq!(values, found.iter().map(|value| value.as_bytes()).collect::<Vec<_>>(), "{query}");
        assert_eq!(without(Some(query), &["api_key".into()]).as_deref(), left, "{query}");
    }

    #[test]
    fn row_83_a_parameter_is_found_and_taken_out_however_its_name_is_written() {
        check("a=1&api_key=k&b=2", &["k"], Some("a=1&b=2"));
        check("api_key=k", &["k"], None);
        check("api%5fkey=k&api%5Fkey=l", &["k", "l"], None);
        check("%61%70%69_key=k&x", &["k"], Some("x"));
        check("api_key", &[""], None);
        check("api_key=a=b&&c", &["a=b"], Some("c"));
        check("a=1&&c", &[], Some("a=1&&c"));
        check("", &[], Some(""));
        for other in
            ["api_keys=k", "api_ke=k", "API_KEY=k", "a=api_key", "api%255fkey=k", "api%5=k", "api+key=k"]
        {
            check(other, &[], Some(other));
        }
        assert_eq!(without(None, &["api_key".into()]), None);
    }

    proptest! {
        #[test]
        fn nothing_of_it_is_left_and_all_of_the_rest(query in "([ak_=&%+;]|%6[1b]|%5f|ak_=){0,24}") {
            let name: Arc<str> = "ak_".into();
            let left = without(Some(&query), std::slice::from_ref(&name));
            prop_assert_eq!(values(left.as_deref(), &name).count(), 0);
            let rest = |query: &str| -> Vec<String> {
                let keeps = |pair: &&str| values(Some(pair), &name).next().is_none() && !pair.is_empty();
                query.split('&').filter(keeps).map(str::to_owned).collect()
            };
            prop_assert_eq!(rest(left.as_deref().unwrap_or_default()), rest(&query));
        }
    }
}
