//! `portcullis keys`: makes an API key, shows it once and stores its hash; hashes passwords.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use argon2::{Argon2, PasswordHasher as _};
use aws_lc_rs::rand;
use clap::Subcommand;
use portcullis::{
    config::{KeyStore, keys::NewKey},
    decide::{api_key, basic},
};
use zeroize::Zeroizing;

use super::Told;

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key, print it (this once) and put its hash into a store
    Create {
        /// The store; made when it is not there
        #[arg(long, value_name = "FILE")]
        store: PathBuf,
        /// Who will hold it
        #[arg(long, value_name = "NAME")]
        consumer: String,
        /// A role that it carries; may be given several times
        #[arg(long = "role", value_name = "NAME")]
        roles: Vec<String>,
        /// For people
        #[arg(long)]
        note: Option<String>,
    },
    /// Read a password from standard input and print the line for the file of a `kind = "basic"`
    Password {
        /// Whose it is
        #[arg(value_name = "NAME")]
        user: String,
    },
}

impl Keys {
    pub(crate) fn run(self) -> Told<()> {
        let (store, consumer, roles, note) = match self {
            Self::Create { store, consumer, roles, note } => (store, consumer, roles, note),
            Self::Password { user } => return password(&user),
        };
        let text = current_text(&store)?;
        // What was there must be a store, or the new key would be lost in it.
        let hash_key = hash_key(&store)?;
        let minted = api_key::mint(&mut |bytes| fill(bytes));
        let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
        let new = NewKey {
            id: &minted.id,
            consumer: &consumer,
            roles: &roles,
            hash: api_key::hash_of(&hash_key, &minted.secret),
            expires_at_s: None,
            note: note.as_deref(),
        };
        replace(&store, &KeyStore::append(&text, &new))
            .map_err(|error| format!("{}: {error}", store.display()))?;
        println!("{}", *minted.text);
        Ok(())
    }
}

/// The parameters are argon2's own defaults: 19 MiB, two passes, one lane (the least that OWASP recommends).
fn password(user: &str) -> Told<()> {
    let mut password = Zeroizing::new(String::new());
    io::stdin().read_line(&mut password).map_err(|error| format!("standard input: {error}"))?;
    let given = password.trim_end_matches(['\r', '\n']);
    if given.is_empty() {
        return Err("the password is empty: give it on standard input, in one line".to_owned());
    }
    if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) {
        return Err(format!("{user:?} is no user: a name without colon and control characters"));
    }
    if user.len() + 1 + given.len() > basic::BYTES_MAX || given.chars().any(char::is_control) {
        return Err(format!(
            "a password has no control characters, and fits {} bytes with its user",
            basic::BYTES_MAX
        ));
    }
    let mut salt = [0; 16];
    fill(&mut salt);
    let hash = Argon2::default()
        .hash_password_with_salt(given.as_bytes(), &salt)
        .map_err(|error| format!("the password cannot be hashed: {error}"))?;
    println!("{user}:{hash}");
    Ok(())
}

/// The store's text; a new store where there is none.
fn current_text(store: &Path) -> Told<Zeroizing<String>> {
    match fs::read_to_string(store) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut hash_key = Zeroizing::new([0; 32]);
            fill(&mut *hash_key);
            let text = KeyStore::create(&hash_key);
            replace(store, &text).map_err(|error| format!("{}: {error}", store.display()))?;
            Ok(text)
        }
        Err(error) => Err(format!("{}: {error}", store.display())),
    }
}

fn hash_key(store: &Path) -> Told<portcullis::config::Secret> {
    let read = KeyStore::read(store)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(read.hash_key)
}

/// Writes a whole new file beside the store and moves it there: a reader sees the old text or the new one.
fn replace(store: &Path, text: &str) -> io::Result<()> {
    let beside = store.with_extension("new");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&beside, store)).inspect_err(|_| {
        // The error that is told is the first one.
        let _ = fs::remove_file(&beside);
    })
}

#[expect(clippy::expect_used, reason = "without randomness there must be no key")]
fn fill(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the kernel has randomness");
}
