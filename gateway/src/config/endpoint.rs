//! What the gateway itself asks over HTTP: an issuer, an engine that keeps a feed.

use std::{fmt, sync::Arc};

use super::{
    compile::server_address,
    types::{ServerAddress, UpstreamTls},
};

/// A URL that can be asked: `https://id.example.com/realms/a?b=c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// It is `https`.
    pub is_secure: bool,
    /// Where it leads.
    pub server: ServerAddress,
    /// Path and query, as they are sent; begins with a slash.
    pub target: Arc<str>,
}

/// A URL, and who may vouch for its server.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where it is.
    pub url: Url,
    /// None: it is asked in clear.
    pub tls: Option<UpstreamTls>,
}

impl Url {
    /// Reads one. Without a user, since a password has no place in it, and without a fragment, since nobody sends one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (is_secure, rest) = text
            .strip_prefix("http://")
            .map(|rest| (false, rest))
            .or_else(|| text.strip_prefix("https://").map(|rest| (true, rest)))
            .ok_or("write a URL such as \"https://id.example.com\" or \"http://127.0.0.1:8080\"")?;
        let (authority, target) = rest.find(['/', '?']).map_or((rest, ""), |end| rest.split_at(end));
        // RFC 3986 §3.3 and §3.4
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/?-._~%!$&'()*+,;=:@".contains(&byte);
        if !target.bytes().all(is_plain) {
            return Err("its path or query holds what no URL may hold");
        }
        let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
        let has_port = authority.get(host_end..).is_some_and(|rest| rest.contains(':'));
        let port = match (has_port, is_secure) {
            (true, _) => "",
            (false, true) => ":443",
            (false, false) => ":80",
        };
        let server = server_address(&format!("{authority}{port}"))?;
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { is_secure, server, target: format!("{slash}{target}").into() })
    }

    /// The path, without a query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The same server, asked for something else; `target` begins with a slash.
    #[must_use]
    pub fn to(&self, target: &str) -> Self {
        Self { target: target.into(), ..self.clone() }
    }

    /// What is said there cannot be listened to on the way, or never leaves this host.
    pub fn is_private(&self) -> bool {
        self.is_secure || matches!(self.server, ServerAddress::Fixed(address) if address.ip().is_loopback())
    }

    /// `Host` and `:authority`: without the port that the scheme has anyway (RFC 9110 §4.2.3).
    pub fn authority(&self) -> String {
        let whole = self.server.to_string();
        let port = if self.is_secure { ":443" } else { ":80" };
        whole.strip_suffix(port).map_or_else(|| whole.clone(), ToOwned::to_owned)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let parsed = Url::parse(text);
        match (&parsed, expected) {
            (Ok(url), Ok(shown)) => assert_eq!(url.to_string(), shown),
            (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{text}: {problem}"),
            _ => panic!("{text}: {parsed:?}"),
        }
    }

    #[test]
    fn a_url_says_whom_to_ask_and_for_what() {
        check("https://id.example.com", Ok("https://id.example.com/"));
        check("https://ID.example.com:443/realms/a/", Ok("https://id.example.com/realms/a/"));
        check("http://127.0.0.1:8080/a?b=c&d=%20", Ok("http://127.0.0.1:8080/a?b=c&d=%20"));
        check("http://[::1]?x", Ok("http://[::1]/?x"));
        check("https://[2001:db8::1]:8443/", Ok("https://[2001:db8::1]:8443/"));
        check("id.example.com", Err("write a URL"));
        check("ftp://id.example.com", Err("write a URL"));
        check("https://user@id.example.com/", Err("address"));
        check("https://user:pw@id.example.com/", Err("port"));
        check("https:///", Err("address"));
        check("https://a/#b", Err("no URL may hold"));
        check("https://a/b c", Err("no URL may hold"));
        check("https://a/\r\nHost: b", Err("no URL may hold"));
        check("http://0.0.0.0:1", Err("nothing can be reached"));
        check("http://a:0", Err("port"));
    }

    #[test]
    fn what_is_asked_in_clear_stays_on_this_host() {
        let is_private = |text: &str| Url::parse(text).unwrap().is_private();
        assert!(is_private("https://id.example.com") && is_private("https://192.0.2.1"));
        assert!(is_private("http://127.0.0.1:8080/a") && is_private("http://[::1]"));
        assert!(!is_private("http://192.0.2.1") && !is_private("http://id.example.com"));
        // Whoever answers for a name may answer anything.
        assert!(!is_private("http://localhost"));
    }
}
