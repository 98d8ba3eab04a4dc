//! Parses `LEASEHOLD_REDIS_URL`.

use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::config::error::{ConfigError, wrong};
use crate::store::redis::options::Address;

/// The settings that a URL contains.
pub(super) struct ParsedUrl {
    pub(super) address: Address,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) db: Option<u16>,
    pub(super) tls: bool,
}

pub(super) fn parse_url(url: &str) -> Result<ParsedUrl, ConfigError> {
    const FORM: &str = "LEASEHOLD_REDIS_URL must have the form redis://[user[:password]@]host[:port][/db], or rediss://… for TLS";
    let (rest, tls) = match url.split_once("://") {
        Some(("redis", rest)) => (rest, false),
        Some(("rediss", rest)) => (rest, true),
        _ => return wrong(FORM),
    };
    // The last @ ends user and password.
    let user_and_password = rest.rsplit_once('@').map_or("", |(before, _)| before);
    if user_and_password.contains(['/', '#', '?']) || has_stray_percent(user_and_password) {
        return wrong(
            "LEASEHOLD_REDIS_URL has /, #, ? or % in its user or password, where they must be percent-encoded: write %2F, %23, \
             %3F or %25; or set LEASEHOLD_REDIS_PASSWORD, which takes a password as it is",
        );
    }
    if rest.ends_with("#insecure") {
        return wrong(
            "LEASEHOLD_REDIS_URL ends with #insecure, which turns off the verification of certificates: remove it",
        );
    }
    // The driver refuses URLs with TLS, which is not its matter here.
    let info = format!("redis://{rest}")
        .into_connection_info()
        .map_err(|_| ConfigError(FORM.to_owned()))?;
    let ConnectionAddr::Tcp(host, port) = info.addr() else {
        return wrong(FORM);
    };
    let settings = info.redis_settings();
    let db = match rest.split_once('/').map(|(_, db)| db) {
        None | Some("") => None,
        Some(db) => Some(
            db.parse::<u16>()
                .map_err(|_| ConfigError(FORM.to_owned()))?,
        ),
    };
    if *port == 0 || rest.contains(['?', '#']) {
        return wrong(FORM);
    }
    Ok(ParsedUrl {
        address: Address {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: *port,
        },
        username: settings.username().map(str::to_owned),
        password: settings.password().map(str::to_owned),
        db,
        tls,
    })
}

/// Whether a `%` begins no encoded byte.
fn has_stray_percent(text: &str) -> bool {
    text.split('%').skip(1).any(|after| {
        let code = after.as_bytes().get(..2);
        !code.is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit))
    })
}
