//! The command line: what it checks and how it says what is wrong.

use std::process::{Command, Output};

use xtask::lab::scratch::Scratch;

use crate::support::BINARY;

fn portcullis(directory: &Scratch, arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).current_dir(directory.path()).output().expect("the binary starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn check(config: &str, expected: &str) {
    let directory = Scratch::new().unwrap();
    directory.write("portcullis.toml", config).unwrap();
    let output = portcullis(&directory, &["check", "--config", "portcullis.toml"]);
    assert_eq!(output.status.success(), expected.is_empty(), "{}", text(&output));
    assert!(text(&output).contains(expected), "{}", text(&output));
}

const GOOD: &str = "[listeners.public]\naddress = \"127.0.0.1:8080\"\n[upstreams.app]\nservers = [\"127.0.0.1:9000\"]\n\
                    [routes.all]\npath = \"/{*rest}\"\npublic = true\nupstream = \"app\"\n";

#[test]
fn check_accepts_what_is_right_and_places_what_is_wrong() {
    check(GOOD, "");
    check(&GOOD.replace("upstream = ", "upstraem = "), "portcullis.toml:8:1: ");
    check(&GOOD.replace("upstream = ", "upstraem = "), "did you mean");
    check(&GOOD.replace("\"app\"", "\"ap\""), "did you mean");
    check(&GOOD.replace("public = true\n", ""), "public");
    check(&format!("{GOOD}[fleet]\nredis = \"redis://127.0.0.1\"\n"), "not supported yet");
    let two = GOOD.replace("upstream = ", "upstraem = ").replace("address = ", "adress = ");
    check(&two, "portcullis.toml:2:1: ");
    check(&two, "portcullis.toml:8:1: ");
}

#[test]
fn a_missing_file_and_a_taken_port_say_what_to_do() {
    let directory = Scratch::new().unwrap();
    let output = portcullis(&directory, &["check", "--config", "nowhere.toml"]);
    assert!(!output.status.success() && text(&output).contains("nowhere.toml"), "{}", text(&output));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    directory.write("portcullis.toml", GOOD.replace("127.0.0.1:8080", &address)).unwrap();
    let output = portcullis(&directory, &["run", "--config", "portcullis.toml"]);
    assert!(!output.status.success(), "{}", text(&output));
    assert!(text(&output).contains(&address) && text(&output).contains("ss -ltnp"), "{}", text(&output));
}

#[test]
fn a_new_key_is_shown_once_and_stored_as_a_hash_that_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Scratch::new().unwrap();
    let create = ["keys", "create", "--store", "keys.db", "--consumer", "acme", "--role", "reader"];
    let output = portcullis(&directory, &create);
    assert!(output.status.success(), "{}", text(&output));
    let key = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(key.starts_with("ptc_"), "{key}");
    let store = std::fs::read(directory.path().join("keys.db")).unwrap();
    let holds = |text: &str| store.windows(text.len()).any(|window| window == text.as_bytes());
    let secret = key.rsplit('_').next().unwrap();
    assert!(!holds(&secret[..20]) && holds("acme"));
    let mode = std::fs::metadata(directory.path().join("keys.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    assert!(portcullis(&directory, &create).status.success(), "a second key joins the first");
    let list = portcullis(&directory, &["keys", "list", "--json", "--store", "keys.db"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    assert!(!list.to_string().contains("hash"), "{list}");
}

#[test]
fn a_filter_without_the_object_is_an_error_that_names_the_build() {
    if cfg!(nic_filter) {
        return;
    }
    let directory = Scratch::new().unwrap();
    directory.write("portcullis.toml", format!("[prefilter]\ninterfaces = [\"lo\"]\n{GOOD}")).unwrap();
    let output = portcullis(&directory, &["run", "--yes-really", "--config", "portcullis.toml"]);
    if text(&output).contains("built without the NIC filter") {
        assert!(!output.status.success() && text(&output).contains("cargo xtask build"), "{}", text(&output));
    }
}

#[test]
fn without_authorities_upstream_tls_is_refused_with_what_to_do() {
    let directory = Scratch::new().unwrap();
    directory.write("portcullis.toml", GOOD.replace("[routes.all]", "tls = {}\n[routes.all]")).unwrap();
    directory.write("nobody.pem", "").unwrap();
    let authority = crate::pki::Authority::new("the only one");
    directory.write("somebody.pem", authority.pem()).unwrap();
    for (store, expected) in [("nobody.pem", "install ca-certificates"), ("somebody.pem", "")] {
        let output = Command::new(BINARY)
            .args(["check", "--config", "portcullis.toml"])
            .current_dir(directory.path())
            .env("SSL_CERT_FILE", directory.path().join(store))
            .env_remove("SSL_CERT_DIR")
            .output()
            .expect("the binary starts");
        assert_eq!(output.status.success(), expected.is_empty(), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
}
