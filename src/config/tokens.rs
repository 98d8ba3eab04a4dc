//! The bearer tokens, from settings and files. The files are read again while the server runs.

use std::path::{Path, PathBuf};

use crate::auth::{Directory, Entries, Grant, MAX_TOKENS, Principal, Verb, digest};
use crate::config::error::{ConfigError, wrong};
use crate::config::files::{read_again, read_lines, secret};
use crate::secret::Secret;

/// The minimum length of a bearer token. A shorter token can be guessed.
pub const MIN_TOKEN_BYTES: usize = 16;

/// Where the tokens come from.
#[derive(Clone, Debug, Default)]
pub struct TokenSources {
    pub(super) token: Source,
    pub(super) break_token: Source,
    pub(super) auth_file: Option<PathBuf>,
}

/// A token in a setting, or tokens in a file, one in each line.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub(super) value: Option<Secret>,
    pub(super) file: Option<PathBuf>,
}

impl TokenSources {
    /// Reads all tokens.
    ///
    /// # Errors
    /// The error names the setting, and shows no token.
    pub fn load(&self) -> Result<Directory, ConfigError> {
        let client = self.token.read("LEASEHOLD_TOKEN")?;
        let breaker = self.break_token.read("LEASEHOLD_BREAK_TOKEN")?;
        if client.iter().any(|token| breaker.contains(token)) {
            return wrong(
                "LEASEHOLD_TOKEN and LEASEHOLD_BREAK_TOKEN are equal, so every client could break leases: use two different tokens",
            );
        }
        let anonymous = match (&client[..], &breaker[..], &self.auth_file) {
            ([], [], None) => Some(&[Verb::Acquire, Verb::Read, Verb::Break][..]),
            ([], _, None) => Some(&[Verb::Acquire, Verb::Read][..]),
            _ => None,
        };
        let grants = |verbs: &[Verb]| vec![Grant::of_all_keys(verbs)];
        let anonymous = anonymous.map(|verbs| Principal::anonymous(grants(verbs)));
        let mut directory = Directory::new(anonymous);
        let principal = Principal::new("client", grants(&[Verb::Acquire, Verb::Read]));
        for token in client {
            directory.add(digest(token.expose()), principal.clone(), None);
        }
        let all = [Verb::Acquire, Verb::Read, Verb::Break];
        let principal = Principal::new("breaker", grants(&all));
        for token in breaker {
            directory.add(digest(token.expose()), principal.clone(), None);
        }
        if let Some(path) = &self.auth_file {
            add_entries(&mut directory, path)?;
        }
        Ok(directory)
    }

    /// Whether there are files, which can change.
    #[must_use]
    pub const fn have_files(&self) -> bool {
        self.token.file.is_some() || self.break_token.file.is_some() || self.auth_file.is_some()
    }
}

fn add_entries(directory: &mut Directory, path: &Path) -> Result<(), ConfigError> {
    let of = |error: &dyn std::fmt::Display| {
        ConfigError(format!("LEASEHOLD_AUTH_FILE: {}: {error}", path.display()))
    };
    let text = read_again("LEASEHOLD_AUTH_FILE", path)?;
    for entry in Entries::parse(&text).map_err(|error| of(&error))? {
        let principal = Principal::new(&*entry.id, entry.grants);
        if directory.len() + entry.tokens.len() > MAX_TOKENS {
            return Err(of(&format_args!(
                "at most {MAX_TOKENS} tokens are possible"
            )));
        }
        for token in entry.tokens {
            if !directory.add(token, principal.clone(), entry.expires) {
                return Err(of(&format_args!("a token of {:?} stands twice", entry.id)));
            }
        }
    }
    Ok(())
}

impl Source {
    fn read(&self, name: &str) -> Result<Vec<Secret>, ConfigError> {
        let tokens = if let (None, Some(path)) = (&self.value, &self.file) {
            read_lines(name, path)?
        } else {
            let value = self.value.as_ref().map(|value| value.expose().to_owned());
            let token = secret(name, value.as_ref(), self.file.as_deref())?;
            token.into_iter().collect()
        };
        for token in &tokens {
            let token = token.expose();
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return wrong(format!(
                    "{name} has a character that clients cannot send in a header: use visible ASCII characters only"
                ));
            }
            if token.len() < MIN_TOKEN_BYTES {
                return wrong(format!(
                    "{name} has {} characters, but must have at least {MIN_TOKEN_BYTES}: create one with `openssl rand -hex 32`",
                    token.len()
                ));
            }
        }
        Ok(tokens)
    }
}
