//! `[prefilter.feeds]`

use std::time::Duration;

use super::{Dir, accept, env, refuse};
use crate::config::{Feed, FeedSource, load};

/// The feeds of a file that may name `key`, a secret.
#[track_caller]
fn feeds(text: &str) -> (Dir, Vec<Feed>, usize) {
    let dir = Dir::new();
    dir.write("key", "aB3/x+=\n", 0o600);
    dir.write(
        "gateway.toml",
        format!("[prefilter]\ninterfaces = [\"eth0\"]\nallow = [\"::1\"]\n{text}"),
        0o644,
    );
    let loaded = load(&dir.path().join("gateway.toml"), &env).unwrap_or_else(|errors| panic!("{errors:?}"));
    (dir, loaded.config.prefilter.feeds, loaded.warnings.len())
}

#[test]
fn files_and_engines_in_order_of_their_names() {
    let (dir, feeds, warnings) = feeds(
        "[prefilter.feeds]\n\
         drop = { file = \"drop.txt\", refresh = \"5m\" }\n\
         bots = { file = \"/srv/bots\" }\n\
         crowd = { crowdsec = \"http://127.0.0.1:8080\", api_key_file = \"key\" }\n",
    );
    assert_eq!(warnings, 0);
    let names: Vec<&str> = feeds.iter().map(|feed| &*feed.name).collect();
    assert_eq!(names, ["bots", "crowd", "drop"]);
    assert_eq!(feeds[0].source, FeedSource::File("/srv/bots".into()));
    assert_eq!(feeds[2].source, FeedSource::File(dir.path().join("drop.txt")));
    let refresh = [3600, 10, 300].map(Duration::from_secs);
    assert_eq!([feeds[0].refresh, feeds[1].refresh, feeds[2].refresh], refresh);
    let FeedSource::CrowdSec(crowdsec) = &feeds[1].source else { panic!("{:?}", feeds[1]) };
    assert_eq!(crowdsec.at.url.to_string(), "http://127.0.0.1:8080/");
    assert_eq!((crowdsec.at.tls.is_some(), &crowdsec.key.0[..]), (false, &b"aB3/x+="[..]));
    assert!(!format!("{crowdsec:?}").contains("aB3"), "a key is never shown");
}

#[test]
fn where_an_engine_is() {
    #[track_caller]
    fn check(url: &str, server: &str, path: &str, warnings: usize) {
        let text = format!("[prefilter.feeds]\na = {{ crowdsec = \"{url}\", api_key_file = \"key\" }}\n");
        let (_, feeds, warned) = feeds(&text);
        let FeedSource::CrowdSec(crowdsec) = &feeds[0].source else { panic!("{feeds:?}") };
        let at = &crowdsec.at;
        assert_eq!((at.url.server.to_string().as_str(), &*at.url.target), (server, path));
        assert_eq!(at.tls.is_some(), url.starts_with("https"));
        assert_eq!(warned, warnings, "asked in clear");
    }
    check("http://127.0.0.1", "127.0.0.1:80", "/", 0);
    check("http://[::1]:8080/", "[::1]:8080", "/", 0);
    check("http://192.0.2.1:8080", "192.0.2.1:8080", "/", 1);
    check("https://lapi.example.com/crowd/sec/", "lapi.example.com:443", "/crowd/sec/", 0);
    check("https://[2001:db8::1]", "[2001:db8::1]:443", "/", 0);
}

#[test]
fn what_is_not_a_feed_is_refused() {
    accept("[prefilter.feeds]\n");
    let refuse_one = |feed: &str, message: &str| {
        refuse(&format!("[prefilter.feeds]\na = {feed}\n"), &[message]);
    };
    refuse_one("{}", "2:1: `prefilter.feeds.a` needs `file`");
    refuse_one(
        "{ file = \"x\", refresh = \"1ms\" }",
        "2:29: `prefilter.feeds.a.refresh` is shorter than a second",
    );
    refuse_one(
        "{ file = \"x\", refresh = \"0s\" }",
        "2:29: `prefilter.feeds.a.refresh` must be longer than nothing",
    );
    refuse_one("{ file = \"x\", url = \"y\" }", "2:19: unknown key `url`");
    refuse_one(
        "{ file = \"x\", api_key_file = \"y\" }",
        "2:34: `prefilter.feeds.a.api_key_file` belongs to `crowdsec`",
    );
    refuse_one("{ file = \"x\", crowdsec = \"http://[::1]\" }", "2:30: `prefilter.feeds.a` has both");
    refuse_one("{ crowdsec = \"http://[::1]\" }", "2:1: `prefilter.feeds.a` needs `api_key_file`");
    refuse(
        "[prefilter.feeds]\n\"a b\" = { file = \"x\" }\n",
        &["2:1: \"a b\" is not a name for `prefilter.feeds`"],
    );
    for url in [
        "127.0.0.1:8080",
        "ftp://[::1]",
        "http://",
        "http://0.0.0.0:1",
        "http://a:0",
        "http://[::1]/?x",
        "http://u@a",
    ] {
        let dir = Dir::new();
        dir.write("key", "k", 0o600);
        let text = format!(
            "[prefilter]\ninterfaces = [\"eth0\"]\n[prefilter.feeds]\na = {{ crowdsec = \"{url}\", api_key_file = \"key\" }}\n"
        );
        dir.write("gateway.toml", text, 0o644);
        let errors = load(&dir.path().join("gateway.toml"), &env).expect_err(url);
        assert!(
            errors[0].message.starts_with(&format!("`prefilter.feeds.a.crowdsec` is {url:?}: ")),
            "{errors:?}"
        );
    }
}

#[test]
fn a_key_is_one_word_that_not_everybody_may_read() {
    #[track_caller]
    fn check(content: &str, mode: u32, expected: &str) {
        let dir = Dir::new();
        dir.write("key", content, mode);
        let text = "[prefilter]\ninterfaces = [\"eth0\"]\n[prefilter.feeds]\na = { crowdsec = \"http://[::1]\", api_key_file = \"key\" }\n";
        dir.write("gateway.toml", text, 0o644);
        let errors = load(&dir.path().join("gateway.toml"), &env).expect_err("refused");
        assert!(errors[0].message.contains(expected), "{errors:?}");
    }
    check("k\n", 0o644, "everybody may read");
    check("two words\n", 0o600, "does not hold one key");
    check("\n\n", 0o600, "does not hold one key");
}
