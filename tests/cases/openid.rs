//! An OpenID provider from outside: what tests rely on when they ask one.

use serde_json::{Value, json};
use xtask::lab::client::Request;

use crate::openid::{Browser, Provider};

/// Where a code of the client `web` is asked for; PKCE as in RFC 7636 appendix B.
fn authorization(provider: &Provider) -> String {
    format!(
        "{issuer}/auth?client_id=web&response_type=code&scope=openid&state=s&nonce=n&\
         code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256&\
         redirect_uri={issuer}/oauth2/callback",
        issuer = provider.issuer()
    )
}

#[test]
fn the_tests_provider_gives_tokens_and_changes_its_keys() {
    const TEST: &str = "openid::the_tests_provider_gives_tokens_and_changes_its_keys";
    let Some(provider) = Provider::start(TEST, &json!({})) else { return };
    let keys = || -> Value { serde_json::from_slice(&provider.ask(&Request::get("/jwks")).body).unwrap() };
    let count = |keys: &Value| keys["keys"].as_array().unwrap().len();
    let token = provider.token("machine", "grant_type=client_credentials&scope=read&resource=urn:api:jwt");
    assert_eq!(token["access_token"].as_str().unwrap().split('.').count(), 3);
    let token = provider.token("machine", "grant_type=client_credentials&scope=read&resource=urn:api:opaque");
    assert!(!token["access_token"].as_str().unwrap().contains('.'));
    assert_eq!((provider.count("/token"), count(&keys())), (2, 3));
    provider.order("rotate?keep=yes");
    assert_eq!(count(&keys()), 6);
    provider.order("fault?of=/jwks&is=error");
    assert_eq!(provider.ask(&Request::get("/jwks")).status, 500);
}

#[test]
fn the_tests_browser_logs_in() {
    const TEST: &str = "openid::the_tests_browser_logs_in";
    let Some(provider) = Provider::start(TEST, &json!({})) else { return };
    let Some(mut browser) = Browser::start(TEST) else { return };
    provider.order("login?as=");
    let login = browser.visit(&authorization(&provider));
    assert_eq!(login.title, "login", "{login:?}");
    let consent = browser.fill(&[("login", "bob")]);
    assert_eq!(consent.title, "consent", "{consent:?}");
    let back = browser.fill(&[]);
    assert!(back.url.starts_with(&format!("{}/oauth2/callback?code=", provider.issuer())), "{back:?}");
    assert!(back.cookie("_session").is_some(), "{back:?}");
    assert_eq!(browser.fetch(&format!("{}/jwks", provider.issuer())), 200);
}
