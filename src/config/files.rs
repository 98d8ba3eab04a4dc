//! Reads secrets and certificates from settings and files.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::config::error::{ConfigError, wrong};
use crate::secret::Secret;

/// The largest file with tokens or principals.
const MAX_FILE_BYTES: u64 = 1 << 20;

const BYTE_ORDER_MARK: char = '\u{feff}';

const BEGINS_WITH_MARK: &str = "begins with a byte order mark, which editors add invisibly: save the file as UTF-8 without one";

/// Reads a secret from its setting or its file. Line ends at the end of the file do not belong to the secret.
pub(super) fn secret(
    name: &str,
    value: Option<&String>,
    file: Option<&Path>,
) -> Result<Option<Secret>, ConfigError> {
    let text = match (value, file) {
        (Some(_), Some(_)) => {
            return wrong(format!(
                "{name} and {name}_FILE are both set: remove one of them"
            ));
        }
        (None, None) => return Ok(None),
        (Some(value), None) => value.clone(),
        (None, Some(path)) => read(name, path)?.trim_end_matches(['\r', '\n']).to_owned(),
    };
    if text.is_empty() {
        return wrong(format!("{name} is empty: set a value, or remove it"));
    }
    if text.starts_with(BYTE_ORDER_MARK) {
        return wrong(format!("{name} {BEGINS_WITH_MARK}"));
    }
    if text.contains(['\r', '\n']) {
        return wrong(format!(
            "{name} contains a line break, which is hardly a part of the secret: write it without one, for example with `printf %s`"
        ));
    }
    Ok(Some(Secret::new(text)))
}

/// Reads the secrets in the lines of a file.
pub(super) fn read_lines(name: &str, path: &Path) -> Result<Vec<Secret>, ConfigError> {
    let text = read_again(&format!("{name}_FILE"), path)?;
    if text.starts_with(BYTE_ORDER_MARK) {
        return wrong(format!("{name} {BEGINS_WITH_MARK}"));
    }
    let lines = text.lines().filter(|line| !line.is_empty());
    let secrets: Vec<_> = lines.map(|line| Secret::new(line.to_owned())).collect();
    if secrets.is_empty() {
        return wrong(format!("{name} is empty: set a value, or remove it"));
    }
    Ok(secrets)
}

fn read(name: &str, path: &Path) -> Result<String, ConfigError> {
    let setting = format!("{name}_FILE");
    std::fs::read_to_string(path).map_err(|error| unreadable(&setting, path, &error))
}

/// Reads a file that is read again while the server runs. A pipe could hold up the next read for ever.
pub(super) fn read_again(setting: &str, path: &Path) -> Result<String, ConfigError> {
    let of = |cause: &dyn Display| unreadable(setting, path, cause);
    let metadata = std::fs::metadata(path).map_err(|error| of(&error))?;
    if !metadata.is_file() {
        return Err(of(&"it is no regular file"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(of(&format_args!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(|error| of(&error))?;
    // The file may have grown since.
    let read = file.take(MAX_FILE_BYTES).read_to_string(&mut text);
    read.map_err(|error| of(&error))?;
    Ok(text)
}

fn unreadable(setting: &str, path: &Path, cause: &dyn Display) -> ConfigError {
    ConfigError(format!(
        "{setting}: cannot read {}: {cause}",
        path.display()
    ))
}

pub(super) fn read_pem(name: &str, path: &Path, label: &str) -> Result<Vec<u8>, ConfigError> {
    let bytes = std::fs::read(path)
        .map_err(|error| ConfigError(format!("{name}: cannot read {}: {error}", path.display())))?;
    if bytes.starts_with(BYTE_ORDER_MARK.to_string().as_bytes()) {
        return wrong(format!("{name}: {} {BEGINS_WITH_MARK}", path.display()));
    }
    let begins = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----"))
    };
    if bytes.split(|byte| *byte == b'\n').any(begins) {
        Ok(bytes)
    } else {
        Err(not_pem(name, path, label))
    }
}

pub(super) fn not_pem(name: &str, path: &Path, label: &str) -> ConfigError {
    ConfigError(format!(
        "{name}: {} contains no {label} in PEM format",
        path.display()
    ))
}
