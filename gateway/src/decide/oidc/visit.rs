//! What a browser does with the gateway itself, on its way to a session and out of it.
//!
//! Everything here needs the issuer, or the clock and randomness of whoever speaks with it, so that none of it is decided
//! on a worker: a [`Visit`] is handed over, and what comes back is told as it is.

use zeroize::Zeroizing;

/// The longest form that an issuer sends.
pub const FORM_BYTES_MAX: usize = 16 * 1024;

/// A request that the gateway itself answers.
#[derive(Clone, PartialEq, Eq)]
pub struct Visit {
    /// Index into the configuration's auths.
    pub auth: u16,
    /// What it is about.
    pub errand: Errand,
    /// All of its cookies, as one field.
    pub cookies: Zeroizing<Vec<u8>>,
    /// Scheme and authority by which the browser knows this host; left open by the decision.
    pub origin: String,
}

/// What a visit is about.
#[derive(Clone, PartialEq, Eq)]
pub enum Errand {
    /// A browser that has no session asks for this page: path and query.
    Login(String),
    /// It comes back from the issuer with this query.
    Callback(Zeroizing<String>),
    /// It wants its session to end.
    Logout,
    /// The issuer says that sessions are over (OpenID Connect Back-Channel Logout §2.5): its form, read after the
    /// decision.
    BackChannel(Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { auth, errand, .. } = self;
        f.debug_struct("Visit").field("auth", auth).field("errand", errand).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Errand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Login(_) => "Login",
            Self::Callback(_) => "Callback",
            Self::Logout => "Logout",
            Self::BackChannel(_) => "BackChannel",
        })
    }
}

/// What a visitor is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The status.
    pub status: u16,
    /// Its fields, each with its CRLF.
    pub lines: String,
    /// A page for a person; empty: none.
    pub page: &'static str,
    /// Why it has come to nothing, in one word; empty where it has not.
    pub label: &'static str,
}

/// Nobody keeps what was told to one browser, and nobody hears from where it came.
const PRIVATE: &str = "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n";
/// A page is text and nothing else.
const PAGE: &str =
    "Content-Type: text/html; charset=utf-8\r\nContent-Security-Policy: default-src 'none'\r\n";

impl Told {
    /// The browser is sent to `location`, with fields that set or remove cookies.
    pub fn redirect(location: &str, cookies: &str) -> Self {
        // Whatever is in it, it stays one field.
        let location: String = location.chars().filter(char::is_ascii_graphic).collect();
        let lines = format!("Location: {location}\r\n{cookies}{PRIVATE}");
        Self { status: 303, lines, page: "", label: "" }
    }

    /// Nobody can log in at the moment.
    pub fn unavailable() -> Self {
        let lines = format!("Retry-After: 5\r\n{PRIVATE}{PAGE}");
        Self { status: 503, lines, page: UNAVAILABLE, label: "login_unavailable" }
    }

    /// The login has come to nothing.
    pub fn failed(cookies: &str) -> Self {
        Self { status: 400, lines: format!("{cookies}{PRIVATE}{PAGE}"), page: FAILED, label: "login_failed" }
    }

    /// There is no session any more.
    pub fn logged_out(cookies: &str) -> Self {
        Self { status: 200, lines: format!("{cookies}{PRIVATE}{PAGE}"), page: LOGGED_OUT, label: "" }
    }

    /// The issuer's sessions are over (OpenID Connect Back-Channel Logout §2.8).
    pub fn heard() -> Self {
        Self { status: 200, lines: "Cache-Control: no-store\r\n".to_owned(), page: "", label: "" }
    }

    /// It cannot be told whether its word is to be believed, or that cannot be written down: it may say it again.
    pub fn not_heard() -> Self {
        let lines = "Retry-After: 5\r\nCache-Control: no-store\r\n".to_owned();
        Self { status: 503, lines, page: "", label: "logout_unavailable" }
    }

    /// Its word is not to be believed.
    pub fn not_believed() -> Self {
        Self { status: 400, lines: "Cache-Control: no-store\r\n".to_owned(), page: "", label: "logout_token" }
    }
}

const UNAVAILABLE: &str = "<!doctype html><html lang=\"en\"><title>Login is not available</title>\
    <h1>Login is not available</h1><p>Nobody can log in at the moment. Try again in a few seconds.</p></html>\n";
const FAILED: &str = "<!doctype html><html lang=\"en\"><title>Login failed</title>\
    <h1>Login failed</h1><p>The login was refused, or it has taken too long. <a href=\"/\">Start again</a>.</p></html>\n";
const LOGGED_OUT: &str = "<!doctype html><html lang=\"en\"><title>Logged out</title>\
    <h1>Logged out</h1><p>You are logged out.</p></html>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_stays_one_field() {
        let told = Told::redirect("https://id.example/a\r\nSet-Cookie: b=c", "Set-Cookie: d=e\r\n");
        assert!(
            told.lines.starts_with("Location: https://id.example/aSet-Cookie:b=c\r\nSet-Cookie: d=e\r\n")
        );
    }

    #[test]
    fn a_visit_is_not_printed() {
        let visit = Visit {
            auth: 0,
            errand: Errand::Callback(Zeroizing::new("code=s3cret".to_owned())),
            cookies: Zeroizing::new(b"a=s3cret".to_vec()),
            origin: String::new(),
        };
        let printed = format!("{visit:?}");
        assert!(printed.contains("Callback") && !printed.contains("s3cret") && !printed.contains("115"));
    }
}
