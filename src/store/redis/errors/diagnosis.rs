//! Explains errors of Redis to the operator, in one line for the log and for `GET /readyz`.
//!
//! The error of a driver names a symptom. A diagnosis names the node, the cause, and the setting to check.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::redis::options::Address;

/// The commands that an ACL user needs, besides its keys and channels.
const ACL_COMMANDS: &str =
    "+@read +@write +@scripting +@connection +info +time +wait +unwatch +publish +subscribe";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    pub(crate) text: String,
    /// Whether the server must send no further operations to the node. A node that is only unreachable may be back for
    /// the next one.
    pub(crate) disqualifies: bool,
    /// The peer closed the connection without a reason. A reason that it gave before says more.
    pub(crate) hung_up: bool,
}

/// A kind of node, and the settings that lead to it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The setting with the address.
    pub(crate) address_setting: &'static str,
    /// The settings with the credentials.
    pub(crate) credentials: &'static str,
    /// The setting that turns TLS on.
    pub(crate) tls_setting: &'static str,
    /// Whether TLS is on.
    pub(crate) tls: bool,
    /// The prefix of the keys, for the rules of the ACL user.
    pub(crate) key_prefix: String,
    /// The ACL user.
    pub(crate) username: String,
    pub(crate) db: i64,
}

impl Diagnosis {
    /// The server must send no further operations to the node.
    pub(crate) fn disqualifying(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            disqualifies: true,
            hung_up: false,
        }
    }

    /// The node may be usable for the next operation.
    pub(crate) fn passing(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            disqualifies: false,
            hung_up: false,
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Target {
    /// Explains an error of the node at `at`.
    pub(crate) fn explain(&self, at: &Address, error: &RedisError) -> Diagnosis {
        let said = one_line(&error.to_string());
        self.explain_login(at, error)
            .or_else(|| self.explain_tls(at, &said))
            .or_else(|| self.explain_refusal(at, error, &said))
            .unwrap_or_else(|| self.unreachable(at, &said))
    }

    /// Explains why the node refused an operation inside a script; `said` is the error that the script received.
    pub(crate) fn explain_operation(&self, at: &Address, said: &str) -> Diagnosis {
        if lacks_permission(said) {
            self.too_few_permissions(at, said)
        } else {
            Diagnosis::passing(format!("{at} rejects operations: {}", one_line(said)))
        }
    }

    fn explain_login(&self, at: &Address, error: &RedisError) -> Option<Diagnosis> {
        let settings = self.credentials;
        if error.kind() == ErrorKind::AuthenticationFailed {
            return Some(Diagnosis::disqualifying(format!(
                "{at} rejected the password: check {settings}, and that {at} has a password"
            )));
        }
        (error.code() == Some("NOAUTH"))
            .then(|| Diagnosis::disqualifying(format!("{at} requires a password: set {settings}")))
    }

    fn explain_tls(&self, at: &Address, said: &str) -> Option<Diagnosis> {
        let text = match said {
            _ if said.contains("UnknownIssuer") => format!(
                "this server does not trust the authority that signed the certificate of {at}: set LEASEHOLD_TLS_CA_FILE to \
                 the certificate of that authority"
            ),
            _ if said.contains("CertificateRequired") => format!(
                "{at} requires a client certificate: set LEASEHOLD_TLS_CERT_FILE and LEASEHOLD_TLS_KEY_FILE"
            ),
            _ if said.contains("UnknownCA") || said.contains("received fatal alert") => format!(
                "{at} does not trust the client certificate ({said}): set LEASEHOLD_TLS_CERT_FILE to a certificate from an \
                 authority that {at} trusts"
            ),
            _ if self.tls && timed_out(said) => format!(
                "{at} did not answer the TLS handshake in time: if it does not use TLS, use redis:// and leave {} unset; \
                 otherwise check that the network allows the connection, and {}",
                self.tls_setting, self.address_setting
            ),
            _ if !self.tls && (said.contains("reset by peer") || said.contains("end of file")) => {
                format!(
                    "{at} cannot be reached ({said}): if it requires TLS, use rediss:// or set {}; otherwise check that it \
                     runs, and {}",
                    self.tls_setting, self.address_setting
                )
            }
            _ => return None,
        };
        Some(Diagnosis::passing(text))
    }

    fn explain_refusal(&self, at: &Address, error: &RedisError, said: &str) -> Option<Diagnosis> {
        let lower = said.to_ascii_lowercase();
        Some(match error.kind() {
            ErrorKind::Server(ServerErrorKind::BusyLoading) => Diagnosis::passing(format!(
                "{at} is loading its data: wait until it has finished"
            )),
            ErrorKind::Server(ServerErrorKind::NoPerm) => self.too_few_permissions(at, said),
            _ if lacks_permission(said) => self.too_few_permissions(at, said),
            _ if lower.contains("unknown command") && lower.contains("select") => sentinel(at),
            _ if lower.contains("cluster mode") => cluster(at),
            _ if lower.contains("db index is out of range") => Diagnosis::disqualifying(format!(
                "{at} has no database {}: set LEASEHOLD_REDIS_DB (or the number in LEASEHOLD_REDIS_URL) to one that exists",
                self.db
            )),
            _ if error.code() == Some("OOM") || said.contains("OOM ") => {
                Diagnosis::passing(format!(
                    "{at} is out of memory and rejects writes: raise maxmemory, or delete other data"
                ))
            }
            _ if error.code() == Some("MISCONF") || said.contains("MISCONF ") => {
                Diagnosis::passing(format!(
                    "{at} rejects writes because it cannot save to disk: see its log, and free disk space"
                ))
            }
            ErrorKind::Parse => Diagnosis::disqualifying(format!(
                "{at} does not use the protocol of Redis: check host and port, {}",
                self.address_setting
            )),
            _ => return None,
        })
    }

    fn unreachable(&self, at: &Address, said: &str) -> Diagnosis {
        Diagnosis::passing(format!(
            "{at} cannot be reached ({said}): check that it runs, that the network allows the connection, and {}",
            self.address_setting
        ))
    }

    fn too_few_permissions(&self, at: &Address, said: &str) -> Diagnosis {
        let Self {
            username,
            key_prefix,
            ..
        } = self;
        Diagnosis::disqualifying(format!(
            "the user {username} has too few permissions on {at} ({}): run ACL SETUSER {username} ~{key_prefix}* \
             &{key_prefix}* {ACL_COMMANDS}",
            one_line(said)
        ))
    }
}

/// The diagnosis of a Sentinel at the address of a data node.
pub(crate) fn sentinel(at: &Address) -> Diagnosis {
    Diagnosis::disqualifying(format!(
        "{at} is a Sentinel, not a Redis data node: set LEASEHOLD_SENTINELS to its address"
    ))
}

/// The diagnosis of a node of a Redis Cluster.
pub(crate) fn cluster(at: &Address) -> Diagnosis {
    Diagnosis::disqualifying(format!(
        "{at} is part of a Redis Cluster, which Leasehold does not support: use Sentinel or one Redis"
    ))
}

/// Whether an error says that the ACL user lacks a permission. A script receives another text than a client.
pub(crate) fn lacks_permission(said: &str) -> bool {
    said.contains("NOPERM") || said.contains("can't run this command")
}

fn timed_out(said: &str) -> bool {
    said.to_ascii_lowercase().contains("timed out")
}

/// The start of an error text without control characters: it may contain line feeds and text of the peer.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(LONGEST).collect()
}
