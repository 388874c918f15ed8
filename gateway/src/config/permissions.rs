//! What a permission is, and which ones another covers.
//!
//! A permission is segments between colons. In what a role holds, `*` stands for one whole segment, a `*` at the end for
//! everything below, and a lone `*` for everything: `orders:*` grants `orders:read` and `orders:read:own`, not `orders`;
//! `*:read` grants `orders:read`. There is no `*` inside a segment.

/// Whether this is a permission without a wildcard, as a route asks for it.
pub(super) fn is_permission(text: &str) -> bool {
    text.split(':').all(is_segment)
}

/// Whether this is a permission as a role holds it.
pub(super) fn is_held(text: &str) -> bool {
    text.split(':').all(|segment| segment == "*" || is_segment(segment))
}

fn is_segment(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b))
}

/// Whether a held permission covers a wanted one.
pub fn covers(held: &str, wanted: &str) -> bool {
    let mut held = held.split(':').peekable();
    let mut wanted = wanted.split(':');
    loop {
        match (held.next(), wanted.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) if held.peek().is_none() => return true,
            (Some("*"), Some(_)) => {}
            (Some(held), Some(wanted)) if held == wanted => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(held: &str, wanted: &str, expected: bool) {
        assert_eq!(covers(held, wanted), expected, "{held} / {wanted}");
    }

    #[test]
    fn permissions_match_by_segments() {
        check("orders:read", "orders:read", true);
        check("orders:read", "orders:write", false);
        check("orders:read", "orders:readonly", false);
        check("orders:read", "orders", false);
        check("orders", "orders:read", false);
        check("orders:*", "orders:read", true);
        check("orders:*", "orders:read:own", true);
        check("orders:*", "orders", false);
        check("orders:*", "ordersx:read", false);
        check("orders:*:own", "orders:read:own", true);
        check("orders:*:own", "orders:read:all", false);
        check("orders:*:own", "orders:own", false);
        check("*:read", "orders:read", true);
        check("*:read", "orders:write", false);
        check("*", "orders", true);
        check("*", "orders:read:own", true);
        check("ord*", "orders", false);
        check("orders:read", "*", false);
    }

    #[test]
    fn a_star_is_a_whole_segment() {
        for (text, held, wanted) in [
            ("orders:read", true, true),
            ("*", true, false),
            ("orders:*", true, false),
            ("*:read", true, false),
            ("orders:*:own", true, false),
            ("ord*", false, false),
            ("orders:", false, false),
            ("", false, false),
            ("a b", false, false),
        ] {
            assert_eq!((is_held(text), is_permission(text)), (held, wanted), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_permission_covers_itself_and_a_star_covers_all(p in "[a-z]{1,3}(:[a-z]{0,3}){0,4}") {
            prop_assert!(covers(&p, &p));
            prop_assert!(covers("*", &p));
            let (deeper, below) = (format!("{p}:x"), format!("{p}:*"));
            prop_assert!(!covers(&p, &deeper));
            prop_assert!(covers(&below, &deeper));
            prop_assert!(!covers(&below, &p));
        }
    }
}
